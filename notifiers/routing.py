"""Routes: which receivers are told of an alert with these labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rules.labels import Matcher, matches_all


@dataclass(frozen=True, slots=True)
class Route:
    """One line of `routes`: alerts that pass every matcher of `where` go to the receivers in `to`.

    An empty `where` passes everything.
    """

    where: tuple[Matcher, ...]
    to: tuple[str, ...]


def receivers_for(routes: Iterable[Route], labels: Mapping[str, str]) -> tuple[str, ...]:
    """The receivers of the first route that matches, each once, in its order; empty where no route matches.

    Only the first match decides, so a route for critical alerts above a route for everything takes the critical ones
    away from the latter. `labels` are those of `Transition.matching_labels`.
    """
    for route in routes:
        if matches_all(route.where, labels):
            return tuple(dict.fromkeys(route.to))
    return ()

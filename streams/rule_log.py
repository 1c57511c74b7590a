"""The rules log: which rule set holds from which event time, and its record format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules.rule import RuleSet
from rules.view import ENGINE_SOURCE, View

Ints = NDArray[np.int64]

FORMAT: Final = 1


@dataclass(frozen=True)
class Epoch:
    """A rule set and the pane boundary (event time, ms) from which it holds. `extra`: views that no rule asked for."""

    from_ms: int
    rules: RuleSet
    extra: tuple[View, ...] = ()

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Each distinct view once, in order of hash."""
        views = {view.hash: view for view in (*self.rules.views, *self.extra)}
        return tuple(views[key] for key in sorted(views))


class RuleLog:
    """All epochs that may still concern open panes or pending ticks, in order of their beginning.

    Of epochs given with the same beginning the last one holds.
    """

    def __init__(self, epochs: Sequence[Epoch]) -> None:
        newest = {epoch.from_ms: epoch for epoch in epochs}
        self.epochs = tuple(newest[from_ms] for from_ms in sorted(newest))
        self._from = np.array([epoch.from_ms for epoch in self.epochs], np.int64)
        self._views = {view.hash: view for epoch in self.epochs for view in epoch.views}

    def all_views(self) -> tuple[View, ...]:
        """The views of every epoch."""
        return tuple(self._views[key] for key in sorted(self._views))

    def engine_views(self) -> tuple[View, ...]:
        """The views over the engine's own counters."""
        return tuple(view for view in self.all_views() if view.source == ENGINE_SOURCE)

    def view(self, view_hash: str) -> View:
        """The view of a hash; KeyError when no epoch has it."""
        return self._views[view_hash]

    def epoch_at(self, at_ms: int) -> Epoch:
        """The epoch in force at an event time; before the first one, that one."""
        return self.epochs[max(0, int(np.searchsorted(self._from, at_ms, side="right")) - 1)]

    def in_force(self, starts: Ints) -> Iterator[tuple[tuple[View, ...], Ints | None]]:
        """Call views by epoch, with the rows whose pane start lies in it (None: all of them)."""
        if len(self.epochs) == 1:
            yield self._of_calls(self.epochs[0]), None
            return
        position = np.maximum(np.searchsorted(self._from, starts, side="right") - 1, 0)
        distinct = np.unique(position)
        for number in distinct.tolist():
            rows = None if len(distinct) == 1 else np.flatnonzero(position == number)
            yield self._of_calls(self.epochs[number]), rows

    @staticmethod
    def _of_calls(epoch: Epoch) -> tuple[View, ...]:
        return tuple(view for view in epoch.views if view.source != ENGINE_SOURCE)


class RuleFileText(msgspec.Struct, frozen=True):
    """One rule file as it was when the rule set was published."""

    name: str
    text: str


class RulesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the rules topic: a rule set, from when it holds (event time, ms), and when it was published."""

    format: int = FORMAT
    hash: str
    from_ms: int
    published_ms: int
    files: list[RuleFileText]
    overview: list[str]
    prices: str = ""


def encode(record: RulesRecord) -> bytes:
    """The record's value, JSON."""
    return msgspec.json.encode(record)


def decode(value: bytes) -> RulesRecord:
    """The record of a value. Raises msgspec.DecodeError when it is none."""
    try:
        return msgspec.json.decode(value, type=RulesRecord)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"not JSON text: {error}") from error

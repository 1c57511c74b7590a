"""The rules log: which rule set and prices hold from which event time, how far that is known, and its record format."""

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
from streams.price_book import PriceBook

Ints = NDArray[np.int64]

FORMAT: Final = 1
LEAD_MS: Final = 10_000
"""A new version holds from this long after its publication at the earliest: every worker has heard of it by then."""
DELAY_MS: Final = 3_000
"""What a publication may take, and what the clocks of two workers may differ, together."""
HOP_MS: Final = 3_000
"""How much longer ago a worker may have read the log than the one whose panes it takes."""


@dataclass(frozen=True)
class Epoch:
    """A rule set and the pane boundary (event time, ms) from which it holds.

    `extra`: views that no rule asked for. `prices`: those in force with it, None where the log does not say.
    """

    from_ms: int
    rules: RuleSet
    extra: tuple[View, ...] = ()
    prices: PriceBook | None = None

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
        position = self.index(starts)
        distinct = np.unique(position)
        for number in distinct.tolist():
            rows = None if len(distinct) == 1 else np.flatnonzero(position == number)
            yield self._of_calls(self.epochs[number]), rows

    def index(self, starts: Ints) -> Ints:
        """int64[n]: the position in `epochs` of the one in force at each pane start."""
        return np.maximum(np.searchsorted(self._from, starts, side="right") - 1, 0)

    def changed_from_ms(self, before: RuleLog) -> int | None:
        """The earliest pane boundary from which panes hold something else than by the log before; None: nowhere."""
        boundaries: set[int] = {0, *self._from.tolist(), *before._from.tolist()}
        for at_ms in sorted(boundaries):
            if _content(self.epoch_at(at_ms)) != _content(before.epoch_at(at_ms)):
                return at_ms
        return None

    @staticmethod
    def _of_calls(epoch: Epoch) -> tuple[View, ...]:
        return tuple(view for view in epoch.views if view.source != ENGINE_SOURCE)


def _content(epoch: Epoch) -> tuple[tuple[str, ...], str | None]:
    """What an epoch makes of a pane."""
    return tuple(view.hash for view in epoch.views), None if epoch.prices is None else epoch.prices.version


@dataclass(frozen=True, slots=True)
class Known:
    """What a worker knows of the rules log: its content, and when (ms, the worker's clock) it was whole."""

    log: RuleLog
    read_ms: int

    @property
    def until_ms(self) -> int:
        """No version holds from before this event time that this worker, or one that takes its panes, has not heard of.

        So panes that end by then may be published and sealed.
        """
        return self.read_ms + LEAD_MS - DELAY_MS - HOP_MS


class RuleFileText(msgspec.Struct, frozen=True):
    """One rule file as it was when the rule set was published."""

    name: str
    text: str


class RulesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the rules topic: a rule set, from when it holds (event time, ms), and when it was published.

    `prices` is the version of the price book. `price_file` is the user's price file, zstd (in JSON base64); empty where
    there is none, None in records of before it was kept: what they cost then is up to the reader's own prices.
    """

    format: int = FORMAT
    hash: str
    from_ms: int
    published_ms: int
    files: list[RuleFileText]
    overview: list[str]
    prices: str = ""
    price_file: bytes | None = None


def encode(record: RulesRecord) -> bytes:
    """The record's value, JSON."""
    return msgspec.json.encode(record)


def decode(value: bytes) -> RulesRecord:
    """The record of a value. Raises msgspec.DecodeError when it is none."""
    try:
        return msgspec.json.decode(value, type=RulesRecord)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"not JSON text: {error}") from error

"""The engine's own counters (rejected, late, clamped) by pane, for the views that watch them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rules.rule import PANE_MS
from rules.view import FieldKind, View
from streams.block import Block
from streams.rule_log import RuleLog

Ints = NDArray[np.int64]


class EngineCounts:
    """Counts of one source, booked in the pane of the largest event time at the moment they happened.

    Such a pane is never sealed, so nothing here is ever late. Events before the first call wait for it.
    """

    def __init__(self, log: RuleLog) -> None:
        self._log = log
        self._panes: dict[int, dict[str, int]] = {}
        self._touched: set[int] = set()
        self._waiting: dict[str, int] = {}

    def use(self, log: RuleLog) -> None:
        """Watch for the views of this log from now on."""
        self._log = log

    def add(self, name: str, starts: Ints) -> None:
        """Count one event for each pane start given; UNKNOWN waits for the first call."""
        for start, number in zip(*np.unique(starts, return_counts=True), strict=True):
            if start < 0:
                self._waiting[name] = self._waiting.get(name, 0) + int(number)
            else:
                self._book(name, int(start), int(number))

    @property
    def waiting(self) -> bool:
        """Whether something waits for the first call."""
        return bool(self._waiting)

    def release(self, start_ms: int) -> None:
        """Book what has waited for the first call, in that call's pane."""
        waiting, self._waiting = self._waiting, {}
        for name, number in waiting.items():
            self._book(name, start_ms, number)

    def touched(self, until_ms: int | None = None) -> Iterator[tuple[View, Block]]:
        """The whole content of the panes changed since the last call, once per view, by what is in force at each pane.

        Panes that end after `until_ms` are kept for a later call.
        """
        starts = sorted(start for start in self._touched if until_ms is None or start + PANE_MS <= until_ms)
        if not starts:
            return
        self._touched.difference_update(starts)
        for view in self._log.engine_views():
            seen = [start for start in starts if view in self._log.epoch_at(start).views]
            columns = {
                field.name: np.array([self._panes[start].get(field.column, 0) for start in seen], np.int64)
                for field in view.fields
                if field.kind is FieldKind.COUNT
            }
            if columns and seen:
                row = np.zeros(len(seen), np.int64)
                yield view, Block(view.hash, ((),), row, np.array(seen, np.int64), columns, {})

    def seal(self, before_ms: int) -> None:
        """Drop the panes that end at or before a time."""
        for start in [start for start in self._panes if start + PANE_MS <= before_ms]:
            del self._panes[start]
            self._touched.discard(start)

    def _book(self, name: str, start: int, number: int) -> None:
        counts = self._panes.setdefault(start, {})
        counts[name] = counts.get(name, 0) + number
        self._touched.add(start)

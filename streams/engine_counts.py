"""The engine's own counters (rejected, late, clamped) by pane, for the views that watch them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from rules.rule import PANE_MS
from rules.view import FieldKind, View
from streams.block import Block

Ints = NDArray[np.int64]


class EngineCounts:
    """Counts of one source, booked in the pane of the largest event time at the moment they happened.

    Such a pane is never sealed, so nothing here is ever late. Events before the first call wait for it.
    """

    def __init__(self, views: Iterable[View]) -> None:
        self._views = tuple(views)
        self._panes: dict[int, dict[str, int]] = {}
        self._touched: set[int] = set()
        self._waiting: dict[str, int] = {}

    def use(self, views: Iterable[View]) -> None:
        """Watch for these views from now on."""
        self._views = tuple(views)

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

    def touched(self) -> Iterator[tuple[View, Block]]:
        """The whole content of the panes changed since the last call, once per view."""
        if not self._touched:
            return
        starts = sorted(self._touched)
        self._touched.clear()
        for view in self._views:
            columns = {
                field.name: np.array([self._panes[start].get(field.column, 0) for start in starts], np.int64)
                for field in view.fields
                if field.kind is FieldKind.COUNT
            }
            if columns:
                row = np.zeros(len(starts), np.int64)
                yield view, Block(view.hash, ((),), row, np.array(starts, np.int64), columns, {})

    def seal(self, before_ms: int) -> None:
        """Drop the panes that end at or before a time."""
        for start in [start for start in self._panes if start + PANE_MS <= before_ms]:
            del self._panes[start]
            self._touched.discard(start)

    def _book(self, name: str, start: int, number: int) -> None:
        counts = self._panes.setdefault(start, {})
        counts[name] = counts.get(name, 0) + number
        self._touched.add(start)

"""Windows of one view on one shard: panes by tier, and the running totals of each window at its tick."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.rule import tier_ms
from rules.transition import Exemplar
from rules.view import Field, FieldKind, View
from streams import distinct, histogram
from streams.content import Content, Rows, best_exemplars, merge, rekeyed, renumbered
from streams.histogram import merge_counts
from streams.times import UNKNOWN

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class TierPane:
    """One pane of a tier: parts as they came, merged when a window takes them."""

    def __init__(self) -> None:
        self._parts: list[Content] = []

    def add(self, part: Content) -> None:
        """Add to the pane."""
        self._parts.append(part)

    def renumber(self, new_of: Ints) -> None:
        """Use new row numbers."""
        self._parts = [renumbered(part, new_of) for part in self._parts]

    def content(self) -> Content:
        """Everything in the pane."""
        if len(self._parts) > 1:
            self._parts = [merge(self._parts)]
        return self._parts[0]


class Window:
    """The totals of [end - span, end) of one view, moved from tick to tick."""

    def __init__(self, store: ViewWindows, span_ms: int) -> None:
        self.store = store
        self.span_ms = span_ms
        self.tier_ms = tier_ms(span_ms)
        self.end_ms: int | None = None
        self.clear()

    def clear(self) -> None:
        """Empty totals, as before any call."""
        fields = self.store.view.fields
        self._columns = {
            f: np.zeros(0, np.int64) for f in fields if f.kind in (FieldKind.COUNT, FieldKind.SUM)
        }
        self._counted = {f: (_NONE, _NONE) for f in fields if f.kind is FieldKind.HISTOGRAM}
        self._before = np.zeros(0, bool)
        self.held = 0

    def advance(self, end_ms: int) -> None:
        """Move the window so that it ends at a tick; forward only."""
        panes, start_ms = self.store.tiers[self.tier_ms], end_ms - self.span_ms
        added_from, gone_to = start_ms, start_ms
        if self.end_ms is not None and start_ms < self.end_ms:
            added_from = self.end_ms
            self._before = self._holds()
            gone = [panes[at] for at in self._starts(self.end_ms - self.span_ms, gone_to) if at in panes]
        else:
            self.clear()
            gone = []
        added = [panes[at] for at in self._starts(added_from, end_ms) if at in panes]
        self.end_ms = end_ms
        self.held += len(added) - len(gone)
        self._take([pane.content() for pane in added], [pane.content() for pane in gone])

    def earliest(self, from_ms: int) -> int | None:
        """Start of the earliest pane of its tier at or after a time, or None."""
        return min((at for at in self.store.tiers[self.tier_ms] if at >= from_ms), default=None)

    def renumber(self, kept: Ints, new_of: Ints) -> None:
        """Keep only the given rows, under new numbers."""
        before = np.zeros(len(new_of), bool)
        before[: len(self._before)] = self._before
        self._before = before[kept]
        for each in self._columns:
            self._columns[each] = self._sized(each)[kept]
        self._counted = {
            each: (rekeyed(keys, each, new_of), counts) for each, (keys, counts) in self._counted.items()
        }

    def restore(self, end_ms: int | None) -> None:
        """Stand at a tick again, with totals counted anew from the panes."""
        if end_ms is not None:
            self.end_ms = None
            self.advance(end_ms)

    def amend(self, at_ms: int, part: Content, *, new_pane: bool) -> None:
        """Take in a change of a pane that the totals already cover."""
        if self.end_ms is not None and self.end_ms - self.span_ms <= at_ms < self.end_ms:
            self.held += new_pane
            self._take([part], [])

    @property
    def series(self) -> list[Series]:
        """The series of each row."""
        return self.store.rows.series

    def live(self) -> Bools:
        """bool[rows]: series with something in the window, or in that of the tick before: the others take no part.

        Which series are known otherwise depends on how far ahead of the tick the panes at hand are.
        """
        live = self._holds()
        live[: len(self._before)] |= self._before
        return live

    def total(self, wanted: Field) -> Ints:
        """int64[rows]: a count, sum or peak over the window; a peak of nothing is 0."""
        if wanted.kind is FieldKind.PEAK:
            peak = np.full(len(self.series), UNKNOWN, np.int64)
            for content in self._contents():
                np.maximum.at(peak, content.rows, content.columns[wanted])
            return np.where(peak == UNKNOWN, 0, peak)
        return self._sized(wanted)[: len(self.series)]

    def percentile(self, wanted: Field, rank: int) -> Ints:
        """int64[rows]: nearest rank, highest equivalent stored integer; 0 where empty."""
        keys, counts = self._counted[wanted]
        return histogram.percentiles(len(self.series), keys, counts, rank)

    def distinct(self, wanted: Field) -> Floats:
        """float64[rows]: estimated distinct values."""
        keys = [content.sparse[wanted][0] for content in self._contents()]
        return distinct.estimates(len(self.series), np.unique(np.concatenate(keys)) if keys else _NONE)

    def highest_equivalent(self, value: float) -> int:
        """The largest stored integer that the histogram layout cannot tell from `value`."""
        return histogram.highest_equivalent(value)

    def exemplars(self, row: int, wanted: Field, limit: int) -> tuple[Exemplar, ...]:
        """Up to `limit` calls of one row, the largest value first."""
        found = (content.exemplars.get((row, wanted), ()) for content in self._contents())
        return best_exemplars((each for some in found for each in some), limit)

    def _contents(self) -> list[Content]:
        panes = self.store.tiers[self.tier_ms]
        if self.end_ms is None:
            return []
        return [
            panes[at].content() for at in self._starts(self.end_ms - self.span_ms, self.end_ms) if at in panes
        ]

    def _starts(self, from_ms: int, to_ms: int) -> Iterable[int]:
        """Starts of present panes in [from, to), or of all that could be there, whichever is fewer."""
        panes = self.store.tiers[self.tier_ms]
        possible = range(from_ms - from_ms % self.tier_ms, to_ms, self.tier_ms)
        if len(possible) > len(panes):
            return [at for at in sorted(panes) if from_ms <= at < to_ms]
        return possible

    def _holds(self) -> Bools:
        holds = np.full(len(self.series), not self._columns)  # the engine's lag has neither counts nor sums
        for each in self._columns:
            holds |= self.total(each) != 0
        return holds

    def _sized(self, wanted: Field) -> Ints:
        column = self._columns[wanted]
        if len(column) < len(self.series):
            column = np.concatenate((column, np.zeros(max(16, 2 * len(self.series)) - len(column), np.int64)))
            self._columns[wanted] = column
        return column

    def _take(self, added: list[Content], gone: list[Content]) -> None:
        for each in self._columns:
            column = self._sized(each)
            for content in added:
                column[content.rows] += content.columns[each]
            for content in gone:
                column[content.rows] -= content.columns[each]
        if not (added or gone):
            return
        for each, (keys, counts) in self._counted.items():
            plus = [content.sparse[each] for content in added]
            minus = [content.sparse[each] for content in gone]
            self._counted[each] = merge_counts(
                np.concatenate([keys, *(pair[0] for pair in plus), *(pair[0] for pair in minus)]),
                np.concatenate([counts, *(pair[1] for pair in plus), *(-pair[1] for pair in minus)]),
            )


class ViewWindows:
    """All panes and windows of one view on one shard."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.rows = Rows()
        self.tiers: dict[int, dict[int, TierPane]] = {}
        self.windows: dict[int, Window] = {}

    def window(self, span_ms: int) -> Window:
        """The window of a span; all that are needed must be asked for before the first content."""
        found = self.windows.get(span_ms)
        if found is None:
            found = self.windows[span_ms] = Window(self, span_ms)
            self.tiers.setdefault(found.tier_ms, {})
        return found

    def apply(self, start_ms: int, part: Content) -> None:
        """Add to the pane that starts at `start_ms`, in every tier, and to totals that cover it already."""
        for width, panes in self.tiers.items():
            at = start_ms - start_ms % width
            pane = panes.get(at)
            if pane is None:
                pane = panes[at] = TierPane()
                new = True
            else:
                new = False
            pane.add(part)
            for window in self.windows.values():
                if window.tier_ms == width:
                    window.amend(at, part, new_pane=new)

    def live_rows(self) -> Ints:
        """int64: rows that any pane has something of, ascending."""
        rows = [pane.content().rows for panes in self.tiers.values() for pane in panes.values()]
        return np.unique(np.concatenate(rows)) if rows else _NONE

    def renumber(self, kept: Ints) -> Ints:
        """Forget all rows but these (ascending); returns the new row by old row, int64, -1 where forgotten."""
        new_of = np.full(len(self.rows.series), -1, np.int64)
        new_of[kept] = np.arange(len(kept))
        for window in self.windows.values():
            window.renumber(kept, new_of)
        self.rows.keep_only(kept)
        for panes in self.tiers.values():
            for pane in panes.values():
                pane.renumber(new_of)
        return new_of

    def prune(self) -> None:
        """Drop panes that lie before every window of their tier; a window that has not begun keeps none for itself."""
        for width, panes in self.tiers.items():
            starts = [
                window.end_ms - window.span_ms
                for window in self.windows.values()
                if window.tier_ms == width and window.end_ms is not None
            ]
            for at in [at for at in panes if starts and at + width <= min(starts)]:
                del panes[at]

    def seed(self, width_ms: int, start_ms: int, part: Content) -> None:
        """Add to one tier only, which no window uses yet."""
        self.tiers[width_ms].setdefault(start_ms - start_ms % width_ms, TierPane()).add(part)

    def begin(self, spans: Collection[int], used_before: Collection[int], from_ms: int) -> None:
        """Keep the windows of these spans only; a tier that was not used before an event time begins with it.

        `used_before`: widths of the tiers that were. What the others hold depends on when they were asked for.
        """
        self.windows = {span: window for span, window in self.windows.items() if span in spans}
        needed = {window.tier_ms for window in self.windows.values()}
        self.tiers = {width: panes for width, panes in self.tiers.items() if width in needed}
        for width in needed.difference(used_before):
            panes = self.tiers[width]
            for at in [at for at in panes if at < from_ms]:
                del panes[at]


_NONE: Ints = np.zeros(0, np.int64)

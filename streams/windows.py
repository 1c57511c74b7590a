"""Windows of one view on one shard: panes by tier, and the running totals of each window at its tick."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.rule import PANE_MS, tier_ms
from rules.transition import Exemplar
from rules.view import Field, FieldKind, View
from streams import distinct, histogram
from streams.histogram import BUCKETS, merge_counts
from streams.panes import Block
from streams.times import UNKNOWN

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EXEMPLARS_KEPT = 5
"""Exemplars kept for a series and field when panes are rolled up."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What some series have in a stretch of event time.

    `rows`: int64[n], ascending and distinct. `columns`: int64[n] by field. `sparse`: by field, keys `row * width + key`
    ascending and distinct, with counts. `exemplars`: by (row, field), the largest value first.
    """

    rows: Ints
    columns: dict[Field, Ints]
    sparse: dict[Field, tuple[Ints, Ints]]
    exemplars: dict[tuple[int, Field], tuple[Exemplar, ...]] = field(default_factory=dict)


class Rows:
    """Numbers the series of a view on a shard, in order of first sight."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self._row: dict[Series, int] = {}

    def number(self, series: Iterable[Series]) -> Ints:
        """int64: the row of each series, given to it now if it is new."""
        rows = []
        for each in series:
            row = self._row.get(each)
            if row is None:
                row = self._row[each] = len(self.series)
                self.series.append(each)
            rows.append(row)
        return np.array(rows, np.int64)

    def find(self, series: Series) -> int | None:
        """The row of a series, None where it is not known."""
        return self._row.get(series)

    def keep_only(self, rows: Ints) -> None:
        """Forget all rows but these (ascending), which get new numbers in the same order."""
        self.series = [self.series[row] for row in rows.tolist()]
        self._row = {series: row for row, series in enumerate(self.series)}


def contents(view: View, rows: Rows, block: Block) -> dict[int, Content]:
    """The content of each pane of a block, by pane start."""
    if len(block) == 0:
        return {}
    fields = {each.name: each for each in view.fields}
    row = rows.number(block.series)[block.row]
    order = np.lexsort((row, block.start_ms))
    starts, first = np.unique(block.start_ms[order], return_index=True)
    edges = [*first.tolist(), len(block)]
    pane_of_entry = np.empty(len(block), np.int64)
    pane_of_entry[order] = np.repeat(np.arange(len(starts)), np.diff(edges))
    ordered_row = row[order]
    columns = {fields[name]: values[order] for name, values in block.columns.items()}
    sparse = {}
    for name, values in block.sparse.items():
        pane, keys = pane_of_entry[values.entry], row[values.entry] * _width(fields[name]) + values.key
        by_key = np.lexsort((keys, pane))
        cuts = np.searchsorted(pane[by_key], np.arange(len(starts) + 1)).tolist()
        sparse[fields[name]] = (keys[by_key], values.count[by_key], cuts)
    shown: list[dict[tuple[int, Field], tuple[Exemplar, ...]]] = [{} for _ in starts]
    for entry, name, exemplar in block.exemplars:
        shown[int(pane_of_entry[entry])][int(row[entry]), fields[name]] = (exemplar,)
    return {
        start: Content(
            ordered_row[edges[pane] : edges[pane + 1]],
            {each: values[edges[pane] : edges[pane + 1]] for each, values in columns.items()},
            {
                each: (keys[cuts[pane] : cuts[pane + 1]], counts[cuts[pane] : cuts[pane + 1]])
                for each, (keys, counts, cuts) in sparse.items()
            },
            shown[pane],
        )
        for pane, start in enumerate(starts.tolist())
    }


def merge(parts: Sequence[Content]) -> Content:
    """All parts together: counts, sums and histograms add, peaks and distinct counts take the larger.

    All parts have the fields of one view; there is one at least.
    """
    if len(parts) == 1:
        return parts[0]
    rows, inverse = np.unique(np.concatenate([part.rows for part in parts]), return_inverse=True)
    columns = {}
    for each in parts[0].columns:
        values = np.concatenate([part.columns[each] for part in parts])
        if each.kind is FieldKind.PEAK:
            merged = np.full(len(rows), UNKNOWN, np.int64)
            np.maximum.at(merged, inverse, values)
        else:
            merged = np.zeros(len(rows), np.int64)
            np.add.at(merged, inverse, values)
        columns[each] = merged
    sparse = {each: _merge_sparse(each, [part.sparse[each] for part in parts]) for each in parts[0].sparse}
    exemplars: dict[tuple[int, Field], tuple[Exemplar, ...]] = {}
    for part in parts:
        for key, more in part.exemplars.items():
            exemplars[key] = best_exemplars((*exemplars.get(key, ()), *more), EXEMPLARS_KEPT)
    return Content(rows, columns, sparse, exemplars)


def restrict(part: Content, rows: Ints) -> Content:
    """Only these rows of a content."""
    kept = np.isin(part.rows, rows)
    wanted = set(rows.tolist())
    sparse = {}
    for each, (keys, counts) in part.sparse.items():
        mine = np.isin(keys // _width(each), rows)
        sparse[each] = (keys[mine], counts[mine])
    return Content(
        part.rows[kept],
        {each: values[kept] for each, values in part.columns.items()},
        sparse,
        {key: shown for key, shown in part.exemplars.items() if key[0] in wanted},
    )


def renumbered(part: Content, new_of: Ints) -> Content:
    """The same content under new row numbers, which must keep their order; int64 by old row."""
    return Content(
        new_of[part.rows],
        part.columns,
        {each: (_rekeyed(keys, each, new_of), counts) for each, (keys, counts) in part.sparse.items()},
        {(int(new_of[row]), each): shown for (row, each), shown in part.exemplars.items()},
    )


def difference(new: Content, old: Content) -> Content:
    """What to add to totals that hold `old` so that they hold `new`, a later version of the same pane."""
    negated = Content(
        old.rows,
        {each: (values if each.kind is FieldKind.PEAK else -values) for each, values in old.columns.items()},
        {
            each: (keys, -counts)
            for each, (keys, counts) in old.sparse.items()
            if each.kind is FieldKind.HISTOGRAM
        }
        | {each: pair for each, pair in old.sparse.items() if each.kind is FieldKind.DISTINCT},
    )
    return merge([new, negated])


def best_exemplars(exemplars: Iterable[Exemplar], limit: int) -> tuple[Exemplar, ...]:
    """The largest values first, the earlier call among equals; of each pane of a source its largest only.

    A pane's newest version has one exemplar. Those of versions before it do not stand beside it, or what is shown would
    depend on how calls were cut into flushes.
    """
    ordered = sorted(exemplars, key=lambda each: (-each.value, each.at_ms, each.source, each.offset))
    largest: dict[tuple[str, int], Exemplar] = {}
    for each in ordered:
        largest.setdefault((each.source, each.at_ms // PANE_MS), each)
    return tuple(largest.values())[:limit]


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
            each: (_rekeyed(keys, each, new_of), counts) for each, (keys, counts) in self._counted.items()
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


def _width(each: Field) -> int:
    return BUCKETS if each.kind is FieldKind.HISTOGRAM else distinct.KEYS


def _rekeyed(keys: Ints, each: Field, new_of: Ints) -> Ints:
    return new_of[keys // _width(each)] * _width(each) + keys % _width(each)


def _merge_sparse(each: Field, parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    keys = np.concatenate([part[0] for part in parts])
    if each.kind is FieldKind.DISTINCT:
        found = distinct.highest_ranks(keys)
        return found, np.ones(len(found), np.int64)
    return merge_counts(keys, np.concatenate([part[1] for part in parts]))

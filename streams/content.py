"""Contents: what some series of a view have in a stretch of event time, and their arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.rule import PANE_MS
from rules.transition import Exemplar
from rules.view import Field, FieldKind, View
from streams import distinct
from streams.block import Block
from streams.histogram import BUCKETS, merge_counts
from streams.times import UNKNOWN

Ints = NDArray[np.int64]


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
        pane, keys = pane_of_entry[values.entry], row[values.entry] * key_width(fields[name]) + values.key
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
        mine = np.isin(keys // key_width(each), rows)
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
        {each: (rekeyed(keys, each, new_of), counts) for each, (keys, counts) in part.sparse.items()},
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


def rekeyed(keys: Ints, each: Field, new_of: Ints) -> Ints:
    """The keys of a sparse field under new row numbers, int64 by old row."""
    return new_of[keys // key_width(each)] * key_width(each) + keys % key_width(each)


def _merge_sparse(each: Field, parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    keys = np.concatenate([part[0] for part in parts])
    if each.kind is FieldKind.DISTINCT:
        found = distinct.highest_ranks(keys)
        return found, np.ones(len(found), np.int64)
    return merge_counts(keys, np.concatenate([part[1] for part in parts]))


def key_width(each: Field) -> int:
    """How many keys one row of a sparse field has."""
    return BUCKETS if each.kind is FieldKind.HISTOGRAM else distinct.KEYS

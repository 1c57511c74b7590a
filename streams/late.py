"""Late spend: from priced calls that came after their pane was sealed to bookings, and from bookings to contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.view import Field, FieldKind, Selection, View
from streams.call import Batch
from streams.chunk import Late
from streams.content import Content
from streams.filter import filtered
from streams.frontier import pane_start
from streams.rule_log import RuleLog
from streams.series_table import SeriesTable
from streams.times import UNKNOWN
from streams.windows import ViewWindows

Ints = NDArray[np.int64]

_SPEND: Final = Field(FieldKind.SUM, "spend", Selection.ANY)
_PRICED: Final = Field(FieldKind.COUNT, "spend", Selection.ANY)


def bookings(
    late: Batch, seen_ms: Ints, pane_ms: int, log: RuleLog, table_of: Callable[[View], SeriesTable]
) -> Iterator[tuple[int, Late]]:
    """By shard one entry per late call with a price and view that sums spend, under the call's own offset.

    `seen_ms`: int64[n], how far the source was sealed when each call came.
    """
    offsets = late.offsets
    for views, rows in log.in_force(pane_start(late.at_ms, pane_ms)):
        part = late if rows is None else late.take(rows)
        for view in views:
            if _SPEND in view.fields:
                yield from _of_view(part, offsets, seen_ms, pane_ms, table_of(view))


def _of_view(
    late: Batch, offsets: Ints, seen_ms: Ints, pane_ms: int, table: SeriesTable
) -> Iterator[tuple[int, Late]]:
    view = table.view
    seen, spend = filtered(late, view.where), late.column("spend")
    priced = np.flatnonzero(spend != UNKNOWN) if seen is None else seen[spend[seen] != UNKNOWN]
    numbers = table.numbers(late, priced)
    shards = np.array([view.shard(table.series[number]) for number in numbers.tolist()], np.int64)
    for shard in np.unique(shards).tolist():
        mine = priced[shards == shard]
        used, row = np.unique(numbers[shards == shard], return_inverse=True)
        yield (
            shard,
            Late(
                view.hash,
                tuple(table.series[number] for number in used.tolist()),
                row.astype(np.int64),
                pane_start(late.at_ms[mine], pane_ms),
                late.offsets[mine],
                spend[mine],
                seen_ms[np.searchsorted(offsets, late.offsets[mine])],
            ),
        )


def above(late: Late, offset: int) -> Late | None:
    """The bookings whose call lies above an offset; None where there are none."""
    fresh = late.offset > offset
    return late.select(fresh) if fresh.any() else None


def divided(late: Late, seen_ms: int) -> tuple[Late | None, Late | None]:
    """The bookings seen until a time, and those seen later."""
    due = late.seen_ms <= seen_ms
    return (late.select(due) if due.any() else None), (late.select(~due) if not due.all() else None)


def apply(late: Late, windows: ViewWindows) -> None:
    """Add bookings to their panes."""
    rows = windows.rows.number(late.series)[late.row]
    for index, start_ms in enumerate(late.start_ms.tolist()):
        columns = {
            each: np.full(1, UNKNOWN if each.kind is FieldKind.PEAK else 0, np.int64)
            for each in windows.view.fields
            if each.kind in (FieldKind.COUNT, FieldKind.SUM, FieldKind.PEAK)
        }
        columns[_SPEND] = late.spend[index : index + 1]
        if _PRICED in columns:
            columns[_PRICED] = np.ones(1, np.int64)  # or the spend per call would rise with every late call
        windows.apply(start_ms, plain(windows.view, rows[index : index + 1], columns))


def plain(view: View, row: Ints, columns: dict[Field, Ints]) -> Content:
    """Content of one row with plain columns only."""
    nothing = np.zeros(0, np.int64)
    sparse = {
        f: (nothing, nothing) for f in view.fields if f.kind in (FieldKind.HISTOGRAM, FieldKind.DISTINCT)
    }
    return Content(row, columns, sparse)

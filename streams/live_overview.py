"""The overview over the last seconds, from the panes of its view as they are published. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from rules.labels import Series
from rules.measures import measure
from rules.quantities import MINUTE, SECOND
from rules.reading import read
from rules.view import View
from streams.chunk import Chunk
from streams.content import Content, Rows, contents, merge, restrict
from streams.records import Source
from streams.totals import ContentTotals

KEPT_MS: Final = 60_000
"""Panes that are kept, by age against the newest one."""


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """One series over a span of time; percentiles are in ms, over successful calls. None where undefined."""

    series: Series
    calls_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    error_rate: float | None
    spend_per_minute: float
    """Nano-dollars."""


class LiveOverview:
    """The panes of one view, newest version of each, and the measures of every series over the last of them."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._rows = Rows()
        self._cells: dict[tuple[int, Source, int], tuple[int, Content]] = {}
        self._newest_ms: int | None = None

    def take(self, chunk: Chunk) -> None:
        """Take in a chunk; blocks of other views are passed over, and so are versions older than what is known."""
        for block in chunk.blocks:
            if block.view != self.view.hash:
                continue
            for start, content in contents(self.view, self._rows, block).items():
                self._newest_ms = start if self._newest_ms is None else max(start, self._newest_ms)
                for row in content.rows.tolist():
                    cell = (start, chunk.source, row)
                    held = self._cells.get(cell)
                    if held is None or held[0] <= chunk.version:
                        self._cells[cell] = (chunk.version, restrict(content, np.array([row], np.int64)))
        if self._newest_ms is not None:
            oldest = self._newest_ms - KEPT_MS
            for cell in [cell for cell in self._cells if cell[0] < oldest]:
                del self._cells[cell]

    def rows(self, span_ms: int) -> list[OverviewRow]:
        """Every series with calls in the last `span_ms` before the newest pane, which is still filling; in order."""
        if self._newest_ms is None:
            return []
        end = self._newest_ms
        start = max(end - span_ms, min(cell[0] for cell in self._cells))
        parts = [content for (at, _, _), (_, content) in self._cells.items() if start <= at < end]
        if not parts:
            return []
        total = merge(parts)
        totals = ContentTotals(self._rows, total)
        span = end - start

        def column(name: str) -> list[float | None]:
            readings = read(measure(name), totals, span)
            pairs = zip(readings.value.tolist(), readings.defined.tolist(), strict=True)
            return [value if defined else None for value, defined in pairs]

        calls, spend = column("calls"), column("spend")
        p50, p95, p99 = column("latency.p50"), column("latency.p95"), column("latency.p99")
        errors = column("error_rate")
        found = [
            OverviewRow(
                series=self._rows.series[row],
                calls_per_second=(calls[row] or 0) * SECOND / span,
                p50_ms=p50[row],
                p95_ms=p95[row],
                p99_ms=p99[row],
                error_rate=errors[row],
                spend_per_minute=(spend[row] or 0) * MINUTE / span,
            )
            for row in total.rows.tolist()
        ]
        return sorted(found, key=lambda row: row.series)

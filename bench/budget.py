"""Nanoseconds of CPU time per call for each step of ingest, without Kafka: the budget of docs/performance.md.

Every step is entered by the name of a function; what a step calls is taken off it when it is a step of its own.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import workload
from harness import pin, print_table

from streams import block, call, chunk, ingest, needs, panes, position, series_table, spend
from streams.event import FULL, decoder

START_MS = 1_760_000_000_000
FLUSHED = 40_000
"""Calls between flushes: what about 500 ms bring."""
STEPS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("decode", call.Reader, ("read",)),
    ("check UTF-8", call, ("_not_utf8",)),
    ("times", call, ("_times",)),
    ("dedupe", ingest, ("repeated_rows",)),
    ("intern dimensions", call.Batch, ("codes",)),
    ("columns", call.Batch, ("column", "selection", "chosen")),
    ("price", spend.BatchPricer, ("__call__",)),
    ("series numbers", series_table.SeriesTable, ("numbers",)),
    ("cells", panes.ViewPanes, ("_cells_for",)),
    ("views: counts and sums", panes.ViewPanes, ("add", "_accumulate")),
    ("histograms", panes.ViewPanes, ("_record", "_compacted")),
    ("histograms", call.Batch, ("buckets",)),
    ("exemplars: choose", panes.ViewPanes, ("_show",)),
    ("exemplars: describe", block.Candidate, ("exemplar",)),
    ("flush: blocks", panes.ViewPanes, ("_block",)),
    ("flush: cut", ingest, ("_by_shard", "split")),
    ("flush: encode", chunk, ("encode",)),
    ("seal", panes.ViewPanes, ("seal",)),
    ("seal", ingest.Ingest, ("_seal",)),
    ("take, and freeing the batch", ingest.Ingest, ("take",)),
    ("flush: the rest", ingest.Ingest, ("flush",)),
)


class Stopwatch:
    """CPU time by step, without what inner steps take."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = {}
        self._inner: list[int] = []

    def around(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched. A generator is run to its end."""

        def watched(*arguments: Any, **named: Any) -> Any:
            before = time.process_time_ns()
            self._inner.append(0)
            try:
                result = function(*arguments, **named)
                return list(result) if step == "flush: cut" else result
            finally:
                took = time.process_time_ns() - before
                self.spent[step] = self.spent.get(step, 0) + took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        return watched

    def watch_all(self) -> None:
        """Put the watch around every step."""
        for step, owner, names in STEPS:
            for name in names:
                setattr(owner, name, self.around(step, getattr(owner, name)))


def once(batches: list[workload.Records]) -> int:
    """Ingest all batches, with flushes in between; CPU time in ns."""
    stage = ingest.Ingest(workload.config(), workload.rule_log(), workload.pricing())
    for source in {records.source for records in batches}:
        stage.assign(source, None)
    before, since = time.process_time_ns(), 0
    for records in batches:
        stage.take(records)
        since += len(records)
        if since >= FLUSHED:
            since = 0
            for source in stage.sources:
                for each in stage.flush(
                    source, position.Idle(caught_up=False, wall_ms=START_MS, sources=6)
                ).chunks:
                    chunk.encode(each)
    return time.process_time_ns() - before


def decode_ns(values: list[bytes], decode: Callable[[bytes], object]) -> float:
    """Decode alone, in batches of 5,000."""
    spent = []
    for _ in range(3):
        before = time.process_time_ns()
        for first in range(0, len(values), 5_000):
            list(map(decode, values[first : first + 5_000]))
        spent.append(time.process_time_ns() - before)
    return statistics.median(spent) / len(values)


def calibration(count: int = 30_000) -> tuple[float, float]:
    """The known prices: ns to decode every field of a call, and the fields that the rules of the bench need."""
    values = list(workload.calls(count, START_MS))
    lean = decoder(needs.Needs.of(workload.rule_log().all_views()).fields)
    return decode_ns(values, FULL.decode), decode_ns(values, lean.decode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=180_000)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument(
        "--rate", type=int, default=workload.CALLS_PER_SECOND, help="calls per s of event time"
    )
    options = parser.parse_args()
    if sys.platform.startswith("linux"):
        pin(1)
    batches = workload.batches(options.calls, options.batch, START_MS, options.rate)
    gc.collect()
    gc.freeze()
    plain = min(once(batches) for _ in range(3)) / options.calls
    watch = Stopwatch()
    watch.watch_all()
    once(batches)
    watch.spent.clear()
    once(batches)
    full, lean = calibration()
    total = sum(watch.spent.values()) / options.calls
    rows = [
        [step, f"{watch.spent.get(step, 0) / options.calls:,.0f}"]
        for step in dict.fromkeys(s for s, _, _ in STEPS)
    ]
    rows += [["all steps, watched", f"{total:,.0f}"], ["unwatched", f"{plain:,.0f}"]]
    rows += [
        ["known price: decode every field", f"{full:,.0f}"],
        ["known price: decode needed fields", f"{lean:,.0f}"],
    ]
    print_table(["ns per call", f"{options.rate:,}/s of event time"], rows)


if __name__ == "__main__":
    main()

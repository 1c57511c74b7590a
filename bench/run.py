"""`make bench`: calls per second of the whole ingest path beside a raw consumer, and what the other parts do."""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys

import budget
import parts
from end_to_end import Run, bench_settings, broker, cores, prepare, raw, whole
from harness import pin, print_table
from workload import PARTITIONS

TOPICS = ((5_000, 600_000), (50_000, 300_000))
"""Calls per second of event time, and calls: a worker that catches up, and one that follows a large stream."""
ROUNDS = 3
RAW, WHOLE = "getmany alone", "ingest, end to end"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, help="calls on each topic")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--heavy", action="store_true", help="every field in each of the five views")
    parser.add_argument("--only", choices=["kafka", "parts"])
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if options.only != "parts":
        through_a_broker(options)
    if options.only != "kafka":
        other_parts()


def through_a_broker(options: argparse.Namespace) -> None:
    mine, brokers = cores()
    with broker(brokers) as (name, address):
        for rate, usual in TOPICS:
            count = options.calls or usual
            settings = bench_settings(address, f"bench.calls-{rate}")
            size = asyncio.run(prepare(settings, count, rate))
            if mine is not None:
                pin(mine)
            runs: dict[str, list[Run]] = {RAW: [], WHOLE: []}
            for number in range(options.rounds):
                runs[RAW].append(asyncio.run(raw(settings, count)))
                group = f"bench-{rate}-{number}"
                runs[WHOLE].append(asyncio.run(whole(settings, count, group, heavy=options.heavy)))
            print(
                f"\n{count:,} calls of {size:.0f} bytes, {rate:,} per second of event time, lz4, "
                f"{PARTITIONS} partitions, {name}; median of {options.rounds} runs in turn on one core\n"
            )
            show(runs)


def show(runs: dict[str, list[Run]]) -> None:
    """By the clock, and by CPU time, which other programs on the machine disturb less."""
    rows = []
    for what, each in runs.items():
        row = [what]
        for measure in (lambda run: run.per_second, lambda run: run.per_cpu_second):
            mine = statistics.median(measure(run) for run in each)
            row += [f"{mine:,.0f}", f"{mine / statistics.median(measure(run) for run in runs[RAW]):.0%}"]
        row.append(f"{1e9 / statistics.median(run.per_cpu_second for run in each):,.0f}")
        rows.append(row)
    print_table(["", "calls/s", "of raw", "calls/CPU s", "of raw", "CPU ns/call"], rows)
    sys.stdout.flush()


def other_parts() -> None:
    full, lean = budget.calibration()
    taken = parts.snapshot()
    rows = [
        ["decode every field of a call, ns", f"{full:,.0f}"],
        ["decode the fields that these rules need, ns", f"{lean:,.0f}"],
        ["replay from a file, calls per CPU second", f"{parts.replay_per_second():,.0f}"],
        [
            "evaluate, series x ticks per CPU second, 10,000 series",
            f"{parts.evaluated_series_per_second():,.0f}",
        ],
        ["P50, P95 and P99 of 100,000 series, ms", f"{1000 * parts.percentiles_seconds():,.0f}"],
        ["bytes of pane records per call, uncompressed", f"{parts.record_bytes_per_call():,.0f}"],
        ["snapshot of 100,000 series, MB", f"{taken.size / 1e6:,.1f}"],
        ["to take it, CPU ms", f"{1000 * taken.take_seconds:,.0f}"],
        ["to restore it, CPU ms", f"{1000 * taken.restore_seconds:,.0f}"],
    ]
    print()
    print_table(["other parts", ""], rows)


if __name__ == "__main__":
    main()

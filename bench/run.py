"""`make bench`: calls per second of the whole ingest path beside a raw consumer, and what the other parts do."""

from __future__ import annotations

import argparse
import asyncio
import statistics
from functools import partial

from end_to_end import Run, bench_settings, broker, cores, prepare, raw, whole
from harness import pin, print_table

CALLS = 600_000
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    mine, brokers = cores()
    with broker(brokers) as (name, address):
        settings = bench_settings(address)
        size = asyncio.run(prepare(settings, options.calls))
        if mine is not None:
            pin(mine)
        print(f"{options.calls:,} calls of {size:.0f} bytes (JSON, lz4), 6 partitions, {name}")
        runs: dict[str, list[Run]] = {"raw getmany": [], "ingest, end to end": []}
        for number in range(options.rounds):
            runs["raw getmany"].append(asyncio.run(raw(settings, options.calls)))
            runs["ingest, end to end"].append(
                asyncio.run(whole(settings, options.calls, f"bench-{number}"))
            )
    show(runs)


def show(runs: dict[str, list[Run]]) -> None:
    best = {what: statistics.median(run.per_second for run in each) for what, each in runs.items()}
    cpu = {what: statistics.median(run.per_cpu_second for run in each) for what, each in runs.items()}
    raw_wall, raw_cpu = best["raw getmany"], cpu["raw getmany"]
    print_table(
        ["median of " + str(len(next(iter(runs.values())))), "calls/s", "of raw", "calls/CPU s", "of raw"],
        [
            [
                what,
                f"{best[what]:,.0f}",
                f"{best[what] / raw_wall:.0%}",
                f"{cpu[what]:,.0f}",
                f"{cpu[what] / raw_cpu:.0%}",
            ]
            for what in runs
        ],
    )


if __name__ == "__main__":
    main()

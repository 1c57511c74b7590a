"""Runs seeds of the simulation and says what they found: `python tests/simulation/simulation_run.py --seeds 1000`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from simulation_boundaries import BOUNDARIES  # noqa: E402
from simulation_check import check  # noqa: E402 - after the path that it needs
from simulation_world import World, small_snapshot_chunks  # noqa: E402

PER_TASK = 10
SHOWN = 5
ENOUGH = 300
"""Seeds from which on a boundary that was never struck is a fault of the simulator."""


@dataclass
class Totals:
    """What some seeds did and found, together."""

    seeds: int = 0
    failed: dict[int, list[str]] = field(default_factory=dict)
    visited: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)

    def add(self, other: Totals) -> None:
        self.seeds += other.seeds
        self.failed |= other.failed
        for mine, others in (
            (self.visited, other.visited),
            (self.struck, other.struck),
            (self.faults, other.faults),
            (self.compared, other.compared),
        ):
            mine.update(others)

    @property
    def never_struck(self) -> list[str]:
        return [name for name in BOUNDARIES if not self.struck[name]]


def run_seed(seed: int) -> Totals:
    """One seed, from the calls to the comparison with the oracle."""
    logging.disable(logging.CRITICAL)
    small_snapshot_chunks()
    totals = Totals(seeds=1)
    world = World(seed)
    try:
        world.run()
        report = check(world)
    except Exception:  # noqa: BLE001 - whatever it is, it belongs to this seed
        totals.failed[seed] = [traceback.format_exc()]
    else:
        totals.compared.update(report.compared)
        if report.problems:
            totals.failed[seed] = report.problems
        if world.faults["crash"] < 3 or report.compared["calls"] < 500:
            totals.failed.setdefault(seed, []).append("fewer than 3 crashes or 500 calls")
    totals.visited.update(world.visited)
    totals.struck.update(world.struck)
    totals.faults.update(world.faults)
    return totals


def run_seeds(seeds: Iterable[int]) -> Totals:
    # A world is dropped as a whole: looking for cycles meanwhile, or among what stays, costs a fifth.
    gc.disable()
    gc.freeze()
    totals = Totals()
    for seed in seeds:
        totals.add(run_seed(seed))
        gc.collect()
    return totals


def run_all(first: int, number: int, processes: int) -> Iterator[Totals]:
    """Totals of ten seeds each, as they end."""
    tasks = [range(at, min(at + PER_TASK, first + number)) for at in range(first, first + number, PER_TASK)]
    if processes == 1:
        yield from map(run_seeds, tasks)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_seeds, tasks)


def table(totals: Totals) -> Iterator[str]:
    """Boundaries with how often they were passed and how often a fault struck there; faults; what was compared."""
    yield f"{'effect boundary':<62}{'passed':>10}{'struck':>8}"
    for name in BOUNDARIES:
        yield f"{name:<62}{totals.visited[name]:>10,}{totals.struck[name]:>8,}"
    yield "faults: " + ", ".join(f"{number:,} {name}" for name, number in sorted(totals.faults.items()))
    yield "compared: " + ", ".join(f"{number:,} {name}" for name, number in sorted(totals.compared.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only, with everything that it found")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    if arguments.seed is not None:
        totals = run_seed(arguments.seed)
        print(*table(totals), *totals.failed.get(arguments.seed, ["no problem"]), sep="\n")
        return bool(totals.failed)
    began, totals = time.monotonic(), Totals()
    for part in run_all(arguments.first, arguments.seeds, arguments.processes):
        totals.add(part)
        for seed, problems in part.failed.items():
            print(f"seed {seed} failed; replay it with: make simulate SEED={seed}", flush=True)
            print(*(f"  {problem[:1_000]}" for problem in problems[:SHOWN]), sep="\n", flush=True)
    print(*table(totals), sep="\n")
    took = time.monotonic() - began
    print(f"{totals.seeds:,} seeds in {took:.0f} s, {len(totals.failed)} failed")
    if totals.seeds >= ENOUGH and totals.never_struck:
        print("no fault struck at:", *totals.never_struck, sep="\n  ")
        return 1
    return bool(totals.failed)


if __name__ == "__main__":
    sys.exit(main())

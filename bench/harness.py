"""What the bench's parts share: cores, clocks, medians and a table."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def pin(core: int, pid: int = 0) -> bool:
    """Bind a process (0: this one) with all its threads to one core; False where the system has no such call."""
    if not hasattr(os, "sched_setaffinity") or core not in os.sched_getaffinity(0):
        return False
    threads = Path(f"/proc/{pid or 'self'}/task")
    for thread in threads.iterdir() if threads.is_dir() else []:
        os.sched_setaffinity(int(thread.name), {core})
    return True


def cpu_ns_each(step: Callable[[], object], items: int, rounds: int = 3) -> float:
    """Nanoseconds of this process' CPU time per item, the median of some rounds."""
    spent = []
    for _ in range(rounds):
        before = time.process_time_ns()
        step()
        spent.append(time.process_time_ns() - before)
    return statistics.median(spent) / items


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their longest cell; the first one is text, the others are numbers."""
    texts = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        first, *others = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join((first, *others)).rstrip())

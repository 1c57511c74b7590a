"""A progress bar for commands that read files, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from streams.call_files import CallFile
from streams.records import Records


def with_progress(file: CallFile, batches: Iterable[Records]) -> Iterator[Records]:
    """The same batches; on a terminal, a bar on standard error shows how far the file has been read."""
    size = file.size
    if not sys.stderr.isatty() or size is None:
        yield from batches
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading calls", total=size)
        calls = 0
        for batch in batches:
            yield batch
            calls += len(batch)
            progress.update(task, completed=file.position, description=f"{calls:,} calls")

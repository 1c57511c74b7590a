"""A worker as a child process: started with a configuration, told to end, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from streams.broker import tied_to_parent

KILL_SECONDS: Final = 0.7
_LINE_BYTES: Final = 1 << 16


@contextlib.asynccontextmanager
async def worker_process(
    config: Path, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`tocsin worker` with this configuration, and these variables beside our own; both outputs are pipes to drain.

    At the end it gets SIGTERM, and SIGKILL 0.7 s later. It also dies with this process.
    """
    process = await asyncio.create_subprocess_exec(
        *tied_to_parent([sys.executable, "-m", "streams.cli", "worker", "--config", str(config)]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        env={**os.environ, **environment},
        # Its own session: a terminal's Ctrl-C reaches us alone, and we end it.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        terminate(process)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def terminate(process: asyncio.subprocess.Process) -> None:
    """Tell it to end, unless it has."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()


async def read_line(stream: asyncio.StreamReader | None) -> str:
    """The next line with its end; "" at the end of the stream. A line of more than 64 KiB is passed over."""
    while stream is not None:
        try:
            return (await stream.readline()).decode("utf-8", "replace")
        except ValueError:
            continue
    return ""

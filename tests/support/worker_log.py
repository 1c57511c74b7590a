"""A `tocsin worker` process that is run until its log says something, and then told to end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from streams.worker_process import read_line

PATIENCE_SECONDS = 60.0


async def worker_says(config: Path, words: Sequence[str], *options: str) -> str:
    """Everything the worker printed, after all `words` were in its log and it ended by SIGTERM with exit code 0."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "streams.cli", "worker", "--config", str(config), *options],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 16,
    )
    said = ""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(word in said for word in words):
                line = await read_line(process.stderr)
                assert line, said
                said += line
            process.send_signal(signal.SIGTERM)
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said + errors.decode()
    return said + errors.decode() + output.decode()

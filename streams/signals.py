"""Signals of a worker: SIGINT or SIGTERM asks for an orderly end, a second ends it at once; SIGHUP has files read."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def on_first_signal(running: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
    """Call `stop` on the first signal. Exit code of a second one: 128 and its number, 130 or 143."""

    def first() -> None:
        for number in _SIGNALS:
            running.remove_signal_handler(number)
            # Not by way of the event loop: it may be what hangs.
            signal.signal(number, _end_at_once)
        stop()

    for number in _SIGNALS:
        running.add_signal_handler(number, first)


def on_hangup(running: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Call something on every SIGHUP."""
    running.add_signal_handler(signal.SIGHUP, call)


def _end_at_once(number: int, _: FrameType | None) -> None:
    os.write(2, b"stopped at once by a second signal: the next start makes up for the last flush\n")
    os._exit(128 + number)

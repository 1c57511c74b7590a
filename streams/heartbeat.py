"""The dead man's switch: a POST to an outside monitor now and then, as long as the engine evaluates."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import aiohttp

_log: Final = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 1.0


class Heartbeat:
    """Tells an outside monitor that alerts would be raised: silence is the alarm. `url` is a secret."""

    def __init__(self, url: str, every_ms: int, evaluates: Callable[[], bool]) -> None:
        self._url = url
        self._every_ms = every_ms
        self._evaluates = evaluates
        self._trouble: str | None = None

    async def run(self) -> None:
        """Send until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        sent_ms: int | None = None
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                now_ms = time.monotonic_ns() // 1_000_000
                if self._evaluates() and (sent_ms is None or now_ms - sent_ms >= self._every_ms):
                    sent_ms = now_ms
                    self._tell(await self._send(session))
                await asyncio.sleep(LOOK_SECONDS)

    async def _send(self, session: aiohttp.ClientSession) -> str:
        """Why it was not taken; empty where it was."""
        try:
            async with session.post(self._url, allow_redirects=False) as response:
                return "" if response.status < 300 else f"HTTP {response.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Its text is left out: it quotes the URL.
            return type(error).__name__

    def _tell(self, trouble: str) -> None:
        """Log changes only."""
        if trouble == self._trouble or (self._trouble is None and not trouble):
            self._trouble = trouble
            return
        self._trouble = trouble
        if trouble:
            _log.warning("the heartbeat is not taken: %s", trouble)
        else:
            _log.info("the heartbeat is taken again")

    def __repr__(self) -> str:
        return f"Heartbeat(every_ms={self._every_ms})"

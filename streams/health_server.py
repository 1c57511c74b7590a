"""The health server: /healthz and /readyz for supervisors, and the client that `tocsin health` is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import aiohttp
from aiohttp import web

from streams.health import Progress, Remedy
from streams.watchdog import Watchdog

_log: Final = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 0.2
_LONGEST_ANSWER: Final = 1 << 20


class ListenError(Exception):
    """The address to listen on cannot be used; the message says what to do."""


class HealthServer:
    """Serves what the watchdog has seen. `optional`: where the address is taken, go on without."""

    def __init__(self, host: str, port: int, watchdog: Watchdog, *, optional: bool) -> None:
        self._host = host
        self._port = port
        self._watchdog = watchdog
        self._optional = optional

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            ListenError: the address cannot be listened on.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_SECONDS)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, self._host, self._port).start()
            except OSError as error:
                place = f"{self._host}:{self._port}"
                cause = (
                    f"{place} cannot be listened on ({error.strerror or error}): set web.listen, or to off"
                )
                if not self._optional:
                    raise ListenError(cause) from error
                _log.warning("no health server: %s", cause)
            else:
                _log.info("health at http://%s:%d/healthz", self._host, self._port)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        findings = self._watchdog.findings
        stuck = any(finding.remedy is Remedy.RESTART for finding in findings)
        body = {
            "status": "stuck" if stuck else "waiting" if findings else "ok",
            "reasons": [f"{finding.part}: {finding.reason}" for finding in findings],
            "stages": {stage.name: describe(stage) for stage in self._watchdog.state.stages},
        }
        return web.json_response(body, status=503 if stuck else 200)

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self._watchdog.unready()
        body = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        return web.json_response(body, status=503 if reasons else 200)


def describe(stage: Progress) -> dict[str, Any]:
    """A stage in the answer of /healthz."""
    places = [standing.place for standing in stage.standings.values()]
    return {
        "doing": stage.reading.doing,
        "partitions": len(places),
        "left_to_read": sum(max(0, (each.end or 0) - (each.position or 0)) for each in places),
        "seconds_since_last_turn": round(stage.turn_ms / 1000, 1),
        "seconds_since_last_answer": round(
            max((each.unanswered_ms for each in stage.standings.values()), default=0) / 1000, 1
        ),
        "failed_commits": stage.reading.failed_commits,
    }


async def ask_health(host: str, port: int, path: str) -> tuple[bool, str]:
    """Whether a worker says that it is well, and what it says."""
    place = f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{port}{path}"  # noqa: S104 - not bound here
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(place) as response:
            text = (await response.content.read(_LONGEST_ANSWER)).decode("utf-8", "replace")
            return response.status == 200, text
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return False, f"no answer at {place} ({type(error).__name__}): does a worker run, with web.listen on?"

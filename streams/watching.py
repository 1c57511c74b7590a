"""What runs beside the stages of a worker: the watchdog, the health server and the heartbeat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from streams.health_server import HealthServer
from streams.heartbeat import Heartbeat
from streams.setup import Setup
from streams.watchdog import Facts, Part, Watchdog


def watching(setup: Setup, parts: Mapping[str, Part], facts: Facts) -> list[Callable[[], Awaitable[None]]]:
    """What to run until the worker ends, as the settings want it; each ends the worker with its error."""
    settings = setup.settings
    watchdog = Watchdog(settings, parts, facts)
    work: list[Callable[[], Awaitable[None]]] = [watchdog.run]
    address = settings.web.address
    if address is not None:
        # Several workers may run on one machine: an address that nobody asked for may be taken.
        optional = "listen" not in settings.web.model_fields_set
        work.append(HealthServer(*address, watchdog, optional=optional).run)
    if setup.heartbeat_url is not None:
        beat = Heartbeat(setup.heartbeat_url, settings.heartbeat.every, lambda: not watchdog.unready())
        work.append(beat.run)
    return work

"""Running one stage: waits for the broker, drives the loop, and starts again when Kafka or the watchdog says so."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from rules.quantities import SECOND
from streams.health import WAITING_FOR_BROKER, WAITING_FOR_RULES, Place, Reading, Restarts
from streams.kafka import new_consumer, new_producer, start_client, stop_client, wait
from streams.loop import Loop, Outgoing
from streams.records import Source
from streams.settings import Settings

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0

Drive = Callable[[AIOKafkaConsumer, AIOKafkaProducer], Awaitable[None]]


class StageRun:
    """One stage's clients and its loop, which `drive` builds, hands to `use`, and runs until `stopping` is set.

    Starting again is what happens after a crash, without the crash: new clients, and everything from Kafka.
    """

    def __init__(self, settings: Settings, name: str, ready: asyncio.Event, drive: Drive) -> None:
        self.stopping = asyncio.Event()
        self.ended = asyncio.Event()
        self.name = name
        self._settings = settings
        self._ready = ready
        self._drive = drive
        self._doing = WAITING_FOR_RULES
        self._loop: Loop | None = None
        self._driving: asyncio.Future[None] | None = None
        self._restarts = Restarts()
        self._restart: tuple[str, int] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None

    def use(self, loop: Loop) -> None:
        """Show this loop's progress."""
        self._loop = loop

    def reading(self) -> Reading:
        """What the stage shows now."""
        loop = self._loop
        if loop is None or self._consumer is None:
            return Reading(self.name, self._doing)
        return Reading(
            self.name,
            loop.doing,
            loop.turns,
            loop.joined,
            places(self._consumer, loop.partitions),
            loop.failed_commits,
            owns_all=len(loop.partitions) == loop.total,
        )

    def restart(self, reason: str) -> bool:
        """Start the stage again; False where it has been started too often of late."""
        pause_ms = self._restarts.allow(_monotonic_ms())
        if pause_ms is None:
            return False
        self._restart = reason, pause_ms
        if self._driving is not None:
            self._driving.cancel()
        return True

    async def run(self) -> None:
        """Run until `stopping` is set.

        Raises:
            KafkaError, OSError: again and again, although a broker answered each time.
            Exception: whatever else the loop raised.
        """
        try:
            await self._ready.wait()
            while not self.stopping.is_set():
                reason = await self._once()
                if reason is None or self.stopping.is_set():
                    return
                cause, pause_ms = reason
                _log.warning(
                    "%s: %s: starting it again in %g s, from what Kafka has",
                    self.name,
                    cause,
                    pause_ms / SECOND,
                )
                await self.close()
                await wait(self.stopping, pause_ms / SECOND)
        finally:
            self.ended.set()

    async def close(self) -> None:
        """Give the clients up."""
        clients = [client for client in (self._consumer, self._producer) if client is not None]
        self._loop = self._consumer = self._producer = None
        self._doing = WAITING_FOR_BROKER
        await asyncio.gather(*map(stop_client, clients))

    async def _once(self) -> tuple[str, int] | None:
        """Run to the end (None), or until there is a reason to start again, with the pause before that in ms."""
        settings, client = self._settings, f"tocsin-{self.name}"
        self._doing = WAITING_FOR_BROKER
        self._restart = None
        self._producer = await start_client(lambda: new_producer(settings, client), settings, self.stopping)
        group = f"{settings.group}.{self.name}"
        self._consumer = await start_client(
            lambda: new_consumer(settings, group, client), settings, self.stopping
        )
        if self._producer is None or self._consumer is None:
            return None
        self._driving = asyncio.ensure_future(self._drive(self._consumer, self._producer))
        try:
            await self._driving
        except asyncio.CancelledError:
            asked = self._asked()
            if asked is None:
                raise
            return asked
        except (KafkaError, OSError) as error:
            pause_ms = self._restarts.allow(_monotonic_ms())
            if pause_ms is None and not self.stopping.is_set():
                raise
            return repr(error), pause_ms or 0
        finally:
            self._driving = None
        return None

    def _asked(self) -> tuple[str, int] | None:
        return self._restart


async def publish_at_last(producer: AIOKafkaProducer, record: Outgoing) -> None:
    """Publish, again and again while the broker is away: a message that was sent and is not logged is sent twice."""
    while True:
        try:
            await producer.send_and_wait(
                record.topic, record.value, key=record.key, partition=record.partition
            )
        except KafkaError as error:
            if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                raise
            _log.warning("%s: not published, trying again: %r", record.topic, error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


def places(consumer: AIOKafkaConsumer, partitions: Mapping[TopicPartition, Source]) -> dict[str, Place]:
    """Where a consumer is in each of its partitions, without asking anybody."""
    found = {}
    subscription = consumer._subscription.subscription  # noqa: SLF001 - `position` waits, this does not
    assignment = None if subscription is None else subscription.assignment
    for partition, source in partitions.items():
        state = None if assignment is None else assignment.state_value(partition)
        if state is not None:
            position = state.position if state.has_valid_position else None
            found[str(source)] = Place(position, state.lso, state.timestamp)
    return found


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000

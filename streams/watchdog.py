"""The watchdog: watches every part, starts a stuck one again, and ends the worker where that is no help."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError

from rules.quantities import SECOND
from rules.visible import visible
from streams.health import (
    WAITING_FOR_BROKER,
    Finding,
    Limits,
    Progress,
    Reading,
    Remedy,
    WorkerState,
    assess,
    follow,
    unready,
)
from streams.kafka import new_consumer, no_broker, stop_client
from streams.kafka_security import KafkaSecurityError
from streams.settings import Settings
from streams.topic_ids import describe_topics, partitions_without_leader
from streams.topics import planned_topics

_log: Final = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 1.0
ASK_AFTER_MS: Final = 3 * SECOND
"""A part that shows nothing for this long is reason to ask the broker whether it is there."""
ASK_EVERY_SECONDS: Final = 5.0
LOOK_IN_SECONDS: Final = 30.0
"""How often it is asked otherwise: of a topic that is gone the consumers show nothing, not even an error."""
ANSWER_SECONDS: Final = 5.0


class StuckError(Exception):
    """A part does not go on, and starting it again did not help; the message says which and why."""


class Part(Protocol):
    """A stage as the watchdog sees it."""

    def reading(self) -> Reading:
        """What it shows now."""
        ...

    def restart(self, reason: str) -> bool:
        """Start it again; False where it has been started too often."""
        ...


class Facts(Protocol):
    """What the watchdog asks of the worker beside its stages."""

    def rules_agreed(self) -> bool:
        """Whether topics are there and the rules are agreed on."""
        ...

    def watermarks_ms(self) -> Sequence[int]:
        """The watermark of each shard that is evaluated here."""
        ...

    def queues(self) -> Mapping[str, int]:
        """By receiver the age of the oldest waiting notification, in ms."""
        ...


class Watchdog:
    """Looks once a second. A broker that is away is waited for, and nothing ages meanwhile.

    `now_ms` is the clock, `monotonic_ms` counts on over its corrections.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Mapping[str, Part],
        facts: Facts,
        ask: Callable[[], Awaitable[str]] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        limits = settings.watchdog
        self.limits = Limits(
            limits.stall, limits.evaluation, limits.commit, limits.notification, settings.calls.lateness
        )
        self._settings = settings
        self._parts = parts
        self._facts = facts
        self._ask = ask or self._ask_broker
        self._now_ms = now_ms
        self._monotonic_ms = monotonic_ms
        self._progress: dict[str, Progress] = {}
        self._state = WorkerState(rules_agreed=False, starting_ms=0, broker="", stages=())
        self._watermark: tuple[int, int] = (0, 0)
        self._findings: list[Finding] = []
        self._missing = 0

    @property
    def state(self) -> WorkerState:
        """What was seen last."""
        return self._state

    @property
    def findings(self) -> list[Finding]:
        """What is wrong."""
        return list(self._findings)

    def unready(self) -> list[str]:
        """Why the worker does not evaluate, or not everything; empty when it does."""
        return unready(self._state, self._findings)

    async def run(self) -> None:
        """Look until cancelled.

        Raises:
            StuckError: a part is stuck for good, or a topic is gone.
        """
        before = asked = self._monotonic_ms()
        broker = ""
        while True:
            now = self._monotonic_ms()
            # A process that was stopped for an hour has not seen its parts stand still for an hour.
            self.look(min(now - before, int(2 * INTERVAL_SECONDS * SECOND)), broker)
            before = now
            little = self._shows_little()
            pause = ASK_EVERY_SECONDS if little or self._missing else LOOK_IN_SECONDS
            if now - asked >= pause * SECOND:
                broker = await self._ask()
                asked = self._monotonic_ms()
            if not little:
                broker = ""
            await asyncio.sleep(INTERVAL_SECONDS)

    def look(self, elapsed_ms: int, broker: str) -> None:
        """One look, `elapsed_ms` after the last; `broker` says why none answers, if none does.

        Raises:
            StuckError: see `run`.
        """
        readings = {name: part.reading() for name, part in self._parts.items()}
        self._progress = {
            name: follow(None if broker else self._progress.get(name), reading, elapsed_ms)
            for name, reading in readings.items()
        }
        watermarks = self._facts.watermarks_ms()
        least, stood = min(watermarks, default=0), self._watermark[1]
        self._watermark = least, (stood + elapsed_ms if least == self._watermark[0] and not broker else 0)
        agreed = self._facts.rules_agreed()
        self._state = WorkerState(
            rules_agreed=agreed,
            starting_ms=0 if agreed or broker else self._state.starting_ms + elapsed_ms,
            broker=broker,
            stages=tuple(self._progress.values()),
            watermarks_ms=watermarks,
            watermark_stands_ms=self._watermark[1],
            queues=self._facts.queues(),
        )
        before, self._findings = self._findings, assess(self._state, self.limits, self._now_ms())
        self._tell(before)
        for finding in self._findings:
            if finding.remedy is Remedy.RESTART:
                self._restart(finding)

    def _tell(self, before: Sequence[Finding]) -> None:
        """Log what has become wrong or right: by part, because the ages in the reasons grow."""
        known, parts = {finding.part for finding in before}, {finding.part for finding in self._findings}
        for finding in self._findings:
            if finding.part not in known:
                _log.warning("%s: %s", finding.part, finding.reason)
        for part in sorted(known - parts):
            _log.info("%s: goes on", part)

    def _restart(self, finding: Finding) -> None:
        part = self._parts.get(finding.part)
        # The same part may have several findings: started again once, it shows nothing yet.
        if finding.part not in self._progress and part is not None:
            return
        if part is None or not part.restart(finding.reason):
            raise StuckError(f"{finding.part} is stuck and starting it again is no help: {finding.reason}")
        del self._progress[finding.part]
        self._watermark = self._watermark[0], 0

    def _shows_little(self) -> bool:
        """Whether something shows so little that the broker may be away."""
        state = self._state
        still = max(
            (max(each.stillness_ms, each.uncommitted_ms, each.unjoined_ms) for each in state.stages),
            default=0,
        )
        waiting = any(each.reading.doing == WAITING_FOR_BROKER for each in state.stages)
        return bool(state.broker) or waiting or max(still, state.starting_ms) >= ASK_AFTER_MS

    async def _ask_broker(self) -> str:
        """Why no broker serves the topics and the groups; empty where one does."""
        consumer = new_consumer(self._settings, None, "tocsin-watchdog")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await consumer.start()
                return await self._ask_further(consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            try:
                return await no_broker(self._settings, error)
            except KafkaSecurityError as refused:
                return visible(str(refused))
        finally:
            await stop_client(consumer)

    async def _ask_further(self, consumer: AIOKafkaConsumer) -> str:
        client = consumer._client  # noqa: SLF001 - no public way
        names = [plan.name for plan in planned_topics(self._settings)]
        if self._state.rules_agreed:
            present = await describe_topics(client, names)
            missing = [name for name in names if name not in present]
            self._missing = self._missing + 1 if missing else 0
            if self._missing > 1:  # once may be a broker that has just started
                raise StuckError(
                    f"topic {', '.join(missing)} is gone: it was deleted while the worker ran. Start again to create it"
                )
            if missing:
                return f"topic {', '.join(missing)} is not there"
            headless = await partitions_without_leader(client, names)
            if headless:
                return f"no broker leads {', '.join(headless[:5])}"
            await client.coordinator_lookup(CoordinationType.GROUP, f"{self._settings.group}.ingest")
        return ""

"""Watching the rules topic: agreed on at the start, followed from then on; files are read again when asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from rules.problem import InvalidFilesError
from streams.alert_record import rfc3339
from streams.kafka import new_consumer, new_producer, start_client, stop_client
from streams.rule_log import Known, RulesRecord
from streams.rules_topic import agree_on_rules, decoded, log_of, publish_if_new
from streams.setup import Setup, read_again, wall_ms
from streams.topics import create_topics

_log: Final = logging.getLogger(__name__)

POLL_MS: Final = 250
STALE_MS: Final = 10_000
"""A log that was last read longer ago is worth a word."""
RETRY_SECONDS: Final = 1.0


class RulesWatch:
    """What is known of the rules log, from the moment that `ready` is set.

    `problems`: why versions in the topic that should hold cannot be loaded. `file_problems`: what is wrong with files
    that were read again.
    """

    def __init__(self, setup: Setup, ready: asyncio.Event, now_ms: Callable[[], int] = wall_ms) -> None:
        self.problems: tuple[str, ...] = ()
        self.file_problems: tuple[str, ...] = ()
        self._setup = setup
        self._topic = setup.settings.topics.rules
        self._ready = ready
        self._now_ms = now_ms
        self._known: Known | None = None
        self._never = asyncio.Event()
        self._is_asked = False
        self._is_stale = False
        self._used_ms = 0

    def known(self) -> Known:
        """What is known now, once `ready` is set."""
        if self._known is None:
            raise RuntimeError("the rules are not agreed on yet")
        return self._known

    def ask_to_read_files(self) -> None:
        """Have the rule files and the price file read again; what is new in them is published."""
        self._is_asked = True

    async def run(self) -> None:
        """Create missing topics, agree on what holds, then follow the log until cancelled.

        Raises:
            InvalidFilesError: the files are too large for a record of the topic.
        """
        await self._agree()
        self._ready.set()
        said = ""
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError) as error:
                if repr(error) != said:
                    said = repr(error)
                    _log.warning("%s cannot be followed, trying again: %s", self._topic, said)
            self._tell_age()
            await asyncio.sleep(RETRY_SECONDS)

    async def _agree(self) -> None:
        settings = self._setup.settings
        producer = await start_client(lambda: new_producer(settings, "tocsin-rules"), settings, self._never)
        consumer = await start_client(
            lambda: new_consumer(settings, None, "tocsin-rules"), settings, self._never
        )
        if producer is None or consumer is None:
            return
        try:
            for name in await create_topics(settings):
                _log.info("created topic %s", name)
            problems: list[str] = []
            read_ms = self._now_ms()
            log = await agree_on_rules(self._setup, consumer, producer, self._now_ms, problems=problems)
            self._known, self.problems = Known(log, read_ms), tuple(problems)
        finally:
            await stop_client(consumer)
            await stop_client(producer)

    async def _follow(self) -> None:
        """Poll the topic for ever, from its start."""
        settings = self._setup.settings
        consumer = await start_client(
            lambda: new_consumer(settings, None, "tocsin-rules-watch", wait_ms=POLL_MS), settings, self._never
        )
        if consumer is None:
            return
        try:
            partition = TopicPartition(self._topic, 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            await self._poll(consumer, partition)
        finally:
            await stop_client(consumer)

    async def _poll(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        records: list[RulesRecord] = []
        problems: list[str] = []
        answered_ms: int | None = None
        is_new = True
        while True:
            for messages in (await consumer.getmany(partition, timeout_ms=POLL_MS)).values():
                records += decoded([message.value for message in messages], self._topic, problems)
                is_new = True
            position = await consumer.position(partition)
            last_ms, end = consumer.last_poll_timestamp(partition), consumer.last_stable_offset(partition)
            if last_ms is not None and end is not None and position >= end and last_ms != answered_ms:
                if is_new or self._may_be_settled():
                    self._use(records, problems)
                    is_new = False
                if answered_ms is not None:
                    # The newest answer was asked for after the one before had come. That it was looked at just now
                    # proves nothing: this process may have been stopped in between.
                    self._read_at(min(answered_ms, last_ms))
                answered_ms = last_ms
                if self._is_asked:
                    await self._read_files(records)
            self._tell_age()

    def _use(self, records: list[RulesRecord], problems: list[str]) -> None:
        """Go by these records. Where none of them can be loaded, what was known before stands."""
        known, found, self._used_ms = self.known(), list(problems), self._now_ms()
        log = log_of(records, self._used_ms, found)
        self.problems = tuple(found)
        if not log.epochs:
            return
        old = {epoch.from_ms for epoch in known.log.epochs}
        for epoch in log.epochs:
            if epoch.from_ms not in old and epoch.from_ms > known.log.epochs[0].from_ms:
                _log.info("rule set %s holds from %s of event time", epoch.rules.hash, rfc3339(epoch.from_ms))
        self._known = Known(log, known.read_ms)

    def _may_be_settled(self) -> bool:
        """Whether a version that can be loaded holds since the problems were found."""
        begun = (epoch.from_ms for epoch in self.known().log.epochs)
        return bool(self.problems) and any(self._used_ms < from_ms <= self._now_ms() for from_ms in begun)

    def _read_at(self, read_ms: int) -> None:
        self._known = Known(self.known().log, read_ms)

    def _tell_age(self) -> None:
        age_ms = self._now_ms() - self.known().read_ms
        if age_ms > STALE_MS and not self._is_stale:
            _log.warning(
                "%s was last read %d s ago: panes that end after %s are not sealed until it is read again",
                self._topic,
                age_ms // 1_000,
                rfc3339(self.known().until_ms),
            )
        elif age_ms <= STALE_MS and self._is_stale:
            _log.info("%s is read again", self._topic)
        self._is_stale = age_ms > STALE_MS

    async def _read_files(self, records: list[RulesRecord]) -> None:
        """Publish what the files say where it is new; where they are not valid, what holds stays in force."""
        self._is_asked = False
        settings = self._setup.settings
        try:
            setup = await asyncio.to_thread(read_again, self._setup)
            producer = await start_client(
                lambda: new_producer(settings, "tocsin-rules"), settings, self._never
            )
            if producer is None:
                return
            try:
                published = await publish_if_new(setup, records, producer, self._now_ms)
            except (KafkaError, OSError):
                self._is_asked = True
                raise
            finally:
                await stop_client(producer)
        except InvalidFilesError as error:
            self.file_problems = tuple(map(str, error.problems))
            _log.error("files were read again and are not valid, so what holds stays in force:\n%s", error)
            return
        self.file_problems = ()
        self._setup = setup
        if not published:
            _log.info("files were read again: nothing to publish")

"""The partition-owner loop that drives every stage: fetch, step, publish, acknowledged, commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

from notifiers.delivery import Delivery
from notifiers.notification import Notification
from streams.continuity import Continuity
from streams.fetching import Columns, fetch_columns
from streams.following import Following
from streams.health import DELIVERING, WAITING_FOR_RULES
from streams.records import Records, Source
from streams.topic_ids import describe_topics

_log: Final = logging.getLogger(__name__)

FETCH_MS: Final = 100
FRESH_MS: Final = 1_000
"""A source counts as caught up only while its last answered fetch is younger than this."""
BATCH: Final = 5_000
"""Calls that are fetched together, at most."""
COMMIT_SECONDS: Final = 5.0
_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to publish; `partition` None leaves the choice to the key."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed position: an offset, and the text beside it (empty where the broker keeps none)."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a step wants done, in this order: publish and be acknowledged, hand over for delivery, commit."""

    publish: Sequence[Outgoing] = ()
    then: Sequence[Sequence[Outgoing]] = ()
    """Further publications, each acknowledged before the next begins."""
    deliver: Sequence[Notification] = ()
    commit: Mapping[Source, Committed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """What the cluster knows of a source that becomes ours: what was committed, and its log's first offset."""

    committed: Committed | None = None
    log_start: int = 0


@dataclass(frozen=True, slots=True)
class Clock:
    """The outside world at a flush: the time, which sources are proven to be caught up, and how many there are."""

    wall_ms: int
    caught_up: frozenset[Source]
    sources: int


class Stage(Protocol):
    """A stage as the loop sees it. Steps are pure but for the stage's own state."""

    name: str
    topics: Sequence[str]
    flush_ms: int
    batch: int
    """Records that are fetched together, at most: a step blocks the process, and with it the consumer's heartbeats."""

    def assign(self, source: Source, start: Start) -> int | None:
        """A source is ours now: the offset to read from, None for the start of its log.

        Raises:
            LossError: records that are needed are gone.
        """
        ...

    def revoke(self, source: Source) -> None:
        """A source is another's now."""
        ...

    def take(self, records: Records) -> Effects:
        """Records of one source, in order."""
        ...

    def flush(self, clock: Clock) -> Effects:
        """Called every `flush_ms` while sources are assigned."""
        ...


class Loop:
    """Drives one stage with one consumer and one producer until `stopping` is set."""

    def __init__(
        self,
        stage: Stage,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        stopping: asyncio.Event,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        *,
        before_assign: Callable[[Sequence[int]], Awaitable[None]] | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        self._stage = stage
        self._consumer = consumer
        self._producer = producer
        self._stopping = stopping
        self._now_ms = now_ms
        self._before_assign = before_assign
        self._delivery = delivery
        self._following: Following | None = None
        self._continuity = Continuity(consumer)
        self._sources: dict[TopicPartition, Source] = {}
        self._total = 0
        self._assignment = 0
        self._new: set[TopicPartition] = set()
        self.turns = 0
        self.doing = "starting"
        self.joined = False
        self.failed_commits = 0

    @property
    def assigned(self) -> list[Source]:
        """The sources that are ours now."""
        return list(self._sources.values())

    @property
    def partitions(self) -> Mapping[TopicPartition, Source]:
        """The partitions that are ours now."""
        return self._sources

    @property
    def total(self) -> int:
        """Partitions of the stage's topics, whoever has them."""
        return self._total

    def follow(self, following: Following) -> None:
        """Keep the stage at what is known of the rules log."""
        self._following = following

    async def run(self) -> None:
        """Fetch, step, publish, commit, until told to stop; then a last flush."""
        fetch_columns(self._consumer)
        self._consumer.subscribe(list(self._stage.topics), listener=_Listener(self))
        flushed_ms = 0
        while not self._stopping.is_set():
            self.turns += 1
            if self._following is not None:
                self._continuity.forget(await self._following.catch_up(self._consumer, self._sources))
            if self._new:
                await self._until_stopping(self._take_over())
                continue
            self.doing = "fetching"
            if not self._sources:
                # Without partitions getmany ignores its timeout.
                await asyncio.sleep(0.02)
                continue
            fetched = await self._consumer.getmany(timeout_ms=FETCH_MS, max_records=self._stage.batch)
            assignment = self._assignment
            void: set[TopicPartition] = set()
            for partition, columns in fetched.items():
                records = self._records(partition, columns) if partition in self._sources else None
                if records is not None and self._following is not None:
                    void |= await self._until_known(records, self._following)
                if assignment != self._assignment or self._stopping.is_set():
                    # Partitions moved while a step was published: those that are ours again are read from their start.
                    break
                if records is not None and partition not in void:
                    await self._continuity.check(partition, records)
                    if assignment != self._assignment:
                        break  # as above
                    await self._do(self._stage.take(records))
                    # Where nothing had to be awaited, nobody else had a turn: heartbeats, other stages, signals.
                    await asyncio.sleep(0)
            now = self._now_ms()
            if now - flushed_ms >= self._stage.flush_ms:
                flushed_ms = now
                await self.flush()
        if self._sources:
            await self.flush()

    async def _until_known(self, records: Records, following: Following) -> set[TopicPartition]:
        """Wait until enough is known of the rules log; the partitions that are read again since it was known."""
        again: set[TopicPartition] = set()
        while following.must_wait(records, self._now_ms()) and not self._stopping.is_set():
            self.doing = WAITING_FOR_RULES
            again |= await following.catch_up(self._consumer, self._sources)
            self._continuity.forget(again)
            await asyncio.sleep(0.02)
        return again

    async def flush(self) -> None:
        """One flush of the stage."""
        caught_up = await self._caught_up()
        await self._do(self._stage.flush(Clock(self._now_ms(), caught_up, self._total)))

    def assign(self, partitions: set[TopicPartition]) -> None:
        """Note that partitions are ours.

        They are taken over in the loop and not here: while aiokafka waits for its listener it sends no heartbeats, and
        what a stage reads first may take longer than the session.
        """
        self._assignment += 1
        self._new = {partition for partition in partitions if partition not in self._sources}
        self.joined = not self._new

    async def _take_over(self) -> None:
        """Take the new partitions: where each starts follows from what was committed."""
        self.doing = "taking partitions over"
        assignment, new = self._assignment, sorted(self._new)
        try:
            if self._before_assign is not None:
                await self._before_assign([partition.partition for partition in new])
            described = await describe_topics(self._consumer._client, self._stage.topics)  # noqa: SLF001 - no public way
            missing = sorted({partition.topic for partition in new} - described.keys())
            if missing:
                raise UnknownTopicOrPartitionError(f"{', '.join(missing)} is not there")
            committed = await self._consumer._coordinator.fetch_committed_offsets(new)  # noqa: SLF001 - with the metadata
            beginnings = await self._consumer.beginning_offsets(new)
        except KafkaError:
            if assignment == self._assignment:
                raise
            return  # they moved meanwhile
        if assignment != self._assignment:
            return  # as above
        self._new = set()
        self._total = sum(count for _, count in described.values())
        starts: dict[TopicPartition, int | None] = {}
        for partition in new:
            source = Source(partition.topic, partition.partition, described[partition.topic][0])
            found = committed.get(partition)
            at = None if found is None or found.offset < 0 else Committed(found.offset, found.metadata or "")
            starts[partition] = offset = self._stage.assign(source, Start(at, beginnings[partition]))
            self._continuity.seek(partition, beginnings[partition] if offset is None else offset)
            self._sources[partition] = source
        self.joined = True
        _log.info("%s reads %s", self._stage.name, describe_starts(starts))

    async def _until_stopping(self, work: Coroutine[None, None, None]) -> None:
        """Do something, but drop it when it is time to stop: it may wait for a broker that is away."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait({working, stopping})

    def revoke(self, partitions: set[TopicPartition]) -> None:
        """Give partitions up."""
        self._assignment += 1
        self._new -= partitions
        for partition in partitions:
            source = self._sources.pop(partition, None)
            if source is not None:
                self._stage.revoke(source)

    async def let_go(self) -> None:
        """Wait for what has to end before others may have the partitions that were given up."""
        if self._delivery is not None:
            await self._delivery.let_go()

    async def _do(self, effects: Effects) -> None:
        assignment = self._assignment
        self.doing = "publishing"
        for records in (effects.publish, *effects.then):
            if records:
                await asyncio.gather(*[await self._send(each) for each in records])
        if self._delivery is not None:
            self.doing = DELIVERING
            for notification in effects.deliver:
                if assignment != self._assignment:
                    break  # decided before partitions moved: whoever has them now decides anew
                await self._delivery.put(notification)
        if effects.commit:
            self.doing = "committing"
            partition_of = {source: partition for partition, source in self._sources.items()}
            offsets = {
                partition_of[source]: OffsetAndMetadata(at.offset, at.metadata)
                for source, at in effects.commit.items()
                if source in partition_of
            }
            if offsets:
                await self._commit(offsets)

    async def _send(self, record: Outgoing) -> asyncio.Future[object]:
        try:
            sent: asyncio.Future[object] = await self._producer.send(
                record.topic, record.value, key=record.key, partition=record.partition
            )
        except AssertionError as error:
            # So aiokafka says that the partition is not in the metadata: its topic was deleted.
            raise UnknownTopicOrPartitionError(f"{record.topic}/{record.partition} is not there") from error
        return sent

    async def _commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._consumer.commit(offsets)
            self.failed_commits = 0
        except (CommitFailedError, IllegalStateError) as error:
            # Partitions moved meanwhile: whoever has them now starts from what was committed before, and loses nothing.
            _log.warning("%s: not committed: %s", self._stage.name, error)
        except (TimeoutError, KafkaError) as error:
            self.failed_commits += 1
            _log.warning("%s: not committed, trying again at the next flush: %r", self._stage.name, error)

    def _records(self, partition: TopicPartition, fetched: Columns) -> Records:
        first, last = fetched.offsets[0], fetched.offset
        if last - first == len(fetched) - 1:
            offsets = np.arange(first, last + 1, dtype=np.int64)
        else:
            offsets = np.array(fetched.offsets, np.int64)
        times = np.array(fetched.times_ms, np.int64)
        return Records(self._sources[partition], fetched.values, offsets, times)

    async def _caught_up(self) -> frozenset[Source]:
        """Sources with nothing left to read, by an answer of the broker that is fresh enough to prove it."""
        fresh_from = self._now_ms() - FRESH_MS
        found = set()
        for partition, source in list(self._sources.items()):
            if not self._consumer.assignment() & {partition}:
                continue
            polled, stable = (
                self._consumer.last_poll_timestamp(partition),
                self._consumer.last_stable_offset(partition),
            )
            if polled is None or stable is None or polled < fresh_from:
                continue
            try:
                if await self._consumer.position(partition) >= stable:
                    found.add(source)
            except IllegalStateError:
                continue  # revoked meanwhile
        return frozenset(found)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types for it
    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._loop.joined = False
        self._loop.revoke(set(revoked))
        await self._loop.let_go()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._loop.assign(set(assigned))


def describe_starts(starts: Mapping[TopicPartition, int | None]) -> str:
    """Partitions and where each is read from, short also where there are many: for the log."""
    of_topic: dict[str, dict[int | None, list[int]]] = {}
    for partition, offset in sorted(starts.items()):
        of_topic.setdefault(partition.topic, {}).setdefault(offset, []).append(partition.partition)
    return "; ".join(
        f"{topic}: "
        + ", ".join(_from(numbers, offset) for offset, numbers in list(by_offset.items())[:_SHOWN])
        + (f", and {len(by_offset) - _SHOWN} more offsets" if len(by_offset) > _SHOWN else "")
        for topic, by_offset in of_topic.items()
    )


def _from(numbers: list[int], offset: int | None) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    shown = ",".join("-".join(map(str, run)) for run in runs)
    what = "partition" if len(numbers) == 1 else "partitions"
    return f"{what} {shown} from {'the start' if offset is None else f'offset {offset}'}"

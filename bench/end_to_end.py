"""Calls per second through a broker: the whole ingest path, and `getmany` alone on the same topic."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from harness import pin
from workload import PARTITIONS, calls, config, pricing, rule_log

from streams.broker import EmbeddedBroker
from streams.collector import collect_rarely
from streams.kafka import new_consumer, new_producer
from streams.loop import BATCH, FETCH_MS, Effects, Loop
from streams.records import Records
from streams.settings import CallsSettings, KafkaSettings, Settings
from streams.stages import IngestStage
from streams.topics import create_topics

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from kafka_node import KafkaCluster, KafkaUnavailableError

PRODUCED_TOGETHER = 100
"""Calls in one record batch, about 64 kB before compression."""
_BATCH_BYTES = 1 << 18
_PYTHONS_OWN = gc.get_threshold()


@dataclass(frozen=True, slots=True)
class Run:
    """One reading of the whole topic."""

    calls: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Calls per second of wall time."""
        return self.calls / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Calls per second of this process' CPU time: what a busy machine disturbs least."""
        return self.calls / self.cpu_seconds


@contextlib.contextmanager
def broker(core: int | None) -> Iterator[tuple[str, str]]:
    """Apache Kafka where Java and its jars are there, else the embedded broker: its name and its address."""
    try:
        cluster = KafkaCluster()
    except KafkaUnavailableError:
        with EmbeddedBroker() as embedded:
            if core is not None and embedded.pid is not None:
                pin(core, embedded.pid)
            yield "the embedded broker", embedded.address
        return
    with cluster:
        if core is not None:
            for node in cluster.nodes:
                process = node._process  # noqa: SLF001 - the support class does not name its pid
                if process is not None:
                    pin(core, process.pid)
        yield "Apache Kafka", cluster.bootstrap


def bench_settings(address: str, topic: str) -> Settings:
    """Defaults, against this broker, with calls on a topic of their own."""
    return Settings(
        kafka=KafkaSettings(brokers=[address], session_timeout=30_000), calls=CallsSettings(topics=[topic])
    )


async def prepare(settings: Settings, count: int, rate: int) -> float:
    """Create the topics and publish the calls; their mean size in bytes.

    They come in the order of their time over the partitions in turn, and the newest is a few seconds old.
    """
    await create_topics(settings)
    start_ms = time.time_ns() // 1_000_000 - count * 1000 // rate - 5_000
    topic = settings.calls.topics[0]
    size = 0
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.brokers, compression_type="lz4", max_batch_size=_BATCH_BYTES
    )
    await producer.start()
    try:
        waiting: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        sent: list[asyncio.Future[object]] = []
        for number, value in enumerate(calls(count, start_ms, rate)):
            size += len(value)
            mine = waiting[number % PARTITIONS]
            mine.append(value)
            if len(mine) == PRODUCED_TOGETHER:
                sent.append(await _send(producer, mine, topic, number % PARTITIONS))
                if len(sent) >= 200:
                    await asyncio.gather(*sent)
                    sent.clear()
        for partition, mine in enumerate(waiting):
            if mine:
                sent.append(await _send(producer, mine, topic, partition))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return size / count


async def _send(
    producer: AIOKafkaProducer, values: list[bytes], topic: str, partition: int
) -> asyncio.Future[object]:
    batch = producer.create_batch()
    for value in values:
        if batch.append(key=None, value=value, timestamp=None) is None:
            raise RuntimeError("a batch of the bench does not fit into a request")
    values.clear()
    sent: asyncio.Future[object] = await producer.send_batch(batch, topic, partition=partition)
    return sent


async def raw(settings: Settings, count: int) -> Run:
    """`getmany` until every call was read, and nothing else."""
    consumer = new_consumer(settings, None, "bench-raw")
    partitions = [TopicPartition(settings.calls.topics[0], number) for number in range(PARTITIONS)]
    await consumer.start()
    try:
        consumer.assign(partitions)
        seen, clock = 0, _Clock()
        while seen < count:
            fetched = await consumer.getmany(timeout_ms=FETCH_MS, max_records=BATCH)
            seen += sum(map(len, fetched.values()))
        return clock.run(seen)
    finally:
        await consumer.stop()


class _Measured(IngestStage):
    """The stage as it is; starts a clock at the first assignment, and ends the loop once every call was taken."""

    def watch(self, count: int, stopping: asyncio.Event) -> None:
        self.clock: _Clock | None = None
        self._left = count
        self._stopping = stopping

    def assign(self, *arguments: object) -> int | None:
        self.clock = self.clock or _Clock()
        return super().assign(*arguments)  # type: ignore[arg-type]

    def take(self, records: Records) -> Effects:
        effects = super().take(records)
        self._left -= len(records)
        if self._left <= 0:
            self._stopping.set()
        return effects


async def whole(settings: Settings, count: int, group: str, *, heavy: bool = False) -> Run:
    """The worker's own loop over the ingest stage: until the last flush is acknowledged and committed."""
    consumer, producer = new_consumer(settings, group, "bench"), new_producer(settings, "bench")
    stopping = asyncio.Event()
    stage = _Measured(settings, config(), rule_log(heavy=heavy), pricing())
    stage.watch(count, stopping)
    collect_rarely()
    await producer.start()
    try:
        await consumer.start()
        try:
            await Loop(stage, consumer, producer, stopping).run()
            if stage.clock is None or stage.ingest.counts.accepted != count:
                raise RuntimeError(f"{count} calls were published, and counted were {stage.ingest.counts}")
            return stage.clock.run(count)
        finally:
            await consumer.stop()
    finally:
        await producer.stop()
        gc.unfreeze()
        gc.set_threshold(*_PYTHONS_OWN)


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def run(self, count: int) -> Run:
        return Run(count, time.perf_counter() - self._wall, time.process_time() - self._cpu)


def cores() -> tuple[int | None, int | None]:
    """A core for this process and one for the broker; None where there is only one."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (available[-1], available[0]) if len(available) > 1 else (None, None)

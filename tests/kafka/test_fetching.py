"""Records fetched in columns are those that aiokafka itself returns, wherever one starts, however many one asks for."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.fetching import Columns, fetch_columns

PATIENCE_SECONDS = 30
Record = tuple[int, int, bytes | None]


@pytest.fixture(
    params=[
        pytest.param("embedded_broker", marks=pytest.mark.embedded),
        pytest.param("apache_kafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


async def new_topic(address: str) -> TopicPartition:
    topic = f"fetched-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    return TopicPartition(topic, 0)


async def publish(
    address: str, to: TopicPartition, batches: list[list[bytes]], compression: str | None
) -> None:
    """Each list as one record batch; record times are 1000 + the value's number."""
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", compression_type=compression)
    await producer.start()
    try:
        for values in batches:
            batch = producer.create_batch()
            for value in values:
                assert batch.append(key=b"key", value=value, timestamp=1000 + int(value)) is not None
            await (await producer.send_batch(batch, to.topic, partition=to.partition))
    finally:
        await producer.stop()


@asynccontextmanager
async def reader(address: str, of: TopicPartition) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=address,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    try:
        consumer.assign([of])
        yield consumer
    finally:
        await consumer.stop()


async def read_columns(
    consumer: AIOKafkaConsumer, of: TopicPartition, count: int, at_most: int
) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            columns: Columns | None = (await consumer.getmany(timeout_ms=100, max_records=at_most)).get(of)
            if columns is not None:
                assert 0 < len(columns) <= at_most
                found += zip(columns.offsets, columns.times_ms, columns.values, strict=True)
                assert await consumer.position(of) >= found[-1][0] + 1
    return found


async def read_plain(consumer: AIOKafkaConsumer, of: TopicPartition, count: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            for record in (await consumer.getmany(timeout_ms=100)).get(of, []):
                found.append((record.offset, record.timestamp, record.value))
    return found


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
async def test_columns_are_the_records_that_aiokafka_returns(broker: str, compression: str | None) -> None:
    source = await new_topic(broker)
    batches = [[b"%d" % (10 * b + i) for i in range(1 + (b * 7) % 10)] for b in range(40)]
    count = sum(map(len, batches))
    await publish(broker, source, batches, compression)
    async with reader(broker, source) as consumer:
        plain = await read_plain(consumer, source, count)
    assert [value for _, _, value in plain] == [value for batch in batches for value in batch]
    assert [offset for offset, _, _ in plain] == list(range(count))

    async with reader(broker, source) as consumer:
        fetch_columns(consumer)
        for first, at_most in [(0, 5_000), (0, 1), (3, 7), (count - 1, 2), (17, 64), (1, 3)]:
            consumer.seek(source, first)
            assert await read_columns(consumer, source, count - first, at_most) == plain[first:]


async def test_columns_held_back_are_dropped_when_the_consumer_seeks(broker: str) -> None:
    source = await new_topic(broker)
    await publish(broker, source, [[b"%d" % number for number in range(100)]], "lz4")
    async with reader(broker, source) as consumer:
        fetch_columns(consumer)
        assert [offset for offset, _, _ in await read_columns(consumer, source, 10, 10)] == list(range(10))
        assert await consumer.position(source) == 10
        consumer.seek(source, 50)
        assert [offset for offset, _, _ in await read_columns(consumer, source, 5, 5)] == list(range(50, 55))


@pytest.mark.kafka
async def test_columns_leave_out_what_a_transaction_aborted(apache_kafka: str) -> None:
    source = await new_topic(apache_kafka)
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka, transactional_id=f"of-{source.topic}")
    await producer.start()
    try:
        for number in range(6):
            await producer.begin_transaction()
            await producer.send_and_wait(source.topic, b"%d" % number, partition=0)
            await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
    finally:
        await producer.stop()
    async with reader(apache_kafka, source) as consumer:
        plain = await read_plain(consumer, source, 3)
    async with reader(apache_kafka, source) as consumer:
        fetch_columns(consumer)
        columns = await read_columns(consumer, source, 3, 100)
    assert columns == plain
    assert [value for _, _, value in columns] == [b"0", b"2", b"4"]

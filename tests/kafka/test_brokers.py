"""What the engine needs of a broker, on both brokers the project runs on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata
from kafka_node import KafkaNode, KafkaUnavailableError, java_program, kafka_jars

from streams.broker import EmbeddedBroker, EmbeddedBrokerError, free_port

PATIENCE_SECONDS = 30.0


@pytest.fixture(
    params=[
        pytest.param("embedded_broker", marks=pytest.mark.embedded),
        pytest.param("apache_kafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def unique(name: str) -> str:
    """A name no other test uses, since a broker is shared by all of them."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


async def create_topic(address: str, topic: str, configs: dict[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs or {})])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()


@asynccontextmanager
async def group_member(address: str, topic: str, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        # The embedded broker makes a joining member wait for up to two session timeouts.
        session_timeout_ms=1_000,
        heartbeat_interval_ms=300,
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def publish(address: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", compression_type="lz4")
    await producer.start()
    try:
        sent = [await producer.send(topic, value, partition=0) for value in values]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def read(consumer: AIOKafkaConsumer, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """At least `count` records, or as many as came in 30 s."""
    records: list[ConsumerRecord[bytes, bytes]] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(records) < count:
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                records.extend(batch)
    return records


async def test_group_member_resumes_at_the_committed_offset_and_can_seek_back(broker: str) -> None:
    topic, group, partition = unique("calls"), unique("ingest"), 0
    values = [f"call {number}".encode() for number in range(300)]
    await create_topic(broker, topic)
    await publish(broker, topic, values)
    source = TopicPartition(topic, partition)

    async with group_member(broker, topic, group) as consumer:
        assert consumer.assignment() == {source}
        assert [record.value for record in await read(consumer, 300)] == values
        await consumer.commit({source: OffsetAndMetadata(120, "position=300 frontier=17")})
        assert await consumer.committed(source) == 120

    async with group_member(broker, topic, group) as consumer:
        resumed = await read(consumer, 180)
        assert (resumed[0].offset, resumed[-1].offset) == (120, 299)
        consumer.seek(source, 7)
        assert (await read(consumer, 1))[0].value == values[7]


async def test_commit_metadata_is_kept_by_kafka_and_dropped_by_the_embedded_broker(
    broker: str, request: pytest.FixtureRequest
) -> None:
    topic, group = unique("calls"), unique("ingest")
    await create_topic(broker, topic)
    source = TopicPartition(topic, 0)
    async with group_member(broker, topic, group) as consumer:
        await consumer.commit({source: OffsetAndMetadata(0, "position=300")})
        # The public committed() gives the offset alone.
        committed = await consumer._coordinator.fetch_committed_offsets([source])
    embedded = "embedded_broker" in request.node.callspec.params.values()
    assert committed[source] == OffsetAndMetadata(0, "" if embedded else "position=300")


async def test_fetch_positions_are_known_also_for_a_partition_that_never_had_a_record(broker: str) -> None:
    empty, full = unique("empty"), unique("full")
    for topic in (empty, full):
        await create_topic(broker, topic)
    await publish(broker, full, [b"a", b"b", b"c"])
    sources = [TopicPartition(empty, 0), TopicPartition(full, 0)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    try:
        consumer.assign(sources)
        await consumer.seek_to_beginning(*sources)
        await read(consumer, 3)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while consumer.highwater(sources[0]) is None:
                await consumer.getmany(timeout_ms=50)
        assert [consumer.last_stable_offset(source) for source in sources] == [0, 3]
        assert [consumer.highwater(source) for source in sources] == [0, 3]
        assert [await consumer.position(source) for source in sources] == [0, 3]
    finally:
        await consumer.stop()


@pytest.mark.kafka
async def test_log_append_time_replaces_the_time_of_the_producer_on_kafka(apache_kafka: str) -> None:
    topic = unique("calls")
    await create_topic(apache_kafka, topic, {"message.timestamp.type": "LogAppendTime"})
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka, acks="all")
    await producer.start()
    try:
        metadata = await producer.send_and_wait(topic, b"call", partition=0, timestamp_ms=1_000)
    finally:
        await producer.stop()
    assert metadata.timestamp_type == 1
    assert metadata.timestamp > 1_000


@pytest.mark.embedded
async def test_embedded_broker_stops_and_starts_again_on_the_same_port() -> None:
    port = free_port()
    for _ in range(2):
        async with EmbeddedBroker(port) as broker:
            assert broker.address == f"127.0.0.1:{port}"
            assert broker.running
        assert not broker.running


@pytest.mark.embedded
async def test_embedded_broker_refuses_a_port_that_is_taken() -> None:
    async with EmbeddedBroker() as first:
        port = int(first.address.rpartition(":")[2])
        with pytest.raises(EmbeddedBrokerError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            await EmbeddedBroker(port).start()


async def test_embedded_broker_that_ends_at_once_is_reported_with_its_last_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\necho 'no storage' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(EmbeddedBrokerError, match=r"exit status 3(.|\n)*no storage"):
        await EmbeddedBroker().start()


@pytest.mark.embedded
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent-death signal is Linux's")
def test_embedded_broker_dies_with_a_parent_that_is_killed() -> None:
    script = (
        "import time; from streams.broker import EmbeddedBroker\n"
        "with EmbeddedBroker() as broker: print(broker.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout as stream:
        broker_pid = int(stream.readline())
    assert is_alive(broker_pid)
    parent.kill()
    parent.wait()
    asyncio.run(wait_until_dead(broker_pid))


async def wait_until_dead(pid: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while is_alive(pid):
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended but was not reaped yet (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_kafka_node_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    node = KafkaNode(1, free_port(), free_port(), folder, "/bin/false", tmp_path)
    with pytest.raises(RuntimeError, match="Formatting node 1 failed"):
        node.format("cluster", f"1@127.0.0.1:{node.controller_port}", 1)


def test_missing_java_and_maven_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("TOCSIN_TEST_KAFKA_JARS", os.fspath(tmp_path / "jars"))
    with pytest.raises(KafkaUnavailableError, match="Java is missing"):
        java_program()
    with pytest.raises(KafkaUnavailableError, match=r"Maven \(mvn\) is missing"):
        kafka_jars()

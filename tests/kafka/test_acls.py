"""The ACLs in docs/security.md are enough for workers and applications, and give applications no more."""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.protocol.admin import CreateAclsRequest
from kafka_node import ExtraListener, KafkaCluster, KafkaNode, KafkaUnavailableError, kafka_is_required
from worker_log import worker_says

from streams.kafka import new_consumer, new_producer, stop_client
from streams.settings import Settings, load_settings
from streams.topics import create_topics, existing_topics, planned_topics

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
USERS = ("tocsin", "app")
TOPIC, GROUP = 2, 3
LITERAL, PREFIXED = 3, 4
ALLOW = 3
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
PATIENCE_SECONDS = 60.0


def documented() -> Iterator[tuple[int, str, int, str, int]]:
    """Resource type, name, pattern, principal and operation of each ACL on the page."""
    for line in re.findall(r"^kafka-acls .+$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(line)
        given: dict[str, list[str]] = {}
        for name, value in itertools.pairwise(words[1:]):
            if name.startswith("--") and not value.startswith("--"):
                given.setdefault(name, []).append(value)
        kind, name = (GROUP, given["--group"]) if "--group" in given else (TOPIC, given["--topic"])
        pattern = PREFIXED if given.get("--resource-pattern-type") == ["prefixed"] else LITERAL
        for operation in given["--operation"]:
            yield kind, name[0], pattern, given["--allow-principal"][0], OPERATIONS[operation]


@pytest.fixture(scope="module")
def guarded() -> Iterator[KafkaNode]:
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    users = " ".join(f'user_{name}="{name}-password"' for name in USERS)
    try:
        cluster = KafkaCluster(
            listeners=[
                ExtraListener(
                    "SASL",
                    "SASL_PLAINTEXT",
                    {"sasl.enabled.mechanisms": "PLAIN", "plain.sasl.jaas.config": f"{login} {users};"},
                )
            ],
            more_settings={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
        )
    except KafkaUnavailableError as error:
        if kafka_is_required():
            raise
        pytest.skip(str(error))
    with cluster:
        yield cluster.nodes[0]


@pytest.fixture
async def granted(guarded: KafkaNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KafkaNode:
    """The node with every topic, made by an administrator, and the ACLs of the page."""
    path = tmp_path / "admin.yaml"
    path.write_text(yaml.safe_dump({"kafka": {"brokers": [guarded.address]}}))
    await create_topics(load_settings(path))
    admin = AIOKafkaAdminClient(bootstrap_servers=guarded.address)
    await admin.start()
    try:
        for kind, name, pattern, principal, operation in documented():
            request = CreateAclsRequest(kind, name, pattern, principal, "*", operation, ALLOW)
            answer = await admin._client.send(admin._client.get_random_node(), request)
            assert [code for code, _ in answer.creation_responses] == [0]
    finally:
        await admin.close()
    # The broker applies them in this order, after it has answered; the last is the application's.
    app = settings_of(guarded, "app", tmp_path, monkeypatch)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await existing_topics(app))["llm.calls"] is None:
            await asyncio.sleep(0.05)
    return guarded


def settings_of(node: KafkaNode, user: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("KAFKA_PASSWORD", f"{user}-password")
    security = {
        "protocol": "SASL_PLAINTEXT",
        "mechanism": "PLAIN",
        "username": user,
        "password_env": "KAFKA_PASSWORD",
    }
    path = folder / f"{user}.yaml"
    path.write_text(yaml.safe_dump({"kafka": {"brokers": [node.address_of("SASL")], "security": security}}))
    return load_settings(path)


async def may_write(producer: AIOKafkaProducer, topic: str) -> bool:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await producer.send_and_wait(topic, b"x", key=b"a compacted topic wants one", partition=0)
    except TopicAuthorizationFailedError:
        return False
    return True


def test_the_page_names_every_topic_of_the_plan() -> None:
    named = {name for kind, name, *_ in documented() if kind == TOPIC}
    assert named == {plan.name for plan in planned_topics(load_settings(None))}


async def test_a_worker_finds_its_topics_and_reads_writes_and_commits(
    granted: KafkaNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(granted, "tocsin", tmp_path, monkeypatch)
    assert await create_topics(settings) == []
    own = {name for name in settings.topics.model_dump().values() if name != settings.topics.rejected}
    producer = new_producer(settings, "test")
    await producer.start()
    try:
        for topic in sorted({*own, settings.topics.rejected}):
            assert await may_write(producer, topic), topic
        assert not await may_write(producer, "llm.calls")
    finally:
        await stop_client(producer)
    for stage, topic in (("ingest", "llm.calls"), ("evaluate", "llm.panes"), ("notify", "llm.alerts")):
        consumer = new_consumer(settings, f"{settings.group}.{stage}", "test")
        await consumer.start()
        try:
            consumer.subscribe([topic])
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not consumer.assignment():
                    await consumer.getmany(timeout_ms=100)
                partition = TopicPartition(topic, 0)
                await consumer.commit({partition: 0})
                assert await consumer.committed(partition) == 0
        finally:
            await stop_client(consumer)


async def test_a_worker_starts_and_ends_with_these_rights_alone(
    granted: KafkaNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(granted, "tocsin", tmp_path, monkeypatch)
    said = await worker_says(tmp_path / "tocsin.yaml", ["ingest reads", "evaluate reads", "notify reads"])
    assert "uthoriz" not in said


async def test_an_application_writes_calls_and_nothing_else(
    granted: KafkaNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(granted, "app", tmp_path, monkeypatch)
    producer = new_producer(settings, "test")
    await producer.start()
    try:
        assert await may_write(producer, "llm.calls")
        for topic in settings.topics.model_dump().values():
            assert not await may_write(producer, topic), topic
    finally:
        await stop_client(producer)
    consumer = new_consumer(settings, None, "test")
    await consumer.start()
    try:
        consumer.assign([TopicPartition("llm.calls", 0)])
        with pytest.raises(KafkaError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await consumer.getone()
    finally:
        await stop_client(consumer)

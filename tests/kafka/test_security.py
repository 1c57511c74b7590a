"""TLS and SASL against Apache Kafka: every way in, every refusal in words, and no secret in what is printed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import TopicPartition
from certificates import Authority, Certificate
from kafka_node import ExtraListener, KafkaCluster, KafkaNode, KafkaUnavailableError, kafka_is_required
from worker_log import worker_says

from streams.kafka import new_consumer, new_producer, no_broker, start_client, stop_client
from streams.kafka_security import KafkaSecurityError
from streams.settings import Settings, load_settings
from streams.topics import create_topics, existing_topics

pytestmark = pytest.mark.kafka

PASSWORD = "marked-secret-7Qx"
PATIENCE_SECONDS = 60.0
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class Secured:
    node: KafkaNode
    authority: Authority
    stranger: Authority
    client: Certificate
    unknown_client: Certificate

    def settings(self, listener: str, security: Mapping[str, Any], folder: Path) -> Path:
        """A settings file that reaches a listener."""
        prefix = uuid.uuid4().hex[:8]
        topics = ("rules", "panes", "alerts", "rejected", "notifications", "snapshots")
        data = {
            "kafka": {"brokers": [self.node.address_of(listener)], "security": security},
            "calls": {"topics": [f"{prefix}-calls"], "partitions": 1},
            "topics": {name: f"{prefix}-{name}" for name in topics},
            "group": prefix,
        }
        path = folder / "tocsin.yaml"
        path.write_text(yaml.safe_dump(data))
        return path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = Authority.make(folder, "authority"), Authority.make(folder, "stranger")
    broker = authority.sign("broker", "DNS:localhost,IP:127.0.0.1")
    elsewhere = authority.sign("elsewhere", "DNS:broker.example.com")
    client = authority.sign("client", "DNS:client.example.com")
    unknown = stranger.sign("unknown", "DNS:client.example.com")
    login = "org.apache.kafka.common.security"
    sasl = {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "plain.sasl.jaas.config": f'{login}.plain.PlainLoginModule required user_alice="{PASSWORD}";',
        "scram-sha-256.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
        "scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
    }
    plain_only = {key: value for key, value in sasl.items() if key.startswith("plain")}
    trusting = {
        "ssl.client.auth": "required",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": authority.certificate,
    }

    def tls(certificate: Certificate) -> dict[str, object]:
        return {"ssl.keystore.type": "PEM", "ssl.keystore.location": certificate.both}

    try:
        cluster = KafkaCluster(
            listeners=[
                ExtraListener("SECURE", "SASL_SSL", tls(broker) | sasl),
                ExtraListener("MUTUAL", "SSL", tls(broker) | trusting),
                ExtraListener("ELSEWHERE", "SSL", tls(elsewhere)),
                ExtraListener("CLEAR", "SASL_PLAINTEXT", plain_only | {"sasl.enabled.mechanisms": "PLAIN"}),
            ],
            scram=[
                f'SCRAM-SHA-256=[name="alice",password="{PASSWORD}"]',
                f'SCRAM-SHA-512=[name="alice",password="{PASSWORD}"]',
            ],
        )
    except KafkaUnavailableError as error:
        if kafka_is_required():
            raise
        pytest.skip(str(error))
    with cluster:
        yield Secured(cluster.nodes[0], authority, stranger, client, unknown)


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)


def sasl_ssl(secured: Secured, mechanism: str = "PLAIN", **changes: Any) -> dict[str, Any]:
    return {
        "protocol": "SASL_SSL",
        "mechanism": mechanism,
        "ca_file": str(secured.authority.certificate),
        "username": "alice",
        "password_env": "KAFKA_PASSWORD",
    } | changes


def mutual(secured: Secured, client: Certificate) -> dict[str, Any]:
    return {
        "protocol": "SSL",
        "ca_file": str(secured.authority.certificate),
        "cert_file": str(client.certificate),
        "key_file": str(client.key),
    }


async def round_trip(settings: Settings) -> bytes | None:
    """Create the topics, publish one record and read it back: the three kinds of client."""
    created = await create_topics(settings)
    topic = settings.calls.topics[0]
    assert topic in created
    assert (await existing_topics(settings))[topic] == 1
    stopping = asyncio.Event()
    producer = await start_client(lambda: new_producer(settings, "test"), settings, stopping)
    assert producer is not None
    try:
        await producer.send_and_wait(topic, b"hello", partition=0)
    finally:
        await stop_client(producer)
    consumer = await start_client(lambda: new_consumer(settings, None, "test"), settings, stopping)
    assert consumer is not None
    try:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(PATIENCE_SECONDS):
            value: bytes | None = (await consumer.getone()).value
        return value
    finally:
        await stop_client(consumer)


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_every_client_gets_in_by_sasl_over_tls(
    secured: Secured, mechanism: str, tmp_path: Path
) -> None:
    path = secured.settings("SECURE", sasl_ssl(secured, mechanism), tmp_path)
    assert await round_trip(load_settings(path)) == b"hello"


async def test_every_client_gets_in_by_a_certificate_of_its_own(secured: Secured, tmp_path: Path) -> None:
    path = secured.settings("MUTUAL", mutual(secured, secured.client), tmp_path)
    assert await round_trip(load_settings(path)) == b"hello"


async def test_a_password_file_and_a_user_name_from_the_environment_get_in(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("KAFKA_USER", "alice")
    security = sasl_ssl(secured, username_env="KAFKA_USER", password_file="password")
    del security["username"], security["password_env"]
    assert await round_trip(load_settings(secured.settings("SECURE", security, tmp_path))) == b"hello"


REFUSALS = {
    "wrong password": (
        "SECURE",
        lambda each: sasl_ssl(each, "PLAIN", password_env="WRONG_PASSWORD"),
        ["refused the user name or the password", "kafka.security.username", "password_env (WRONG_PASSWORD)"],
    ),
    "wrong password, SCRAM": (
        "SECURE",
        lambda each: sasl_ssl(each, "SCRAM-SHA-512", password_env="WRONG_PASSWORD"),
        ["refused the user name or the password", "mechanism (SCRAM-SHA-512)"],
    ),
    "unknown user": (
        "SECURE",
        lambda each: sasl_ssl(each, "SCRAM-SHA-256", username="bob"),
        ["refused the user name or the password"],
    ),
    "unknown authority": (
        "SECURE",
        lambda each: sasl_ssl(each, ca_file=str(each.stranger.certificate)),
        ["not signed by an authority that is trusted here", "check kafka.security.ca_file"],
    ),
    "system authorities only": (
        "SECURE",
        lambda each: {key: value for key, value in sasl_ssl(each).items() if key != "ca_file"},
        ["not signed by an authority", "ca_file (now the system's certificates)"],
    ),
    "another host's certificate": (
        "ELSEWHERE",
        lambda each: {"protocol": "SSL", "ca_file": str(each.authority.certificate)},
        ["for another host name", "kafka.brokers"],
    ),
    "no certificate of the client": (
        "MUTUAL",
        lambda each: {"protocol": "SSL", "ca_file": str(each.authority.certificate)},
        ["wants a certificate of this client", "kafka.security.cert_file"],
    ),
    "a certificate that the broker does not know": (
        "MUTUAL",
        lambda each: mutual(each, each.unknown_client),
        ["does not accept this client's certificate", "kafka.security.cert_file"],
    ),
    "a mechanism that is not offered": (
        "CLEAR",
        lambda _: {
            "protocol": "SASL_PLAINTEXT",
            "mechanism": "SCRAM-SHA-256",
            "username": "alice",
            "password_env": "KAFKA_PASSWORD",
        },
        ["does not take SASL SCRAM-SHA-256", "check kafka.security.mechanism"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_says_what_to_check_and_is_not_waited_out(
    secured: Secured, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, security, words = REFUSALS[case]
    monkeypatch.setenv("WRONG_PASSWORD", f"not-{PASSWORD}")
    settings = load_settings(secured.settings(listener, security(secured), tmp_path))
    with pytest.raises(KafkaSecurityError) as raised:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await start_client(lambda: new_producer(settings, "test"), settings, asyncio.Event())
    message = str(raised.value)
    assert [word for word in words if word not in message] == [], message
    assert PASSWORD not in message


@pytest.mark.parametrize(
    ("listener", "protocol"), [("SECURE", "PLAINTEXT"), ("CLEAR", "PLAINTEXT"), ("CLEAR", "SSL")]
)
async def test_another_protocol_than_that_of_the_port_is_named_and_is_tried_again(
    secured: Secured, listener: str, protocol: str, tmp_path: Path
) -> None:
    settings = load_settings(secured.settings(listener, {"protocol": protocol}, tmp_path))
    producer = new_producer(settings, "test")
    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever aiokafka says
            await producer.start()
    finally:
        await stop_client(producer)
    message = await no_broker(settings, raised.value)
    assert f"check that kafka.security.protocol ({protocol}) is that of this port" in message


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", [["topics", "list"], ["topics", "create"], ["publish", "calls.jsonl"],
                                     ["export", "--from", "1m"], ["worker", "--log-level", "debug"]])  # fmt: skip
def test_a_command_with_a_wrong_password_ends_with_one_clear_message(
    secured: Secured, command: list[str], tmp_path: Path
) -> None:
    path = secured.settings("SECURE", sasl_ssl(secured), tmp_path)
    (tmp_path / "calls.jsonl").write_text('{"model": "m"}\n')
    names = [str(tmp_path / name) if name.endswith(".jsonl") else name for name in command]
    result = run([*names, "--config", str(path)], KAFKA_PASSWORD="marked-wrong-9Zk")
    assert result.returncode == 1, result.stderr
    assert "the broker refused the user name or the password" in result.stderr
    assert "Traceback" not in result.stderr
    assert "marked-wrong-9Zk" not in result.stdout + result.stderr


async def test_a_worker_at_debug_level_runs_over_tls_and_never_logs_the_password(
    secured: Secured, tmp_path: Path
) -> None:
    path = secured.settings("SECURE", sasl_ssl(secured), tmp_path)
    said = await worker_says(path, ["ingest reads", "evaluate reads", "notify reads"], "--log-level", "debug")
    assert PASSWORD not in said

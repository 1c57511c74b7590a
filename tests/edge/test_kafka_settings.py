"""`kafka.security`: what it gives the clients, and every mistake in it at once, without repeating a secret."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed
from certificates import Authority, Certificate, encrypted

from rules.problem import InvalidFilesError
from streams.kafka import connection_arguments
from streams.kafka_refusals import explain
from streams.kafka_security import LARGEST_SECRET, KafkaSecurityError, SecuritySettings, read_access
from streams.settings import Settings, load_settings

SECRET = "marked-secret-7Qx"
SASL = {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "alice", "password_env": "KAFKA_PASSWORD"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Certificate:
    return authority.sign("client", "DNS:client.example.com")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)


def loaded(
    folder: Path, security: Mapping[str, Any], brokers: tuple[str, ...] = ("kafka.example.com:9093",)
) -> Settings:
    path = folder / "tocsin.yaml"
    path.write_text(yaml.safe_dump({"kafka": {"brokers": list(brokers), "security": dict(security)}}))
    return load_settings(path)


def problems(folder: Path, security: Mapping[str, Any]) -> list[str]:
    with pytest.raises(InvalidFilesError) as raised:
        loaded(folder, security)
    found = [str(problem) for problem in raised.value.problems]
    assert SECRET not in "\n".join(found)
    return found


def test_without_security_a_client_gets_the_brokers_and_plain_text(tmp_path: Path) -> None:
    assert connection_arguments(loaded(tmp_path, {})) == {
        "bootstrap_servers": ["kafka.example.com:9093"],
        "security_protocol": "PLAINTEXT",
    }


def test_tls_checks_the_broker_and_its_name_and_takes_nothing_older_than_1_2(
    tmp_path: Path, authority: Authority, client: Certificate
) -> None:
    security = {
        "protocol": "SSL",
        "ca_file": str(authority.certificate),
        "cert_file": str(client.certificate),
        "key_file": str(client.key),
    }
    given = connection_arguments(loaded(tmp_path, security))
    context = given["ssl_context"]
    assert given["security_protocol"] == "SSL"
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_the_certificate_and_its_key_may_stand_in_one_file(tmp_path: Path, client: Certificate) -> None:
    given = connection_arguments(loaded(tmp_path, {"protocol": "SSL", "cert_file": str(client.both)}))
    assert given["ssl_context"].check_hostname


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_gives_the_name_and_the_password_and_shows_neither(tmp_path: Path, mechanism: str) -> None:
    settings = loaded(tmp_path, SASL | {"mechanism": mechanism})
    given = connection_arguments(settings)
    assert given["sasl_mechanism"] == mechanism
    assert given["sasl_plain_username"] == "alice"
    assert given["sasl_plain_password"] == SECRET
    access = read_access(settings.kafka.security, tmp_path, {"KAFKA_PASSWORD": SECRET})
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(access), repr(given)):
        assert SECRET not in shown


def test_a_password_file_lies_beside_the_settings_and_its_last_line_break_is_no_part_of_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\r\n")
    security = {key: value for key, value in SASL.items() if key != "password_env"}
    given = connection_arguments(loaded(tmp_path, security | {"password_file": "password"}))
    assert given["sasl_plain_password"] == SECRET


def test_every_key_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in SASL.items():
        monkeypatch.setenv(f"TOCSIN_KAFKA__SECURITY__{key.upper()}", value)
    assert connection_arguments(load_settings(None))["sasl_plain_password"] == SECRET


def test_a_renewed_password_is_read_by_the_next_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded(tmp_path, SASL)
    monkeypatch.setenv("KAFKA_PASSWORD", "renewed")
    assert connection_arguments(settings)["sasl_plain_password"] == "renewed"
    monkeypatch.delenv("KAFKA_PASSWORD")
    with pytest.raises(KafkaSecurityError, match="KAFKA_PASSWORD is not set"):
        connection_arguments(settings)


def test_all_mistakes_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_PASSWORD")
    security = {
        "protocol": "SASL_SSL",
        "ca_file": "/nowhere/ca.pem",
        "key_file": "/nowhere/key.pem",
        "username_env": "KAFKA_USER",
        "password_env": "KAFKA_PASSWORD",
    }
    found = problems(tmp_path, security)
    for key, words in {
        "mechanism": "is missing",
        "ca_file": "/nowhere/ca.pem cannot be read: No such file or directory",
        "key_file": "there is no cert_file",
        "username_env": "the environment variable KAFKA_USER is not set",
        "password_env": "the environment variable KAFKA_PASSWORD is not set",
    }.items():
        assert any(f"kafka.security.{key}: " in each and words in each for each in found), (key, found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "SSL"}, "kafka.security.mechanism: has no use with protocol SSL"),
        ({"protocol": "SASL_PLAINTEXT", "ca_file": "ca.pem"}, "ca_file: has no use with protocol SASL_PLAINTEXT"),
        ({"username_env": "KAFKA_USER"}, "username: is there beside username_env"),
        ({"password_file": "password"}, "password_env: is there beside password_file"),
        ({"password_env": None, "username": None}, "password_env: is missing: write password_env or password_file"),
        ({"protocol": "TLS"}, '"TLS" is not one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL'),
        ({"mechanism": "GSSAPI"}, '"GSSAPI" is not one of'),
        ({"password": SECRET}, "a password does not belong into this file"),
        ({"password_env": SECRET + "!"}, "not the secret itself"),
        ({"password_env": None, "password_file": SECRET}, "password_file: cannot be read"),
        ({"ca_file": "tocsin.yaml"}, 'tocsin.yaml is no PEM file with a "CERTIFICATE"'),
        ({"ca_file": "\0"}, "ca_file"),
    ],
)  # fmt: skip
def test_a_mistake_says_where_it_is_and_what_to_write(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    security = {key: value for key, value in (SASL | changes).items() if value is not None}
    assert any(words in each for each in problems(tmp_path, security)), problems(tmp_path, security)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (f"{SECRET}\0{SECRET}", "control character"),
        (f"{SECRET}\n{SECRET}", "control character"),
        (SECRET * 1_000, f"longer than {LARGEST_SECRET:,} bytes"),
        ("", "is empty"),
    ],
)
def test_a_password_that_cannot_be_one_is_refused(tmp_path: Path, value: str, words: str) -> None:
    (tmp_path / "password").write_text(value)
    security = {key: each for key, each in SASL.items() if key != "password_env"}
    found = problems(tmp_path, security | {"password_file": "./password"})
    assert any("password_file: " in each for each in found)
    assert any(words in each or "larger than" in each for each in found), found


def test_a_key_of_another_certificate_and_one_with_a_passphrase_are_refused(
    tmp_path: Path, authority: Authority, client: Certificate
) -> None:
    other = authority.sign("other", "DNS:other.example.com")
    for key in (other.key, encrypted(client.key)):
        security = {"protocol": "SSL", "cert_file": str(client.certificate), "key_file": str(key)}
        [found] = problems(tmp_path, security)
        assert "belong together, and the key must have no passphrase" in found


def test_a_file_that_says_certificate_and_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    [found] = problems(tmp_path, {"protocol": "SSL", "ca_file": "ca.pem"})
    assert "holds no certificates that can be read" in found


@pytest.mark.parametrize(
    ("brokers", "mechanism", "warned"),
    [
        (("kafka.example.com:9092", "localhost:9092"), "PLAIN", True),
        (("10.0.0.1:9092",), "PLAIN", True),
        (("[::1]:9092", "127.0.0.2:9092", "localhost:9092"), "PLAIN", False),
        (("kafka.example.com:9092",), "SCRAM-SHA-256", False),
    ],
)
def test_a_password_in_clear_text_to_another_host_is_warned_about(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    brokers: tuple[str, ...],
    mechanism: str,
    warned: bool,
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path, SASL | {"protocol": "SASL_PLAINTEXT", "mechanism": mechanism}, brokers)
    assert ("sends the password in clear text to" in caplog.text) is warned
    assert SECRET not in caplog.text


def test_the_client_library_never_logs_its_requests() -> None:
    assert not logging.getLogger("aiokafka.conn").isEnabledFor(logging.ERROR)


def test_what_is_no_refusal_is_not_explained() -> None:
    security = SecuritySettings()
    assert explain(ConnectionRefusedError(), security) is None
    assert explain(TimeoutError(), security) is None
    closed = explain(KafkaConnectionError("closed"), security)
    assert closed is not None
    assert not closed.final


def test_an_expired_certificate_and_an_unverifiable_answer_are_explained() -> None:
    security = SecuritySettings(
        protocol="SASL_SSL", mechanism="PLAIN", username_env="USER", password_file="p"
    )
    error = ssl.SSLCertVerificationError("expired")
    error.verify_code, error.verify_message = 10, "certificate has expired"
    for each, words in (
        (error, "has expired"),
        (ValueError("Server nonce, did not start with client nonce!"), "cannot be verified"),
        (SaslAuthenticationFailed(f"{SECRET}"), "username_env (USER), password_file (p)"),
    ):
        found = explain(each, security)
        assert found is not None
        assert found.final
        assert words in found.cause
        assert SECRET not in found.cause

"""A marked secret in every place that holds one, and nowhere else: logs, errors, `repr`, messages, records."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transitions import notification

from notifiers.delivery import Delivered, GaveUp, Outcome, Refused
from notifiers.slack import SlackBot, SlackWebhook
from rules.problem import InvalidFilesError
from streams.heartbeat import Heartbeat
from streams.logs import configure_logging
from streams.notify_stage import NotifyStage
from streams.rule_log import encode
from streams.rules_topic import next_record
from streams.settings import load_settings
from streams.setup import Setup, describe, read_setup

MARK = "7Qx-marked"
TOKEN = f"xoxb-{MARK}-token"
WEBHOOK = f"https://hooks.example.com/services/{MARK}/webhook"
PASSWORD = f"{MARK}-password"
HEARTBEAT = f"http://127.0.0.1:9/{MARK}/ping"
SECRETS = {
    "SLACK_BOT_TOKEN": TOKEN,
    "SLACK_WEBHOOK_URL": WEBHOOK,
    "KAFKA_PASSWORD": PASSWORD,
    "HEARTBEAT_URL": HEARTBEAT,
}


def configuration(**changes: Any) -> dict[str, Any]:
    return {
        "kafka": {
            "security": {
                "protocol": "SASL_PLAINTEXT",
                "mechanism": "PLAIN",
                "username": "alice",
                "password_env": "KAFKA_PASSWORD",
            }
        },
        "receivers": {
            "bot": {"slack": {"channel": "#c", "token_env": "SLACK_BOT_TOKEN"}},
            "hook": {"slack": {"webhook_env": "SLACK_WEBHOOK_URL"}},
        },
        "routes": [{"to": ["bot", "hook"]}],
        "heartbeat": {"url_env": "HEARTBEAT_URL"},
    } | changes


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def setup(tmp_path: Path, environment: None) -> Setup:
    path = tmp_path / "tocsin.yaml"
    path.write_text(yaml.safe_dump(configuration()))
    return read_setup(load_settings(path), SECRETS, io.StringIO())


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process logs at the lowest level, with every library's logger open unless it was closed on purpose."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging("debug")
    stream = io.StringIO()
    root.handlers[0].setStream(stream)  # type: ignore[attr-defined]
    yield stream
    root.handlers, root.level = handlers, level


def everything(value: object, depth: int = 0) -> Iterator[str]:
    """`repr` and `str` of an object and of what it is made of."""
    yield repr(value)
    yield str(value)
    if depth < 3 and hasattr(value, "__dataclass_fields__"):
        for name, field in value.__dataclass_fields__.items():
            if field.repr:
                yield from everything(getattr(value, name), depth + 1)
    if isinstance(value, dict):
        for each in value.values():
            yield from everything(each, depth + 1)


def test_no_secret_is_in_the_repr_of_settings_and_setup(setup: Setup) -> None:
    assert MARK not in "\n".join(everything(setup))


def test_no_secret_is_in_what_a_worker_says_at_its_start(setup: Setup) -> None:
    assert MARK not in "\n".join(describe(setup, None))


def test_no_secret_is_in_a_message(setup: Setup) -> None:
    message = setup.message(notification())
    assert MARK not in message.text + json.dumps(message.blocks) + repr(message)


def test_no_secret_is_in_the_record_of_the_rules_topic(setup: Setup) -> None:
    record = next_record(setup, [], 0)
    assert record is not None
    assert MARK.encode() not in encode(record)


async def deliver_to(receiver: SlackBot | SlackWebhook, setup: Setup) -> Outcome:
    return await receiver.deliver(notification(), setup.message(notification()))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def test_no_secret_is_logged_or_recorded_when_slack_cannot_be_reached(
    setup: Setup, log: io.StringIO
) -> None:
    url = f"http://127.0.0.1:{closed_port()}/{MARK}"
    receivers = (
        SlackBot("bot", channel="#c", token=TOKEN, api_url=url, timeout_s=2),
        SlackWebhook("hook", url=url, timeout_s=2),
    )
    outcomes = [await deliver_to(receiver, setup) for receiver in receivers]
    assert MARK not in repr(outcomes)
    assert MARK not in log.getvalue()
    assert MARK not in repr(receivers)


async def test_the_heartbeat_never_says_its_url(log: io.StringIO) -> None:
    url = f"http://127.0.0.1:{closed_port()}/{MARK}/ping"
    heartbeat = Heartbeat(url, 1, lambda: True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await heartbeat.run()
    assert "the heartbeat is not taken" in log.getvalue()
    assert MARK not in log.getvalue() + repr(heartbeat)


@pytest.mark.parametrize(
    "result", [Delivered("C0/1"), Refused("invalid_auth: check the token"), GaveUp("no connection", 3, False)]
)
def test_no_secret_is_in_the_notification_log(setup: Setup, result: Any) -> None:
    stage = NotifyStage(setup.settings, setup.routes)
    settled = stage.settled(notification(), result, 0)
    assert MARK.encode() not in (settled.value or b"")


MISPLACED: dict[str, dict[str, Any]] = {
    "a token as the variable's name": {
        "receivers": {"bot": {"slack": {"channel": "#c", "token_env": TOKEN}}}
    },
    "a token beside its variable": {
        "receivers": {"bot": {"slack": {"channel": "#c", "token_env": "SLACK_BOT_TOKEN", "token": TOKEN}}}
    },
    "a webhook as the variable's name": {"receivers": {"hook": {"slack": {"webhook_env": WEBHOOK}}}},
    "a password as the variable's name": {
        "kafka": {"security": {"protocol": "SASL_SSL", "password_env": PASSWORD}}
    },
    "a password as a key of its own": {"kafka": {"security": {"protocol": "SASL_SSL", "password": PASSWORD}}},
    "a password as a file's name": {
        "kafka": {
            "security": {
                "protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN", "username": "a", "password_file": PASSWORD,
            }
        }
    },
    "a URL as the variable's name": {"heartbeat": {"url_env": HEARTBEAT}},
    "a list for a token": {"receivers": {"bot": {"slack": {"channel": "#c", "token_env": [TOKEN]}}}},
}  # fmt: skip


@pytest.mark.parametrize("case", MISPLACED)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, environment: None, case: str) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text(yaml.safe_dump(configuration(**MISPLACED[case])))
    with pytest.raises(InvalidFilesError) as raised:
        read_setup(load_settings(path), SECRETS, io.StringIO())
    assert MARK not in "\n".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TOCSIN_KAFKA__SECURITY__PASSWORD", PASSWORD),
        ("TOCSIN_KAFKA__SECURITY__PASSWORD_ENV", f"{PASSWORD}!"),
        ("TOCSIN_KAFKA__SECURITY__PROTOCOL", PASSWORD),
        ("TOCSIN_RECEIVERS", '{"bot": {"slack": {"token_env": "' + TOKEN),
        ("TOCSIN_RECEIVERS", json.dumps({"bot": {"slack": {"channel": "#c", "token_env": TOKEN}}})),
        ("TOCSIN_SLACK_TOKEN", TOKEN),
    ],
)
def test_a_secret_in_a_wrong_variable_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidFilesError) as raised:
        load_settings(None)
    assert MARK not in "\n".join(traceback.format_exception(raised.value))


def test_a_secret_that_is_no_url_is_not_repeated(tmp_path: Path, environment: None) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text(yaml.safe_dump(configuration()))
    with pytest.raises(InvalidFilesError) as raised:
        read_setup(load_settings(path), SECRETS | {"SLACK_WEBHOOK_URL": f"ftp://{MARK}"}, io.StringIO())
    assert MARK not in "\n".join(traceback.format_exception(raised.value))

import logging
import socket

import pytest
from fake_slack import TOKEN, DropAfter, DropBefore, Error, FakeSlack, Garbage, Hang, Status
from transitions import AT, exemplar, notification, runbook, transition

from notifiers.delivery import Ambiguous, Delivered, Refused, Retry
from notifiers.links import compile_trace_link
from notifiers.message import build_message
from notifiers.slack import SlackBot, SlackWebhook, answer_outcome, retry_after_ms

DATE_AT = "Thu, 01 Oct 2026 12:05:00 GMT"
NO_WAIT_S = 0.2


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def slack():
    async with FakeSlack() as fake:
        yield fake


@pytest.fixture(params=["bot", "webhook"])
def build(request, slack):
    return (bot if request.param == "bot" else webhook, slack)


@pytest.fixture
def receiver(build):
    return build[0](build[1])


def bot(slack, **changes):
    options = {"channel": "#llm-oncall", "token": TOKEN, "api_url": slack.api_url, "now_ms": lambda: AT}
    return SlackBot("oncall", **(options | changes))


def webhook(slack, **changes):
    return SlackWebhook("team", **({"url": slack.webhook_url, "now_ms": lambda: AT} | changes))


def message(change=None):
    link = compile_trace_link("https://traces.example.com/{trace}?a=1&b=2")
    change = change or transition(exemplars=(exemplar(1), exemplar(2)))
    return build_message(change, runbook(), "https://wiki.example.com/latency-high", link, notification().id)


async def test_a_message_is_accepted_with_blocks_fallback_text_and_the_notification_id(slack, receiver):
    outcome = await receiver.deliver(notification(), message())
    assert isinstance(outcome, Delivered)
    assert slack.problems == []
    [received] = slack.inbox
    assert received.notification == notification().id
    assert received.payload["text"] == message().text
    assert received.payload["blocks"] == list(message().blocks)
    assert received.links == [
        "https://traces.example.com/4bf92f350001?a=1&amp;b=2",
        "https://traces.example.com/4bf92f350002?a=1&amp;b=2",
    ]


async def test_the_receipt_of_a_bot_is_channel_and_timestamp_and_of_a_webhook_nothing(slack):
    assert await bot(slack).deliver(notification(), message()) == Delivered("C0ONCALL/1700000000.000000")
    hook = SlackWebhook("team", url=slack.webhook_url)
    assert await hook.deliver(notification(), message()) == Delivered("")


@pytest.mark.parametrize(
    ("header", "after_ms"),
    [("2", 2_000), ("1.5", 1_500), ("Thu, 01 Oct 2026 12:05:07 GMT", 7_000), ("soon", None), (None, None)],
)
async def test_too_many_requests_is_retried_after_the_wait_in_every_legal_form(
    slack, receiver, header, after_ms
):
    slack.script.append(Status(429, header))
    assert await receiver.deliver(notification(), message()) == Retry("status 429", after_ms)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_errors_of_the_server_are_retried(slack, receiver, status):
    slack.script.append(Status(status))
    assert await receiver.deliver(notification(), message()) == Retry(f"status {status}", None)


@pytest.mark.parametrize("name", ["internal_error", "fatal_error", "service_unavailable", "ratelimited"])
async def test_errors_that_pass_by_themselves_are_retried(slack, receiver, name):
    slack.script.append(Error(name))
    assert await receiver.deliver(notification(), message()) == Retry(name)


@pytest.mark.parametrize(
    "name",
    [
        "channel_not_found",
        "invalid_auth",
        "token_revoked",
        "not_in_channel",
        "msg_too_long",
        "invalid_blocks",
        "no_service",
        "an_error_not_known_yet",
    ],
)
async def test_errors_that_stay_are_refused_by_name(slack, receiver, name):
    slack.script.append(Error(name))
    outcome = await receiver.deliver(notification(), message())
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith(name)


async def test_a_wrong_token_and_a_wrong_channel_say_what_to_do(slack):
    assert await bot(slack, token="xoxb-wrong").deliver(notification(), message()) == Refused(
        "invalid_auth: check the token"
    )
    assert await bot(slack, channel="#nope").deliver(notification(), message()) == Refused(
        "channel_not_found: check the channel's name, and invite the bot if the channel is private"
    )


async def test_a_gone_webhook_is_refused(slack):
    outcome = await SlackWebhook("team", url=f"{slack.webhook_url}x").deliver(notification(), message())
    assert outcome == Refused("status 404")


async def test_b53_accepted_then_dropped_is_ambiguous_and_sent_once_by_one_attempt(slack, receiver):
    slack.script.append(DropAfter())
    assert await receiver.deliver(notification(), message()) == Ambiguous("the connection was lost")
    assert len(slack.inbox) == 1
    assert len(slack.attempts) == 1


async def test_dropped_before_accepting_cannot_be_told_from_after_and_is_ambiguous_too(slack, receiver):
    slack.script.append(DropBefore())
    assert await receiver.deliver(notification(), message()) == Ambiguous("the connection was lost")
    assert slack.inbox == []
    assert len(slack.attempts) == 1


async def test_no_answer_in_time_is_ambiguous(slack, build):
    slack.script.append(Hang())
    assert await build[0](slack, timeout_s=NO_WAIT_S).deliver(notification(), message()) == Ambiguous(
        "no answer in time"
    )


@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/json"])
async def test_an_answer_that_is_not_from_slack_is_ambiguous(slack, receiver, content_type):
    slack.script.append(Garbage(content_type))
    assert await receiver.deliver(notification(), message()) == Ambiguous("the answer could not be read")


async def test_nobody_listening_is_retried():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        for receiver in (SlackBot("a", channel="#a", token="t", api_url=url), SlackWebhook("b", url=url)):
            assert await receiver.deliver(notification(), message()) == Retry("no connection")


async def test_no_secret_and_no_message_is_logged_even_at_debug_level(slack, receiver, caplog):
    caplog.set_level(logging.DEBUG)
    slack.script.extend([Status(500), DropBefore()])
    for _ in range(3):
        await receiver.deliver(notification(), message())
    assert TOKEN not in caplog.text
    assert "fakesecret" not in caplog.text
    assert "P95 of chat" not in caplog.text
    assert TOKEN not in repr(receiver)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("0", 0),
        (" 30 ", 30_000),
        ("0.25", 250),
        ("999999", 3_600_000),
        (DATE_AT, 0),
        ("Thu, 01 Oct 2026 12:06:00 +0000", 60_000),
        ("Thursday, 01-Oct-26 12:06:00 GMT", 60_000),
        ("Thu Oct  1 12:06:00 2026", 60_000),
        ("Thu, 01 Oct 2020 12:05:00 GMT", 0),
        ("Thu, 01 Oct 2099 12:05:00 GMT", 3_600_000),
        ("", None),
        (None, None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("9" * 400, None),
        ("Thu, 01 Oct 99999 12:05:00 GMT", None),
        ("Thu, 01 Oct 2026 12:05:00 +99999999999", None),
    ],
)
def test_retry_after_is_read_in_every_legal_form_and_nothing_else(header, expected):
    assert retry_after_ms(header, AT) == expected


@pytest.mark.parametrize("error", [None, 7, {"a": 1}, "<html>", "x" * 500])
def test_an_error_without_a_readable_name_is_judged_by_its_status(error):
    assert answer_outcome(403, error, None, AT) == Refused("status 403")
    assert answer_outcome(200, error, None, AT) == Ambiguous("the answer could not be read")

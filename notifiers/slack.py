"""Slack: one attempt to post a message, by bot token or by incoming webhook, and what its answer means.

The SDK retries nothing (`retry_handlers=[]`): its own handlers post again after Slack accepted, and lose the message
on a Retry-After that is no whole number. A session is opened and closed per message: at a message a second it costs
little, and a kept connection that died while idle would look like a lost answer.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from notifiers.bounded_answer import bounded_session
from notifiers.delivery import Ambiguous, Delivered, Outcome, Refused, Retry
from notifiers.message import Message
from notifiers.notification import Notification
from rules.quantities import HOUR, SECOND
from rules.visible import visible

API_URL: Final = "https://slack.com/api/"
TIMEOUT_S: Final = 10.0
INTERVAL_MS: Final = SECOND
EVENT_TYPE: Final = "tocsin_alert"

# What Slack calls an error that passes by itself. Every other answer with a name is final.
_PASSES: Final = frozenset(
    {
        "ratelimited",
        "rate_limited",
        "message_limit_exceeded",
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
        "team_added_to_org",
        "rollup_error",
    }
)
_ADVICE: Final = {
    "channel_not_found": "check the channel's name, and invite the bot if the channel is private",
    "not_in_channel": "invite the bot to the channel",
    "is_archived": "the channel is archived: name another",
    "channel_is_archived": "the channel is archived: name another",
    "invalid_auth": "check the token",
    "not_authed": "check the token",
    "token_revoked": "the token was revoked: make a new one",
    "token_expired": "the token has expired: make a new one",
    "account_inactive": "the token's account is gone: make a new one",
    "missing_scope": "give the app the scope chat:write",
    "no_service": "the webhook is gone: make a new one",
    "no_team": "the webhook's workspace is gone: make a new webhook",
    "invalid_token": "the webhook is gone: make a new one",
}
# The SDK looks for `ok` in a body that is no JSON object (the page of a proxy), is nested too deeply, or is no text.
_UNREADABLE: Final = (AttributeError, RecursionError, ValueError)
_ERROR_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,79}")
_SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?")
_LONGEST_WAIT_MS: Final = HOUR
_REQUEST_TIMEOUT: Final = 408
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500

# The SDK writes bodies, headers and webhook URLs to its logger at DEBUG; a level of its own keeps it from doing so
# whatever the root logger is set to.
_sdk_log: Final = logging.getLogger("notifiers.slack.sdk")
_sdk_log.setLevel(logging.WARNING)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class SlackBot:
    """Posts to one channel with a bot token (scope `chat:write`). The receipt is `channel/ts`."""

    def __init__(
        self,
        name: str,
        *,
        channel: str,
        token: str,
        api_url: str = API_URL,
        timeout_s: float = TIMEOUT_S,
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self.name = name
        self.interval_ms = INTERVAL_MS
        self._channel = channel
        self._now_ms = now_ms
        self._timeout_s = timeout_s
        self._client = AsyncWebClient(
            token=token,
            base_url=api_url if api_url.endswith("/") else f"{api_url}/",
            timeout=timeout_s,  # type: ignore[arg-type] # annotated int, handed to aiohttp as it is
            retry_handlers=[],
            logger=_sdk_log,
        )

    async def deliver(self, notification: Notification, message: Message) -> Outcome:
        """One `chat.postMessage`."""
        try:
            async with bounded_session(self._timeout_s) as self._client.session:
                answer = await self._client.chat_postMessage(
                    channel=self._channel,
                    text=message.text,
                    blocks=list(message.blocks),
                    metadata=_metadata(notification),
                    unfurl_links=False,
                    unfurl_media=False,
                )
        except SlackApiError as error:
            return self._classify(error)
        except (aiohttp.ClientError, TimeoutError) as error:
            return connection_outcome(error)
        except _UNREADABLE:
            return Ambiguous("the answer could not be read")
        channel, ts = (visible(str(answer.get(name, "")), 100) for name in ("channel", "ts"))
        return Delivered(f"{channel}/{ts}")

    def _classify(self, error: SlackApiError) -> Outcome:
        # The response is the SDK's, or aiohttp's own where the body was no JSON.
        response: Any = error.response
        status = response.status_code if hasattr(response, "status_code") else response.status
        body = getattr(response, "data", None)
        name = body.get("error") if isinstance(body, Mapping) else None
        return answer_outcome(status, name, response.headers.get("Retry-After"), self._now_ms())


class SlackWebhook:
    """Posts through an incoming webhook. It answers `ok` and no timestamp, so the receipt is empty."""

    def __init__(
        self, name: str, *, url: str, timeout_s: float = TIMEOUT_S, now_ms: Callable[[], int] = _wall_ms
    ) -> None:
        self.name = name
        self.interval_ms = INTERVAL_MS
        self._now_ms = now_ms
        self._timeout_s = timeout_s
        self._client = AsyncWebhookClient(
            url,
            timeout=timeout_s,  # type: ignore[arg-type] # annotated int, handed to aiohttp as it is
            retry_handlers=[],
            logger=_sdk_log,
        )

    async def deliver(self, notification: Notification, message: Message) -> Outcome:
        """One POST to the webhook."""
        try:
            async with bounded_session(self._timeout_s) as self._client.session:
                answer = await self._client.send(
                    text=message.text,
                    blocks=list(message.blocks),
                    metadata=_metadata(notification),
                    unfurl_links=False,
                    unfurl_media=False,
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            return connection_outcome(error)
        except _UNREADABLE:
            return Ambiguous("the answer could not be read")
        if answer.status_code == 200 and answer.body.strip() == "ok":
            return Delivered("")
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer_outcome(
            answer.status_code, answer.body.strip(), headers.get("retry-after"), self._now_ms()
        )


def answer_outcome(status: int, error: object, retry_after: str | None, now_ms: int) -> Outcome:
    """What an answer that is no success means.

    =================================================  ==========
    answer                                             outcome
    =================================================  ==========
    408, 429, 5xx                                      Retry
    an error that passes by itself (`ratelimited`)     Retry
    any other error with a name (`invalid_auth`)       Refused
    2xx that says neither ok nor the name of an error  Ambiguous
    any other status                                   Refused
    =================================================  ==========

    A Retry waits as long as Retry-After says, where there is one.
    """
    name = error if isinstance(error, str) and _ERROR_NAME.fullmatch(error) else None
    if status in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT) or status >= _SERVER_ERROR:
        return Retry(f"status {status}", retry_after_ms(retry_after, now_ms))
    if name in _PASSES:
        return Retry(name, retry_after_ms(retry_after, now_ms))
    if name is not None:
        return Refused(f"{name}: {_ADVICE[name]}" if name in _ADVICE else name)
    if 200 <= status < 300:
        return Ambiguous("the answer could not be read")
    return Refused(f"status {status}")


def connection_outcome(error: Exception) -> Outcome:
    """What an exception of the connection means: nothing was sent (Retry), or nobody knows (Ambiguous)."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Retry("no connection")
    return Ambiguous("no answer in time" if isinstance(error, TimeoutError) else "the connection was lost")


def retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """Milliseconds of a Retry-After header: whole or decimal seconds, or an HTTP date; at most an hour.

    None where there is none or it cannot be read: the caller's own delay applies.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return min(round(float(text) * SECOND), _LONGEST_WAIT_MS)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return min(max(round(aware.timestamp() * SECOND) - now_ms, 0), _LONGEST_WAIT_MS)


def _metadata(notification: Notification) -> dict[str, Any]:
    # The same id when a lost answer makes it come twice, so that a reader or a program can tell.
    payload: dict[str, Any] = {"notification": notification.id}
    if notification.possibly_repeated:
        payload["possibly_repeated"] = True
    return {"event_type": EVENT_TYPE, "event_payload": payload}

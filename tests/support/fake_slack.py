"""A local Slack that enforces the limits of the real one, and can be told to fail.

It shares no code with what it tests. `chat.postMessage`, `chat.update` and incoming webhooks check the same message
rules; what was accepted is in `inbox`, every attempt in `attempts`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from aiohttp import web

TOKEN = "xoxb-fake-token"
CHANNELS = {"#llm-oncall": "C0ONCALL", "C0ONCALL": "C0ONCALL", "#llm-team": "C0TEAM"}
WEBHOOK_PATH = "/services/T000/B000/fakesecret"


@dataclass(frozen=True)
class Status:
    """Answer with an HTTP status and a body that is no JSON."""

    status: int
    retry_after: str | None = None


@dataclass(frozen=True)
class Error:
    """Answer 200 with `ok: false` (the web API) or 400 with the name (a webhook)."""

    name: str


@dataclass(frozen=True)
class Hang:
    """Accept the connection and never answer."""


@dataclass(frozen=True)
class DropBefore:
    """Close the connection without accepting the message."""


@dataclass(frozen=True)
class DropAfter:
    """Accept the message, then close the connection without an answer."""


@dataclass(frozen=True)
class Garbage:
    """Answer 200 with the page of some proxy."""

    content_type: str = "text/html"


Step = Status | Error | Hang | DropBefore | DropAfter | Garbage


@dataclass
class Received:
    """One message: where it went, what it held."""

    channel: str
    payload: dict[str, Any]
    ts: str = ""

    @property
    def notification(self) -> str:
        return self.payload["metadata"]["event_payload"]["notification"]

    @property
    def mentions(self) -> list[str]:
        """Whatever Slack would take for a mention, in the blocks and in the fallback text."""
        return [found for text in all_texts(self.payload) for found in re.findall(r"<[@#!][^>]*>", text)]

    @property
    def links(self) -> list[str]:
        return [found for text in all_texts(self.payload) for found in re.findall(r"<(https?:[^|>]*)", text)]


@dataclass
class FakeSlack:
    """Start it with `async with`; `api_url` and `webhook_url` are on a free port of this machine."""

    script: deque[Step] = field(default_factory=deque)
    inbox: list[Received] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._released = asyncio.Event()
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_post("/api/{method}", self._api)
        app.router.add_post(WEBHOOK_PATH, self._webhook)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._released.set()
        await self._runner.cleanup()

    @property
    def api_url(self) -> str:
        return f"{self._base}/api/"

    @property
    def webhook_url(self) -> str:
        return self._base + WEBHOOK_PATH

    async def _api(self, request: web.Request) -> web.StreamResponse:
        payload = await _payload(request)
        self.attempts.append(payload)
        step = self._next()
        failure = await self._fail(request, step)
        if failure is not None:
            return failure
        if isinstance(step, Error):
            return _no(step.name)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _no("invalid_auth" if "Authorization" in request.headers else "not_authed")
        method = request.match_info["method"]
        if method not in {"chat.postMessage", "chat.update"}:
            return _no("unknown_method")
        channel = CHANNELS.get(payload.get("channel", ""))
        if channel is None:
            return _no("channel_not_found")
        if problem := self._problem(payload, update=method == "chat.update"):
            return _no(problem)
        if method == "chat.update":
            earlier = [one for one in self.inbox if (one.channel, one.ts) == (channel, payload.get("ts"))]
            if not earlier:
                return _no("message_not_found")
            earlier[0].payload = payload
            received = earlier[0]
        else:
            received = self._accept(channel, payload)
        if isinstance(step, DropAfter):
            return _drop(request)
        return web.json_response({"ok": True, "channel": channel, "ts": received.ts})

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        payload = await _payload(request)
        self.attempts.append(payload)
        step = self._next()
        failure = await self._fail(request, step)
        if failure is not None:
            return failure
        if isinstance(step, Error):
            return web.Response(status=400, text=step.name)
        if problem := self._problem(payload, update=False):
            return web.Response(status=400, text=problem)
        self._accept("webhook", payload)
        return _drop(request) if isinstance(step, DropAfter) else web.Response(text="ok")

    def _next(self) -> Step | None:
        return self.script.popleft() if self.script else None

    async def _fail(self, request: web.Request, step: Step | None) -> web.StreamResponse | None:
        match step:
            case Status(status, retry_after):
                headers = {} if retry_after is None else {"Retry-After": retry_after}
                return web.Response(
                    status=status, text="<html>no</html>", content_type="text/html", headers=headers
                )
            case Garbage(content_type):
                return web.Response(text="welcome to the hotel", content_type=content_type)
            case Hang():
                await self._released.wait()
                return web.Response()
            case DropBefore():
                return _drop(request)
        return None

    def _accept(self, channel: str, payload: dict[str, Any]) -> Received:
        received = Received(channel, payload, f"1700000000.{len(self.inbox):06d}")
        self.inbox.append(received)
        return received

    def _problem(self, payload: dict[str, Any], *, update: bool) -> str | None:
        found = next(message_problems(payload, update=update), None)
        if found is None:
            return None
        self.problems.append(f"{found[0]}: {found[1]}")
        return found[0]


def message_problems(payload: dict[str, Any], *, update: bool = False) -> Iterator[tuple[str, str]]:
    """(Slack's error, what is wrong) for everything that Slack would refuse."""
    text, blocks = payload.get("text", ""), payload.get("blocks", [])
    if not text and not blocks:
        yield "no_text", "neither text nor blocks"
    if _has_surrogate(json.dumps(payload, ensure_ascii=False)):
        yield "invalid_payload", "half a character"
    if update and len(text.encode()) > 4_000:
        yield "msg_too_long", f"{len(text.encode())} bytes of text"
    if len(text) > 40_000:
        yield "msg_too_long", f"{len(text)} characters of text"
    if len(blocks) > 50:
        yield "invalid_blocks", f"{len(blocks)} blocks"
    if len(json.dumps(blocks)) > 13_200:
        yield "msg_blocks_too_long", f"{len(json.dumps(blocks))} characters of blocks"
    for block in blocks:
        for problem in _block_problems(block):
            yield "invalid_blocks", f"{problem} in {json.dumps(block)[:300]}"
    for one in all_texts(payload):
        if re.search(r"&(?!(amp|lt|gt);)", one):
            yield "invalid_payload", f"an ampersand that is not escaped, or half an entity: {one[:200]}"
    metadata = payload.get("metadata")
    if metadata is not None and not (
        re.fullmatch(r"[A-Za-z0-9_-]+", metadata["event_type"])
        and isinstance(metadata["event_payload"], dict)
    ):
        yield "invalid_metadata_format", str(metadata)


def _block_problems(block: dict[str, Any]) -> Iterator[str]:
    match block.get("type"):
        case "header":
            yield from _text_problems(block.get("text"), 150, {"plain_text"})
        case "section":
            yield from _section_problems(block)
        case "context":
            if not 1 <= len(block["elements"]) <= 10:
                yield f"{len(block['elements'])} elements"
            for one in block["elements"]:
                yield from _text_problems(one, 3_000)
        case "actions":
            if not 1 <= len(block["elements"]) <= 25:
                yield f"{len(block['elements'])} elements"
            ids = [one.get("action_id") for one in block["elements"] if "action_id" in one]
            if len(ids) != len(set(ids)):
                yield "an action_id twice"
            for one in block["elements"]:
                yield from _button_problems(one)
        case "divider":
            pass
        case other:
            yield f"unknown block {other}"


def _section_problems(block: dict[str, Any]) -> Iterator[str]:
    if "text" not in block and "fields" not in block:
        yield "a section needs text or fields"
    if "text" in block:
        yield from _text_problems(block["text"], 3_000)
    if "fields" in block and not 1 <= len(block["fields"]) <= 10:
        yield f"{len(block['fields'])} fields"
    for one in block.get("fields", []):
        yield from _text_problems(one, 2_000)


def _button_problems(button: dict[str, Any]) -> Iterator[str]:
    if button.get("type") != "button":
        yield "not a button"
    yield from _text_problems(button.get("text"), 75, {"plain_text"})
    if len(button.get("value", "")) > 2_000:
        yield "a value over 2,000"
    if "url" in button:
        url = button["url"]
        parts = urlsplit(url)
        if (
            len(url) > 3_000
            or parts.scheme not in {"http", "https"}
            or not parts.hostname
            or re.search(r"\s", url)
        ):
            yield f"not a URL: {url[:100]}"


def _text_problems(text: Any, limit: int, kinds: frozenset[str] | set[str] = frozenset()) -> Iterator[str]:
    allowed = kinds or {"plain_text", "mrkdwn"}
    if not isinstance(text, dict) or text.get("type") not in allowed:
        yield f"text must be {sorted(allowed)}"
        return
    if ("emoji" in text and text["type"] != "plain_text") or (
        "verbatim" in text and text["type"] != "mrkdwn"
    ):
        yield "emoji is for plain_text, verbatim for mrkdwn"
    units = len(text["text"].encode("utf-16-le", "surrogatepass")) // 2
    if not 1 <= units <= limit:
        yield f"{units} characters where {limit} are allowed"


def all_texts(value: Any) -> Iterator[str]:
    """Every string that Slack shows, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "text" and isinstance(inner, str):
                yield inner
            else:
                yield from all_texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from all_texts(inner)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


async def _payload(request: web.Request) -> dict[str, Any]:
    return json.loads(await request.text())


def _no(error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error})


def _drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()

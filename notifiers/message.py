"""The message of one transition as Slack blocks, within every limit of Slack whatever the transition contains."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeGuard

from notifiers.links import TraceLink, safe_url
from notifiers.mrkdwn import code, literal, plain, prose, size
from notifiers.notification import Reason, decide
from notifiers.runbook import Runbook
from rules import quantities
from rules.quantities import (
    MILLISECONDS,
    NANODOLLARS_PER_DOLLAR,
    Unit,
    format_duration,
    format_money,
    format_quantity,
    format_window,
)
from rules.rule import Direction, Severity
from rules.transition import Exemplar, Transition

MAX_HEADER: Final = 150
MAX_SECTION: Final = 3_000
MAX_PAYLOAD: Final = 12_900
"""Characters of the blocks as JSON with escapes, the larger way to count; Slack was seen to refuse near 13,200."""

Block = dict[str, Any]

_COLOURS: Final = {Severity.CRITICAL: "#c62828", Severity.WARNING: "#e69100"}
_RESOLVED_COLOUR: Final = "#2e7d32"
_EMOJI: Final = {Severity.CRITICAL: ":rotating_light:", Severity.WARNING: ":warning:"}
_UNITS: Final = {unit.name: unit for unit in vars(quantities).values() if isinstance(unit, Unit)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_STEPS: Final = 3
_HEADLINE: Final = 600
_LONGEST_INLINE_URL: Final = 600
_NARROW: Final = "\u00a0"
"""No-break space: a name and its value stay on one line."""
_LINKABLE: Final = re.compile(r"[A-Za-z0-9.=-]{1,64}")


@dataclass(frozen=True, slots=True)
class Message:
    """A message for any receiver.

    `text` is the fallback that notifications on a phone show, `blocks` the message as Block Kit, `colour` a hex colour
    for receivers that have one. Slack gets no colour bar: it exists only in attachments, which Slack folds behind
    "Show more", and the first steps must not be folded away.
    """

    text: str
    blocks: tuple[Block, ...]
    colour: str


@dataclass(frozen=True, slots=True)
class _Detail:
    """How much is shown: exemplars, pairs of series and labels, characters of a value, of a step, of a URL."""

    exemplars: int
    pairs: int
    value: int
    step: int
    url: int


# Most messages fit the first; each next one is tried only when the blocks would be too long for Slack.
_WITHOUT_A_VALUE: Final = ("rule changed", "rule removed")

_DETAILS: Final = (
    _Detail(exemplars=5, pairs=10, value=120, step=240, url=3_000),
    _Detail(exemplars=5, pairs=8, value=60, step=240, url=3_000),
    _Detail(exemplars=2, pairs=6, value=40, step=160, url=2_000),
    _Detail(exemplars=0, pairs=4, value=24, step=60, url=1_000),
)


def build_message(
    transition: Transition,
    runbook: Runbook | None,
    runbook_url: str | None,
    trace_link: TraceLink | None,
    notification_id: str,
    reason: Reason | None = None,
) -> Message:
    """The message of a transition.

    `reason` is that of the notification, where it differs from what the transition says by itself (after downtime).
    `runbook_url` and trace links that are not http or https are left out.
    """
    parts = _Parts(
        transition, runbook, runbook_url, trace_link, notification_id, reason or decide(transition)
    )
    blocks = parts.blocks(_DETAILS[-1])
    for detail in _DETAILS:
        blocks = parts.blocks(detail)
        if _payload(blocks) <= MAX_PAYLOAD:
            break
    resolved = parts.reason is Reason.RESOLVED
    return Message(
        text=parts.text(),
        blocks=tuple(blocks),
        colour=_RESOLVED_COLOUR if resolved else _COLOURS[transition.severity],
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    transition: Transition
    runbook: Runbook | None
    runbook_url: str | None
    trace_link: TraceLink | None
    notification_id: str
    reason: Reason

    def text(self) -> str:
        """The fallback: what is wrong in one line."""
        title = plain(f"{self._standing()}: {self.transition.alert}", MAX_HEADER)
        # 750 units of UTF-16 are at most 2,250 bytes; `chat.update` refuses 4,000.
        return f"{title}. {plain(self._headline(), _HEADLINE)}"

    def blocks(self, detail: _Detail) -> list[Block]:
        """All blocks, what matters most first."""
        blocks = [self._header(), _section(_literal(self._headline(), min(_HEADLINE, detail.value * 5)))]
        blocks.append({"type": "section", "fields": [_mrkdwn(fact) for fact in self._facts()]})
        if pairs := self._pairs(detail):
            blocks.append(_section(_mrkdwn(pairs)))
        if self.reason is not Reason.RESOLVED:
            if calls := self._exemplars(detail):
                blocks.append(_section(_mrkdwn(calls)))
            if steps := self._first_steps(detail):
                blocks.append(_section(_mrkdwn(steps)))
        if buttons := self._buttons(detail):
            blocks.append({"type": "actions", "elements": buttons})
        blocks.append({"type": "context", "elements": [_mrkdwn(self._source())]})
        return blocks

    def _standing(self) -> str:
        severity = str(self.transition.severity)
        match self.reason:
            case Reason.RESOLVED:
                return f"Resolved after {_lasted(self.transition.at_ms - self.transition.episode_ms)}"
            case Reason.ESCALATED:
                return f"{severity.capitalize()}, raised from {self._before()}"
            case Reason.EASED:
                return f"{severity.capitalize()}, lowered from {self._before()}"
            case _:
                return f"{severity.capitalize()}, {self.transition.to_state}"

    def _before(self) -> str:
        others = [severity for severity in Severity if severity is not self.transition.severity]
        return str(self.transition.from_severity or others[0])

    def _header(self) -> Block:
        emoji = (
            _EMOJI[self.transition.severity] if self.reason is not Reason.RESOLVED else ":white_check_mark:"
        )
        start = f"{emoji} {self._standing()}: "
        alert = literal(self.transition.alert or "(no name)", MAX_HEADER - size(start))
        return {"type": "header", "text": {"type": "plain_text", "text": start + alert, "emoji": True}}

    def _headline(self) -> str:
        now = self.transition
        value, threshold = _quantity(now.value, now.unit), _quantity(now.threshold, now.unit)
        return now.summary.strip() or f"{now.measure} is {value}, {now.direction} {threshold}"

    def _facts(self) -> tuple[str, ...]:
        now = self.transition
        resolved = self.reason is Reason.RESOLVED
        value, threshold = (plain(_quantity(number, now.unit), 60) for number in (now.value, now.threshold))
        relation = f"{'' if _breaches(now) else 'no longer '}{plain(now.direction, 20)} {threshold}"
        measured = f"*{value}*, {relation}"
        if resolved and now.reason in _WITHOUT_A_VALUE:
            measured = f"{plain(now.reason, 40)}: not measured any more"
        window = plain(_span(now.window_end_ms - now.window_start_ms), 40)
        lasts = now.at_ms - (now.episode_ms if resolved else now.since_ms)
        duration = plain(_lasted(lasts), 40)
        since = _moment(now.episode_ms if resolved else now.since_ms, now.at_ms)
        return (
            f"*{plain(now.measure, 60)}*\n{measured}",
            f"*Calls in the window*\n{_bounded(f'{now.calls:,}')} in {window}",
            f"*{'Lasted' if resolved else 'Since'}*\n"
            + (f"{duration}, from {since}" if resolved else since + (f", for {duration}" if lasts else "")),
            f"*Window*\n{_moment(now.window_start_ms, now.at_ms, zone='')} to {_moment(now.window_end_ms, now.at_ms)}",
        )

    def _pairs(self, detail: _Detail) -> str:
        lines = []
        for title, pairs in (("Series", self.transition.series), ("Labels", self.transition.labels)):
            if pairs:
                shown = [code(f"{name}={value}", detail.value) for name, value in pairs[: detail.pairs]]
                lines.append(f"*{title}*  {'  '.join(shown)}{_more(len(pairs) - len(shown))}")
        return "\n".join(lines)

    def _exemplars(self, detail: _Detail) -> str:
        exemplars = self.transition.exemplars
        lines: list[str] = []
        room = MAX_SECTION - 200
        for exemplar in exemplars[: detail.exemplars]:
            line = f"{len(lines) + 1}. {self._exemplar(exemplar, detail.value)}"
            if size(line) > room:
                break
            room -= size(line) + 1
            lines.append(line)
        if not lines:
            return ""
        return "\n".join(["*Calls that show it*", *lines]) + _more(len(exemplars) - len(lines), "\n")

    def _exemplar(self, exemplar: Exemplar, limit: int) -> str:
        call = exemplar.call
        known = dict(self.transition.series)
        parts = [_moment(exemplar.at_ms, self.transition.at_ms, zone="")]
        latency = call.get("latency_ms")
        if _is_number(latency):
            parts.append(f"*{_bounded(format_quantity(latency, MILLISECONDS))}*")
        parts += [part for part in (_tokens(call), _cost(call)) if part]
        error = _inner(call, "error", "type") or _inner(call, "error", "code")
        if error is not None:
            parts.append(f"error{_NARROW}{code(str(error), limit)}")
        for name in ("model", "user"):
            # What the series says of every call is not repeated for each.
            if call.get(name) is not None and name not in known:
                parts.append(f"{name}{_NARROW}{code(str(call[name]), limit)}")
        parts.append(self._identity(exemplar, limit))
        return " · ".join(parts)

    def _identity(self, exemplar: Exemplar, limit: int) -> str:
        named = next((name for name in ("trace", "request", "id") if exemplar.call.get(name)), None)
        if named is None:
            return code(f"{exemplar.source} offset {exemplar.offset}", limit)
        value = str(exemplar.call[named])
        url = self.trace_link.url(exemplar.call) if self.trace_link is not None else None
        # An id with signs in it that Slack would read, or one too long for a line, is shown without a link.
        if url is None or len(url) > _LONGEST_INLINE_URL or not _LINKABLE.fullmatch(value):
            return f"{named}{_NARROW}{code(value, limit)}"
        return f"{named}{_NARROW}<{url.replace('&', '&amp;')}|{value}>"

    def _first_steps(self, detail: _Detail) -> str:
        if self.runbook is None or not self.runbook.first_steps:
            return ""
        steps = self.runbook.first_steps[:_FIRST_STEPS]
        lines = [f"{number}. {prose(step, detail.step)}" for number, step in enumerate(steps, 1)]
        return "\n".join([f"*First steps*  ({plain(self.runbook.title, min(detail.step, 100))})", *lines])

    def _buttons(self, detail: _Detail) -> list[Block]:
        links = []
        if self.runbook_url:
            links.append(("Runbook", safe_url(self.runbook_url)))
        if self.trace_link is not None and self.reason is not Reason.RESOLVED:
            urls = (self.trace_link.url(exemplar.call) for exemplar in self.transition.exemplars)
            links.append(("Trace", next((url for url in urls if url), None)))
        return [_button(text, url) for text, url in links if url and len(url) <= detail.url]

    def _source(self) -> str:
        rule = code(f"{self.transition.group}/{self.transition.alert}", 100)
        at = _day(self.transition.at_ms)
        return f"rule {rule} · {at} · notification {code(self.notification_id[:12], 20)}"


def _breaches(transition: Transition) -> bool:
    above = transition.value > transition.threshold
    return above if transition.direction == Direction.ABOVE else transition.value < transition.threshold


def _payload(blocks: Sequence[Block]) -> int:
    return len(json.dumps(blocks))


def _section(text: Block) -> Block:
    return {"type": "section", "text": text}


def _literal(text: str, limit: int) -> Block:
    # plain_text: Slack formats nothing in it, so a headline with other people's names in it shows them as they are.
    return {"type": "plain_text", "text": literal(text, limit) or "(no summary)", "emoji": False}


def _mrkdwn(text: str) -> Block:
    # verbatim: Slack adds no links and mentions of its own to what it finds in the text.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _button(text: str, url: str) -> Block:
    return {
        "type": "button",
        "text": {"type": "plain_text", "text": text, "emoji": False},
        "url": url,
        "action_id": f"open_{text.lower()}",
    }


def _more(count: int, before: str = "  ") -> str:
    return f"{before}+{count} more" if count > 0 else ""


def _quantity(value: float, unit_name: str) -> str:
    unit = _UNITS.get(unit_name)
    if unit is None or not math.isfinite(value):
        return f"{value:g} {unit_name}".strip()
    return format_quantity(value, unit)


def _span(milliseconds: int) -> str:
    return format_window(milliseconds) if milliseconds >= 0 else f"{milliseconds} ms"


def _lasted(milliseconds: int) -> str:
    return format_duration(max(milliseconds, 0))


def _moment(at_ms: int, near_ms: int, zone: str = " UTC") -> str:
    """Time of day, with the day where it is another one than that of the message."""
    at, near = _utc(at_ms), _utc(near_ms)
    if at is None or near is None:
        return f"{at_ms} ms"
    return f"{at:%H:%M:%S}{zone}" if at.date() == near.date() else f"{at:%Y-%m-%d %H:%M:%S}{zone}"


def _day(at_ms: int) -> str:
    at = _utc(at_ms)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else f"{at_ms} ms"


def _utc(at_ms: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return None


def _tokens(call: Mapping[str, object]) -> str:
    counts = [(name, _inner(call, "tokens", name)) for name in ("input", "output")]
    shown = [f"{_bounded(f'{count:,}')}{_NARROW}{name}" for name, count in counts if isinstance(count, int)]
    return f"tokens{_NARROW}{f' +{_NARROW}'.join(shown)}" if shown else ""


def _cost(call: Mapping[str, object]) -> str:
    cost = call.get("cost_usd")
    if not _is_number(cost) or abs(cost) > 1e12:
        return ""
    return _bounded(format_money(int(Decimal(str(cost)) * NANODOLLARS_PER_DOLLAR)))


def _inner(call: Mapping[str, object], name: str, key: str) -> object:
    """`call[name][key]`, also where the call is flat: `name.key`."""
    inner = call.get(name)
    value = inner.get(key) if isinstance(inner, Mapping) else call.get(f"{name}.{key}")
    return None if value == "" else value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bounded(text: str) -> str:
    return plain(text, 40)

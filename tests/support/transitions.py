"""Builders of transitions and notifications for tests of the notifiers."""

from __future__ import annotations

from typing import Any

from notifiers.notification import Notification, Reason, notification_id
from notifiers.runbook import Runbook
from rules.rule import Severity
from rules.transition import Exemplar, State, Transition, transition_id

AT = 1_790_856_300_000  # 2026-10-01 12:05:00 UTC
MINUTE = 60_000


def exemplar(number: int = 1, **call: Any) -> Exemplar:
    fields = {"id": f"call-{number}", "trace": f"4bf92f35{number:04d}", "user": "ana", "latency_ms": 12_400.0}
    return Exemplar(AT - 9_000 * number, "llm.calls/0", number, 12_400_000, fields | call)


def transition(
    to: State = State.FIRING, severity: Severity = Severity.CRITICAL, *, at: int = AT, **changes: Any
) -> Transition:
    series = changes.pop("series", (("feature", "chat"),))
    fields: dict[str, Any] = {
        "id": transition_id("chat/AnswersSlowly", series, at, to, severity),
        "at_ms": at,
        "group": "chat",
        "alert": "AnswersSlowly",
        "severity": severity,
        "series": series,
        "from_state": State.FIRING if to is State.RESOLVED else State.PENDING,
        "to_state": to,
        "from_severity": None,
        "measure": "latency.p95",
        "value": 6_140.0,
        "unit": "ms",
        "threshold": 5_000,
        "direction": "above",
        "window_start_ms": at - 5 * MINUTE,
        "window_end_ms": at,
        "calls": 1_234,
        "since_ms": at - 2 * MINUTE,
        "episode_ms": AT - 2 * MINUTE,
        "labels": (("team", "growth"),),
        "runbook": "latency-high",
        "summary": "P95 of chat is 6.14 s (budget 5 s)",
        "reason": "breached",
        "exemplars": (),
    }
    return Transition(**(fields | changes))


def notification(number: int = 1, receiver: str = "oncall", reason: Reason = Reason.FIRST) -> Notification:
    change = transition(at=AT + number * MINUTE)
    return Notification(notification_id(change.id, receiver), receiver, change, reason)


def runbook(*steps: str) -> Runbook:
    return Runbook(
        name="latency-high",
        title="Latency P95 or P99 high",
        alerts=("AnswersSlowly",),
        severity="critical",
        owner="llm",
        first_steps=steps or ("Look at the queue stage.", "Lower `max_tokens`.", "Fail over."),
        sections={},
    )

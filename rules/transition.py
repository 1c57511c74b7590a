"""Transitions: one change of one alert, complete enough to be routed, rendered and explained on its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rules.rule import Severity


class State(StrEnum):
    """Where an alert stands. `resolved` becomes `inactive` without a transition of its own."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A real call that shows the breach.

    `source` and `offset` say where it lies (`topic/partition`, or the file and its line number). `call` holds the
    fields of the event worth showing, by their names in docs/events.md (never texts of prompts or answers).
    """

    at_ms: int
    source: str
    offset: int
    value: int
    call: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of one alert.

    `at_ms` is the tick. `value` and `threshold` are in `unit`'s base. The window is [start, end). `calls` is the sample
    that the value was computed from. `episode` is the tick at which the alert left `inactive`; `since_ms` the tick
    from which the condition has held. `labels` are the rule's own.
    """

    id: str
    at_ms: int
    group: str
    alert: str
    severity: Severity
    series: tuple[tuple[str, str], ...]
    from_state: State
    to_state: State
    from_severity: Severity | None
    measure: str
    value: float
    unit: str
    threshold: float
    direction: str
    window_start_ms: int
    window_end_ms: int
    calls: int
    since_ms: int
    episode_ms: int
    labels: tuple[tuple[str, str], ...]
    runbook: str
    summary: str
    reason: str
    exemplars: tuple[Exemplar, ...] = ()

    @property
    def alert_id(self) -> str:
        """The same for every transition of one alert (one series of one rule), across episodes."""
        return _digest(self.group, self.alert, *(part for pair in self.series for part in pair))

    def matching_labels(self) -> dict[str, str]:
        """What routes match on: the rule's labels, the series, `alert`, `group` and `severity`."""
        own = dict(self.labels) | dict(self.series)
        return own | {"alert": self.alert, "group": self.group, "severity": str(self.severity)}


def transition_id(
    rule: str, series: tuple[tuple[str, str], ...], tick_ms: int, to: State, severity: Severity
) -> str:
    """Hash of what happened, so that a repeated computation gives the same id. 32 hex digits."""
    return _digest(rule, *(part for pair in series for part in pair), str(tick_ms), to, severity)


def _digest(*parts: str) -> str:
    # Length before each part: no two lists of parts read alike.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

"""What the demo has seen of the alerts: how many fired and resolved, and which fire now. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rules.rule import Severity
from rules.transition import State, Transition


@dataclass(frozen=True, slots=True)
class FiringAlert:
    """An alert that fires: its rule, its series by dimension, and since when (epoch ms)."""

    alert: str
    severity: Severity
    series: tuple[tuple[str, str], ...]
    since_ms: int


class AlertsSeen:
    """Counts of transitions, and the alerts that fire. Its size is that of the alerts that fire."""

    def __init__(self) -> None:
        self.transitions = 0
        self.fired = 0
        self.resolved = 0
        self.first_firing_seconds: float | None = None
        self._firing: dict[str, FiringAlert] = {}

    def take(self, transition: Transition, seconds: float) -> None:
        """Take in a transition that came `seconds` after the start. A change of severity is not a new firing."""
        self.transitions += 1
        if transition.to_state is State.FIRING:
            if transition.from_state is not State.FIRING:
                self.fired += 1
                if self.first_firing_seconds is None:
                    self.first_firing_seconds = round(seconds, 1)
            self._firing[transition.alert_id] = FiringAlert(
                transition.alert, transition.severity, transition.series, transition.since_ms
            )
        elif transition.to_state is State.RESOLVED:
            self.resolved += 1
            self._firing.pop(transition.alert_id, None)

    @property
    def firing(self) -> list[FiringAlert]:
        """The alerts that fire, the longest first."""
        return sorted(self._firing.values(), key=lambda alert: (alert.since_ms, alert.alert))

    def summary(self) -> dict[str, Any]:
        """The counts by name."""
        return {
            "transitions": self.transitions,
            "fired": self.fired,
            "resolved": self.resolved,
            "firing": len(self._firing),
            "first_firing_seconds": self.first_firing_seconds,
        }

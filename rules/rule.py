"""Rules as the engine runs them: what the YAML says, checked and in base units. No running state."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property

from rules.labels import Matcher, Series
from rules.measures import Measure
from rules.quantities import MINUTE, SECOND
from rules.view import View

PANE_MS = SECOND
"""Width of a pane at ingest."""
TIERS_MS = (SECOND, 10 * SECOND, 5 * MINUTE)
"""Widths of the panes that windows are summed from."""
LONGEST_TICK_MS = MINUTE
LONG_WINDOW_MS = 300 * MINUTE
"""Windows above this tick every five minutes, so that their ends lie on the widest tier and nothing is inexact."""


class Severity(StrEnum):
    """How bad; an order, from warning to critical."""

    WARNING = "warning"
    CRITICAL = "critical"


class Direction(StrEnum):
    """Which side of the threshold is the breach."""

    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True, slots=True)
class Levels:
    """The threshold of each severity in the measure's base unit; None where a severity has none."""

    warning: float | None = None
    critical: float | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition: the measure lies above or below a level, which may depend on one dimension's value."""

    direction: Direction
    default: Levels
    by: str | None = None
    of: tuple[tuple[str, Levels], ...] = ()

    def levels(self, dimensions: tuple[str, ...], series: Series) -> Levels:
        """The levels for one series."""
        if self.by is None:
            return self.default
        return dict(self.of).get(series[dimensions.index(self.by)], self.default)


@dataclass(frozen=True)
class Rule:
    """One alerting rule. Durations are whole milliseconds; thresholds are in the measure's base unit."""

    group: str
    alert: str
    measure: Measure
    window_ms: int
    threshold: Threshold
    where: tuple[Matcher, ...] = ()
    by: tuple[str, ...] = ()
    for_ms: int = 0
    keep_firing_for_ms: int = 0
    min_calls: int = 0
    runbook: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    summary: str | None = None

    @property
    def name(self) -> str:
        """`group/alert`, unique in a rule set."""
        return f"{self.group}/{self.alert}"

    @cached_property
    def view(self) -> View:
        """What this rule needs of the calls."""
        return View(where=self.where, by=self.by, fields=self.measure.fields, source=self.measure.source)

    @cached_property
    def tick_ms(self) -> int:
        """Event time between two evaluations."""
        return tick_ms(self.window_ms)


@dataclass(frozen=True)
class RuleSet:
    """The rules in force together, and a hash of their meaning (comments, order of keys and white space are none)."""

    rules: tuple[Rule, ...]

    @cached_property
    def hash(self) -> str:
        """16 hex digits of BLAKE2b over the rules in order of name."""
        meaning = [asdict(rule) for rule in sorted(self.rules, key=lambda rule: rule.name)]
        text = json.dumps(meaning, separators=(",", ":"), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Each distinct view once, in order of hash."""
        views = {rule.view.hash: rule.view for rule in self.rules}
        return tuple(views[key] for key in sorted(views))


def tick_ms(window_ms: int) -> int:
    """Window / 60, from 1 s to 60 s in whole seconds (tens from 10 s); 5 min for windows of more than 5 h."""
    if window_ms > LONG_WINDOW_MS:
        return TIERS_MS[-1]
    tick = min(max(window_ms // 60 // SECOND * SECOND, SECOND), LONGEST_TICK_MS)
    return tick if tick < TIERS_MS[1] else tick // TIERS_MS[1] * TIERS_MS[1]


def tier_ms(window_ms: int) -> int:
    """Width of the panes a window is summed from: the widest tier that divides its tick."""
    tick = tick_ms(window_ms)
    return max(tier for tier in TIERS_MS if tick % tier == 0)

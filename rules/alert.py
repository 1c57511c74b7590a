"""The alert state machine: inactive, pending, firing, resolved, with a timer of its own for each severity.

Each severity behaves as a rule of its own with the same `for` and `keep_firing_for`; the alert shows the worst one that
fires. A short spike into the critical range therefore pages nobody, and a breach that grows is an update of the same
alert, never a second one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rules.rule import Severity
from rules.transition import State


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations that govern an alert, in milliseconds of event time."""

    for_ms: int
    keep_firing_for_ms: int
    window_ms: int


@dataclass(frozen=True, slots=True)
class Spell:
    """One severity's condition over time: since when it has held, when it last held, and whether it fires."""

    since_ms: int | None = None
    last_true_ms: int | None = None
    firing: bool = False

    def advance(self, breached: bool | None, tick_ms: int, timing: Timing) -> Spell:
        """The spell after a tick; `breached` is None when the tick could not decide (too few calls, no data)."""
        unseen_ms = 0 if self.last_true_ms is None else tick_ms - self.last_true_ms
        # Undecided ticks in between do not restart `for` while windows still overlap; after a longer gap nobody knows
        # whether the condition held, so a spell that does not fire yet is over. One that fires waits for a decision.
        known = self if self.firing or unseen_ms <= timing.window_ms else Spell()
        if breached is None:
            return known
        if not breached:
            return known if known.firing and unseen_ms < timing.keep_firing_for_ms else Spell()
        since = tick_ms if known.since_ms is None else known.since_ms
        return Spell(since, tick_ms, known.firing or tick_ms - since >= timing.for_ms)


@dataclass(frozen=True, slots=True)
class Alert:
    """Where one series of one rule stands. `episode_ms` is the tick at which it left `inactive`."""

    state: State = State.INACTIVE
    severity: Severity | None = None
    episode_ms: int | None = None
    warning: Spell = field(default_factory=Spell)
    critical: Spell = field(default_factory=Spell)


@dataclass(frozen=True, slots=True)
class Change:
    """A step that is a transition: the states and severities before and after, and a reason in words."""

    from_state: State
    to_state: State
    from_severity: Severity | None
    severity: Severity
    episode_ms: int
    since_ms: int
    reason: str


def advance(
    alert: Alert, warning: bool | None, critical: bool | None, tick_ms: int, timing: Timing
) -> tuple[Alert, Change | None]:
    """The alert after a tick, and the transition if there is one.

    `warning` and `critical` say whether that severity's level is breached; None is undecided, which changes nothing
    but that a pending alert ends once it has been undecided for longer than its window.
    """
    spells = {
        Severity.WARNING: alert.warning.advance(warning, tick_ms, timing),
        Severity.CRITICAL: alert.critical.advance(critical, tick_ms, timing),
    }
    before = State.INACTIVE if alert.state is State.RESOLVED else alert.state
    firing = _worst({severity for severity, spell in spells.items() if spell.firing})
    held = _worst({severity for severity, spell in spells.items() if spell.since_ms is not None})
    if before is State.FIRING and firing is None:
        state, severity = State.RESOLVED, alert.severity
        spells = dict.fromkeys(spells, Spell())
    elif firing is not None:
        state, severity = State.FIRING, firing
    elif held is not None:
        state, severity = State.PENDING, held
    else:
        state, severity = State.INACTIVE, alert.severity if before is State.PENDING else None
    episode = alert.episode_ms if before is not State.INACTIVE and alert.episode_ms is not None else tick_ms
    unchanged = state is before and (state is not State.FIRING or severity is alert.severity)
    warned, critically = spells[Severity.WARNING], spells[Severity.CRITICAL]
    after = Alert() if state is State.INACTIVE else Alert(state, severity, episode, warned, critically)
    if unchanged or severity is None:
        return after, None
    held_since = [spell.since_ms for spell in spells.values() if spell.since_ms is not None]
    change = Change(
        from_state=before,
        to_state=state,
        from_severity=alert.severity if before is not State.INACTIVE else None,
        severity=severity,
        episode_ms=episode,
        since_ms=min(held_since, default=episode),
        reason=_reason(before, state, severity, decided=warning is not None or critical is not None),
    )
    return after, change


def _worst(severities: set[Severity]) -> Severity | None:
    if Severity.CRITICAL in severities:
        return Severity.CRITICAL
    return Severity.WARNING if severities else None


def _reason(before: State, after: State, severity: Severity, *, decided: bool) -> str:
    if after is State.RESOLVED:
        return "recovered"
    if after is State.INACTIVE:
        return "recovered before it fired" if decided else "too few calls to decide whether it goes on"
    if after is State.PENDING:
        return "breached, waiting for its duration"
    if before is State.FIRING:
        return "escalated" if severity is Severity.CRITICAL else "eased"
    return "breached"

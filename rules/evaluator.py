"""Evaluating rules at a tick: windows' totals and the alerts so far in, transitions and the alerts after out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from rules.alert import Alert, Change, Timing, advance
from rules.labels import Series
from rules.quantities import format_quantity, format_window
from rules.reading import Bools, Floats, Ints, Readings, Totals, comparable, is_zero_of_nothing, read
from rules.rule import Direction, Levels, Rule, Severity
from rules.template import Summary, TemplateError, default_summary
from rules.transition import Exemplar, State, Transition, transition_id

EXEMPLARS = 5
"""Real calls shown with a transition."""


@dataclass(slots=True)
class RuleState:
    """The running state of one rule on one shard: alerts that are not inactive, by series."""

    alerts: dict[Series, Alert] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one tick of one rule gave."""

    transitions: tuple[Transition, ...] = ()
    summary_errors: int = 0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Levels of every row in the scale of `Readings.compared`: float64[rows], NaN where a severity has none."""

    warning: Floats
    critical: Floats


def evaluate(
    rule: Rule, state: RuleState, totals: Totals, tick_ms: int, thresholds: Thresholds
) -> Evaluation:
    """Advance every alert of the rule to the tick; changes `state`.

    `totals` is the window [tick - window, tick) of the rule's view. Only rows that breach, and alerts that are not
    inactive, cost Python time.
    """
    readings = read(rule.measure, totals, rule.window_ms)
    decided = readings.defined & (readings.sample >= rule.min_calls)
    warning = _breached(rule, readings, thresholds.warning)
    critical = _breached(rule, readings, thresholds.critical)
    rows = {int(row) for row in np.flatnonzero(decided & (warning | critical))}
    series_of = totals.series
    by_series = {series_of[row]: row for row in rows}
    if state.alerts:
        position = {series: row for row, series in enumerate(series_of)}
        by_series |= {series: position.get(series, -1) for series in state.alerts}
    transitions, errors = [], 0
    timing = Timing(rule.for_ms, rule.keep_firing_for_ms, rule.window_ms)
    for series in sorted(by_series):
        row = by_series[series]
        if row < 0:
            warns, is_critical = _without_calls(rule, series)
        else:
            warns = bool(warning[row]) if decided[row] and not np.isnan(thresholds.warning[row]) else None
            is_critical = (
                bool(critical[row]) if decided[row] and not np.isnan(thresholds.critical[row]) else None
            )
        alert, change = advance(state.alerts.get(series, Alert()), warns, is_critical, tick_ms, timing)
        if alert.state is State.INACTIVE or alert.state is State.RESOLVED:
            state.alerts.pop(series, None)
        else:
            state.alerts[series] = alert
        if change is not None:
            breached = warning if change.severity is Severity.WARNING else critical
            seen = _Seen(readings, totals, row, bool(breached[row])) if row >= 0 else None
            transition, failed = _transition(rule, series, change, tick_ms, seen)
            transitions.append(transition)
            errors += failed
    return Evaluation(tuple(transitions), errors)


def close(rule: Rule, state: RuleState, tick_ms: int, reason: str) -> list[Transition]:
    """End every alert of a rule that no longer holds; firing ones resolve with the reason. Empties `state`."""
    transitions = []
    for series, alert in sorted(state.alerts.items(), key=lambda item: item[0]):
        if alert.state is State.FIRING and alert.severity is not None:
            episode = tick_ms if alert.episode_ms is None else alert.episode_ms
            change = Change(
                State.FIRING, State.RESOLVED, alert.severity, alert.severity, episode, episode, reason
            )
            transitions.append(_transition(rule, series, change, tick_ms, None)[0])
    state.alerts.clear()
    return transitions


def thresholds(rule: Rule, totals: Totals) -> Thresholds:
    """The rule's levels for every row of the totals. Depends on the series only: keep it while they stay the same."""

    def column(pick: Callable[[Levels], float | None]) -> Floats:
        known: dict[Levels, float] = {}
        values = []
        for levels in of_row:
            if levels not in known:
                level = pick(levels)
                known[levels] = np.nan if level is None else comparable(rule.measure, totals, level)
            values.append(known[levels])
        return np.array(values, dtype=np.float64)

    of_row = [
        rule.threshold.levels(rule.by, series) if series or not rule.by else Levels()
        for series in totals.series
    ]
    return Thresholds(column(lambda levels: levels.warning), column(lambda levels: levels.critical))


def _breached(rule: Rule, readings: Readings, level: Floats) -> Bools:
    # NaN compares false on both sides, so a row without a level never breaches.
    if rule.threshold.direction is Direction.ABOVE:
        return np.asarray(readings.compared > level)
    return np.asarray(readings.compared < level)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a window holds of one series at a tick, and whether its value breaches the level that is reported."""

    readings: Readings
    totals: Totals
    row: int
    breached: bool


def _without_calls(rule: Rule, series: Series) -> tuple[bool | None, bool | None]:
    """Whether a series that the window does not know breaches its levels: a count or sum of nothing is 0."""
    if rule.min_calls or not is_zero_of_nothing(rule.measure):
        return None, None
    levels, below = rule.threshold.levels(rule.by, series), rule.threshold.direction is Direction.BELOW
    warns, is_critical = (
        None if level is None else (level > 0 if below else level < 0)
        for level in (levels.warning, levels.critical)
    )
    return warns, is_critical


def _transition(
    rule: Rule, series: Series, change: Change, tick_ms: int, seen: _Seen | None
) -> tuple[Transition, int]:
    """The transition of a change; `seen` is None where the windows hold nothing of the series."""
    named = tuple(zip(rule.by, series, strict=True))
    levels = rule.threshold.levels(rule.by, series)
    level = levels.critical if change.severity is Severity.CRITICAL else levels.warning
    threshold = level if level is not None else 0
    value: float = 0
    calls = 0
    exemplars: tuple[Exemplar, ...] = ()
    if seen is not None:
        value, calls = _number(seen.readings.value, seen.row), int(seen.readings.sample[seen.row])
        if change.to_state in (State.PENDING, State.FIRING):
            exemplars = seen.totals.exemplars(seen.row, rule.measure.exemplar, EXEMPLARS)
    values = dict(named) | {
        "value": format_quantity(value, rule.measure.unit),
        "threshold": format_quantity(threshold, rule.measure.unit),
        "window": format_window(rule.window_ms),
        "calls": f"{calls:,}",
        "severity": str(change.severity),
        "alert": rule.alert,
        "measure": rule.measure.name,
    }
    breached = seen is not None and seen.breached
    summary, failed = _summary(rule, series, values, breached=breached)
    return Transition(
        id=transition_id(rule.name, named, tick_ms, change.to_state, change.severity),
        at_ms=tick_ms,
        group=rule.group,
        alert=rule.alert,
        severity=change.severity,
        series=named,
        from_state=change.from_state,
        to_state=change.to_state,
        from_severity=change.from_severity,
        measure=rule.measure.name,
        value=value,
        unit=rule.measure.unit.name,
        threshold=threshold,
        direction=rule.threshold.direction,
        window_start_ms=tick_ms - rule.window_ms,
        window_end_ms=tick_ms,
        calls=calls,
        since_ms=change.since_ms,
        episode_ms=change.episode_ms,
        labels=rule.labels,
        runbook=rule.runbook,
        summary=summary,
        reason=change.reason,
        exemplars=exemplars,
    ), failed


def _number(values: Ints | Floats, row: int) -> float:
    """The value of a row as a Python number."""
    value = values[row].item()
    return value if isinstance(value, int) else round(value, 6)


def _summary(rule: Rule, series: Series, values: dict[str, str], *, breached: bool) -> tuple[str, int]:
    """The rule's summary filled in, and 1 if its template failed: an alert is never lost to its wording."""
    failed = 0
    if rule.summary is not None:
        try:
            return _compiled(rule.summary).render(values), 0
        except TemplateError:
            failed = 1
    # What has recovered must not read as if it were still beyond its threshold.
    relation = str(rule.threshold.direction) if breached else f"no longer {rule.threshold.direction}"
    return default_summary(values, relation, series), failed


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Summary:
    return Summary.compile(source)

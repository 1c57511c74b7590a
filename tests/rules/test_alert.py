"""The alert state machine, driven by strips of ticks.

A strip has one character per tick of ten seconds: `.` is within both levels, `w` beyond the warning level, `c` beyond
both, `?` undecided, and a blank is a tick that was never evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.alert import Alert, Change, Timing, advance
from rules.rule import Severity
from rules.transition import State

STEP = 10_000
FIRST = 1_790_000_000_000
VERDICTS = {".": (False, False), "w": (True, False), "c": (True, True), "?": (None, None)}

INACTIVE, PENDING, FIRING, RESOLVED = State.INACTIVE, State.PENDING, State.FIRING, State.RESOLVED
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL


@dataclass(frozen=True)
class Run:
    """What a strip led to: changes with the number of their tick, and the alert after each tick."""

    changes: list[tuple[int, Change]]
    alerts: list[Alert]

    @property
    def steps(self) -> list[tuple[int, State, State, Severity]]:
        return [(tick, each.from_state, each.to_state, each.severity) for tick, each in self.changes]


def run(strip: str, *, for_ticks: int = 0, keep_ticks: int = 0, window_ticks: int = 30) -> Run:
    timing = Timing(for_ticks * STEP, keep_ticks * STEP, window_ticks * STEP)
    alert, changes, alerts = Alert(), [], []
    for tick, sign in enumerate(strip):
        if sign != " ":
            alert, change = advance(alert, *VERDICTS[sign], FIRST + tick * STEP, timing)
            alerts.append(alert)
            if change is not None:
                changes.append((tick, change))
    return Run(changes, alerts)


def test_without_a_breach_nothing_ever_happens():
    assert run("...?..? ..?").steps == []


def test_without_for_the_first_breached_tick_fires():
    assert run("..w").steps == [(2, INACTIVE, FIRING, WARNING)]


def test_the_alert_is_pending_until_the_breach_has_held_for_the_whole_duration():
    assert run("wwwww", for_ticks=3).steps == [(0, INACTIVE, PENDING, WARNING), (3, PENDING, FIRING, WARNING)]


def test_a_for_that_is_no_multiple_of_the_tick_fires_at_the_first_tick_after_it():
    timing = Timing(for_ms=25_000, keep_firing_for_ms=0, window_ms=300_000)
    alert, states = Alert(), []
    for tick in range(4):
        alert, _ = advance(alert, True, None, FIRST + tick * STEP, timing)
        states.append(alert.state)
    assert states == [PENDING, PENDING, PENDING, FIRING]


def test_one_tick_within_the_threshold_starts_for_anew():
    assert run("ww.www.wwww", for_ticks=3).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (2, PENDING, INACTIVE, WARNING),
        (3, INACTIVE, PENDING, WARNING),
        (6, PENDING, INACTIVE, WARNING),
        (7, INACTIVE, PENDING, WARNING),
        (10, PENDING, FIRING, WARNING),
    ]


def test_a_firing_alert_resolves_at_the_first_decided_tick_within_the_threshold():
    assert run("ww.").steps == [(0, INACTIVE, FIRING, WARNING), (2, FIRING, RESOLVED, WARNING)]


def test_a_breach_that_goes_on_for_a_thousand_ticks_is_one_transition():
    assert run("c" * 1_000).steps == [(0, INACTIVE, FIRING, CRITICAL)]


def test_a_breach_after_the_end_of_an_episode_fires_again_as_a_new_episode():
    result = run("w.w.")
    assert [tick for tick, _ in result.changes] == [0, 1, 2, 3]
    assert [change.episode_ms for _, change in result.changes] == [FIRST] * 2 + [FIRST + 2 * STEP] * 2
    assert result.changes[2][1].from_state is INACTIVE
    assert result.changes[2][1].from_severity is None


def test_warning_fires_first_and_escalates_when_critical_itself_has_held_for_the_duration():
    assert run("wwwwwccccc", for_ticks=3).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (3, PENDING, FIRING, WARNING),
        (8, FIRING, FIRING, CRITICAL),
    ]


def test_without_for_a_breach_that_grows_from_warning_to_critical_is_one_update_of_the_same_alert():
    result = run("wwcc")
    assert result.steps == [(0, INACTIVE, FIRING, WARNING), (2, FIRING, FIRING, CRITICAL)]
    escalation = result.changes[1][1]
    assert (escalation.from_severity, escalation.episode_ms, escalation.since_ms) == (WARNING, FIRST, FIRST)


def test_a_spike_into_the_critical_range_shorter_than_for_does_not_escalate():
    assert run("wwwwccwccwww", for_ticks=3).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (3, PENDING, FIRING, WARNING),
    ]


def test_a_breach_that_is_critical_from_the_start_fires_once_as_critical():
    assert run("ccccc", for_ticks=2).steps == [
        (0, INACTIVE, PENDING, CRITICAL),
        (2, PENDING, FIRING, CRITICAL),
    ]


def test_a_pending_alert_that_grows_from_warning_to_critical_makes_no_second_transition():
    assert run("wcc", for_ticks=9).steps == [(0, INACTIVE, PENDING, WARNING)]


def test_an_alert_that_falls_from_critical_to_warning_eases_and_stays_the_same_alert():
    result = run("ccww.")
    assert result.steps == [
        (0, INACTIVE, FIRING, CRITICAL),
        (2, FIRING, FIRING, WARNING),
        (4, FIRING, RESOLVED, WARNING),
    ]
    assert result.changes[1][1].from_severity is CRITICAL
    assert {change.episode_ms for _, change in result.changes} == {FIRST}


def test_an_alert_that_falls_from_critical_to_good_resolves_as_critical_in_one_step():
    assert run("cc.").steps == [(0, INACTIVE, FIRING, CRITICAL), (2, FIRING, RESOLVED, CRITICAL)]


def test_an_alert_with_a_critical_level_only_is_never_a_warning():
    timing = Timing(0, 0, 300_000)
    alert, change = advance(Alert(), None, True, FIRST, timing)
    assert change is not None
    assert change.severity is CRITICAL
    alert, change = advance(alert, None, False, FIRST + STEP, timing)
    assert change is not None
    assert (change.to_state, change.severity) == (RESOLVED, CRITICAL)


def test_keep_firing_for_holds_the_alert_until_the_breach_has_been_over_for_that_long():
    assert run("ww.....", keep_ticks=3).steps == [
        (0, INACTIVE, FIRING, WARNING),
        (4, FIRING, RESOLVED, WARNING),
    ]


def test_a_breach_within_keep_firing_for_goes_on_with_the_same_episode_in_silence():
    result = run("w..w..w...", keep_ticks=3)
    assert result.steps == [(0, INACTIVE, FIRING, WARNING), (9, FIRING, RESOLVED, WARNING)]


def test_keep_firing_for_holds_the_severity_too():
    assert run("cwwwww", keep_ticks=3).steps == [
        (0, INACTIVE, FIRING, CRITICAL),
        (3, FIRING, FIRING, WARNING),
    ]


def test_keep_firing_for_does_not_keep_a_pending_alert():
    assert run("ww.", for_ticks=5, keep_ticks=5).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (2, PENDING, INACTIVE, WARNING),
    ]


def test_undecided_ticks_never_resolve_a_firing_alert_however_many_there_are():
    assert run("w" + "?" * 500, window_ticks=6).steps == [(0, INACTIVE, FIRING, WARNING)]


def test_undecided_ticks_do_not_resolve_an_alert_that_keep_firing_for_holds():
    assert run("w.????????", keep_ticks=3).steps == [(0, INACTIVE, FIRING, WARNING)]


def test_after_undecided_ticks_a_firing_alert_resolves_at_the_first_good_tick():
    assert run("w????.").steps[-1] == (5, FIRING, RESOLVED, WARNING)


def test_undecided_ticks_never_start_an_alert():
    assert run("?" * 50).steps == []


def test_undecided_ticks_in_between_do_not_restart_for():
    assert run("w?ww?w", for_ticks=5).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (5, PENDING, FIRING, WARNING),
    ]


def test_undecided_ticks_alone_do_not_complete_for():
    assert run("w???????w", for_ticks=3).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (8, PENDING, FIRING, WARNING),
    ]


def test_b17_a_skipped_tick_changes_nothing_for_a_pending_or_firing_alert():
    """Prometheus: an evaluation that was skipped resolved the alert."""
    assert run("w ww w", for_ticks=3).steps == [
        (0, INACTIVE, PENDING, WARNING),
        (3, PENDING, FIRING, WARNING),
    ]
    assert run("ww    w.").steps == [(0, INACTIVE, FIRING, WARNING), (7, FIRING, RESOLVED, WARNING)]


def test_a_gap_as_long_as_the_window_does_not_restart_for():
    assert run("w      w", for_ticks=7, window_ticks=7).steps[-1] == (7, PENDING, FIRING, WARNING)


def test_a_gap_longer_than_the_window_restarts_for():
    result = run("w       www", for_ticks=2, window_ticks=7)
    assert result.steps == [(0, INACTIVE, PENDING, WARNING), (10, PENDING, FIRING, WARNING)]
    assert result.changes[-1][1].since_ms == FIRST + 8 * STEP


def test_a_gap_longer_than_the_window_does_not_end_a_firing_alert():
    result = run("w        w.", window_ticks=3)
    assert result.steps == [(0, INACTIVE, FIRING, WARNING), (10, FIRING, RESOLVED, WARNING)]


def test_a_pending_alert_ends_once_it_has_been_undecided_for_longer_than_its_window():
    result = run("w?????ww", for_ticks=6, window_ticks=3)
    assert result.steps == [
        (0, INACTIVE, PENDING, WARNING),
        (4, PENDING, INACTIVE, WARNING),
        (6, INACTIVE, PENDING, WARNING),
    ]
    assert result.changes[1][1].reason == "too few calls to decide whether it goes on"


def test_each_kind_of_change_has_its_reason():
    reasons = [change.reason for _, change in run("w.wwcccc.", for_ticks=1).changes]
    assert reasons == [
        "breached, waiting for its duration",
        "recovered before it fired",
        "breached, waiting for its duration",
        "breached",
        "escalated",
        "recovered",
    ]
    assert run("cw").changes[1][1].reason == "eased"


def test_since_is_the_tick_from_which_the_condition_has_held():
    result = run("w.wwww.", for_ticks=3)
    assert [change.since_ms for _, change in result.changes] == [
        FIRST,
        FIRST,
        FIRST + 2 * STEP,
        FIRST + 2 * STEP,
        FIRST + 2 * STEP,
    ]


def test_an_inactive_alert_remembers_nothing_of_a_breach_that_never_fired():
    assert run("ww.", for_ticks=5).alerts[-1] == Alert()


def test_the_state_is_a_value_so_an_alert_restored_from_it_goes_on_as_if_nothing_had_happened():
    timing = Timing(3 * STEP, 2 * STEP, 30 * STEP)
    alert, _ = advance(Alert(), True, False, FIRST, timing)
    for later in (1, 2, 3):
        restored = Alert(alert.state, alert.severity, alert.episode_ms, alert.warning, alert.critical)
        assert advance(restored, True, False, FIRST + later * STEP, timing) == advance(
            alert, True, False, FIRST + later * STEP, timing
        )


strips = st.text(alphabet=".wc? ", max_size=60)
durations = st.integers(0, 8)


@given(strips, durations, durations, st.integers(1, 8))
def test_transitions_join_up_and_an_episode_keeps_its_id_and_resolves_at_most_once(
    strip, for_ticks, keep_ticks, window_ticks
):
    state, severity, episode = INACTIVE, None, None
    result = run(strip, for_ticks=for_ticks, keep_ticks=keep_ticks, window_ticks=window_ticks)
    for tick, change in result.changes:
        assert change.from_state is state
        assert (change.to_state, change.severity) != (state, severity)
        if state is INACTIVE:
            assert change.from_severity is None
            episode = change.episode_ms
            assert episode == FIRST + tick * STEP
        assert change.episode_ms == episode
        assert episode <= change.since_ms <= FIRST + tick * STEP
        assert (change.to_state is RESOLVED) == (
            change.from_state is FIRING and change.to_state is not FIRING
        )
        over = change.to_state in (RESOLVED, INACTIVE)
        state, severity = (INACTIVE, None) if over else (change.to_state, change.severity)


@given(strips, durations, durations, st.integers(1, 8))
def test_at_every_tick_the_alert_stands_where_the_definition_of_its_words_puts_it(
    strip, for_ticks, keep_ticks, window_ticks
):
    ticks = [tick for tick, sign in enumerate(strip) if sign != " "]
    result = run(strip, for_ticks=for_ticks, keep_ticks=keep_ticks, window_ticks=window_ticks)
    for number, tick in enumerate(ticks):
        seen = [(at, strip[at]) for at in ticks[: number + 1]]
        fires = {
            severity: is_firing(seen, signs, for_ticks, keep_ticks, window_ticks)
            for severity, signs in ((WARNING, "wc"), (CRITICAL, "c"))
        }
        alert = result.alerts[number]
        assert (alert.state is FIRING) == any(fires.values())
        if alert.state is FIRING:
            assert alert.severity is (CRITICAL if fires[CRITICAL] else WARNING)
        held = [at for at, sign in seen if sign in "wc"]
        decided = [sign for _, sign in seen if sign != "?"]
        waits = bool(held) and decided[-1] in "wc" and tick - held[-1] <= window_ticks
        assert (alert.state is PENDING) == (waits and not any(fires.values()))


def is_firing(
    seen: list[tuple[int, str]], signs: str, for_ticks: int, keep_ticks: int, window_ticks: int
) -> bool:
    """By definition: some breach lasted for the whole duration, and no good tick since then ended it."""
    beyond = [at for at, sign in seen if sign in signs]
    good = [at for at, sign in seen if sign not in signs and sign != "?"]

    def lasted(start: int, end: int) -> bool:
        inside = [at for at in beyond if start <= at <= end]
        overlaps = all(later - earlier <= window_ticks for earlier, later in pairwise(inside))
        return end - start >= for_ticks and overlaps and not any(start < at < end for at in good)

    def ended_after(end: int) -> bool:
        return any(at - max(each for each in beyond if each < at) >= keep_ticks for at in good if at > end)

    return any(
        lasted(start, end) and not ended_after(end) for end in beyond for start in beyond if start <= end
    )


@pytest.mark.parametrize("sign", "wc")
def test_a_change_is_either_a_new_state_or_a_new_severity(sign):
    assert run(sign * 5 + "?" * 3 + sign * 5, for_ticks=1).steps == [
        (0, INACTIVE, PENDING, WARNING if sign == "w" else CRITICAL),
        (1, PENDING, FIRING, WARNING if sign == "w" else CRITICAL),
    ]

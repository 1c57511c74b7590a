from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table import Table

from rules.alert import Alert
from rules.evaluator import EXEMPLARS, RuleState, close, evaluate, thresholds
from rules.labels import Series
from rules.measures import measure
from rules.quantities import MINUTE, SECOND
from rules.rule import Direction, Levels, Rule, Severity, Threshold
from rules.transition import Exemplar, State, Transition, transition_id

AT = 1_790_000_000_000
TICK = 5 * SECOND
CHAT, SEARCH = ("chat",), ("search",)
FIRING, PENDING, RESOLVED, INACTIVE = State.FIRING, State.PENDING, State.RESOLVED, State.INACTIVE


def rule(
    name: str = "error_rate", warning: float | None = 0.05, critical: float | None = None, **changes
) -> Rule:
    wanted = measure(name)
    direction = changes.pop("direction", Direction.ABOVE)
    fields = {
        "group": "chat",
        "alert": "TooHigh",
        "measure": wanted,
        "window_ms": 5 * MINUTE,
        "threshold": Threshold(direction, Levels(warning, critical)),
        "by": ("feature",),
        "min_calls": wanted.min_calls,
        "runbook": "error-rate-high",
    }
    return Rule(**(fields | changes))


def errors(*rows: tuple[Series, int, int], shown=None) -> Table:
    """(series, calls, failed calls)."""
    wanted = measure("error_rate")
    columns = {wanted.sample: [calls for _, calls, _ in rows], wanted.numerator: [bad for _, _, bad in rows]}
    return Table([series for series, _, _ in rows], columns, shown=shown)


def latencies(*rows: tuple[Series, list[int]], rank: str = "p95") -> Table:
    """(series, latencies in ms)."""
    wanted = measure(f"latency.{rank}")
    counts = {wanted.sample: [len(calls) for _, calls in rows]}
    stored = {wanted.numerator: [[ms * 1_000 for ms in calls] for _, calls in rows]}
    return Table([series for series, _ in rows], counts, stored)


def spends(*rows: tuple[Series, int]) -> Table:
    """(series, nano-dollars)."""
    wanted = measure("spend")
    columns = {wanted.sample: [1 for _ in rows], wanted.numerator: [spend for _, spend in rows]}
    return Table([series for series, _ in rows], columns)


class Engine:
    """One rule over tables, tick after tick."""

    def __init__(self, of: Rule) -> None:
        self.rule = of
        self.state = RuleState()
        self.at = AT
        self.summary_errors = 0

    def tick(self, *tables: Table) -> list[Transition]:
        """Evaluate once per table; all transitions."""
        found: list[Transition] = []
        for table in tables:
            self.at += TICK
            evaluation = evaluate(self.rule, self.state, table, self.at, thresholds(self.rule, table))
            found += evaluation.transitions
            self.summary_errors += evaluation.summary_errors
        return found


def moves(found: list[Transition]) -> list[tuple[State, State]]:
    return [(each.from_state, each.to_state) for each in found]


@pytest.mark.parametrize("min_calls", [0, 1, 20])
def test_an_error_rate_of_0_calls_is_undefined_and_never_true(min_calls: int):
    above = Engine(rule(warning=0.0, min_calls=min_calls))
    below = Engine(rule(warning=0.5, min_calls=min_calls, direction=Direction.BELOW))
    assert above.tick(*[errors((CHAT, 0, 0))] * 3) == []
    assert below.tick(*[errors((CHAT, 0, 0))] * 3) == []


def test_too_few_calls_neither_fire_nor_resolve():
    engine = Engine(rule(min_calls=20))
    assert engine.tick(errors((CHAT, 19, 19))) == []
    assert moves(engine.tick(errors((CHAT, 20, 20)))) == [(INACTIVE, FIRING)]
    assert engine.tick(errors((CHAT, 19, 0))) == []
    assert moves(engine.tick(errors((CHAT, 20, 0)))) == [(FIRING, RESOLVED)]


def test_a_firing_error_rate_without_calls_for_ten_minutes_is_not_resolved():
    engine = Engine(rule(min_calls=0))
    engine.tick(errors((CHAT, 100, 50)))
    assert engine.tick(*[errors((CHAT, 0, 0))] * 60, *[errors()] * 60) == []
    assert moves(engine.tick(errors((CHAT, 100, 0)))) == [(FIRING, RESOLVED)]


def test_a_firing_percentile_without_calls_for_ten_minutes_is_not_resolved():
    engine = Engine(rule("latency.p95", 2_000, min_calls=0))
    engine.tick(latencies((CHAT, [3_000] * 50)))
    assert engine.tick(*[latencies((CHAT, []))] * 60, *[latencies()] * 60) == []
    assert moves(engine.tick(latencies((CHAT, [1_000])))) == [(FIRING, RESOLVED)]


def test_a_firing_alert_whose_dimension_breaches_again_after_a_silence_is_not_told_twice():
    engine = Engine(rule())
    engine.tick(errors((CHAT, 100, 50)))
    assert engine.tick(errors(), errors((CHAT, 0, 0)), errors((CHAT, 100, 50))) == []


def test_a_sum_resolves_when_the_window_is_empty_and_when_the_series_is_forgotten():
    for last in (spends((CHAT, 0)), spends((SEARCH, 1)), spends()):
        engine = Engine(rule("spend", 5))
        assert moves(engine.tick(spends((CHAT, 6)), last)) == [(INACTIVE, FIRING), (FIRING, RESOLVED)]
        assert engine.state.alerts == {}


def test_a_sum_with_a_least_sample_does_not_resolve_when_the_series_is_forgotten():
    engine = Engine(rule("spend", 5, min_calls=1))
    assert moves(engine.tick(spends((CHAT, 6)), spends())) == [(INACTIVE, FIRING)]


def test_traffic_below_a_threshold_goes_on_firing_when_the_series_is_forgotten():
    wanted = measure("calls")
    engine = Engine(rule("calls", 10, 1, direction=Direction.BELOW))
    found = engine.tick(
        *(Table(rows, {wanted.sample: calls}) for rows, calls in (([CHAT], [9]), ([CHAT], [0]), ([], [])))
    )
    assert [(each.to_state, each.severity) for each in found] == [
        (FIRING, Severity.WARNING),
        (FIRING, Severity.CRITICAL),
    ]


def test_one_call_of_60_s_is_a_p99_of_60_s_and_gated_by_the_least_sample():
    table = latencies((CHAT, [60_000]), rank="p99")
    gated = Engine(rule("latency.p99", 10_000))
    assert gated.rule.min_calls == 100
    assert gated.tick(table) == []
    open_to_all = Engine(rule("latency.p99", 10_000, min_calls=1))
    assert [round(each.value) for each in open_to_all.tick(table)] == [60_000]


@pytest.mark.parametrize("latency", [11_000, 29_999, 30_000])
def test_a_percentile_of_equal_calls_at_or_below_the_threshold_never_fires_through_its_buckets(latency: int):
    engine = Engine(rule("latency.p95", 30_000))
    assert engine.tick(*[latencies((CHAT, [latency] * 200))] * 3) == []


@pytest.mark.parametrize("latency", [30_000, 30_001, 45_000])
def test_a_percentile_at_or_above_a_lower_threshold_never_fires_either(latency: int):
    engine = Engine(rule("latency.p95", 30_000, direction=Direction.BELOW))
    assert engine.tick(*[latencies((CHAT, [latency] * 200))] * 3) == []


def test_a_measure_below_its_threshold_fires():
    engine = Engine(rule("latency.p95", 30_000, direction=Direction.BELOW))
    assert moves(engine.tick(latencies((CHAT, [29_000] * 200)))) == [(INACTIVE, FIRING)]


def test_a_value_equal_to_its_threshold_is_no_breach():
    assert Engine(rule(warning=0.05)).tick(errors((CHAT, 100, 5))) == []
    assert Engine(rule("spend", 5_000_000_000)).tick(spends((CHAT, 5_000_000_000))) == []


def test_an_error_rate_that_doubles_while_it_fires_is_one_alert_with_its_severity_raised_once():
    engine = Engine(rule(warning=0.05, critical=0.10))
    found = engine.tick(*[errors((CHAT, 100, 6))] * 3, *[errors((CHAT, 100, 12))] * 3)
    assert [(each.from_state, each.to_state, each.from_severity, each.severity) for each in found] == [
        (INACTIVE, FIRING, None, Severity.WARNING),
        (FIRING, FIRING, Severity.WARNING, Severity.CRITICAL),
    ]
    assert [each.threshold for each in found] == [0.05, 0.10]
    assert found[0].alert_id == found[1].alert_id
    assert found[0].episode_ms == found[1].episode_ms


def test_a_budget_that_stays_exceeded_is_one_transition_and_a_second_series_is_another():
    engine = Engine(rule("spend", 5, by=("user",)))
    found = engine.tick(*[spends((("ana",), 6 + n)) for n in range(100)])
    assert [each.series for each in found] == [(("user", "ana"),)]
    found = engine.tick(spends((("ana",), 200), (("ben",), 9)))
    assert [each.series for each in found] == [(("user", "ben"),)]


def test_a_budget_exceeded_again_after_it_recovered_fires_again():
    engine = Engine(rule("spend", 5))
    found = engine.tick(spends((CHAT, 6)), spends((CHAT, 0)), spends((CHAT, 6)))
    assert moves(found) == [(INACTIVE, FIRING), (FIRING, RESOLVED), (INACTIVE, FIRING)]
    assert found[0].episode_ms == found[1].episode_ms != found[2].episode_ms
    assert found[0].alert_id == found[2].alert_id
    assert len({each.id for each in found}) == 3


def test_one_rule_with_two_models_is_two_alerts():
    engine = Engine(rule(by=("feature", "model")))
    found = engine.tick(errors((("chat", "gpt-4.1"), 100, 50), (("chat", "claude"), 100, 50)))
    assert [dict(each.series)["model"] for each in found] == ["claude", "gpt-4.1"]
    assert len({each.alert_id for each in found}) == len({each.id for each in found}) == 2


def test_alerts_of_one_rule_run_apart_from_one_another():
    engine = Engine(rule(for_ms=TICK))
    both, only_chat = errors((CHAT, 100, 50), (SEARCH, 100, 50)), errors((CHAT, 100, 50), (SEARCH, 100, 0))
    found = engine.tick(both, only_chat)
    assert [(each.series[0][1], each.to_state) for each in found] == [
        ("chat", PENDING),
        ("search", PENDING),
        ("chat", FIRING),
        ("search", INACTIVE),
    ]
    assert list(engine.state.alerts) == [CHAT]


def test_transitions_of_a_tick_come_in_order_of_series_whatever_the_order_of_rows():
    rows = [((name,), 100, 50) for name in ("search", "chat", "agents", "<none>")]
    names = ["<none>", "agents", "chat", "search"]
    assert [each.series[0][1] for each in Engine(rule()).tick(errors(*rows))] == names
    assert [each.series[0][1] for each in Engine(rule()).tick(errors(*reversed(rows)))] == names


def test_rows_that_hold_no_series_are_passed_over():
    assert Engine(rule()).tick(errors(((), 100, 100))) == []


def test_a_rule_without_dimensions_has_one_alert():
    found = Engine(rule(by=())).tick(errors(((), 100, 100)))
    assert [(each.series, each.summary) for each in found] == [((), "error_rate is 100 %, above 5 % over 5m")]


def test_a_threshold_may_depend_on_a_dimension():
    budgets = Threshold(
        Direction.ABOVE, Levels(critical=10_000), "feature", (("batch", Levels(critical=30_000)),)
    )
    engine = Engine(rule("latency.p95", threshold=budgets))
    table = latencies((("batch",), [20_000] * 50), (CHAT, [20_000] * 50), (SEARCH, [9_000] * 50))
    assert [(each.series[0][1], each.threshold) for each in engine.tick(table)] == [("chat", 10_000)]


def test_a_severity_without_a_level_is_never_reported():
    found = Engine(rule(warning=None, critical=0.10)).tick(errors((CHAT, 100, 7)), errors((CHAT, 100, 50)))
    assert [(each.severity, each.threshold) for each in found] == [(Severity.CRITICAL, 0.10)]


def test_a_transition_says_all_there_is_to_say():
    shown = [Exemplar(AT - n, "llm.calls/0", n, 1, {"id": f"call-{n}"}) for n in range(9)]
    engine = Engine(
        rule(labels=(("team", "growth"),), summary="{{ value }} of {{ feature }} failed ({{ calls }} calls)")
    )
    [found] = engine.tick(errors((CHAT, 3_000, 150 + 1), shown={CHAT: shown}))
    assert found == Transition(
        id=transition_id("chat/TooHigh", (("feature", "chat"),), engine.at, FIRING, Severity.WARNING),
        at_ms=engine.at,
        group="chat",
        alert="TooHigh",
        severity=Severity.WARNING,
        series=(("feature", "chat"),),
        from_state=INACTIVE,
        to_state=FIRING,
        from_severity=None,
        measure="error_rate",
        value=0.050333,
        unit="ratio",
        threshold=0.05,
        direction=Direction.ABOVE,
        window_start_ms=engine.at - 5 * MINUTE,
        window_end_ms=engine.at,
        calls=3_000,
        since_ms=engine.at,
        episode_ms=engine.at,
        labels=(("team", "growth"),),
        runbook="error-rate-high",
        summary="5.03 % of chat failed (3,000 calls)",
        reason="breached",
        exemplars=tuple(shown[:EXEMPLARS]),
    )
    assert found.matching_labels() == {
        "team": "growth",
        "feature": "chat",
        "alert": "TooHigh",
        "group": "chat",
        "severity": "warning",
    }


def test_what_is_over_shows_no_calls():
    shown = {CHAT: [Exemplar(AT, "llm.calls/0", 1, 1, {})]}
    first, last = Engine(rule()).tick(
        errors((CHAT, 100, 50), shown=shown), errors((CHAT, 100, 0), shown=shown)
    )
    assert len(first.exemplars) == 1
    assert last.exemplars == ()


def test_the_default_summary_does_not_claim_that_a_recovered_value_is_beyond_its_threshold():
    found = Engine(rule()).tick(errors((CHAT, 100, 50)), errors((CHAT, 100, 1)))
    assert [each.summary for each in found] == [
        "error_rate of chat is 50 %, above 5 % over 5m",
        "error_rate of chat is 1 %, no longer above 5 % over 5m",
    ]


def test_the_default_summary_of_an_alert_that_eased_compares_with_the_level_that_it_names():
    engine = Engine(rule(warning=0.05, critical=0.10, keep_firing_for_ms=2 * TICK))
    tables = [errors((CHAT, 100, bad)) for bad in (12, 6, 3)]
    assert engine.tick(*tables)[-1].summary == "error_rate of chat is 3 %, no longer above 5 % over 5m"
    engine = Engine(rule(warning=0.05, critical=0.10))
    tables = [errors((CHAT, 100, bad)) for bad in (12, 6)]
    assert engine.tick(*tables)[-1].summary == "error_rate of chat is 6 %, above 5 % over 5m"


def test_a_dimension_with_a_dot_or_a_hyphen_stands_in_the_summary_under_its_variable_name():
    engine = Engine(
        rule(by=("error.type", "labels.team-x"), summary="{{ error_type }} in {{ labels_team_x }}")
    )
    assert [each.summary for each in engine.tick(errors((("timeout", "blue"), 100, 50)))] == [
        "timeout in blue"
    ]


def test_a_summary_that_fails_is_counted_and_the_alert_is_sent_with_the_default_text():
    engine = Engine(rule(summary="{{ team }} is in trouble"))
    [found] = engine.tick(errors((CHAT, 100, 50)))
    assert found.summary == "error_rate of chat is 50 %, above 5 % over 5m"
    assert engine.summary_errors == 1


def test_only_alerts_that_are_not_inactive_are_kept():
    engine = Engine(rule("spend", 5, by=("user",)))
    engine.tick(spends(*(((f"user-{n}",), n) for n in range(20))))
    assert len(engine.state.alerts) == 14
    engine.tick(spends(*(((f"user-{n}",), 0) for n in range(20))))
    assert engine.state.alerts == {}


def test_a_pending_alert_of_a_series_that_went_away_does_not_stay_for_ever():
    engine = Engine(rule(for_ms=10 * MINUTE, window_ms=2 * TICK))
    found = engine.tick(errors((CHAT, 100, 50)), errors(), errors(), errors(), errors())
    assert [(each.to_state, each.at_ms - AT) for each in found] == [(PENDING, TICK), (INACTIVE, 4 * TICK)]
    assert engine.state.alerts == {}


def test_a_repeated_computation_gives_the_same_ids():
    tables = [errors((CHAT, 100, bad)) for bad in (6, 12, 12, 0, 50)]
    once, again = (Engine(rule(warning=0.05, critical=0.10, for_ms=TICK)).tick(*tables) for _ in range(2))
    assert once == again
    assert len({each.id for each in once}) == len(once) == 5


def test_an_id_differs_by_rule_series_tick_state_and_severity():
    series = (("feature", "chat"),)
    ids = {
        transition_id("chat/A", series, AT, FIRING, Severity.WARNING),
        transition_id("chat/B", series, AT, FIRING, Severity.WARNING),
        transition_id("chat/A", (("feature", "search"),), AT, FIRING, Severity.WARNING),
        transition_id("chat/A", (("model", "chat"),), AT, FIRING, Severity.WARNING),
        transition_id("chat/A", (), AT, FIRING, Severity.WARNING),
        transition_id("chat/A", series, AT + TICK, FIRING, Severity.WARNING),
        transition_id("chat/A", series, AT, PENDING, Severity.WARNING),
        transition_id("chat/A", series, AT, FIRING, Severity.CRITICAL),
    }
    assert len(ids) == 8
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)


def test_names_that_run_together_alike_have_different_ids():
    one = transition_id("g/A", (("feature", "ab"), ("model", "c")), AT, FIRING, Severity.WARNING)
    other = transition_id("g/A", (("feature", "a"), ("model", "bc")), AT, FIRING, Severity.WARNING)
    assert one != other


def test_closing_a_rule_resolves_what_fires_with_the_reason_and_drops_what_is_pending():
    engine = Engine(rule(for_ms=TICK, labels=(("team", "growth"),)))
    engine.tick(errors((CHAT, 100, 50)), errors((CHAT, 100, 50), (SEARCH, 100, 50)))
    [found] = close(engine.rule, engine.state, engine.at + 7, "rule removed")
    assert (found.from_state, found.to_state, found.series) == (FIRING, RESOLVED, (("feature", "chat"),))
    assert (found.reason, found.at_ms, found.episode_ms) == ("rule removed", engine.at + 7, AT + TICK)
    assert found.labels == (("team", "growth"),)
    assert engine.state.alerts == {}


def test_closing_a_rule_ends_its_alerts_in_order_of_series():
    engine = Engine(rule())
    engine.tick(errors((SEARCH, 100, 50)), errors((CHAT, 100, 50)))
    assert [each.series[0][1] for each in close(engine.rule, engine.state, engine.at, "rule changed")] == [
        "chat",
        "search",
    ]


def test_closing_a_rule_without_alerts_gives_nothing():
    state = RuleState()
    assert close(rule(), state, AT, "rule removed") == []
    assert state.alerts == {}


def test_thresholds_are_nan_where_a_severity_has_none_and_for_rows_without_series():
    of_row = Threshold(Direction.ABOVE, Levels(1, None), "feature", (("chat", Levels(2, 3)),))
    found = thresholds(rule("spend", threshold=of_row), spends((CHAT, 1), (SEARCH, 1), ((), 1)))
    assert [str(each) for each in found.warning.tolist()] == ["2.0", "1.0", "nan"]
    assert [str(each) for each in found.critical.tolist()] == ["3.0", "nan", "nan"]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100)), min_size=2, max_size=2), max_size=25
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 20),
)
def test_whatever_the_calls_a_transition_starts_where_the_one_before_it_ended(
    windows, for_ticks, keep_ticks, min_calls
):
    timing = {"for_ms": for_ticks * TICK, "keep_firing_for_ms": keep_ticks * TICK, "window_ms": 4 * TICK}
    engine = Engine(rule(warning=0.2, critical=0.5, min_calls=min_calls, **timing))
    tables = [
        errors(
            *(
                (series, calls, calls * share // 100)
                for series, (calls, share) in zip((CHAT, SEARCH), row, strict=True)
            )
        )
        for row in windows
    ]
    found = engine.tick(*tables)
    standing: dict[str, Transition | None] = {}
    for each in found:
        last = standing.get(each.alert_id)
        assert each.from_state is (last.to_state if last else INACTIVE)
        assert each.episode_ms == (last.episode_ms if last else each.at_ms)
        if last and last.to_state is FIRING:
            assert each.from_severity is last.severity
        if each.to_state is FIRING and each.from_state is not FIRING:
            assert each.at_ms - each.since_ms >= engine.rule.for_ms
        if each.to_state in (PENDING, FIRING):
            assert each.calls >= min_calls
        standing[each.alert_id] = None if each.to_state in (RESOLVED, INACTIVE) else each
    assert len({each.id for each in found}) == len(found)
    assert set(engine.state.alerts) == {
        tuple(value for _, value in each.series) for each in standing.values() if each
    }


def test_an_alert_restored_from_a_state_goes_on():
    engine = Engine(rule(for_ms=2 * TICK))
    engine.tick(errors((CHAT, 100, 50)))
    restarted = Engine(engine.rule)
    restarted.at = engine.at
    restarted.state = RuleState({series: replace(alert) for series, alert in engine.state.alerts.items()})
    tables = [errors((CHAT, 100, 50))] * 3 + [errors((CHAT, 100, 0))]
    assert restarted.tick(*tables) == engine.tick(*tables)
    assert engine.state.alerts.get(CHAT, Alert()) == Alert()

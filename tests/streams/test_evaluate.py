from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import MINUTE, SECOND, at, call, ingest, parts, records, replay, rule, rule_log
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.rule import Rule
from rules.transition import Transition
from streams.chunk import Chunk
from streams.evaluate import Evaluate
from streams.frontier import Lateness
from streams.position import Idle
from streams.records import Records, Source
from streams.rule_log import RuleLog
from streams.times import UNKNOWN

NOON = at("12:00:00")
LATENESS = Lateness(allowed_ms=3_000, skew_ms=10**9)
TICKS = {10 * SECOND: SECOND, MINUTE: SECOND, 5 * MINUTE: 5 * SECOND, 20 * MINUTE: 20 * SECOND}
_LAYOUT = HdrHistogram(1, 3_600_000_000, 2)


# --- an oracle that recomputes every tick from the calls; it shares no code with the engine


@dataclass
class NaiveSpell:
    """How long one severity's condition has held."""

    since: int | None = None
    last: int | None = None
    fires: bool = False

    def step(self, breached: bool | None, tick: int, each: Rule) -> None:
        if self.last is not None and not self.fires and tick - self.last > each.window_ms:
            self.since = self.last = None
        if breached:
            self.since = tick if self.since is None else self.since
            self.last = tick
            self.fires = self.fires or tick - self.since >= each.for_ms
        elif breached is False and not (
            self.fires and self.last is not None and tick - self.last < each.keep_firing_for_ms
        ):
            self.since, self.last, self.fires = None, None, False


@dataclass
class NaiveAlert:
    state: str = "inactive"
    severity: str = ""
    spells: dict[str, NaiveSpell] = field(
        default_factory=lambda: {"warning": NaiveSpell(), "critical": NaiveSpell()}
    )


def value_of(each: Rule, calls: list[dict[str, Any]]) -> tuple[float | None, int]:
    """The measure's exact value over some calls, and its sample."""
    ok = [one for one in calls if one["status"] == "ok"]
    known = sorted(one["latency_ms"] for one in ok)
    inputs = [one["tokens"]["input"] for one in calls if "tokens" in one]
    match each.measure.name:
        case "calls":
            return len(calls), len(calls)
        case "errors":
            return len(calls) - len(ok), len(calls)
        case "error_rate":
            return ((len(calls) - len(ok)) / len(calls) if calls else None), len(calls)
        case "spend":
            return sum(one.get("cost_usd", 0) for one in calls) * 10**9, len(calls)
        case "latency.avg":
            return (sum(known) / len(known) if known else None), len(known)
        case "latency.max":
            return (max(known) if known else None), len(known)
        case "latency.p95":
            return (known[-(-95 * len(known) // 100) - 1] if known else None), len(known)
        case _:
            return (sum(inputs) / len(inputs) if inputs else None), len(inputs)


def breaches(each: Rule, value: float, level: float) -> bool:
    below = each.threshold.direction == "below"
    if each.measure.name == "latency.p95":  # never closer than the histogram's buckets
        stored, edge = round(value * 1_000), int(level * 1_000)
        return (
            stored < _LAYOUT.get_lowest_equivalent_value(edge)
            if below
            else stored > _LAYOUT.get_highest_equivalent_value(edge)
        )
    return value < level if below else value > level


def oracle(each: Rule, calls: list[dict[str, Any]], until: int) -> list[tuple[Any, ...]]:
    """(series, tick, from, to, severity, value, sample) of every transition, in order."""
    step, found = TICKS[each.window_ms], []
    of_series: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for one in calls:
        of_series.setdefault((one["feature"],) if each.by else (), []).append(one)
    first = {series: min(one["at"] for one in mine) // 1_000 * 1_000 for series, mine in of_series.items()}
    alerts = {series: NaiveAlert() for series in of_series}
    tick = (min(first.values()) // step + 1) * step
    while tick <= until:
        for series in sorted(of_series):
            if first[series] >= tick:
                continue
            seen = [
                one for one in of_series[series] if tick - each.window_ms <= one["at"] // 1_000 * 1_000 < tick
            ]
            value, sample = value_of(each, seen)
            decided = value is not None and sample >= each.min_calls
            alert = alerts[series]
            for severity, level in (
                ("warning", each.threshold.default.warning),
                ("critical", each.threshold.default.critical),
            ):
                decision = breaches(each, value, level) if decided and level is not None else None  # type: ignore[arg-type]
                alert.spells[severity].step(decision, tick, each)
            fires = [name for name in ("critical", "warning") if alert.spells[name].fires]
            holds = [name for name in ("critical", "warning") if alert.spells[name].since is not None]
            before, old = alert.state, alert.severity
            if fires:
                alert.state, alert.severity = "firing", fires[0]
            elif before == "firing":
                alert.state = "resolved"
            elif holds:
                alert.state, alert.severity = "pending", holds[0]
            else:
                alert.state = "inactive"
            if alert.state != before or (alert.state == "firing" and alert.severity != old):
                found.append((series, tick, before, alert.state, alert.severity, value, sample))
            if alert.state in ("resolved", "inactive"):
                alerts[series] = NaiveAlert()
        tick += step
    return found


def plain(transition: Transition) -> tuple[Any, ...]:
    return (
        tuple(value for _, value in transition.series), transition.at_ms,
        str(transition.from_state), str(transition.to_state), str(transition.severity),
        transition.value, transition.calls,
    )  # fmt: skip


LEVELS = {
    "calls": [0, 1, 2, 4],
    "errors": [0, 1, 3],
    "error_rate": [0, 0.25, 0.5],
    "spend": [0, 10**9, 4 * 10**9],
    "latency.avg": [200, 900, 1_500],
    "latency.max": [500, 1_900],
    "latency.p95": [400, 1_000, 1_200.5],
    "tokens.input.avg": [5, 50],
}


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    name = draw(st.sampled_from(sorted(LEVELS)))
    low, high = draw(st.sampled_from(LEVELS[name])), draw(st.sampled_from(LEVELS[name]))
    below = draw(st.booleans())
    low, high = (max(low, high), min(low, high)) if below else (min(low, high), max(low, high))
    return rule(
        "Alert", name,
        below=low if below else None,
        above=None if below else low,
        critical=draw(st.sampled_from([None, high])),
        window=draw(st.sampled_from(list(TICKS))),
        by=draw(st.sampled_from([(), ("feature",)])),
        for_ms=draw(st.sampled_from([0, 0, 3_000, 40_000])),
        keep_firing_for_ms=draw(st.sampled_from([0, 0, 5_000, 60_000])),
        min_calls=draw(st.sampled_from([0, 0, 1, 3])),
    )  # fmt: skip


@st.composite
def traffic(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Calls in no more disorder than is allowed, in bursts, with silences."""
    now, found = NOON + draw(st.integers(0, 9_999)), []
    for _ in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0, 100, 900, 3_000, 20_000, 70_000, 400_000]))
        event = call(
            now - draw(st.integers(0, 2_000)),
            feature=draw(st.sampled_from(["a", "b", "c"])),
            status=draw(st.sampled_from(["ok", "ok", "error"])),
            latency_ms=draw(st.sampled_from([1, 100, 399.5, 400, 401, 403.3, 1_000, 1_200.4, 2_000, 2_001])),
        )
        if draw(st.booleans()):
            event |= {"cost_usd": draw(st.integers(0, 3)), "tokens": {"input": draw(st.integers(0, 100))}}
        found.append(event)
    return found


def run(each: Rule, calls: list[dict[str, Any]], cuts: list[int], until: int) -> list[Transition]:
    engine = replay(each, lateness=LATENESS)
    found = [one for some in parts(records(calls), cuts) for one in engine.feed(some)[0]]
    assert engine.counts.late == 0
    return found + engine.finish(until)


@given(rules(), traffic(), st.lists(st.integers(1, 24), max_size=3), st.integers(0, 1_500_000))
@settings(max_examples=60)
def test_transitions_equal_those_of_lists_recomputed_at_every_tick(
    each: Rule, calls: list[dict[str, Any]], cuts: list[int], after: int
) -> None:
    until = max(one["at"] for one in calls) + after
    found = list(map(plain, run(each, calls, cuts, until)))
    expected = oracle(each, calls, until)
    assert [one[:5] + one[6:] for one in found] == [one[:5] + one[6:] for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        exact = 0 if theirs[5] is None else theirs[5]
        if each.measure.name == "latency.p95":
            assert exact <= ours[5] <= exact * 1.0079
        else:
            assert ours[5] == pytest.approx(exact, rel=1e-6, abs=1e-6)


@given(rules(), traffic(), st.lists(st.integers(1, 24), max_size=5), st.lists(st.integers(1, 24), max_size=5))
@settings(max_examples=20)
def test_transitions_are_the_same_to_the_last_exemplar_however_calls_are_cut_into_flushes(
    each: Rule, calls: list[dict[str, Any]], cuts: list[int], others: list[int]
) -> None:
    until = max(one["at"] for one in calls) + 60_000
    assert run(each, calls, cuts, until) == run(each, calls, others, until)


late_spend = st.lists(
    st.tuples(
        st.sampled_from([0, 300, 2_000, 30_000]),
        st.sampled_from([0, 0, 0, 2_500, 9_000, 25_000]),
        st.sampled_from("ab"),
        st.integers(0, 4),
    ),
    min_size=2,
    max_size=30,
)
"""Of each call: time since the call before it, how late it is, its feature and its cost in dollars."""


@given(
    late_spend, st.lists(st.integers(1, 30), max_size=6), st.lists(st.integers(1, 30), max_size=6),
    st.sampled_from(["spend", "spend_per_call"]), st.sampled_from([10 * SECOND, MINUTE]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_the_ticks_that_see_late_spend_are_the_same_however_calls_are_cut_into_flushes(
    steps: list[tuple[int, int, str, int]],
    cuts: list[int],
    others: list[int],
    measure: str,
    window: int,
    below: bool,
) -> None:
    limit = {"below": 2 * 10**9} if below else {"above": 4 * 10**9}
    each = rule("Spend", measure, window=window, min_calls=0, **limit)
    now, calls = NOON, []
    for passed, behind, feature, dollars in steps:
        now += passed
        calls.append(call(now - behind, feature=feature, cost_usd=dollars))

    def transitions(at: list[int]) -> list[Transition]:
        engine = replay(each, lateness=Lateness(allowed_ms=1_000, skew_ms=10**9))
        found = [one for some in parts(records(calls), at) for one in engine.feed(some)[0]]
        return found + engine.finish(now + 90_000)

    assert transitions(cuts) == transitions(others)


def test_a_series_takes_no_part_before_its_first_call_however_early_its_panes_are_at_hand() -> None:
    few = rule("Few", "calls", below=1, window=10 * SECOND)
    calls = [
        call(NOON, feature="a"),
        call(NOON + 1_000, feature="a"),
        call(NOON + 5_000, feature="late-comer"),
        call(NOON + 9_000, feature="a"),
    ]
    for cuts in ([], [1, 2, 3]):
        found = run(few, calls, cuts, NOON + 16_000)
        assert [(dict(one.series)["feature"], one.at_ms - NOON) for one in found] == [("late-comer", 16_000)]


# --- chunks, sources and watermarks


class Shard:
    """Sources before the shard of one rule."""

    def __init__(self, *rules: Rule, sources: int = 1, log: RuleLog | None = None) -> None:
        log = log or rule_log(*rules)
        self.stage = ingest(log, LATENESS)
        self.evaluate = Evaluate(rules[0].view.shard(("",)), log)
        self.sources = sources
        self.offset: dict[Source, int] = {}
        self.names = [Source("llm.calls", number) for number in range(sources)]
        for name in self.names:
            self.stage.assign(name, None)

    def chunks(
        self, source: int, *calls: dict[str, Any], wall: int = 0, caught_up: bool = False
    ) -> list[Chunk]:
        name = self.names[source]
        first = self.offset.get(name, 0)
        self.offset[name] = first + len(calls)
        self.stage.take(records(calls, first, name))
        chunks = self.stage.flush(name, Idle(caught_up, wall, self.sources)).chunks
        return [chunk for chunk in chunks if chunk.shard == self.evaluate.shard]

    def feed(
        self, source: int, *calls: dict[str, Any], wall: int = 0, caught_up: bool = False
    ) -> list[Transition]:
        chunks = self.chunks(source, *calls, wall=wall, caught_up=caught_up)
        return [one for chunk in chunks for one in self.evaluate.take(chunk)]


BUSY = rule("Busy", "calls", above=1, window=10 * SECOND, by=())


def test_ticks_wait_for_the_source_that_is_least_far() -> None:
    shard = Shard(BUSY, sources=3)
    assert shard.feed(0, call(NOON), call(NOON + 20_000)) == []
    assert shard.feed(1, call(NOON), call(NOON + 60_000)) == []
    assert shard.evaluate.watermark_ms == UNKNOWN  # the third has not reported
    assert shard.feed(2, call(NOON + 3_500)) == []
    assert shard.evaluate.watermark_ms == NOON + 500
    fired, resolved = shard.feed(2, call(NOON + 30_000))
    assert (fired.at_ms, fired.value) == (NOON + 1_000, 2)
    assert (resolved.at_ms, resolved.value) == (NOON + 11_000, 1)
    assert shard.evaluate.watermark_ms == NOON + 17_000


def test_a_source_that_reports_nothing_for_half_a_minute_holds_nobody_back_and_counts_again_when_it_does() -> (
    None
):
    shard = Shard(BUSY, sources=2)
    shard.feed(0, call(NOON), wall=NOON)
    shard.feed(1, call(NOON), call(NOON + 40_000), wall=NOON + 30_000)
    assert shard.evaluate.watermark_ms == NOON - 3_000
    assert shard.evaluate.silent == []
    shard.feed(1, wall=NOON + 30_001)
    assert shard.evaluate.silent == [shard.names[0]]
    assert shard.evaluate.watermark_ms == NOON + 37_000
    shard.feed(0, call(NOON + 5_000), wall=NOON + 31_000)
    assert shard.evaluate.silent == []
    assert shard.evaluate.watermark_ms == NOON + 37_000  # it never goes back


def test_an_idle_source_reports_by_the_clock() -> None:
    shard = Shard(BUSY)
    (fired,) = shard.feed(0, call(NOON), call(NOON), wall=NOON + 4_000, caught_up=True)
    assert fired.at_ms == NOON + 1_000
    (resolved,) = shard.feed(0, wall=NOON + 60_000, caught_up=True)
    assert (resolved.at_ms, resolved.value) == (NOON + 11_000, 0)


def test_the_watermark_and_the_seal_of_a_worker_that_has_lost_the_source_change_nothing() -> None:
    shard = Shard(BUSY)
    old = shard.chunks(0, call(NOON))
    newer = shard.chunks(0, call(NOON + 500), call(NOON + 30_000))
    for chunk in newer:
        shard.evaluate.take(chunk)
    seals = shard.evaluate.seals
    for chunk in old + newer + old:
        assert shard.evaluate.take(chunk) == []
    assert shard.evaluate.seals == seals
    assert shard.evaluate.watermark_ms == NOON + 27_000


def test_a_late_amendment_affects_later_ticks_only() -> None:
    spend = rule("Spend", "spend", above=10**9, window=MINUTE, by=())
    shard = Shard(spend)
    assert shard.feed(0, call(NOON, cost_usd=1), call(NOON + 10_000)) == []
    assert shard.feed(0, call(NOON, cost_usd=1)) == []  # three seconds too late
    (fired,) = shard.feed(0, call(NOON + 20_000))
    assert (fired.at_ms, fired.value, fired.calls) == (NOON + 8_000, 2 * 10**9, 1)


def test_late_spend_counts_its_calls_in_the_spend_per_call() -> None:
    mean = rule("Dear", "spend_per_call", above=10**9, window=MINUTE, by=(), min_calls=0)
    shard = Shard(mean)
    shard.feed(0, call(NOON, cost_usd=1), call(NOON + 10_000))
    assert shard.feed(0, *(call(NOON, cost_usd=1) for _ in range(5)), call(NOON + 20_000)) == []


def test_chunks_of_views_that_no_rule_here_needs_are_passed_over() -> None:
    shard, other = Shard(BUSY), Shard(rule("Other", "errors", above=0))
    for chunk in other.chunks(0, call(NOON, feature="a"), call(NOON + 10_000)):
        assert shard.evaluate.take(chunk) == []
    assert shard.evaluate.watermark_ms == NOON + 7_000


def test_the_lag_of_a_source_is_watched_and_resolves_once_it_has_caught_up() -> None:
    lag = rule("Behind", "lag", above=60_000, window=10 * SECOND)
    shard = Shard(lag)
    behind = records([call(NOON), call(NOON + 10_000)], broker_times=[NOON, NOON + 10_000])
    shard.stage.take(behind)
    shard.offset[shard.names[0]] = 2

    def flush(*, wall: int, caught_up: bool) -> list[Transition]:
        return shard.feed(0, wall=wall, caught_up=caught_up)

    assert flush(wall=NOON + 100_000, caught_up=False) == []
    (fired,) = flush(wall=NOON + 15_000, caught_up=True)
    assert (fired.to_state, fired.value, fired.unit) == ("firing", 90_000, "ms")
    (resolved,) = flush(wall=NOON + 30_000, caught_up=True)
    assert (resolved.to_state, resolved.value) == ("resolved", 0)


@pytest.mark.parametrize("name", ["rejected", "late", "clamped"])
def test_a_rule_can_watch_what_went_wrong_in_ingest(name: str) -> None:
    watched = rule("Wrong", name, above=2, window=MINUTE)
    shard = Shard(watched)
    shard.feed(0, call(NOON))
    broken = {
        "rejected": [b"{"] * 3,
        "late": [call(NOON - 60_000)] * 3,
        "clamped": [call(NOON + 10**10)] * 3,
    }[name]
    shard.stage.take(records(broken, 1, broker_times=[NOON + 1_000] * 3))
    shard.offset[shard.names[0]] = 4
    (fired,) = shard.feed(0, call(NOON + 20_000))
    assert (fired.to_state, fired.value) == ("firing", 3)


# --- rules that change


def epochs(
    *calls: dict[str, Any], log: RuleLog, cuts: list[int] | None = None, until: int
) -> list[Transition]:
    engine = replay(lateness=LATENESS, log=log)
    found = [one for some in parts(records(calls), cuts or []) for one in engine.feed(some)[0]]
    return found + engine.finish(until)


STEADY = [call(NOON + second * 1_000, feature="a", latency_ms=second) for second in range(120)]
BOUNDARY = NOON + 60_000
SLOW = rule("Slow", "latency.max", above=5, window=10 * SECOND)


def states(found: list[Transition]) -> list[tuple[str, int, str, str]]:
    return [(one.alert, (one.at_ms - NOON) // 1_000, str(one.to_state), one.reason) for one in found]


def test_an_unchanged_rule_keeps_its_alert_and_a_removed_or_changed_one_ends_at_the_boundary() -> None:
    kept, removed = (
        rule("Kept", "calls", above=5, window=10 * SECOND),
        rule("Removed", "calls", above=6, window=10 * SECOND),
    )
    changed = rule("Slow", "latency.max", above=110, window=10 * SECOND)
    log = rule_log(kept, removed, SLOW, later=[(BOUNDARY, [changed, kept])])
    for cuts in ([], [20, 59, 63, 64, 100]):
        assert states(epochs(*STEADY, log=log, cuts=cuts, until=NOON + 119_000)) == [
            ("Kept", 6, "firing", "breached"),
            ("Removed", 7, "firing", "breached"),
            ("Slow", 7, "firing", "breached"),
            ("Removed", 60, "resolved", "rule removed"),
            ("Slow", 60, "resolved", "rule changed"),
            ("Slow", 112, "firing", "breached"),
        ]


def test_a_new_rule_holds_from_its_boundary_and_sees_the_history_that_its_windows_tier_has() -> None:
    new = rule("New", "calls", above=9, window=10 * SECOND)
    log = rule_log(rule("Old", "calls", above=1e9, window=MINUTE), later=[(BOUNDARY, [new])])
    assert states(epochs(*STEADY, log=log, until=NOON + 119_000)) == [("New", 61, "firing", "breached")]
    elsewhere = rule_log(SLOW, later=[(BOUNDARY, [new])])
    assert states(epochs(*STEADY, log=elsewhere, until=NOON + 80_000))[-1] == (
        "New",
        70,
        "firing",
        "breached",
    )


@pytest.mark.parametrize("told_after", [0, 30, 61])
def test_it_makes_no_difference_when_before_the_boundary_a_shard_learns_of_new_rules(told_after: int) -> None:
    old = rule("Old", "calls", above=1e9, window=10 * SECOND)
    new = [
        rule("Minute", "calls", above=59, window=MINUTE),
        rule("Long", "calls", above=100, window=20 * MINUTE),
    ]
    log = rule_log(old, later=[(BOUNDARY, new)])
    before = rule_log(old)
    shard = Shard(old, log=before)
    found = []
    for number, event in enumerate(
        [*STEADY, call(NOON + 200_000, feature="a"), call(NOON + 400_000, feature="a")]
    ):
        if number == told_after:
            shard.stage.switch(log)
            shard.evaluate.switch(log)
        found += shard.feed(0, event)
    assert states(found) == [("Minute", 110, "firing", "breached"), ("Minute", 121, "resolved", "recovered")]


def test_windows_that_no_rule_needs_any_more_keep_no_panes() -> None:
    long, short = (
        rule("Long", "calls", above=1e9, window=20 * MINUTE),
        rule("Short", "calls", above=1e9, window=10 * SECOND),
    )
    shard = Shard(long, log=rule_log(long, short, later=[(BOUNDARY, [short])]))
    for event in STEADY:
        shard.feed(0, event)
    windows = shard.evaluate._views[long.view.hash]
    assert list(windows.windows) == [10 * SECOND]
    assert list(windows.tiers) == [1_000]
    assert len(windows.tiers[1_000]) <= 15


def test_rules_that_arrive_after_their_time_leave_the_ticks_that_have_passed_as_they_were() -> None:
    quiet = rule("Quiet", "calls", above=1e9, window=10 * SECOND)
    shard = Shard(quiet)
    for event in STEADY[:100]:
        shard.feed(0, event)
    log = rule_log(quiet, later=[(BOUNDARY, [rule("Busy", "calls", above=5, window=10 * SECOND)])])
    shard.stage.switch(log)
    shard.evaluate.switch(log)
    assert states(shard.feed(0, STEADY[100])) == [("Busy", 97, "firing", "breached")]


def test_of_two_rule_sets_with_one_boundary_the_later_one_holds() -> None:
    one, other = (
        rule("One", "calls", above=5, window=10 * SECOND),
        rule("Other", "calls", above=5, window=10 * SECOND),
    )
    log = rule_log(SLOW, later=[(BOUNDARY, [one]), (BOUNDARY, [other])])
    assert {alert for alert, *_ in states(epochs(*STEADY, log=log, until=NOON + 119_000))} == {
        "Slow",
        "Other",
    }


def test_active_gives_the_rules_with_alerts() -> None:
    shard = Shard(BUSY)
    shard.feed(0, call(NOON), call(NOON), call(NOON + 10_000))
    ((of, state),) = shard.evaluate.active()
    assert of == BUSY
    assert list(state.alerts) == [()]
    assert shard.evaluate.summary_errors == 0


def test_a_state_restored_from_its_plain_values_goes_on_as_if_nothing_had_happened() -> None:
    each = rule("Busy", "calls", above=3, window=10 * SECOND, for_ms=3_000)
    calls = [call(NOON + second * 700, feature="ab"[second % 2], latency_ms=second) for second in range(100)]
    for stop in (10, 37, 80):
        one, other = Shard(each), Shard(each)
        expected = [t for event in calls for t in one.feed(0, event)]
        found = [t for event in calls[:stop] for t in other.feed(0, event)]
        other.evaluate = Evaluate.restored(other.evaluate.state(), rule_log(each))
        found += [t for event in calls[stop:] for t in other.feed(0, event)]
        assert found == expected


def test_records_of_nothing_are_nothing() -> None:
    empty: Records = records([])
    engine = replay(BUSY)
    assert engine.feed(empty) == ([], [])
    assert engine.finish() == []

"""The demo's traffic and rules: reproducible, quiet on a good day, and every incident fires its alert and resolves."""

from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifiers.runbook_files import load_runbooks
from rules.loader import load_rules
from rules.rule import RuleSet
from rules.transition import State, Transition
from streams.event import FULL, describe, finish_reason
from streams.frontier import Lateness
from streams.incidents import DEMO, QUIET, Kind, Script
from streams.ingest import IngestConfig
from streams.pricing import PriceBook, Pricer
from streams.records import Records, Source
from streams.replaying import Replay
from streams.rule_log import Epoch, RuleLog
from streams.spend import BatchPricer
from streams.traffic import Traffic
from streams.traffic_features import FEATURES

START_MS = 1_800_000_000_000
STEP_MS = 5_000
ALERTS = {
    Kind.PROVIDER_OUTAGE: {("ProviderOutage", "anthropic"), ("ErrorRateHigh", "summaries")},
    Kind.LATENCY_SPIKE: {("LatencyHigh", "chat", "gpt-4.1")},
    Kind.SPEND_SPIKE: {("SpendSpike", "user-2718")},
    Kind.PROMPT_GROWTH: {("TokensGrowing", "code-completion")},
    Kind.TRUNCATION_WAVE: {("AnswersCutOff", "search-answers")},
}
"""What the shipped rules say of each incident: alert and series."""


@pytest.fixture(scope="module")
def shipped_rules() -> RuleSet:
    with resources.as_file(resources.files("streams") / "demo_files" / "alerts.yaml") as path:
        return load_rules([path], path.parent, load_runbooks(None).keys())


def replayed(rules: RuleSet, seed: int, script: Script, duration_ms: int) -> Iterator[Transition]:
    """The transitions of simulated calls under the demo's lateness."""
    traffic = Traffic(seed, START_MS, script)
    price = BatchPricer(Pricer(PriceBook()))
    config = IngestConfig(Lateness(allowed_ms=2_000))
    replay = Replay(config, RuleLog([Epoch(0, rules)]), lambda: price, Source("llm.calls", 0))
    offset = 0
    for from_ms in range(START_MS, START_MS + duration_ms, STEP_MS):
        calls = traffic.calls(from_ms, from_ms + STEP_MS)
        records = Records(
            Source("llm.calls", 0),
            [msgspec.json.encode(event) for _, event in calls],
            np.arange(offset, offset + len(calls)),
            np.array([at_ms for at_ms, _ in calls], np.int64),
        )
        offset += len(calls)
        transitions, rejected = replay.feed(records)
        assert rejected == []
        yield from transitions
    assert replay.counts.late == replay.counts.clamped == replay.counts.duplicates == 0
    assert replay.summary_errors == 0


def series_of(transition: Transition) -> tuple[str, ...]:
    return (transition.alert, *(value for _, value in transition.series))


@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(-1_500, 4_000), min_size=3, max_size=3).map(sorted),
    origin=st.integers(0, 999),
)
def test_calls_are_the_same_however_the_span_is_cut(seed: int, cuts: list[int], origin: int) -> None:
    start = START_MS + origin
    first, middle, last = (start + cut for cut in cuts)
    whole = Traffic(seed, start).calls(first, last)
    pieces = Traffic(seed, start)
    assert pieces.calls(first, middle) + pieces.calls(middle, last) == whole
    assert Traffic(seed, start).calls(first, last) == whole


def test_calls_lie_in_the_span_in_order_and_another_seed_gives_others() -> None:
    span = (START_MS + 700, START_MS + 2_300)
    calls = Traffic(1, START_MS).calls(*span)
    times = [at_ms for at_ms, _ in calls]
    assert times == sorted(times)
    assert span[0] <= times[0]
    assert times[-1] < span[1]
    assert calls != Traffic(2, START_MS).calls(*span)
    assert Traffic(1, START_MS).calls(START_MS - 5_000, START_MS) == []


def test_every_event_is_a_call_whose_fields_are_all_known_and_whose_time_is_its_end() -> None:
    calls = Traffic(3, START_MS).calls(START_MS, START_MS + 20_000)
    assert len({event["id"] for _, event in calls}) == len(calls)
    for at_ms, event in calls:
        raw = msgspec.json.encode(event)
        FULL.decode(raw)
        shown, ignored = describe(raw)
        assert ignored == ()
        assert "labels" not in shown
        assert np.datetime64(event["at"].removesuffix("Z"), "ms").astype(int) == at_ms
        if event["status"] == "ok":
            assert sum(event["stages_ms"].values()) <= event["latency_ms"]
            assert event.get("ttft_ms", 0) <= event["latency_ms"]
            assert event["tokens"]["cached_input"] <= event["tokens"]["input"]
            assert finish_reason(event.get("finish_reason", "stop")) != "other"
        else:
            assert event["error"]["type"]
            assert "tokens" not in event


def test_a_good_day_has_the_features_their_rates_and_few_errors() -> None:
    seconds = 120
    calls = [event for _, event in Traffic(4, START_MS, QUIET).calls(START_MS, START_MS + seconds * 1_000)]
    per_feature = Counter(event["feature"] for event in calls)
    assert set(per_feature) == {feature.name for feature in FEATURES}
    for feature in FEATURES:
        expected = feature.per_second * seconds
        assert abs(per_feature[feature.name] - expected) < 5 * expected**0.5
    errors = Counter(event["error"]["type"] for event in calls if event["status"] == "error")
    assert 0.001 < sum(errors.values()) / len(calls) < 0.006
    refused = [event for event in calls if event.get("error", {}).get("type") == "rate_limit_error"]
    assert refused
    assert all(event["latency_ms"] < 10 for event in refused)
    by_user = Counter(event["user"] for event in calls)
    assert max(by_user.values()) < 0.03 * len(calls)


def test_the_rate_is_a_factor_on_the_number_of_calls() -> None:
    usual = len(Traffic(5, START_MS, QUIET).calls(START_MS, START_MS + 10_000))
    many = len(Traffic(5, START_MS, QUIET, rate=10).calls(START_MS, START_MS + 10_000))
    assert 9 < many / usual < 11


def test_every_model_has_a_price() -> None:
    names = {(event["provider"], event["model"]) for _, event in Traffic(6, START_MS).calls(*loop_span())}
    assert ("anthropic", "claude-opus-4-1") in names
    book = PriceBook()
    for provider, model in names:
        for _, price in book.day_prices(provider, model, START_MS // 86_400_000):
            assert price.cost(1_000, 100, 0, 100), (provider, model)  # type: ignore[union-attr]


def loop_span() -> tuple[int, int]:
    spike = next(each for each in DEMO.incidents if each.kind is Kind.SPEND_SPIKE)
    return START_MS + spike.start_ms, START_MS + spike.end_ms


def test_the_script_plays_each_kind_of_incident_once_and_starts_again() -> None:
    assert {incident.kind for incident in DEMO.incidents} == set(Kind)
    for earlier, later in zip(DEMO.incidents, DEMO.incidents[1:], strict=False):
        assert earlier.end_ms < later.start_ms
    first = DEMO.incidents[0]
    assert DEMO.at(first.start_ms - 1) is None
    assert DEMO.at(first.start_ms) is first
    assert DEMO.at(first.end_ms - 1) is first
    assert DEMO.at(first.end_ms) is None
    assert DEMO.at(DEMO.period_ms + first.start_ms) is first
    assert DEMO.upcoming(0) == (first, first.start_ms)
    assert DEMO.upcoming(first.start_ms) == (DEMO.incidents[1], 30_000)
    assert DEMO.upcoming(DEMO.period_ms - 1) == (first, first.start_ms + 1)
    assert QUIET.upcoming(0) is None
    assert QUIET.at(0) is None


@pytest.mark.parametrize(("seed", "minutes"), [(1, 5), (2, 3), (3, 3)])
def test_without_incidents_no_rule_fires(shipped_rules: RuleSet, seed: int, minutes: int) -> None:
    fired = [
        (series_of(transition), transition.at_ms - START_MS, transition.value)
        for transition in replayed(shipped_rules, seed, QUIET, minutes * 60_000)
        if transition.to_state is State.FIRING
    ]
    assert fired == []


@pytest.mark.parametrize("seed", [1, 2])
def test_each_incident_fires_its_alerts_in_time_and_they_resolve_and_nothing_else_fires(
    shipped_rules: RuleSet, seed: int
) -> None:
    # One period and the start of the next: the last incident's alert resolves in the first seconds after it.
    log: dict[State, dict[tuple[str, ...], int]] = {State.FIRING: {}, State.RESOLVED: {}}
    for transition in replayed(shipped_rules, seed, DEMO, DEMO.period_ms + 5_000):
        if transition.to_state in log:
            at = log[transition.to_state]
            assert series_of(transition) not in at
            at[series_of(transition)] = transition.at_ms - START_MS
    assert set(log[State.FIRING]) == {series for expected in ALERTS.values() for series in expected}
    for incident in DEMO.incidents:
        for series in ALERTS[incident.kind]:
            assert incident.start_ms < log[State.FIRING][series] <= incident.start_ms + 15_000
            assert incident.end_ms < log[State.RESOLVED][series] <= incident.end_ms + 15_000


def test_each_incident_does_to_the_calls_what_its_cause_says() -> None:
    calls = [event for _, event in Traffic(7, START_MS).calls(START_MS, START_MS + DEMO.period_ms)]
    quiet = [event for _, event in Traffic(7, START_MS, QUIET).calls(START_MS, START_MS + DEMO.period_ms)]
    failed = [event for event in calls if event["status"] == "error"]
    assert Counter(event["provider"] for event in failed).most_common(1)[0][0] == "anthropic"
    assert total(calls, "latency_ms", model="gpt-4.1") > 1.3 * total(quiet, "latency_ms", model="gpt-4.1")
    assert {
        event["feature"] for event in calls if event["user"] == "user-2718" and "opus" in event["model"]
    } == {"playground"}
    grown = [event for event in calls if event.get("prompt_version") == "v42"]
    assert {event["feature"] for event in grown} == {"code-completion"}
    cut = [event for event in calls if finish_reason(event.get("finish_reason", "stop")) == "length"]
    assert Counter(event["feature"] for event in cut).most_common(1)[0][0] == "search-answers"
    assert Counter(event["max_tokens"] for event in cut).most_common(1)[0][0] == 256


def total(calls: list[dict[str, Any]], field: str, model: str) -> float:
    return sum(event[field] for event in calls if event["model"] == model and event["status"] == "ok")


def test_the_demo_files_are_in_the_package() -> None:
    folder = resources.files("streams") / "demo_files"
    assert {Path(str(file)).name for file in folder.iterdir()} >= {"alerts.yaml", "tocsin.yaml"}

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from builders import BUSY, SOURCE, at, call, cells, ingest, no_prices, records, rule_log, view
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.labels import MODEL_CALLS, NONE, OTHER, Matcher
from rules.view import View
from streams.call import Reader
from streams.chunk import Chunk
from streams.distinct import RANKS, sketch_keys
from streams.frontier import Lateness, pane_start
from streams.histogram import BUCKETS, UPPER
from streams.needs import Needs
from streams.panes import EXEMPLARS_PER_PANE, ViewPanes
from streams.series_table import SeriesTable

CALLS = "count:one:any"
NOON = at("12:00:00")

events = st.fixed_dictionaries(
    {"model": st.just("gpt-4o"), "at": st.integers(NOON, NOON + 4_999)},
    optional={
        "feature": st.sampled_from(["a", "b", "c", "d"]),
        "user": st.sampled_from(["ana", "ben", "cem", "dia"]),
        "operation": st.sampled_from(["chat", "embeddings"]),
        "status": st.sampled_from(["ok", "error"]),
        "latency_ms": st.integers(0, 20_000) | st.integers(4_000_000, 80_000_000),
        "cost_usd": st.integers(0, 9),
    },
)


def fold(
    where: View, calls: list[dict[str, Any]], **config: Any
) -> dict[tuple[str, tuple[str, ...], int], dict[str, Any]]:
    """The panes after all calls in one batch."""
    stage = ingest(rule_log(extra=(where,)), Lateness(allowed_ms=3_600_000), **config)
    stage.assign(SOURCE, None)
    stage.take(records(calls))
    return cells(stage.flush(SOURCE, BUSY).chunks)


@given(st.lists(events, min_size=1, max_size=40))
def test_a_pane_holds_what_its_calls_add_up_to(calls: list[dict[str, Any]]) -> None:
    watched = view(
        "calls",
        "errors",
        "latency.p95",
        "latency.max",
        "spend",
        "users",
        where=(Matcher("operation", MODEL_CALLS),),
    )
    found = fold(watched, calls)
    naive: dict[tuple[str, int], list[tuple[int, dict[str, Any]]]] = {}
    for offset, event in enumerate(calls):
        if event.get("operation", "chat") in MODEL_CALLS:
            naive.setdefault((event.get("feature", NONE), event["at"] // 1_000 * 1_000), []).append(
                (offset, event)
            )
    assert {(series[0], start) for _, series, start in found} == set(naive)
    for (_, series, start), content in found.items():
        mine = naive[series[0], start]
        ok = [each for _, each in mine if each.get("status") != "error"]
        latencies = [each["latency_ms"] * 1_000 for each in ok if "latency_ms" in each]
        assert content[CALLS] == len(mine)
        assert content["count:one:error"] == len(mine) - len(ok)
        assert content["sum:spend:any"] == sum(each.get("cost_usd", 0) for _, each in mine) * 10**9
        assert content["count:latency:ok"] == len(latencies)
        assert content["peak:latency:ok"] == max(latencies, default=-(2**63))
        # Beyond the layout's end its last bucket stands: a call of twenty hours is slow, not absent.
        buckets = Counter(int(np.searchsorted(UPPER, min(each, int(UPPER[-1])))) for each in latencies)
        assert content["histogram:latency:ok"] == buckets
        highest: dict[int, int] = {}
        for key in sketch_keys([each["user"] for _, each in mine if "user" in each]).tolist():
            highest[key // RANKS] = max(key, highest.get(key // RANKS, 0))
        assert content["distinct:user:any"] == dict.fromkeys(highest.values(), 1)
        if latencies:
            first = next(o for o, e in mine if e in ok and e.get("latency_ms", -1) * 1_000 == max(latencies))
            assert content["exemplar:latency:ok"][:3] == (first, calls[first]["at"], max(latencies))
        else:
            assert "exemplar:latency:ok" not in content


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(1, 5))
def test_series_beyond_the_cap_are_gathered_by_order_of_arrival_and_nothing_is_lost(
    features: list[str], cap: int
) -> None:
    found = fold(view("calls"), [call(NOON, feature=each) for each in features], series_per_pane=cap)
    kept = list(dict.fromkeys(features))[:cap]
    expected = Counter(each if each in kept else OTHER for each in features)
    assert {series[0]: content[CALLS] for (_, series, _), content in found.items()} == expected


@given(st.lists(st.sampled_from(["a", "b", "c", OTHER]), min_size=1, max_size=20), st.integers(1, 3))
def test_a_call_that_says_other_itself_shares_the_cell_of_the_rest(features: list[str], cap: int) -> None:
    found = fold(view("calls"), [call(NOON, feature=each) for each in features], series_per_pane=cap)
    kept = list(dict.fromkeys(features))[:cap]
    assert {s[0]: c[CALLS] for (_, s, _), c in found.items()} == Counter(
        each if each in kept else OTHER for each in features
    )


def test_every_pane_has_its_own_cap() -> None:
    calls = [
        call(NOON, feature="a"),
        call(NOON, feature="b"),
        call(NOON + 1_000, feature="b"),
        call(NOON + 1_000, feature="a"),
    ]
    found = fold(view("calls"), calls, series_per_pane=1)
    assert {(series[0], start - NOON) for _, series, start in found} == {
        ("a", 0),
        (OTHER, 0),
        ("b", 1_000),
        (OTHER, 1_000),
    }


def test_only_the_first_series_of_a_pane_carry_exemplars() -> None:
    found = fold(
        view("calls"), [call(NOON, feature=f"f{number:03}") for number in range(EXEMPLARS_PER_PANE + 10)]
    )
    shown = sorted(series[0] for (_, series, _), content in found.items() if "exemplar:one:any" in content)
    assert shown == [f"f{number:03}" for number in range(EXEMPLARS_PER_PANE)]


def test_a_view_without_dimensions_has_one_series() -> None:
    found = fold(view("calls", by=()), [call(NOON, feature="a"), call(NOON, feature="b")])
    assert [(series, content[CALLS]) for (_, series, _), content in found.items()] == [((), 2)]


class _Driven:
    """The panes of one view, driven without the rest of ingest."""

    def __init__(self, watched: View) -> None:
        self.panes = ViewPanes(watched)
        self.reader = Reader(Needs.of([watched]), no_prices())
        self.offset = 0

    def add(self, *calls: dict[str, Any]) -> None:
        batch, _ = self.reader.read(records(calls, self.offset))
        self.offset += len(calls)
        starts, pane = np.unique(pane_start(batch.at_ms), return_inverse=True)
        self.panes.add(batch, starts, pane)

    def touched(self) -> dict[tuple[str, tuple[str, ...], int], dict[str, Any]]:
        return cells([Chunk(SOURCE, 0, 0, (self.panes.touched(str(SOURCE), {}),))])


def test_touched_gives_whole_contents_of_changed_cells_only() -> None:
    driven = _Driven(view("calls", "latency.p95"))
    driven.add(call(NOON, feature="a", latency_ms=1), call(NOON, feature="b", latency_ms=2))
    assert len(driven.touched()) == 2
    assert driven.touched() == {}
    driven.add(call(NOON, feature="b", latency_ms=2))
    ((key, content),) = driven.touched().items()
    assert key[1] == ("b",)
    assert content[CALLS] == 2
    assert sum(content["histogram:latency:ok"].values()) == 2


@given(st.lists(st.lists(events, min_size=1, max_size=10), min_size=2, max_size=6))
@settings(max_examples=50)
def test_cells_of_sealed_panes_are_used_again_without_a_trace_of_what_they_held(
    rounds: list[list[dict[str, Any]]],
) -> None:
    watched = view("calls", "latency.p95", "latency.max", "users")
    driven = _Driven(watched)
    for number, calls in enumerate(rounds):
        later = [event | {"at": event["at"] + number * 5_000} for event in calls]
        driven.add(*later)
        fresh = _Driven(watched)
        fresh.offset = driven.offset - len(later)
        fresh.add(*later)
        assert driven.touched() == fresh.touched()
        driven.panes.seal(NOON + (number + 1) * 5_000)
        driven.panes.forget_series(2)
        assert driven.panes.open_starts == []


def test_what_waits_to_be_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.panes._PENDING", 3)
    driven = _Driven(view("latency.p95"))
    for _ in range(10):
        driven.add(*(call(NOON, latency_ms=5) for _ in range(2)))
        assert sum(len(each) for pending in driven.panes._pending.values() for each in pending) <= 4
    (content,) = driven.touched().values()
    assert content["histogram:latency:ok"] == {int(np.searchsorted(UPPER, 5_000)): 20}
    assert len(UPPER) == BUCKETS


WIDE = ("feature", "user", "session", "prompt", "environment")


@pytest.mark.parametrize("known", [1, 5, 3_000, 40_000])
def test_series_numbers_stand_for_the_combination_of_values_however_many_values_are_known(known: int) -> None:
    watched = view("calls", by=WIDE)
    table, reader = SeriesTable(watched), Reader(Needs.of([watched]), no_prices())
    for dimension in WIDE:  # values seen before, which make the product of all dictionaries wide
        batch, _ = reader.read(records([call()]))
        batch.dictionary(dimension).update()
        for number in range(known):
            batch.dictionary(dimension)[f"value-{number}"]
    random = np.random.default_rng(known)
    calls = [call(**{each: f"value-{random.integers(0, known)}" for each in WIDE}) for _ in range(50)]
    batch, _ = reader.read(records([*calls, *calls[::-1]]))
    numbers = table.numbers(batch, None).tolist()
    assert [table.series[number] for number in numbers] == [
        tuple(c[d] for d in WIDE) for c in [*calls, *calls[::-1]]
    ]
    assert table.numbers(batch, np.arange(10, 20)).tolist() == numbers[10:20]
    assert numbers[:50] == numbers[:49:-1]

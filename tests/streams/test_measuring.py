from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from builders import MINUTE, at, call, no_prices, parts, records
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.labels import NONE, Matcher
from streams.measuring import Measured, measure_calls, measure_names, names_in

NOON = at("12:00:00")


def measured(
    calls: Iterable[dict[str, Any] | bytes], by: tuple[str, ...] = ("feature",), **options: Any
) -> Measured:
    return measure_calls([records(calls)], by, no_prices(), **options)


def table(found: Measured, *names: str) -> dict[Any, Any]:
    return {
        (row.series if row.start_ms is None else (row.series, row.start_ms - NOON)): tuple(
            row.values[name] for name in names
        )
        for row in found.rows
    }


def test_every_series_over_the_whole_input_however_far_apart_its_calls_are() -> None:
    calls = [
        call(NOON + 86_400_000 * day, feature="ab"[day % 2], latency_ms=100 * day) for day in range(1, 7)
    ]
    found = measured([*calls, *calls[::-1]])
    assert table(found, "calls", "latency.max", "errors") == {("a",): (6, 600, 0), ("b",): (6, 500, 0)}
    assert {row.start_ms for row in found.rows} == {None}
    assert found.counts.late == 0


def test_each_id_counts_once_in_the_whole_input() -> None:
    found = measured([call(NOON, id="a"), call(NOON + MINUTE, id="b"), call(NOON + 9 * MINUTE, id="a")])
    assert table(found, "calls") == {(NONE,): (2,)}
    assert found.counts.duplicates == 1


def test_tumbling_windows_are_half_open_and_in_order() -> None:
    calls = [
        call(NOON + each, feature="b" if each > MINUTE else "a")
        for each in (0, 59_999, 60_000, 60_001, 180_000)
    ]
    found = measured(calls, window_ms=MINUTE)
    assert table(found, "calls") == {
        (("a",), 0): (2,), (("a",), 60_000): (1,), (("b",), 60_000): (1,), (("b",), 180_000): (1,)
    }  # fmt: skip
    assert [(row.start_ms, row.series) for row in found.rows] == sorted(
        (row.start_ms, row.series) for row in found.rows
    )


def test_only_chat_and_completion_calls_count_unless_the_operation_is_asked_for() -> None:
    calls = [call(NOON), call(NOON, operation="completion"), call(NOON, operation="embeddings")]
    assert table(measured(calls, ()), "calls") == {(): (2,)}
    assert table(measured(calls, ("operation",)), "calls") == {
        ("chat",): (1,),
        ("completion",): (1,),
        ("embeddings",): (1,),
    }
    only = (Matcher("operation", ("embeddings",)),)
    assert table(measured(calls, (), where=only), "calls") == {(): (1,)}


def test_what_no_call_says_is_unknown_rather_than_zero() -> None:
    found = measured([call(NOON)])
    assert table(
        found, "latency.p95", "tokens.input", "tokens.input.avg", "spend", "error_rate", "errors"
    ) == {(NONE,): (None, None, None, None, 0, 0)}


def test_stages_and_scores_are_found_in_the_calls() -> None:
    calls = [
        call(NOON, latency_ms=100, stages_ms={"queue": 30, "odd name": 1}, scores={"groundedness": 0.5}),
        b"{",
        b"\xff",
    ]
    assert names_in(records(calls)) == ({"queue"}, {"groundedness"})
    found = measured([calls[0], call(NOON, stages_ms={"queue": 10})])
    assert table(found, "stage.queue.max", "stage.unaccounted.max", "score.groundedness.avg") == {
        (NONE,): (30, 69, 0.5)
    }
    assert names_in(None) == (set(), set())


def test_the_names_that_are_found_in_calls_are_bounded() -> None:
    many = call(
        NOON,
        stages_ms={f"stage{number:03}": 1 for number in range(100)},
        scores={f"s{number}": 1 for number in range(100)},
    )
    stages, scores = names_in(records([many]))
    assert len(stages) == len(scores) == 32
    assert len(measured([many]).rows[0].values) > 32 * 5


def test_records_that_are_no_calls_are_counted_and_the_first_twenty_given() -> None:
    found = measured([b"{", call(NOON), *[b"x"] * 30])
    assert found.counts.rejected == 31
    assert [each.offset for each in found.rejected] == [0, *range(2, 21)]
    assert table(found, "calls") == {(NONE,): (1,)}


def test_no_calls_have_no_rows() -> None:
    assert measure_calls([], ("feature",), no_prices()).rows == ()
    assert measured([b"{"]).rows == ()


def test_asked_measures_only() -> None:
    found = measured([call(NOON, latency_ms=7)], names=["latency.p90", "calls"])
    assert found.rows[0].values == {"latency.p90": 7.007, "calls": 1}
    assert "stage.unaccounted.p95" not in measure_names()


events = st.builds(
    lambda time, feature, latency, tokens: call(
        NOON + time, feature=feature, latency_ms=latency, tokens={"input": tokens}
    ),
    st.integers(0, 300_000), st.sampled_from("abc"), st.integers(0, 5_000), st.integers(0, 99),
)  # fmt: skip


@given(
    st.lists(events, min_size=1, max_size=30),
    st.lists(st.integers(1, 29), max_size=4),
    st.sampled_from([None, MINUTE]),
)
@settings(max_examples=40)
def test_rows_do_not_depend_on_order_or_batches_and_agree_with_plain_lists(
    calls: list[dict[str, Any]], cuts: list[int], window: int | None
) -> None:
    one = measured(calls, window_ms=window)
    other = measure_calls(parts(records(calls[::-1]), cuts), ("feature",), no_prices(), window_ms=window)
    assert one.rows == other.rows
    naive: dict[tuple[int | None, tuple[str]], list[dict[str, Any]]] = {}
    for event in calls:
        start = None if window is None else event["at"] // window * window
        naive.setdefault((start, (event["feature"],)), []).append(event)
    assert {(row.start_ms, row.series) for row in one.rows} == set(naive)
    for row in one.rows:
        mine = naive[row.start_ms, row.series]
        latencies = sorted(event["latency_ms"] for event in mine)
        exact = latencies[-(-95 * len(mine) // 100) - 1]
        assert row.values["calls"] == len(mine)
        assert row.values["tokens.input"] == sum(event["tokens"]["input"] for event in mine)
        assert row.values["latency.avg"] == pytest.approx(sum(latencies) / len(mine))
        assert exact <= (row.values["latency.p95"] or 0) <= exact * 1.0079

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from builders import SOURCE, at, call, no_prices, raw, records
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rules.labels import NONE, Matcher
from rules.view import CALLS, Field, FieldKind, Selection, View
from streams.call import Batch, Reader
from streams.event import finish_reason
from streams.needs import Needs
from streams.records import Rejected
from streams.times import UNKNOWN

DIMENSIONS = (
    "operation", "feature", "model", "model_version", "provider", "user", "session", "prompt", "prompt_version",
    "environment", "status", "error.type", "error.code", "finish_reason", "streaming", "labels.team", "labels.tenant",
)  # fmt: skip
COLUMNS = (
    "one", "latency", "ttft", "stage.queue", "stage.unaccounted", "tokens.input", "tokens.output", "tokens.total",
    "tokens.cached_input", "spend", "output_tokens_per_second", "content.input_chars", "score.groundedness",
)  # fmt: skip


def reader(*dimensions: str) -> Reader:
    fields = [Field(FieldKind.SUM, column, Selection.ANY) for column in COLUMNS]
    fields += [Field(FieldKind.COUNT, "one", selection) for selection in Selection]
    return Reader(Needs.of([View((), dimensions or DIMENSIONS, tuple(fields))]), no_prices())


def read(*calls: dict[str, Any] | bytes | None, broker: int = at("12:00:00")) -> tuple[Batch, list[Rejected]]:
    return reader().read(records(calls, 100, broker_times=[broker] * len(calls)))


def values(batch: Batch, dimension: str) -> list[str]:
    known = batch.dictionary(dimension).values_by_code if len(batch) else []
    return [known[code] for code in batch.codes(dimension).tolist()]


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


texts = st.sampled_from(["a", "b", "c", "", "x" * 300])
scalars = st.sampled_from(["a", 1, 1.0, True, False, 0, "1", "true", 2.5, None])
ms = st.floats(0, 5_000).map(lambda value: round(value, 3))
counts = st.integers(0, 5_000)


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid event with a random choice of its fields, absent, null or there."""
    fields = {
        "operation": texts | st.sampled_from(["chat", "text_completion", "embedding", "generate_content"]),
        "feature": texts, "model_version": texts, "provider": texts, "user": texts, "session": texts, "prompt": texts,
        "prompt_version": texts, "environment": texts,
        "status": st.sampled_from(["ok", "error"]),
        "error": some_of(type=texts, code=st.sampled_from([429, "429", None]), message=texts),
        "finish_reason": st.sampled_from(["stop", "LENGTH", "refusal", "safety", "model_context_window_exceeded"]),
        "latency_ms": ms, "ttft_ms": ms,
        "stages_ms": st.dictionaries(st.sampled_from(["queue", "network", "other"]), optional(ms), max_size=3),
        "tokens": some_of(input=optional(counts), output=optional(counts), cached_input=optional(counts)),
        "cost_usd": st.floats(0, 5).map(lambda value: round(value, 6)),
        "streaming": st.booleans(),
        "content": some_of(input_chars=optional(counts)),
        "scores": st.dictionaries(st.sampled_from(["groundedness", "other"]), optional(st.floats(-1, 1))),
        "labels": st.dictionaries(st.sampled_from(["team", "tenant"]), scalars),
        "tenant": scalars,
    }  # fmt: skip
    event = {
        "model": draw(st.sampled_from(["gpt-4o", "claude"])),
        "at": at("12:00:00") + draw(st.integers(0, 10_000)),
    }
    for name, strategy in fields.items():
        if draw(st.booleans()):
            event[name] = draw(optional(strategy))
    return event


def text_of(value: Any) -> str:
    if value is None:
        return NONE
    return ("true" if value else "false") if isinstance(value, bool) else str(value)[:200]


def naive_dimension(event: dict[str, Any], name: str) -> str:
    failed = naive_failed(event)
    if name == "operation":
        value = event.get("operation") or "chat"
        return {"text_completion": "completion", "embedding": "embeddings", "generate_content": "chat"}.get(
            value, text_of(value)
        )
    if name == "status":
        return "error" if failed else "ok"
    if name.startswith("error."):
        return text_of((event.get("error") or {}).get(name[6:]))
    if name == "finish_reason":
        return NONE if event.get(name) is None else finish_reason(event[name])
    if name.startswith("labels."):
        value = (event.get("labels") or {}).get(name[7:])
        return text_of(event.get(name[7:]) if value is None else value)
    return text_of(event.get(name))


def naive_failed(event: dict[str, Any]) -> bool:
    return event.get("status") == "error" or (event.get("status") is None and event.get("error") is not None)


def close(value: float | None, scale: int) -> float | None:
    return None if value is None else value * scale


def naive_column(event: dict[str, Any], name: str) -> float | None:
    latency, ttft, stages = event.get("latency_ms"), event.get("ttft_ms"), event.get("stages_ms")
    tokens = event.get("tokens") or {}
    match name.split("."):
        case ["one"]:
            return 1
        case ["latency"]:
            return close(latency, 1_000)
        case ["ttft"]:
            return close(ttft, 1_000)
        case ["stage", "queue"]:
            return close((stages or {}).get("queue"), 1_000)
        case ["stage", "unaccounted"]:
            if not stages or latency is None:
                return None
            return max(0, latency - sum(each for each in stages.values() if each is not None)) * 1_000
        case ["tokens", "total"]:
            parts = [tokens.get(part) for part in ("input", "output") if tokens.get(part) is not None]
            return sum(parts) if parts else None
        case ["tokens", part]:
            return tokens.get(part)
        case ["spend"]:
            return close(event.get("cost_usd"), 1_000_000_000)
        case ["content", part]:
            return (event.get("content") or {}).get(part)
        case ["score", part]:
            return close((event.get("scores") or {}).get(part), 1_000_000)
        case _:
            return naive_rate(tokens.get("output"), latency, ttft)


def naive_rate(output: int | None, latency: float | None, ttft: float | None) -> float | None:
    if output is None or latency is None:
        return None
    first = 0 if ttft is None or round(ttft, 3) >= round(latency, 3) else ttft
    took = round(latency * 1_000) - round(first * 1_000)
    return None if took <= 0 else output / (took / 1e6) * 1_000


def naive_selection(event: dict[str, Any], selection: Selection) -> bool:
    ok = not naive_failed(event)
    reason = naive_dimension(event, "finish_reason")
    tokens = event.get("tokens") or {}
    priceable = ok or tokens.get("input") is not None or tokens.get("output") is not None
    return {
        Selection.ANY: True,
        Selection.OK: ok,
        Selection.ERROR: not ok,
        Selection.FINISHED: ok and reason != NONE,
        Selection.TRUNCATED: ok and reason in ("length", "context_exceeded"),
        Selection.REFUSED: ok and reason in ("refusal", "content_filter"),
        Selection.PRICEABLE: priceable,
        Selection.UNPRICED: priceable and event.get("cost_usd") is None,
        Selection.CACHE_KNOWN: tokens.get("input") is not None and tokens.get("cached_input") is not None,
    }[selection]


# The generated provider and model names are in no price list, so that only a stated cost prices a call.
@given(st.lists(events().filter(lambda event: event.get("provider") != "gpt"), max_size=8))
@settings(max_examples=40)
@example([])
@example([{"model": "m", "at": at("12:00:00"), "labels": {"team": label}} for label in (1, True, 1.0, "1")])
def test_every_column_dimension_and_selection_equals_what_each_call_says_on_its_own(
    calls: list[dict[str, Any]],
) -> None:
    for event in calls:
        event["model"] = f"unknown-{event['model']}"
    batch, rejected = read(*calls)
    assert rejected == []
    for name in DIMENSIONS:
        assert values(batch, name) == [naive_dimension(event, name) for event in calls], name
    for name in COLUMNS:
        for found, event in zip(batch.column(name).tolist(), calls, strict=True):
            expected = naive_column(event, name)
            assert (
                found == UNKNOWN if expected is None else abs(found - expected) <= 1 + 1e-6 * abs(expected)
            ), name
    for selection in Selection:
        assert batch.selection(selection).tolist() == [
            naive_selection(event, selection) for event in calls
        ], selection


@settings(max_examples=40)
@given(st.lists(events(), min_size=1, max_size=8), st.sampled_from(COLUMNS), st.sampled_from(list(Selection)))
def test_chosen_calls_are_those_in_the_selection_whose_column_is_known(
    calls: list[dict[str, Any]], column: str, selection: Selection
) -> None:
    batch, _ = read(*calls)
    rows, chosen = batch.chosen(column, selection)
    known = [
        i
        for i, value in enumerate(batch.column(column).tolist())
        if value != UNKNOWN and batch.selection(selection)[i]
    ]
    assert (list(range(len(calls))) if rows is None else rows.tolist()) == known
    assert chosen.tolist() == [batch.column(column)[i] for i in known]


def test_distinct_counts_are_over_calls_that_carry_the_dimension() -> None:
    batch, _ = read(call(user="ana"), call(), call(user="ben", status="error"), call(user="ana"))
    rows, keys = batch.sketch("user", Selection.ANY)
    assert rows.tolist() == [0, 2, 3]
    assert keys[0] == keys[2] != keys[1]
    assert batch.sketch("user", Selection.OK)[0].tolist() == [0, 3]


BAD: dict[str, bytes | None] = {
    "null value": None,
    "empty": b"",
    "truncated JSON": raw(call(feature="chat"))[:-4],
    "no object": b"[1]",
    "no model": b"{}",
    "empty model": b'{"model":""}',
    "NaN": b'{"model":"m","latency_ms":NaN}',
    "infinite": b'{"model":"m","latency_ms":1e999}',
    "negative latency": b'{"model":"m","latency_ms":-1}',
    "negative tokens": b'{"model":"m","tokens":{"input":-1}}',
    "tokens as text": b'{"model":"m","tokens":{"input":"12"}}',
    "fractional tokens": b'{"model":"m","tokens":{"input":1.5}}',
    "wrong type": b'{"model":"m","latency_ms":"fast"}',
    "a number beyond all bounds": b'{"model":"m","tokens":{"input":' + b"9" * 4_500 + b"}}",
    "a score beyond all bounds": b'{"model":"m","scores":{"groundedness":1e300}}',
    "unknown status": b'{"model":"m","status":"failed"}',
    "deep nesting": b'{"model":"m","x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "bad UTF-8 in a dimension": b'{"model":"m\xff"}',
    "bad UTF-8 in a field that nobody reads": b'{"model":"m","messages":["\xc3\x28"]}',
    "bad UTF-8 in a name": b'{"model":"m","\xff":1}',
    "a time without zone": b'{"model":"m","at":"2026-10-01T12:00:00"}',
    "a time in seconds": b'{"model":"m","at":1790856000}',
    "a huge time": b'{"model":"m","at":' + b"9" * 4_000 + b"}",
    "a start that is no time": b'{"model":"m","at":1790856000000,"started_at":"soon"}',
    "ended before it started": b'{"model":"m","at":1790856000000,"started_at":1790856000001}',
    "lasted a year": b'{"model":"m","at":1790856000000,"started_at":1759320000000}',
    "trailing text": raw(call()) + b" x",
    "a byte order mark": b"\xef\xbb\xbf" + raw(call()),
    "a lone surrogate": b'{"model":"m","feature":"\\ud800"}',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_call_is_rejected_with_a_reason_and_the_rest_is_kept(name: str) -> None:
    bad = BAD[name]
    batch, rejected = read(call(feature="before"), bad, call(feature="after"))
    assert values(batch, "feature") == ["before", "after"]
    assert batch.offsets.tolist() == [100, 102]
    assert [(each.source, each.offset, each.raw) for each in rejected] == [(SOURCE, 101, bad)]
    assert 0 < len(rejected[0].reason) <= 500


def test_good_and_bad_records_in_turn_are_told_apart() -> None:
    mixed = [each for bad in BAD.values() for each in (bad, call(feature="good"), bad)]
    batch, rejected = read(*mixed)
    assert values(batch, "feature") == ["good"] * len(BAD)
    assert batch.offsets.tolist() == [100 + 3 * index + 1 for index in range(len(BAD))]
    assert [each.offset for each in rejected] == [100 + i for i in range(len(mixed)) if i % 3 != 1]
    assert all(each.raw == mixed[each.offset - 100] for each in rejected)


def test_a_batch_of_nothing_but_bad_records_has_no_calls() -> None:
    batch, rejected = read(*BAD.values())
    assert len(batch) == 0
    assert len(rejected) == len(BAD)


def test_the_time_is_at_or_start_plus_latency_or_the_records_own() -> None:
    batch, _ = read(
        call("12:00:05"),
        call(None, started_at=at("12:00:01"), latency_ms=2_500),
        call(None),
        call(None, started_at=at("12:00:01")),
        broker=at("13:00:00"),
    )
    assert batch.at_ms.tolist() == [at("12:00:05"), at("12:00:03.500"), at("13:00:00"), at("13:00:00")]


def test_latency_follows_from_start_and_end_where_it_is_absent() -> None:
    batch, _ = read(
        call("12:00:05", started_at=at("12:00:01")), call("12:00:05", started_at=at("12:00:01"), latency_ms=7)
    )
    assert batch.latency_us.tolist() == [4_000_000, 7_000]


@pytest.mark.parametrize("broker", [0, -1])
def test_a_call_without_any_time_is_rejected(broker: int) -> None:
    batch, rejected = read(call(None), call(), broker=broker)
    assert len(batch) == 1
    assert rejected[0].reason.startswith("no time")


@pytest.mark.parametrize("label", [b'"\\ud83d"', b"1e999", b"9" * 5_000, b'{"a":1}', b"[1]", b"null"])
def test_a_top_level_name_that_holds_no_readable_scalar_is_no_label(label: bytes) -> None:
    batch, rejected = read(b'{"model":"m","tenant":' + label + b"}", call(tenant="acme"))
    assert values(batch, "labels.tenant")[-1] == "acme"
    assert values(batch, "labels.tenant")[:-1] == [NONE] * (1 - len(rejected))


def test_values_of_dimensions_are_cut_at_two_hundred_characters() -> None:
    batch, _ = read(call(feature="f" * 5_000, labels={"team": "t" * 5_000}))
    assert values(batch, "feature") == ["f" * 200]
    assert values(batch, "labels.team") == ["t" * 200]


def test_a_rate_without_measurable_time_is_unknown_and_an_absurd_one_is_bounded() -> None:
    absurd = call(tokens={"output": 10**12}, latency_ms=0.001)
    batch, _ = read(
        absurd,
        call(tokens={"output": 5}, latency_ms=0),
        call(tokens={"output": 5}, latency_ms=100, ttft_ms=50),
    )
    assert batch.column("output_tokens_per_second").tolist() == [10**12, UNKNOWN, 100_000]


def test_the_fields_that_are_read_are_those_that_views_need() -> None:
    lean = Needs.of([View((Matcher("labels.team", ("a",)),), ("feature",), (CALLS,))])
    assert lean.fields == {"feature", "labels"}
    assert lean.labels == {"team"}
    assert Needs.of([View((), ("labels.feature",), (CALLS,))]).labels == frozenset()
    rate = Field(FieldKind.HISTOGRAM, "output_tokens_per_second", Selection.OK)
    distinct = Field(FieldKind.DISTINCT, "session", Selection.ANY)
    refused = Field(FieldKind.COUNT, "one", Selection.REFUSED)
    assert Needs.of([View((), (), (rate, distinct, refused))]).fields == {
        "ttft_ms",
        "latency_ms",
        "session",
        "finish_reason",
    }


def test_matchers_are_asked_once_for_each_value() -> None:
    lean = reader("feature")
    batch, _ = lean.read(records([call(feature="a"), call(feature="b")]))
    assert batch.passing(Matcher("feature", ("b",))).tolist() == [False, True]
    more, _ = lean.read(records([call(feature="c"), call(feature="b")]))
    assert more.passing(Matcher("feature", ("b", "c"))).tolist() == [False, True, True]
    assert more.passing(Matcher("feature", ("b",))).tolist() == [False, True, False]


def test_taking_rows_keeps_their_times_offsets_and_bytes_together() -> None:
    batch, _ = read(*(call(at("12:00:00") + i, feature=str(i), latency_ms=i) for i in range(5)))
    taken = batch.take(np.array([1, 3]))
    assert values(taken, "feature") == ["1", "3"]
    assert taken.offsets.tolist() == [101, 103]
    assert taken.latency_us.tolist() == [1_000, 3_000]
    assert taken.raw == [batch.raw[1], batch.raw[3]]
    assert math.isclose(taken.at_ms[1] - taken.at_ms[0], 2)

from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest
from builders import call, raw
from hypothesis import given
from hypothesis import strategies as st

from streams.event import (
    FIELDS,
    FINISH_REASONS,
    FULL,
    MESSAGE_CHARACTERS,
    describe,
    finish_reason,
    json_schema,
)

WHOLE = call(
    id="c-1",
    operation="chat",
    feature="search",
    user="ana",
    status="error",
    error={"type": "rate_limit", "code": 429, "message": "slow down"},
    finish_reason="stop",
    latency_ms=812.5,
    ttft_ms=210,
    stages_ms={"queue": 12.5, "network": None},
    tokens={"input": 10, "output": 20},
    cost_usd=0.25,
    streaming=True,
    trace="4bf9",
    content={"input_chars": 100, "ref": "s3://prompts/1"},
    parameters={"temperature": 0.2},
    scores={"groundedness": 0.9},
    labels={"team": "growth", "beta": True},
)


def test_a_whole_event_is_decoded_and_passes_its_own_schema() -> None:
    decoded = FULL.decode(raw(WHOLE))
    assert decoded.tokens.output == 20
    assert decoded.error.code == 429
    jsonschema.validate(WHOLE, json_schema(), jsonschema.Draft202012Validator)
    assert set(WHOLE) <= set(FIELDS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_ms": -1},
        {"tokens": {"input": -5}},
        {"model": ""},
        {"status": "failed"},
        {"scores": {"a": "high"}},
    ],
)
def test_the_schema_refuses_what_the_decoder_refuses(wrong: dict[str, object]) -> None:
    event = WHOLE | wrong
    with pytest.raises(msgspec.ValidationError):
        FULL.decode(raw(event))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event, json_schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        ("stop", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        (" Stop_Sequence ", "stop"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("length", "length"),
        ("model_context_window_exceeded", "context_exceeded"),
        ("SAFETY", "content_filter"),
        ("content-filter", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("refusal", "refusal"),
        ("tool_use", "tool_calls"),
        ("function_call", "tool_calls"),
        ("cancelled", "error"),
        ("something new", "other"),
        ("", "other"),
    ],
)
def test_spellings_of_providers_are_normalised(original: str, reason: str) -> None:
    assert finish_reason(original) == reason


@given(st.text())
def test_every_finish_reason_is_one_of_the_eight(original: str) -> None:
    assert finish_reason(original) in FINISH_REASONS


def test_a_normalised_finish_reason_stays_what_it_is() -> None:
    assert [finish_reason(each) for each in FINISH_REASONS] == list(FINISH_REASONS)


def test_a_description_shows_the_events_fields_and_keeps_unknown_scalars_as_labels() -> None:
    shown, ignored = describe(raw(WHOLE | {"region": "eu", "retried": False, "steps": [1, 2]}))
    assert shown["latency_ms"] == 812.5
    assert shown["labels"] == {"team": "growth", "beta": True, "region": "eu", "retried": False}
    assert shown["stages_ms"] == {"queue": 12.5}
    assert ignored == ("steps",)


@pytest.mark.parametrize("first", ["labels", "team"])
def test_a_label_of_labels_wins_over_a_scalar_under_the_same_unknown_name(first: str) -> None:
    event = {"model": "m", "labels": {"team": "growth"}, "team": "other"}
    ordered = {"model": "m", first: event[first]} | event
    assert describe(raw(ordered))[0]["labels"] == {"team": "growth"}


def test_a_description_keeps_no_text_of_prompts_or_messages() -> None:
    marker = "MY-SECRET-PROMPT"
    event = call(
        messages=[{"role": "user", "content": marker}],
        input={"text": marker},
        content={"input_chars": 16, "text": marker, "messages": [marker]},
        tokens={"input": 3, "note": marker},
        error={"type": "timeout", "stack": [marker], "detail": {"text": marker}},
        labels={"team": "growth", "nested": {"text": marker}, "list": [marker]},
        parameters={"temperature": 1, "messages": [{"content": marker}], "tools": {"x": marker}},
        stages_ms={"queue": 3, "trace": [marker]},
    )
    shown, ignored = describe(raw(event))
    assert marker not in json.dumps([shown, ignored])
    assert set(ignored) == {
        "messages",
        "input",
        "content.text",
        "content.messages",
        "tokens.note",
        "error.stack",
        "error.detail",
    }


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=600),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=300), inner, max_size=40)
        ),
        max_leaves=60,
    ),
    st.sampled_from([*FIELDS, "whatever", "labels"]),
)
def test_a_description_is_bounded_and_fits_every_record_format(value: object, name: str) -> None:
    shown, ignored = describe(raw({"model": "m", name: value, "other": value}))
    assert len(msgspec.json.encode(shown)) < 200_000
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(shown)) == shown
    assert all(len(each) <= 200 for each in ignored)


def test_texts_are_cut_and_mappings_have_a_largest_size() -> None:
    event = call(
        user="u" * 10_000,
        error={"type": "t" * 10_000, "message": "m" * 10_000},
        labels={f"label-{number}": "v" * 1_000 for number in range(500)},
        **{"n" * 5_000: 1},
    )
    shown, _ = describe(raw(event))
    assert len(str(shown["user"])) == 200
    assert len(shown["error"]["message"]) == MESSAGE_CHARACTERS
    assert len(shown["error"]["type"]) == 200
    assert len(shown["labels"]) == 32


@pytest.mark.parametrize(
    "part", [b"1e999", b"1" * 5_000, b"[" * 900 + b"]" * 900, b'{"a":1e999}', b'{"a":[1e999]}']
)
def test_a_value_that_cannot_be_read_and_that_nobody_read_does_not_hide_the_others(part: bytes) -> None:
    shown, _ = describe(b'{"model":"m","user":"ana","extra":' + part + b',"labels":' + part + b"}")
    assert shown == {"model": "m", "user": "ana"}


def test_an_integer_too_wide_for_record_formats_is_shown_as_text() -> None:
    assert describe(b'{"model":"m","labels":{"n":123456789012345678901}}')[0]["labels"] == {
        "n": "123456789012345678901"
    }

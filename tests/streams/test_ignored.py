"""Unknown fields of calls are ignored, and counted by name in a sample."""

import json

import numpy as np

from streams.ignored import EVERY, NAMES, OTHER, Ignored
from streams.records import Records, Source

SOURCE = Source("llm.calls", 0, "")


def records(values: list[bytes | None], first: int = 0) -> Records:
    offsets = np.arange(first, first + len(values), dtype=np.int64)
    return Records(SOURCE, values, offsets, np.zeros(len(values), np.int64))


def call(**fields: object) -> bytes:
    return json.dumps({"model": "gpt-4.1", **fields}).encode()


def test_unknown_objects_and_unknown_parts_are_counted_and_scalars_are_labels() -> None:
    ignored = Ignored()
    new = ignored.look(
        records(
            [
                call(usage={"prompt_tokens": 3}, team="growth"),
                call(tokens={"input": 3, "prompt": 3}),
                call(usage={"prompt_tokens": 3}),
            ]
        )
    )
    assert new == ["usage", "tokens.prompt"]
    assert ignored.names == {"usage": 2, "tokens.prompt": 1}
    assert ignored.looked_at == 3
    assert ignored.text() == "unknown fields, ignored: usage (2), tokens.prompt (1), in 3 calls looked at"


def test_known_calls_leave_nothing_to_say() -> None:
    ignored = Ignored()
    assert ignored.look(records([call(labels={"team": "growth"}, latency_ms=3)])) == []
    assert ignored.text() is None


def test_records_that_are_no_calls_are_not_looked_at() -> None:
    ignored = Ignored()
    ignored.look(records([None, b"{", b"\xff", b"[" * 100_000, b"[]"]))
    assert (ignored.looked_at, ignored.names) == (0, {})


def test_the_first_calls_of_a_source_are_looked_at_and_then_each_at_a_multiple_of_the_sample() -> None:
    ignored = Ignored()
    ignored.look(records([call(usage={})] * 100, first=7))
    assert ignored.looked_at == 100
    ignored.look(records([call(usage={})] * 1_000, first=107))
    assert ignored.looked_at == EVERY + sum(offset % EVERY == 0 for offset in range(7 + EVERY, 1_107))


def test_names_beyond_the_bound_are_counted_together() -> None:
    ignored = Ignored()
    new = ignored.look(records([call(**{f"usage{number}": {}}) for number in range(NAMES + 20)]))
    assert new == [*(f"usage{number}" for number in range(NAMES)), OTHER]
    assert ignored.names[OTHER] == 20


def test_a_name_cannot_reach_the_terminal_as_it_is() -> None:
    ignored = Ignored()
    ignored.look(records([call(**{"\x1b[31musage": {}})]))
    assert ignored.text() == "unknown fields, ignored: \\x1b[31musage (1), in 1 call looked at"

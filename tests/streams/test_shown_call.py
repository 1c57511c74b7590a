import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import chunk
from streams.block import Block
from streams.chunk import Chunk, decode, encode
from streams.event import FIELDS, describe, show
from streams.records import Source

TEXTS = st.sampled_from(["a", "b" * 200, "c" * 201, "ü" * 200, ""])
SCALARS = st.one_of(TEXTS, st.integers(-(2**65), 2**65), st.floats(-1e9, 1e9), st.booleans(), st.none())
MAPPINGS = st.dictionaries(
    st.sampled_from(["input", "output", "type", "message", "ref", "other", "k" * 201]), SCALARS, max_size=4
)
MANY = st.integers(31, 34).map(lambda size: {f"name-{number}": number for number in range(size)})
EVENTS = st.dictionaries(
    st.sampled_from([*FIELDS, "region", "steps"]),
    st.one_of(SCALARS, MAPPINGS, MANY, st.lists(SCALARS, max_size=2)),
    max_size=8,
)


@given(EVENTS)
def test_a_shown_call_reads_as_its_description(event: dict[str, object]) -> None:
    raw = json.dumps(event).encode()
    shown = show(raw)
    assert dict(shown) == describe(raw)[0]
    assert {name: type(value) for name, value in shown.items()} == {
        name: type(value) for name, value in describe(raw)[0].items()
    }


def test_a_shown_call_is_a_mapping_and_equals_one_with_the_same_fields() -> None:
    raw = b'{"model":"gpt-4o","tokens":{"input":3},"scores":{}}'
    shown = show(raw)
    assert shown == {"model": "gpt-4o", "tokens": {"input": 3}} == show(raw)
    assert len(shown) == 2
    assert shown["model"] == "gpt-4o"
    assert "trace" not in shown
    assert "gpt-4o" in repr(shown)
    with pytest.raises(KeyError):
        shown["trace"]


@pytest.mark.parametrize("series", [("plain",), ("ünïcode" * 20,), ("a", "ü")])
def test_texts_are_counted_with_as_many_bytes_as_they_take_at_most(series: tuple[str, ...]) -> None:
    counted = chunk._texts_bytes([series, series])
    assert (counted >= sum(len(text.encode()) for text in series)).all()
    assert len(counted) == 2


def test_series_without_dimensions_have_no_texts() -> None:
    assert chunk._texts_bytes([(), ()]).tolist() == [8.0, 8.0]


def test_an_empty_chunk_survives_its_bytes() -> None:
    blocks: tuple[Block, ...] = ()
    source = Source("llm.calls", 3, "id")
    assert decode(encode(Chunk(source, 2, 5, blocks))).source == source

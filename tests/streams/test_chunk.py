from __future__ import annotations

import itertools
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import BUSY, SOURCE, at, call, cells, ingest, records, rule_log, view
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import chunk as chunks
from streams.block import Block
from streams.chunk import Chunk, ChunkError, Late, Seal, decode, encode, key, split, split_late
from streams.frontier import Lateness

NOON = at("12:00:00")
SEAL = Seal(NOON, NOON + 5, NOON + 99, 3, caught_up=True, lag_ms=7)


def flushed(*calls: dict[str, Any]) -> list[Chunk]:
    watched = view("calls", "latency.p95", "latency.max", "spend", "users", by=("feature", "user"))
    stage = ingest(rule_log(extra=(watched,)), Lateness(allowed_ms=60_000))
    stage.assign(SOURCE, None)
    stage.take(records(calls))
    return list(stage.flush(SOURCE, BUSY).chunks)


def block_of(*calls: dict[str, Any]) -> Block:
    (block,) = (block for chunk in flushed(*calls) for block in chunk.blocks)
    return block


def late(*bookings: tuple[int, str, int], view: str = "v") -> Late:
    offsets, features, spend = zip(*bookings, strict=True)
    series = tuple(dict.fromkeys((each,) for each in features))
    rows = np.array([series.index((each,)) for each in features], np.int64)
    return Late(
        view,
        series,
        rows,
        np.full(len(rows), NOON),
        np.array(offsets, np.int64),
        np.array(spend, np.int64),
        np.array(offsets, np.int64) + NOON,
    )


def plain(late: Late) -> list[tuple[str, tuple[str, ...], int, int, int]]:
    columns = zip(
        late.row.tolist(), late.start_ms.tolist(), late.offset.tolist(), late.spend.tolist(), strict=True
    )
    return [(late.view, late.series[row], start, offset, spend) for row, start, offset, spend in columns]


events = st.builds(
    lambda feature, user, latency, cost: call(
        NOON + latency, feature=feature, user=user, latency_ms=latency, cost_usd=cost
    ),
    st.text(max_size=5), st.sampled_from(["ana", "ben", "ü" * 40]), st.integers(0, 9_000), st.integers(0, 9),
)  # fmt: skip


@given(st.lists(events, min_size=1, max_size=30))
def test_a_chunk_survives_its_bytes(calls: list[dict[str, Any]]) -> None:
    for chunk in flushed(*calls):
        whole = Chunk(
            chunk.source, chunk.shard, chunk.version, chunk.blocks, (late((3, "a", 5), (4, "b", 6)),), SEAL
        )
        back = decode(encode(whole))
        assert (back.source, back.shard, back.version, back.seal) == (
            SOURCE,
            chunk.shard,
            chunk.version,
            SEAL,
        )
        assert cells([back]) == cells([whole])
        assert list(map(plain, back.late)) == list(map(plain, whole.late))


def test_an_empty_chunk_survives_its_bytes() -> None:
    back = decode(encode(Chunk(SOURCE, 15, 7, ())))
    assert (back.source, back.shard, back.version, back.blocks, back.late, back.seal) == (
        SOURCE,
        15,
        7,
        (),
        (),
        None,
    )
    assert key(back) == b"llm.calls/0@15"


@given(st.lists(events, min_size=1, max_size=30), st.integers(200, 4_000))
def test_the_pieces_of_a_block_add_up_to_it_and_none_is_cut_within_an_entry(
    calls: list[dict[str, Any]], limit: int
) -> None:
    block = block_of(*calls)
    pieces = list(split(block, limit))
    assert sum(map(len, pieces)) == len(block)
    assert cells([Chunk(SOURCE, 0, 1, tuple(pieces))]) == cells([Chunk(SOURCE, 0, 1, (block,))])


def test_records_stay_below_the_brokers_limit_whatever_exemplars_and_names_weigh() -> None:
    heavy = [
        call(
            NOON, feature=f"{number:03}" + "ü" * 190, latency_ms=number, cost_usd=1,
            labels={f"{label:03}" + "n" * 190: "ö" * 200 for label in range(32)},
            parameters={f"{label:03}" + "p" * 190: "ä" * 200 for label in range(32)},
        )
        for number in range(64)
    ]  # fmt: skip
    found = flushed(*heavy)
    assert max(len(encode(chunk)) for chunk in found) < 1_000_000
    assert len(cells(found)) == 64


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(["a", "b", "c" * 50]), st.integers(0, 9)),
        min_size=1,
        max_size=40,
    ),
    st.integers(30, 600),
)
def test_late_bookings_are_cut_between_offsets_and_come_in_order(
    bookings: list[tuple[int, str, int]], limit: int
) -> None:
    ordered = sorted({each[0]: each for each in bookings}.values())
    views = [late(*ordered, view="v"), late(*ordered[::2], view="w")]
    pieces = list(split_late(views, limit))
    assert sorted(row for piece in pieces for each in piece for row in plain(each)) == sorted(
        row for each in views for row in plain(each)
    )
    ranges = [(min(o.offset.min() for o in piece), max(o.offset.max() for o in piece)) for piece in pieces]
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(ranges))


def test_no_late_bookings_make_no_piece() -> None:
    assert list(split_late([])) == []


@given(st.binary(max_size=200))
def test_bytes_that_are_no_chunk_are_refused(data: bytes) -> None:
    with pytest.raises(ChunkError):
        decode(data)


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_record_is_refused_or_is_still_a_chunk_whose_arrays_fit_together(
    data: st.DataObject,
) -> None:
    good = encode(
        Chunk(
            SOURCE,
            3,
            9,
            (block_of(call(NOON, feature="a", latency_ms=3, user="ana")),),
            (late((1, "a", 2)),),
            SEAL,
        )
    )
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = data.draw(
        st.sampled_from([good[:at], good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]])
    )
    try:
        back = decode(damaged)
    except ChunkError:
        return
    cells([back])
    for booking in back.late:
        plain(booking)


def damaged(**changes: Any) -> bytes:
    block = block_of(call(NOON, feature="a", latency_ms=3), call(NOON, feature="b", latency_ms=4))
    wire = msgspec.msgpack.decode(encode(Chunk(SOURCE, 0, 1, (block,), (late((1, "a", 2)),))))
    names = chunks._WireBlock.__struct_fields__
    for name, value in changes.items():
        if name in names:
            wire["blocks"][0][names.index(name)] = value
        else:
            wire[name] = value
    return msgspec.msgpack.encode(wire)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format 2 of a panes record is not known here, only 1"),
        ({"row": struct.pack("<II", 0, 2)}, "outside its record"),
        ({"row": struct.pack("<I", 0)}, "differ in length"),
        ({"start_ms": struct.pack("<q", NOON)}, "differ in length"),
        ({"columns": {"count:one:any": b""}}, "differ in length"),
        ({"row": b"123"}, "not a panes record"),
        ({"exemplars": [[9, "x", 0, 0, 0, {}]]}, "outside its record"),
        ({"late": [["v", [], *[b""] * 5]]}, "a late booking without calls"),
        ({"late": [["v", [], struct.pack("<I", 0), *[struct.pack("<q", 1)] * 4]]}, "outside its record"),
    ],
)
def test_the_reason_of_a_refused_record_is_given(changes: dict[str, Any], reason: str) -> None:
    decode(damaged())
    with pytest.raises(ChunkError, match=reason):
        decode(damaged(**changes))

"""Chunks: what ingest publishes to the panes topic, and the bytes of one record of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.transition import Exemplar
from streams.panes import Block, Sparse
from streams.records import Source

Ints = NDArray[np.int64]

FORMAT: Final = 1
CHUNK_BYTES: Final = 600_000
"""Aim for the size of one record before compression: below the broker's default limit of 1 MiB."""


@dataclass(frozen=True, slots=True)
class Seal:
    """How far one source is, in band: carried by the last chunk of a flush.

    `frontier_ms`: panes that end by then are final. `watermark_ms`: at least that; beyond it where the source was
    proven idle. `wall_ms`: the clock at the flush. `sources`: partitions of the calls topic. `lag_ms`: how old the
    oldest call not yet read was, 0 when caught up. All but the frontier depend on the clock, and are data from here on.
    """

    frontier_ms: int
    watermark_ms: int
    wall_ms: int
    sources: int
    caught_up: bool
    lag_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Late:
    """Spend of calls that came after their pane was sealed, one entry per call, by offset.

    `row`: int64[n], index into `series`. `start_ms`, `offset`, `spend` (nano-dollars): int64[n].
    """

    view: str
    series: tuple[Series, ...]
    row: Ints
    start_ms: Ints
    offset: Ints
    spend: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Part of one flush of one source for one shard. `version`: the source's next offset at the flush."""

    source: Source
    shard: int
    version: int
    blocks: tuple[Block, ...]
    late: tuple[Late, ...] = ()
    seal: Seal | None = None


class ChunkError(ValueError):
    """Bytes that are no chunk of this format."""


def split(block: Block, limit: int = CHUNK_BYTES) -> Iterator[Block]:
    """The block in pieces of about `limit` bytes each; a single entry is never cut."""
    sizes = np.full(len(block), 16.0 + 8 * len(block.columns))
    sizes += np.array([sum(map(len, series)) + 8 for series in block.series] or [0])[block.row]
    for values in block.sparse.values():
        sizes += np.bincount(values.entry, minlength=len(block)) * 12.0
    for entry, _, _ in block.exemplars:
        sizes[entry] += 800
    piece = np.cumsum(sizes) // limit
    if piece[-1] == 0:
        yield block
        return
    for number in np.unique(piece):
        yield block.select(np.flatnonzero(piece == number))


class _WireSparse(msgspec.Struct, array_like=True):
    entry: bytes
    key: bytes
    count: bytes


class _WireBlock(msgspec.Struct, array_like=True):
    view: str
    series: list[tuple[str, ...]]
    row: bytes
    start_ms: bytes
    columns: dict[str, bytes]
    sparse: dict[str, _WireSparse]
    exemplars: list[tuple[int, str, int, int, int, dict[str, Any]]]


class _WireLate(msgspec.Struct, array_like=True):
    view: str
    series: list[tuple[str, ...]]
    row: bytes
    start_ms: bytes
    offset: bytes
    spend: bytes


class _WireChunk(msgspec.Struct):
    format: int
    topic: str
    partition: int
    topic_id: str
    shard: int
    version: int
    blocks: list[_WireBlock]
    late: list[_WireLate]
    seal: Seal | None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_WireChunk)


def encode(chunk: Chunk) -> bytes:
    """The record's value: MessagePack, arrays as little-endian bytes (rows and entries uint32, the rest int64)."""
    return _ENCODER.encode(
        _WireChunk(
            FORMAT,
            chunk.source.topic,
            chunk.source.partition,
            chunk.source.topic_id,
            chunk.shard,
            chunk.version,
            [_wire_block(block) for block in chunk.blocks],
            [
                _WireLate(
                    late.view,
                    list(late.series),
                    _narrow(late.row),
                    _wide(late.start_ms),
                    _wide(late.offset),
                    _wide(late.spend),
                )
                for late in chunk.late
            ],
            chunk.seal,
        )
    )


def decode(value: bytes) -> Chunk:
    """The chunk of a record's value.

    Raises:
        ChunkError: the bytes are no chunk, or of a format that this version does not know.
    """
    try:
        wire = _DECODER.decode(value)
        if wire.format != FORMAT:
            raise ChunkError(f"format {wire.format} of a panes record is not known here, only {FORMAT}")
        source = Source(wire.topic, wire.partition, wire.topic_id)
        late = tuple(
            Late(
                each.view,
                tuple(each.series),
                _from_narrow(each.row),
                _from_wide(each.start_ms),
                _from_wide(each.offset),
                _from_wide(each.spend),
            )
            for each in wire.late
        )
        blocks = tuple(_block(block, str(source)) for block in wire.blocks)
        return Chunk(source, wire.shard, wire.version, blocks, late, wire.seal)
    except (msgspec.MsgspecError, ValueError) as error:
        raise (
            error if isinstance(error, ChunkError) else ChunkError(f"not a panes record: {error}")
        ) from error


def _wire_block(block: Block) -> _WireBlock:
    return _WireBlock(
        block.view,
        list(block.series),
        _narrow(block.row),
        _wide(block.start_ms),
        {name: _wide(values) for name, values in block.columns.items()},
        {
            name: _WireSparse(_narrow(values.entry), _narrow(values.key), _wide(values.count))
            for name, values in block.sparse.items()
        },
        [
            (entry, name, each.offset, each.at_ms, each.value, dict(each.call))
            for entry, name, each in block.exemplars
        ],
    )


def _block(wire: _WireBlock, source: str) -> Block:
    return Block(
        wire.view,
        tuple(wire.series),
        _from_narrow(wire.row),
        _from_wide(wire.start_ms),
        {name: _from_wide(values) for name, values in wire.columns.items()},
        {
            name: Sparse(_from_narrow(each.entry), _from_narrow(each.key), _from_wide(each.count))
            for name, each in wire.sparse.items()
        },
        tuple(
            (entry, name, Exemplar(at, source, offset, value, call))
            for entry, name, offset, at, value, call in wire.exemplars
        ),
    )


def _narrow(values: Ints) -> bytes:
    return values.astype("<u4").tobytes()


def _wide(values: Ints) -> bytes:
    return values.astype("<i8").tobytes()


def _from_narrow(data: bytes) -> Ints:
    return np.frombuffer(data, "<u4").astype(np.int64)


def _from_wide(data: bytes) -> Ints:
    return np.frombuffer(data, "<i8").astype(np.int64)


def key(chunk: Chunk) -> bytes:
    """The record's key: source and shard, for people who look at the topic."""
    return f"{chunk.source}@{chunk.shard}".encode()

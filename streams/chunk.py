"""Chunks: what ingest publishes to the panes topic, and the bytes of one record of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.transition import Exemplar
from streams.block import Block, Sparse
from streams.event import ShownCall
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

    `row`: int64[n], index into `series`. `start_ms`, `offset`, `spend` (nano-dollars), `seen_ms`: int64[n]; the last is
    how far the source was sealed when the call came: ticks after that see it, whenever it was published.
    """

    view: str
    series: tuple[Series, ...]
    row: Ints
    start_ms: Ints
    offset: Ints
    spend: Ints
    seen_ms: Ints

    def __len__(self) -> int:
        return len(self.row)

    def select(self, mask: NDArray[np.bool_]) -> Late:
        """Some of the bookings: bool[n]."""
        used, row = np.unique(self.row[mask], return_inverse=True)
        return Late(
            self.view,
            tuple(self.series[number] for number in used.tolist()),
            row.astype(np.int64),
            self.start_ms[mask],
            self.offset[mask],
            self.spend[mask],
            self.seen_ms[mask],
        )


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
    """The block, not empty, in pieces of about `limit` bytes each; a single entry is never cut."""
    sizes = np.full(len(block), 16.0 + 8 * len(block.columns))
    sizes += _texts_bytes(block.series)[block.row]
    for values in block.sparse.values():
        sizes += np.bincount(values.entry, minlength=len(block)) * 16.0
    for entry, _, exemplar in block.exemplars:
        sizes[entry] += 64 + len(_packed(exemplar.call))
    piece = np.cumsum(sizes) // limit
    if piece[-1] == 0:
        yield block
        return
    for number in np.unique(piece):
        yield block.select(np.flatnonzero(piece == number))


def split_late(bookings: Sequence[Late], limit: int = CHUNK_BYTES) -> Iterator[tuple[Late, ...]]:
    """Late bookings in pieces of about `limit` bytes, each of a range of offsets: all views of one call stay together.

    The receiver applies only offsets above the last applied, so pieces must arrive in this order.
    """
    if not bookings:
        return
    offsets = np.concatenate([late.offset for late in bookings])
    sizes = np.concatenate([36.0 + _texts_bytes(late.series)[late.row] for late in bookings])
    distinct, call = np.unique(offsets, return_inverse=True)
    piece = (np.cumsum(np.bincount(call, weights=sizes)) // limit).astype(np.int64)
    for number in np.unique(piece).tolist():
        within = distinct[piece == number]
        chosen = ((late, (late.offset >= within[0]) & (late.offset <= within[-1])) for late in bookings)
        yield tuple(late.select(mask) for late, mask in chosen if mask.any())


def _texts_bytes(series: Sequence[Series]) -> NDArray[np.float64]:
    """Bytes of the texts of each series, at most."""
    texts = list(chain.from_iterable(series))
    if not texts:
        return np.full(len(series), 8.0)
    sizes = np.fromiter(map(len, texts), np.float64, len(texts))
    if not all(map(str.isascii, texts)):
        sizes *= [1 if text.isascii() else 4 for text in texts]
    whole: NDArray[np.float64] = sizes.reshape(len(series), -1).sum(axis=1)
    return 8 + whole


def _packed(call: Mapping[str, object]) -> bytes:
    return call.packed if isinstance(call, ShownCall) else _ENCODER.encode(call)


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


class WireLate(msgspec.Struct, array_like=True):
    """Late bookings as they stand in records and snapshots."""

    view: str
    series: list[tuple[str, ...]]
    row: bytes
    start_ms: bytes
    offset: bytes
    spend: bytes
    seen_ms: bytes


class _WireChunk(msgspec.Struct):
    format: int
    topic: str
    partition: int
    topic_id: str
    shard: int
    version: int
    blocks: list[_WireBlock]
    late: list[WireLate]
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
            [wire_late(late) for late in chunk.late],
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
        late = tuple(map(late_of, wire.late))
        blocks = tuple(_block(block, str(source)) for block in wire.blocks)
        return Chunk(source, wire.shard, wire.version, blocks, late, wire.seal)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise (
            error if isinstance(error, ChunkError) else ChunkError(f"not a panes record: {error}")
        ) from error


def wire_late(late: Late) -> WireLate:
    """Late bookings as plain values."""
    return WireLate(
        late.view,
        list(late.series),
        _narrow(late.row),
        _wide(late.start_ms),
        _wide(late.offset),
        _wide(late.spend),
        _wide(late.seen_ms),
    )


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
            (
                entry,
                name,
                each.offset,
                each.at_ms,
                each.value,
                cast("dict[str, Any]", msgspec.Raw(_packed(each.call))),
            )
            for entry, name, each in block.exemplars
        ],
    )


def late_of(wire: WireLate) -> Late:
    """Late bookings of plain values.

    Raises:
        ChunkError: they do not fit together.
    """
    late = Late(
        wire.view,
        tuple(wire.series),
        _from_narrow(wire.row),
        _from_wide(wire.start_ms),
        _from_wide(wire.offset),
        _from_wide(wire.spend),
        _from_wide(wire.seen_ms),
    )
    _check_lengths(len(late.row), late.start_ms, late.offset, late.spend, late.seen_ms)
    _check_below(len(late.series), late.row)
    if len(late.row) == 0:
        raise ChunkError("a late booking without calls")
    return late


def _block(wire: _WireBlock, source: str) -> Block:
    block = Block(
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
    _check_lengths(len(block), block.start_ms, *block.columns.values())
    _check_below(len(block.series), block.row)
    for values in block.sparse.values():
        _check_lengths(len(values.entry), values.key, values.count)
        _check_below(len(block), values.entry)
    _check_below(len(block), np.array([entry for entry, _, _ in block.exemplars], np.int64))
    return block


def _check_lengths(length: int, *arrays: Ints) -> None:
    if any(len(array) != length for array in arrays):
        raise ChunkError("arrays of one record differ in length")


def _check_below(limit: int, numbers: Ints) -> None:
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < limit:
        raise ChunkError("a number points outside its record")


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

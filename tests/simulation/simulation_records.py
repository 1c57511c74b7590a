"""The records of the logs, read without the engine's own readers."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from simulation_oracle import Content
from simulation_ticks import Seen


@dataclass(frozen=True)
class ChunkRead:
    """A record of the panes log."""

    source: int
    version: int
    entries: list[tuple[str, tuple[str, ...], int, Content]]
    late: list[tuple[str, tuple[str, ...], int, int, int, int]]
    """View, series, pane start, offset, nano-dollars, how far the source was sealed when the call came."""
    seal: dict[str, Any] | None


def read_chunk(value: bytes) -> ChunkRead:
    wire = msgspec.msgpack.decode(value)
    entries: list[tuple[str, tuple[str, ...], int, Content]] = []
    late: list[tuple[str, tuple[str, ...], int, int, int, int]] = []
    for block in wire["blocks"]:
        entries += _entries(*block)
    for view, series, row, starts, offsets, spend, seen in wire["late"]:
        late += [
            (view, tuple(series[number]), *booking)
            for number, *booking in zip(
                _narrow(row), _wide(starts), _wide(offsets), _wide(spend), _wide(seen), strict=True
            )
        ]
    return ChunkRead(wire["partition"], wire["version"], entries, late, wire["seal"])


def _entries(
    view: str,
    series: list[list[str]],
    row: bytes,
    starts: bytes,
    columns: dict[str, bytes],
    sparse: dict[str, tuple[bytes, bytes, bytes]],
    exemplars: list[list[Any]],
) -> Iterator[tuple[str, tuple[str, ...], int, Content]]:
    rows, begins = _narrow(row), _wide(starts)
    contents: list[Content] = [{name: {} for name in sparse} for _ in rows]
    for name, data in columns.items():
        for content, number in zip(contents, _wide(data), strict=True):
            content[name] = number
    for name, (entry, key, count) in sparse.items():
        for number, bucket, times in zip(_narrow(entry), _narrow(key), _wide(count), strict=True):
            contents[number][name][bucket] = times
    for number, name, offset, _, amount, _ in exemplars:
        contents[number][name] = (amount, offset)
    for number, start, content in zip(rows, begins, contents, strict=True):
        yield view, tuple(series[number]), start, content


def _narrow(data: bytes) -> list[int]:
    return array("I", data).tolist()


def _wide(data: bytes) -> list[int]:
    return array("q", data).tolist()


def read_alert(value: bytes) -> tuple[str, Seen, dict[str, Any]]:
    """The id of a transition, what is compared of it, and the whole record."""
    record = json.loads(value)
    return (
        record["id"],
        Seen(
            at=_ms(record["at"]),
            rule=f"{record['group']}/{record['alert']}",
            series=tuple(record["series"].values()),
            before=record["from"],
            after=record["to"],
            severity=record["severity"],
            before_severity=record["from_severity"],
            value=record["value"],
            calls=record["calls"],
            since=_ms(record["since"]),
            episode=_ms(record["episode"]),
            reason=record["reason"],
        ),
        record,
    )


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)

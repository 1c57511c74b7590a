"""Positions: where a source stands, what a flush of it gives, and what proves that it is idle."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.chunk import Chunk
from streams.records import Source
from streams.times import UNKNOWN


@dataclass(frozen=True, slots=True)
class Position:
    """Where a source stands, as it is committed.

    `first` (F): offset of the oldest open pane's first call, or of an earlier call of the same batch. `next` (P): the
    next offset to take. Then the frontier at P, the watermark reported with it, and (`first_...`) the frontier at F:
    from there on what was late, clamped and rejected is judged again as it was the first time. `sealed_ms`: what was
    sealed, where that is less than the frontier allows.
    """

    first: int
    next: int
    high_ms: int
    high_broker_ms: int
    ahead_ms: tuple[int, ...]
    watermark_ms: int
    first_high_ms: int = field(default=UNKNOWN, kw_only=True)
    first_high_broker_ms: int = field(default=0, kw_only=True)
    first_ahead_ms: tuple[int, ...] = field(default=(), kw_only=True)
    sealed_ms: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Idle:
    """The client's proof that a source has nothing more to give: caught up, at this moment of the clock."""

    caught_up: bool
    wall_ms: int
    sources: int


@dataclass(frozen=True, slots=True)
class Flush:
    """One flush of one source: its chunks, the last of each shard last, and the position to commit after them."""

    chunks: tuple[Chunk, ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A source that was beyond the beginning of a rule set before it was heard of.

    `first`: the offset that it must be read again from. `open_panes` of it are rebuilt; `sealed_panes` (their span of
    event time, in panes) stay as they are.
    """

    source: Source
    first: int
    open_panes: int
    sealed_panes: int


@dataclass(slots=True)
class Counts:
    """How many calls of a source met each fate since the start, for status output."""

    accepted: int = 0
    rejected: int = 0
    late: int = 0
    clamped: int = 0
    duplicates: int = 0

"""Ingest, the first stage: raw records in; pane chunks, rejected records and a restart position out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.rule import PANE_MS
from rules.view import CALL_SOURCE, SHARDS, View
from streams.block import Block, by_shard
from streams.call import Batch, Pricing, Reader
from streams.chunk import Chunk, Late, Seal, split, split_late
from streams.engine_counts import EngineCounts
from streams.epoch_prices import pricing_by
from streams.event import ShownCall
from streams.frontier import Frontier, Lateness, clamp, pane_start
from streams.late import bookings
from streams.needs import Needs
from streams.panes import SERIES_PER_PANE, ViewPanes
from streams.position import Counts, Flush, Idle, Overtaken, Position
from streams.records import Records, Rejected, Source
from streams.repeated import repeated_rows
from streams.rule_log import RuleLog
from streams.times import UNKNOWN

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KNOWN_SERIES: Final = 200_000
"""Series (and values of a dimension) that a source remembers before it forgets those of sealed panes."""


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """What does not change while the stage runs."""

    lateness: Lateness = field(default_factory=Lateness)
    series_per_pane: int = SERIES_PER_PANE
    known_series: int = KNOWN_SERIES
    pane_ms: int = PANE_MS


_Begins = tuple[int, Frontier]
"""An offset, and the frontier before it."""


@dataclass(slots=True)
class _SourceState:
    """The running state of one source.

    `before`: while open panes are rebuilt, the frontier where the rebuilding stands. `first`: by start of an open pane,
    the offset from which it can be rebuilt and the frontier there. `late`: bookings to be published, by shard.
    """

    reader: Reader
    log: RuleLog
    engine: EngineCounts
    frontier: Frontier = field(default_factory=Frontier)
    next_offset: int = 0
    rebuilt_until: int = 0
    sealed_ms: int = UNKNOWN
    watermark_ms: int = UNKNOWN
    before: Frontier | None = None
    panes: dict[str, ViewPanes] = field(default_factory=dict)
    ids: dict[int, set[str]] = field(default_factory=dict)
    first: dict[int, _Begins] = field(default_factory=dict)
    late: dict[int, list[Late]] = field(default_factory=dict)
    last_broker_ms: int = 0
    last_call_ms: int | None = None


class Ingest:
    """All sources of one worker. `take` records, `flush` now and then; the same records give the same panes."""

    def __init__(self, config: IngestConfig, log: RuleLog, price: Callable[[], Pricing]) -> None:
        self.config = config
        self.log = log
        self.known_until_ms: int | None = None
        """Panes that end later are neither published nor sealed, and no watermark goes beyond; None: no bound."""
        self.counts = Counts()
        self._price = price
        self._sources: dict[Source, _SourceState] = {}

    @property
    def sources(self) -> list[Source]:
        """The sources assigned."""
        return sorted(self._sources)

    def assign(self, source: Source, position: Position | None) -> int | None:
        """Start a source; the offset to read from, or None for the log's start.

        With a position, its open panes are rebuilt from the records between `first` and `next`.
        """
        state = _SourceState(self._reader(), self.log, EngineCounts(self.log))
        self._sources[source] = state
        if position is None:
            return None
        state.frontier = Frontier(position.high_ms, position.high_broker_ms, list(position.ahead_ms))
        state.before = Frontier(
            position.first_high_ms, position.first_high_broker_ms, list(position.first_ahead_ms)
        )
        state.rebuilt_until, state.next_offset = position.next, position.first
        state.watermark_ms = position.watermark_ms
        sealed = state.frontier.sealed_ms(self.config.lateness)
        state.sealed_ms = sealed if position.sealed_ms is None else position.sealed_ms
        return position.first

    def revoke(self, source: Source) -> None:
        """Forget a source: whoever has it next rebuilds it from the log."""
        self._sources.pop(source, None)

    def switch(self, log: RuleLog) -> list[Overtaken]:
        """Use a newer rules log. Panes that lie before its changes stay as they are.

        Returns the sources that already have panes beyond them: give each to `read_again`, and its records once more.
        """
        from_ms, self.log = log.changed_from_ms(self.log), log
        found = []
        for source, state in sorted(self._sources.items()):
            if from_ms is None:
                break
            beyond = sum(start >= from_ms for start in state.first if start != UNKNOWN)
            sealed = max(0, state.sealed_ms - from_ms) // self.config.pane_ms
            if beyond or sealed:
                found.append(Overtaken(source, self._position(state).first, beyond, sealed))
        return found

    def read_again(self, source: Source) -> int:
        """Start a source anew where it stands: the offset from which its open panes are rebuilt by the log of now."""
        state = self._sources[source]
        position = self._position(state)
        self.assign(source, position)
        # What was late before this position is not booked again.
        self._sources[source].late = state.late
        return position.first

    def take(self, records: Records) -> list[Rejected]:
        """Count records in, in order of offset; those that are no calls come back with their reason."""
        state = self._sources[records.source]
        if len(records) == 0:
            return []
        if state.log is not self.log or self._overgrown(state):
            self._renew(state)
        rebuilt = int(np.searchsorted(records.offsets, state.rebuilt_until))
        if rebuilt:
            self._rebuild(state, records.part(slice(0, rebuilt)))
            records = records.part(slice(rebuilt, None))
            if len(records) == 0:
                return []
        state.before = None
        begins = int(records.offsets[0]), state.frontier.copy()
        batch, rejected, sealed, late, future = self._judge(state, records, state.frontier, begins)
        if len(batch):
            state.last_call_ms = int(batch.at_ms[-1])
        self.counts.rejected += len(rejected)
        self.counts.late += int(np.count_nonzero(late))
        self.counts.clamped += int(np.count_nonzero(future))
        if late.any():
            came_late = batch.take(np.flatnonzero(late))
            for shard, booking in bookings(
                came_late,
                sealed[late],
                self.config.pane_ms,
                self.log,
                lambda view: self._panes(state, view).table,
            ):
                state.late.setdefault(shard, []).append(booking)
            batch = batch.take(np.flatnonzero(~late))
        accepted, duplicates = self._count(state, batch, begins)
        self.counts.accepted += accepted
        self.counts.duplicates += duplicates
        state.next_offset = int(records.offsets[-1]) + 1
        state.last_broker_ms = int(records.times_ms[-1])
        return rejected

    def next_offset(self, source: Source) -> int:
        """The next offset of a source to take."""
        return self._sources[source].next_offset

    def first_offset(self, source: Source) -> int:
        """The offset from which the open panes of a source can be rebuilt."""
        return self._position(self._sources[source]).first

    def last_call_ms(self, source: Source) -> int | None:
        """Time of the last call, by event time; of the last one taken, where that is ahead and not yet corroborated."""
        state = self._sources[source]
        return None if state.last_call_ms is None else max(state.last_call_ms, state.frontier.high_ms)

    def flush(self, source: Source, idle: Idle) -> Flush:
        """Everything touched since the last flush, whole; then drop what is sealed."""
        state = self._sources[source]
        blocks_of: dict[int, list[Block]] = {shard: [] for shard in range(SHARDS)}
        described: dict[int, ShownCall] = {}
        known = self.known_until_ms
        for panes in state.panes.values():
            for shard, block in by_shard(panes.view, panes.touched(str(source), described, known)):
                blocks_of[shard].append(block)
        for view, block in state.engine.touched(known):
            blocks_of[view.shard(())].append(block)
        frontier = state.frontier.sealed_ms(self.config.lateness)
        frontier = max(state.sealed_ms, frontier if known is None else min(frontier, known))
        state.sealed_ms = frontier
        self._seal(state, frontier)
        seal = self._watermark(state, frontier, idle)
        version = state.next_offset
        chunks = []
        for shard, blocks in blocks_of.items():
            chunks += [
                Chunk(source, shard, version, (), late) for late in split_late(state.late.get(shard, []))
            ]
            pieces = [piece for block in blocks for piece in split(block)]
            chunks += [Chunk(source, shard, version, (piece,)) for piece in pieces[:-1]]
            chunks.append(Chunk(source, shard, version, tuple(pieces[-1:]), seal=seal))
        state.late.clear()
        return Flush(tuple(chunks), self._position(state))

    def _reader(self) -> Reader:
        needs = Needs.of(view for view in self.log.all_views() if view.source == CALL_SOURCE)
        return Reader(needs, pricing_by(self.log, self._price))

    def _overgrown(self, state: _SourceState) -> bool:
        return any(len(known) > self.config.known_series for known in state.reader.dictionaries.values())

    def _renew(self, state: _SourceState) -> None:
        """A new reader with empty dictionaries: after a change of rules, or to bound what is remembered."""
        state.log, state.reader = self.log, self._reader()
        state.engine.use(self.log)
        for panes in state.panes.values():
            panes.table.forget_codes()

    def _rebuild(self, state: _SourceState, records: Records) -> None:
        """Count calls again that lie in open panes; those of sealed panes were published before the restart."""
        assert state.before is not None
        begins = int(records.offsets[0]), state.before.copy()
        batch, _, _, late, _ = self._judge(state, records, state.before, begins)
        state.engine.seal(state.sealed_ms)
        is_open = pane_start(batch.at_ms, self.config.pane_ms) + self.config.pane_ms > state.sealed_ms
        self._count(state, batch.take(np.flatnonzero(is_open & ~late)), begins)
        if len(batch):
            state.last_call_ms = int(batch.at_ms[-1])
        state.next_offset = int(records.offsets[-1]) + 1
        state.last_broker_ms = int(records.times_ms[-1])

    def _judge(
        self, state: _SourceState, records: Records, frontier: Frontier, begins: _Begins
    ) -> tuple[Batch, list[Rejected], Ints, Bools, Bools]:
        """The calls of some records with their times clamped, what is no call, and which calls are late or clamped.

        The third result is how far the source was sealed when each call came. Moves the frontier, and books what went
        wrong with the engine's own counts.
        """
        batch, rejected = state.reader.read(records)
        batch.at_ms, future = clamp(batch.at_ms, batch.broker_ms, self.config.lateness)
        earlier = frontier.high_ms
        sealed = frontier.advance(batch.at_ms, batch.broker_ms, self.config.lateness)
        late = pane_start(batch.at_ms, self.config.pane_ms) + self.config.pane_ms <= sealed
        high = sealed + self.config.lateness.allowed_ms
        self._book_engine(state, batch.offsets, rejected, earlier, high, late, future)
        if state.engine.waiting:
            state.first.setdefault(UNKNOWN, begins)
        return batch, rejected, sealed, late, future

    def _count(self, state: _SourceState, batch: Batch, begins: _Begins) -> tuple[int, int]:
        """Count accepted calls into the panes of the views in force at their time, each id once per pane.

        `begins`: the offset at which the batch begins, and the frontier there. Returns how many calls were counted,
        and how many were repeated.
        """
        if len(batch) == 0:
            return 0, 0
        starts = pane_start(batch.at_ms, self.config.pane_ms)
        distinct, pane = np.unique(starts, return_inverse=True)
        repeated = repeated_rows(state.ids, batch, distinct, pane)
        if repeated:
            kept = np.ones(len(batch), bool)
            kept[repeated] = False
            rows = np.flatnonzero(kept)
            batch, starts = batch.take(rows), starts[rows]
            if len(batch) == 0:
                return 0, len(repeated)
            distinct, pane = np.unique(starts, return_inverse=True)
        for start in distinct.tolist():
            state.first.setdefault(start, begins)
        for views, rows_in_force in self.log.in_force(starts):
            part, part_distinct, part_pane = batch, distinct, pane
            if rows_in_force is not None:
                part = batch.take(rows_in_force)
                part_distinct, part_pane = np.unique(starts[rows_in_force], return_inverse=True)
            for view in views:
                self._panes(state, view).add(part, part_distinct, part_pane)
        return len(batch), len(repeated)

    def _panes(self, state: _SourceState, view: View) -> ViewPanes:
        found = state.panes.get(view.hash)
        if found is None:
            found = state.panes[view.hash] = ViewPanes(
                view, pane_ms=self.config.pane_ms, series_per_pane=self.config.series_per_pane
            )
        return found

    def _seal(self, state: _SourceState, frontier_ms: int) -> None:
        begins_needed = {UNKNOWN} if state.engine.waiting else set()
        sealed = [start for start in state.first if start + self.config.pane_ms <= frontier_ms]
        for start in set(sealed) - begins_needed:
            del state.first[start]
            state.ids.pop(start, None)
        for panes in state.panes.values():
            panes.seal(frontier_ms)
            panes.forget_series(self.config.known_series)
        needed = {view.hash for view in self.log.all_views()}
        for unused in [
            key for key, panes in state.panes.items() if key not in needed and not panes.open_starts
        ]:
            del state.panes[unused]
        state.engine.seal(frontier_ms)

    def _watermark(self, state: _SourceState, frontier_ms: int, idle: Idle) -> Seal:
        """The seal of a flush. The clock stands in for data only where the source is proven idle."""
        reported = max(state.watermark_ms, frontier_ms)
        if idle.caught_up:
            clock_ms = idle.wall_ms - self.config.lateness.allowed_ms
            known = self.known_until_ms
            reported = max(reported, clock_ms if known is None else min(clock_ms, known))
        state.watermark_ms = reported
        lag = 0 if idle.caught_up or not state.last_broker_ms else max(0, idle.wall_ms - state.last_broker_ms)
        return Seal(frontier_ms, reported, idle.wall_ms, idle.sources, idle.caught_up, lag)

    def _position(self, state: _SourceState) -> Position:
        front = state.frontier
        running = front if state.before is None else state.before
        begins = min(state.first.values(), key=_offset, default=(state.next_offset, running))
        return Position(
            first=begins[0],
            next=max(state.next_offset, state.rebuilt_until),
            high_ms=front.high_ms,
            high_broker_ms=front.high_broker_ms,
            ahead_ms=tuple(front.ahead_ms),
            watermark_ms=state.watermark_ms,
            first_high_ms=begins[1].high_ms,
            first_high_broker_ms=begins[1].high_broker_ms,
            first_ahead_ms=tuple(begins[1].ahead_ms),
            sealed_ms=None if state.sealed_ms == front.sealed_ms(self.config.lateness) else state.sealed_ms,
        )

    def _book_engine(
        self,
        state: _SourceState,
        offsets: Ints,
        rejected: list[Rejected],
        earlier: int,
        high: Ints,
        late: Bools,
        future: Bools,
    ) -> None:
        """Count what went wrong into the pane of the largest event time at that moment."""
        width = self.config.pane_ms
        for name, rows in (("late", late), ("clamped", future)):
            if rows.any():
                state.engine.add(name, pane_start(high[rows], width))
        if rejected:
            before = np.searchsorted(offsets, [each.offset for each in rejected]) - 1
            known = (
                np.where(before >= 0, high[before], earlier) if len(high) else np.full(len(rejected), earlier)
            )
            state.engine.add("rejected", np.where(known == UNKNOWN, UNKNOWN, pane_start(known, width)))
        if earlier == UNKNOWN and len(high):
            start = int(pane_start(high[:1], width)[0])
            state.engine.release(start)
            if UNKNOWN in state.first:
                state.first[start] = state.first.pop(UNKNOWN)


def _offset(begins: _Begins) -> int:
    return begins[0]

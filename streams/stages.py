"""Ingest and Evaluate as the loop drives them: topics, records and commits around the pure steps."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from rules.rule import PANE_MS
from rules.transition import Transition
from rules.visible import visible
from streams import alert_record, chunk
from streams.call import Pricing
from streams.chunk import ChunkError
from streams.evaluate import Evaluate
from streams.ignored import Ignored
from streams.ingest import Ingest, IngestConfig
from streams.loop import BATCH, Clock, Committed, Effects, Outgoing, Start
from streams.position import Idle, Position
from streams.records import LossError, Records, Rejected, Source
from streams.rule_log import HOP_MS, Known, RuleLog
from streams.settings import Settings
from streams.shard_state import encode as encode_state
from streams.snapshot import Snapshots
from streams.times import UNKNOWN

_log: Final = logging.getLogger(__name__)

KEPT_BYTES: Final = 500_000
"""A longer record is not kept with its reason: in base64 it would not fit into a record of the rejected topic."""
PILE_UP_MS: Final = 30_000
"""Ingest takes no calls while the rules log was last read longer ago: it could seal nothing."""
QUIET_MS: Final = 1_000
"""How often a source without new calls is reported on."""
_HOW_TO_GO_ON: Final = (
    "start once with --accept-loss to go on from what is there; alerts then miss those calls"
)


class IngestStage:
    """Calls in; panes, rejected records and positions out."""

    name = "ingest"
    batch = BATCH

    def __init__(
        self,
        settings: Settings,
        config: IngestConfig,
        log: RuleLog,
        price: Callable[[], Pricing],
        *,
        accept_loss: bool = False,
    ) -> None:
        self.topics: Sequence[str] = settings.calls.topics
        self.flush_ms = settings.flush
        self.ingest = Ingest(config, log, price)
        self._panes = settings.topics.panes
        self._rejected = settings.topics.rejected
        self._keep = settings.calls.keep_rejected
        self._lateness_ms = settings.calls.lateness
        self._accept_loss = accept_loss
        self._read_ms: int | None = None
        self._flushed: dict[Source, tuple[int, int]] = {}
        self._ignored = Ignored()

    def assign(self, source: Source, start: Start) -> int | None:
        """Rebuild from the committed position, or start at the log's start.

        Raises:
            LossError: the log no longer has what was not yet counted, or the topic is another one.
        """
        committed = start.committed
        known = None if committed is None else read_position(committed)
        if known is None:
            if committed is not None and start.log_start > committed.offset:
                self._refuse_loss(source, committed.offset, start.log_start)
            self.ingest.assign(source, None)
            # A broker that keeps no metadata (the embedded one) still has the offset to count again from.
            return None if committed is None else max(committed.offset, start.log_start)
        position, topic_id = known
        if topic_id not in ("", source.topic_id):
            if not self._accept_loss:
                raise LossError(
                    f"{source}: the topic was deleted and created again since the last run (its id was "
                    f"{topic_id} and is {source.topic_id}): {_HOW_TO_GO_ON}"
                )
            return self.ingest.assign(source, None)
        if start.log_start > position.next:
            self._refuse_loss(source, position.next, start.log_start)
        if start.log_start > position.first:
            _log.warning("%s: the log starts at %d: open panes stay as published", source, start.log_start)
            position = as_published(position, max(start.log_start, position.next), self._lateness_ms)
        return self.ingest.assign(source, position)

    def _refuse_loss(self, source: Source, wanted: int, log_start: int) -> None:
        """Calls from `wanted` on are gone: an error, unless that was accepted."""
        if not self._accept_loss:
            raise LossError(
                f"{source}: the calls at offsets {wanted} to {log_start - 1} were deleted before they were counted "
                f"(the log now starts at {log_start}): {_HOW_TO_GO_ON}"
            )

    def know(self, known: Known) -> dict[Source, int]:
        """Go by what is known of the rules log; sources that must be read again, each from its offset: `read_again`."""
        self.ingest.known_until_ms, self._read_ms = known.until_ms, known.read_ms
        if known.log is self.ingest.log:
            return {}
        found = self.ingest.switch(known.log)
        for each in found:
            if each.sealed_panes:
                _log.error(
                    "%s: %d seconds of event time were sealed before it was known that a rule set holds from their "
                    "start: they stay as they are",
                    each.source,
                    each.sealed_panes * PANE_MS // 1_000,
                )
        return {each.source: each.first for each in found if each.open_panes}

    def read_again(self, source: Source, log_start: int) -> int | None:
        """The offset to read a source from once more; None where its log no longer has that: it stays as it is."""
        first = self.ingest.first_offset(source)
        if log_start > first:
            _log.error(
                "%s: the log starts at %d and not at %d: panes that a new rule set holds for stay as they are",
                source,
                log_start,
                first,
            )
            return None
        return self.ingest.read_again(source)

    def must_wait(self, _: Records, now_ms: int) -> bool:
        """Whether the rules log was read so long ago that open panes would only pile up."""
        return self._read_ms is not None and now_ms - self._read_ms > PILE_UP_MS

    def revoke(self, source: Source) -> None:
        """Forget a source."""
        self.ingest.revoke(source)
        self._flushed.pop(source, None)

    def take(self, records: Records) -> Effects:
        """Count calls; what is no call goes to the rejected topic."""
        rejected = self.ingest.take(records)
        for name in self._ignored.look(records):
            _log.warning(
                "%s: near offset %d a call has the unknown field %s: it is ignored",
                records.source,
                records.offsets[0],
                visible(name),
            )
        return Effects([self._rejection(each) for each in rejected])

    def flush(self, clock: Clock) -> Effects:
        """Publish what was touched, and commit how far it goes."""
        publish: list[Outgoing] = []
        commit: dict[Source, Committed] = {}
        for source in self.ingest.sources:
            if self._is_quiet(source, clock):
                continue
            flush = self.ingest.flush(source, Idle(source in clock.caught_up, clock.wall_ms, clock.sources))
            publish += [
                Outgoing(self._panes, chunk.encode(each), chunk.key(each), each.shard)
                for each in flush.chunks
            ]
            commit[source] = Committed(flush.position.first, write_position(flush.position, source.topic_id))
            self._flushed[source] = (self.ingest.next_offset(source), clock.wall_ms)
        return Effects(publish, commit=commit)

    def _is_quiet(self, source: Source, clock: Clock) -> bool:
        """Whether an idle source said the same a moment ago: 16 records twice a second would say nothing new."""
        offset, at_ms = self._flushed.get(source, (-1, 0))
        return (
            source in clock.caught_up
            and self.ingest.next_offset(source) == offset
            and 0 <= clock.wall_ms - at_ms < QUIET_MS
        )

    def _rejection(self, rejected: Rejected) -> Outgoing:
        raw = rejected.raw or b""
        record = {
            "reason": rejected.reason,
            "topic": rejected.source.topic,
            "partition": rejected.source.partition,
            "offset": rejected.offset,
            "length": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
        if self._keep and len(raw) <= KEPT_BYTES:
            record["original"] = base64.b64encode(raw).decode()
        key = f"{rejected.source}@{rejected.offset}".encode()
        return Outgoing(self._rejected, msgspec.json.encode(record), key)


class EvaluateStage:
    """Panes in, alert transitions out; the state of each shard is snapshotted now and then."""

    name = "evaluate"
    batch = 200

    def __init__(self, settings: Settings, log: RuleLog, generation: str = "0") -> None:
        """`generation` names this run in the keys of its snapshots, so that two runs never mix their chunks."""
        self.topics: Sequence[str] = [settings.topics.panes]
        self.flush_ms = settings.flush
        self.shards: dict[int, Evaluate] = {}
        self.unreadable = 0
        self.transitions = 0
        self._log = log
        self._read_ms: int | None = None
        self._generation = generation
        self._settings = settings
        self._sources: dict[int, Source] = {}
        self._next: dict[int, int] = {}
        self._snapshots: dict[int, Snapshots] = {}

    def read_snapshots(self, shard: int, records: Mapping[bytes, bytes]) -> None:
        """The live records of a shard's snapshots, before the shard is assigned."""
        self._snapshots[shard] = Snapshots(shard, records, self._generation)

    def assign(self, source: Source, start: Start) -> int | None:
        """Go on from the newest whole snapshot, or rebuild the shard from the panes that are kept.

        Either way transitions come out under the same ids as before.
        """
        shard = source.partition
        self._sources[shard] = source
        snapshots = self._snapshots.setdefault(shard, Snapshots(shard, {}, self._generation))
        found = snapshots.newest()
        for problem in snapshots.problems:
            _log.error("%s: a snapshot is not used: %s", source, problem)
        if found is None or found.offset < start.log_start:
            if found is not None:
                _log.error(
                    "%s: the panes between the snapshot at offset %d and the log's start at %d are gone: the shard "
                    "starts anew from there",
                    source,
                    found.offset,
                    start.log_start,
                )
            self.shards[shard] = Evaluate(shard, self._log)
            return None
        self.shards[shard] = Evaluate.restored(found.state, self._log)
        self._next[shard] = found.offset
        return found.offset

    def know(self, known: Known) -> dict[Source, int]:
        """Go by what is known of the rules log; nothing has to be read again."""
        self._read_ms = known.read_ms
        if known.log is self._log:
            return {}
        old = {epoch.from_ms for epoch in self._log.epochs}
        from_ms = min((epoch.from_ms for epoch in known.log.epochs if epoch.from_ms not in old), default=None)
        passed_ms = 0
        for shard in self.shards.values():
            if from_ms is not None:
                passed_ms = max(passed_ms, shard.watermark_ms - from_ms)
            shard.switch(known.log)
        self._log = known.log
        if passed_ms > 0:
            _log.error(
                "evaluate: %.1f seconds of event time were evaluated before it was known that a rule set holds from "
                "their start: those ticks stay as they were",
                passed_ms / 1_000,
            )
        return {}

    def read_again(self, _: Source, __: int) -> int | None:
        """Never asked for."""
        return None

    def must_wait(self, records: Records, now_ms: int) -> bool:
        """Whether these chunks may have been made by a rules log that is not known here yet."""
        published_ms = min(now_ms, int(records.times_ms[-1]))
        return self._read_ms is not None and self._read_ms < published_ms - HOP_MS

    def revoke(self, source: Source) -> None:
        """Forget a shard."""
        for known in (self.shards, self._sources, self._next, self._snapshots):
            known.pop(source.partition, None)

    def take(self, records: Records) -> Effects:
        """Take chunks in; publish the transitions of the ticks that became due."""
        shard = records.source.partition
        publish = []
        for offset, value in zip(records.offsets.tolist(), records.values, strict=True):
            try:
                taken = chunk.decode(value or b"")
            except ChunkError as error:
                self.unreadable += 1
                _log.error("%s, offset %d: %s: passed over", records.source, offset, error)
                continue
            publish += [self._outgoing(each) for each in self.shards[shard].take(taken)]
        self._next[shard] = int(records.offsets[-1]) + 1
        self.transitions += len(publish)
        return Effects(publish)

    def flush(self, clock: Clock) -> Effects:
        """Snapshot the shard whose last snapshot is oldest, if it is due.

        Transitions of what it covers were acknowledged when they were taken. Chunks go before the manifest, so that a
        snapshot that can be found is whole.
        """
        due = [
            (self._snapshots[shard].taken_ms, shard)
            for shard, offset in self._next.items()
            if self._snapshots[shard].is_due(offset, clock.wall_ms, self._settings.snapshot)
        ]
        if not due:
            return Effects()
        shard = min(due)[1]
        offset = self._next[shard]
        phases = self._snapshots[shard].take(encode_state(self.shards[shard].state()), offset, clock.wall_ms)
        then = [
            [Outgoing(self._settings.topics.snapshots, each.value, each.key, shard) for each in phase]
            for phase in phases
        ]
        return Effects(then=then, commit={self._sources[shard]: Committed(offset)})

    def _outgoing(self, transition: Transition) -> Outgoing:
        return Outgoing(
            self._settings.topics.alerts, alert_record.encode(transition), transition.id.encode(), 0
        )


class _PositionText(msgspec.Struct, omit_defaults=True):
    next: int
    topic: str = ""
    high: int = UNKNOWN
    broker: int = 0
    ahead: list[int] = []
    watermark: int = UNKNOWN
    first_high: int = UNKNOWN
    first_broker: int = 0
    first_ahead: list[int] = []
    sealed: int | None = None


def write_position(position: Position, topic_id: str) -> str:
    """A position as the text beside a committed offset; the offset itself is `first`."""
    text = _PositionText(
        next=position.next,
        topic=topic_id,
        high=position.high_ms,
        broker=position.high_broker_ms,
        ahead=list(position.ahead_ms),
        watermark=position.watermark_ms,
        first_high=position.first_high_ms,
        first_broker=position.first_high_broker_ms,
        first_ahead=list(position.first_ahead_ms),
        sealed=position.sealed_ms,
    )
    return msgspec.json.encode(text).decode()


def read_position(committed: Committed) -> tuple[Position, str] | None:
    """The position of a commit and the id of its topic; None where the text is missing or is not ours."""
    try:
        text = msgspec.json.decode(committed.metadata, type=_PositionText)
    except msgspec.MsgspecError:
        return None
    position = Position(
        committed.offset,
        text.next,
        text.high,
        text.broker,
        tuple(text.ahead),
        text.watermark,
        first_high_ms=text.first_high,
        first_high_broker_ms=text.first_broker,
        first_ahead_ms=tuple(text.first_ahead),
        sealed_ms=text.sealed,
    )
    return position, text.topic


def as_published(position: Position, offset: int, lateness_ms: int) -> Position:
    """The position at `offset` with every open pane sealed: retention has removed what they were counted from."""
    if position.high_ms == UNKNOWN:
        return replace(position, first=offset, next=offset)
    high = position.high_ms - position.high_ms % PANE_MS + PANE_MS + lateness_ms
    return replace(
        position,
        first=offset,
        next=offset,
        high_ms=high,
        first_high_ms=high,
        first_high_broker_ms=position.high_broker_ms,
        first_ahead_ms=position.ahead_ms,
        sealed_ms=None,
    )

"""Ingest and Evaluate as the loop drives them: topics, records and commits around the pure steps."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from rules.transition import Transition
from streams import alert_record, chunk
from streams.call import Pricing
from streams.chunk import ChunkError
from streams.evaluate import Evaluate
from streams.ingest import Idle, Ingest, IngestConfig, Position
from streams.loop import Clock, Committed, Effects, Outgoing
from streams.records import Records, Rejected, Source
from streams.rule_log import RuleLog
from streams.settings import Settings
from streams.times import UNKNOWN

_log: Final = logging.getLogger(__name__)


class IngestStage:
    """Calls in; panes, rejected records and positions out."""

    name = "ingest"

    def __init__(
        self, settings: Settings, config: IngestConfig, log: RuleLog, price: Callable[[], Pricing]
    ) -> None:
        self.topics: Sequence[str] = settings.calls.topics
        self.flush_ms = settings.flush
        self.ingest = Ingest(config, log, price)
        self._panes = settings.topics.panes
        self._rejected = settings.topics.rejected
        self._keep = settings.calls.keep_rejected

    def assign(self, source: Source, committed: Committed | None) -> int | None:
        """Rebuild from the committed position, or start at the log's start."""
        position = None if committed is None else read_position(committed)
        offset = self.ingest.assign(source, position)
        # A broker that keeps no metadata (the embedded one) still has the offset to count again from.
        return committed.offset if offset is None and committed is not None else offset

    def revoke(self, source: Source) -> None:
        """Forget a source."""
        self.ingest.revoke(source)

    def take(self, records: Records) -> Effects:
        """Count calls; what is no call goes to the rejected topic."""
        rejected = self.ingest.take(records)
        return Effects([self._rejection(each) for each in rejected])

    def flush(self, clock: Clock) -> Effects:
        """Publish what was touched, and commit how far it goes."""
        publish: list[Outgoing] = []
        commit: dict[Source, Committed] = {}
        for source in self.ingest.sources:
            flush = self.ingest.flush(source, Idle(source in clock.caught_up, clock.wall_ms, clock.sources))
            publish += [
                Outgoing(self._panes, chunk.encode(each), chunk.key(each), each.shard)
                for each in flush.chunks
            ]
            commit[source] = Committed(flush.position.first, write_position(flush.position))
        return Effects(publish, commit=commit)

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
        if self._keep:
            record["original"] = base64.b64encode(raw).decode()
        key = f"{rejected.source}@{rejected.offset}".encode()
        return Outgoing(self._rejected, msgspec.json.encode(record), key)


class EvaluateStage:
    """Panes in, alert transitions out; one state per shard, rebuilt from the panes topic."""

    name = "evaluate"

    def __init__(self, settings: Settings, log: RuleLog) -> None:
        self.topics: Sequence[str] = [settings.topics.panes]
        self.flush_ms = settings.flush
        self.shards: dict[int, Evaluate] = {}
        self.unreadable = 0
        self.transitions = 0
        self._log = log
        self._alerts = settings.topics.alerts

    def assign(self, source: Source, committed: Committed | None) -> int | None:
        """Rebuild the shard from the panes that are kept; transitions come out under the same ids as before."""
        del committed
        self.shards[source.partition] = Evaluate(source.partition, self._log)
        return None

    def revoke(self, source: Source) -> None:
        """Forget a shard."""
        self.shards.pop(source.partition, None)

    def take(self, records: Records) -> Effects:
        """Take chunks in; publish the transitions of the ticks that became due."""
        publish = []
        for offset, value in zip(records.offsets.tolist(), records.values, strict=True):
            try:
                taken = chunk.decode(value or b"")
            except ChunkError as error:
                self.unreadable += 1
                _log.error("%s, offset %d: %s: passed over", records.source, offset, error)
                continue
            publish += [self._outgoing(each) for each in self.shards[records.source.partition].take(taken)]
        self.transitions += len(publish)
        return Effects(publish)

    def flush(self, clock: Clock) -> Effects:
        """Nothing waits for a clock here: time comes with the panes."""
        del clock
        return Effects()

    def _outgoing(self, transition: Transition) -> Outgoing:
        return Outgoing(self._alerts, alert_record.encode(transition), transition.id.encode(), 0)


class _PositionText(msgspec.Struct, omit_defaults=True):
    next: int
    high: int = UNKNOWN
    broker: int = 0
    ahead: list[int] = []
    watermark: int = UNKNOWN


def write_position(position: Position) -> str:
    """A position as the text beside a committed offset; the offset itself is `first`."""
    text = _PositionText(
        position.next,
        position.high_ms,
        position.high_broker_ms,
        list(position.ahead_ms),
        position.watermark_ms,
    )
    return msgspec.json.encode(text).decode()


def read_position(committed: Committed) -> Position | None:
    """The position of a commit; None where the text is missing."""
    if not committed.metadata:
        return None
    text = msgspec.json.decode(committed.metadata, type=_PositionText)
    return Position(committed.offset, text.next, text.high, text.broker, tuple(text.ahead), text.watermark)

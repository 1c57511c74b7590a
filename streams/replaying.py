"""Replay: the engine's stages in one process without Kafka; records in, transitions out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rules.transition import Transition
from rules.view import SHARDS
from streams.call import Pricing
from streams.evaluate import Evaluate
from streams.ignored import Ignored
from streams.ingest import Ingest, IngestConfig
from streams.position import Counts, Idle
from streams.records import Records, Rejected, Source
from streams.rule_log import RuleLog


@dataclass
class Replay:
    """Ingest and all shards of Evaluate, driven by hand over one source."""

    config: IngestConfig
    log: RuleLog
    price: Callable[[], Pricing]
    source: Source
    last_ms: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._ingest = Ingest(self.config, self.log, self.price)
        self._ingest.assign(self.source, None)
        self.ignored = Ignored()
        self._shards = [Evaluate(shard, self.log) for shard in range(SHARDS)]

    @property
    def counts(self) -> Counts:
        """What became of the calls so far."""
        return self._ingest.counts

    @property
    def summary_errors(self) -> int:
        """Summaries whose template failed."""
        return sum(shard.summary_errors for shard in self._shards)

    def feed(self, records: Records) -> tuple[list[Transition], list[Rejected]]:
        """Take records; the transitions of every tick that they sealed, and the records that are no calls."""
        rejected = self._ingest.take(records)
        self.ignored.look(records)
        self.last_ms = self._ingest.last_call_ms(self.source)
        return self._flush(Idle(caught_up=False, wall_ms=0, sources=1)), rejected

    def finish(self, until_ms: int | None = None) -> list[Transition]:
        """The input has ended: the clock stands at `until_ms`, or at the last call's time."""
        end_ms = self.last_ms if until_ms is None else until_ms
        if end_ms is None:
            return []
        return self._flush(Idle(True, end_ms + self.config.lateness.allowed_ms, 1))

    def _flush(self, idle: Idle) -> list[Transition]:
        transitions: list[Transition] = []
        for chunk in self._ingest.flush(self.source, idle).chunks:
            transitions += self._shards[chunk.shard].take(chunk)
        return sorted(transitions, key=lambda each: (each.at_ms, each.group, each.alert, each.series))

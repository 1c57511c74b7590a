"""Workers around a log in memory, driven by hand: what they own, read, publish and commit, and when they die.

The stages are the real ones; the log, the commits and the receiver's inbox outlive every worker. Time is an argument.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from builders import no_prices, raw, rule_log

from notifiers.delivery import Delivered
from notifiers.notification import Notification
from notifiers.routing import Route
from rules.rule import Rule
from rules.transition import Transition
from rules.view import View
from streams import alert_record, chunk
from streams.chunk import Chunk
from streams.frontier import Lateness
from streams.ingest import IngestConfig
from streams.loop import Clock, Committed, Effects, Outgoing, Start
from streams.notify_stage import NotifyStage
from streams.records import Records, Source
from streams.rule_log import RuleLog
from streams.settings import Settings
from streams.stages import EvaluateStage, IngestStage

Place = tuple[str, int]
LATENESS_MS = 3_000
SKEW_MS = 300_000
TOPIC_ID = "topic-id"
CALLS, PANES, SNAPSHOTS = "llm.calls", "llm.panes", "llm.snapshots"
ALERTS, NOTIFICATIONS = "llm.alerts", "llm.notifications"


@dataclass
class Record:
    """A record of a log."""

    key: bytes | None
    value: bytes | None
    at_ms: int


@dataclass
class Cluster:
    """The logs, what is committed, and what the receiver got."""

    rules: RuleLog
    partitions: int = 1
    logs: dict[Place, list[Record]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[Place, Committed] = field(default_factory=dict)
    inbox: list[Notification] = field(default_factory=list)
    workers: int = 0

    def __post_init__(self) -> None:
        self.settings = Settings.model_validate(
            {"snapshot": "1s", "calls": {"lateness": f"{LATENESS_MS}ms", "skew": f"{SKEW_MS}ms"}}
        )
        needed = {
            rule.view.shard(("",) * len(rule.by)) for each in self.rules.epochs for rule in each.rules.rules
        }
        self.shards = sorted(needed | {view.shard(()) for each in self.rules.epochs for view in each.extra})

    @classmethod
    def of(cls, *rules: Rule, partitions: int = 1, extra: tuple[View, ...] = ()) -> Cluster:
        return cls(rule_log(*rules, extra=extra), partitions)

    def publish(
        self, calls: Iterable[dict[str, Any]], partition: int = 0, broker_ms: int | None = None
    ) -> None:
        """Calls to a partition; the broker's time is that of the call where it is not said."""
        for each in calls:
            at_ms = each["at"] if broker_ms is None else broker_ms
            self.logs[CALLS, partition].append(Record(None, raw(each), at_ms))

    def worker(self) -> Worker:
        """A new process that owns nothing yet."""
        self.workers += 1
        return Worker(self, f"worker-{self.workers}")

    @property
    def chunks(self) -> list[Chunk]:
        """Every chunk of the panes topic, by shard in order."""
        records = [each for shard in self.shards for each in self.logs[PANES, shard]]
        return [chunk.decode(each.value or b"") for each in records]

    @property
    def transitions(self) -> list[Transition]:
        """What the alerts topic says, each id once, in order of event time."""
        found = {each.key: alert_record.decode(each.value or b"") for each in self.logs[ALERTS, 0]}
        return sorted(found.values(), key=lambda each: (each.at_ms, each.group, each.alert, each.series))

    @property
    def told(self) -> list[tuple[str, str]]:
        """Alert and reason of every message that arrived, in order."""
        return [(each.transition.alert, str(each.reason)) for each in self.inbox]

    def live(self, place: Place) -> dict[bytes, bytes]:
        """What a compacted partition has left: the newest value of each key."""
        found: dict[bytes, bytes] = {}
        for each in self.logs[place]:
            if each.value is None:
                found.pop(each.key or b"", None)
            else:
                found[each.key or b""] = each.value
        return found


class Worker:
    """One process: the three stages, the partitions that it owns, and how far it has read each."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        settings, rules = cluster.settings, cluster.rules
        self.cluster = cluster
        self.now_ms = 0
        self.ingest = IngestStage(settings, IngestConfig(Lateness(LATENESS_MS, SKEW_MS)), rules, no_prices)
        self.evaluate = EvaluateStage(settings, rules, generation=name)
        self.notify = NotifyStage(settings, [Route((), ("oncall",))])
        self.waiting: list[Notification] = []
        self._stages: dict[str, Any] = {CALLS: self.ingest, PANES: self.evaluate, ALERTS: self.notify}
        self._positions: dict[Place, int] = {}
        self._sources: dict[Place, Source] = {}

    @property
    def all_places(self) -> list[Place]:
        """Everything that the workers of a cluster share out."""
        calls = [(CALLS, number) for number in range(self.cluster.partitions)]
        return [*calls, *((PANES, shard) for shard in self.cluster.shards), (ALERTS, 0)]

    def take_over(self, *places: Place, log_start: int = 0) -> Worker:
        """Own these partitions, or all of them: each from what is committed or snapshotted."""
        for place in places or self.all_places:
            topic, number = place
            source = Source(topic, number, TOPIC_ID)
            if topic == PANES:
                self.evaluate.read_snapshots(number, self.cluster.live((SNAPSHOTS, number)))
            if topic == ALERTS:
                self.notify.read_log([*self.cluster.live((NOTIFICATIONS, 0)).values()])
            start = Start(self.cluster.committed.get(place), log_start)
            offset = self._stages[topic].assign(source, start)
            self._sources[place] = source
            self._positions[place] = log_start if offset is None else offset
        return self

    def give_up(self, *places: Place) -> None:
        """Lose these partitions, or all."""
        for place in places or tuple(self._sources):
            self._stages[place[0]].revoke(self._sources.pop(place))

    def read(self, topic: str, most: int | None = None) -> None:
        """Read what is new in the partitions of a topic that are owned, at most so many records of each."""
        for place in [place for place in self._sources if place[0] == topic]:
            first = self._positions[place]
            found = self.cluster.logs[place][first : None if most is None else first + most]
            if not found:
                continue
            self._positions[place] = first + len(found)
            offsets = np.arange(first, first + len(found), dtype=np.int64)
            times = np.array([each.at_ms for each in found], np.int64)
            values = [each.value for each in found]
            self.do(self._stages[topic].take(Records(self._sources[place], values, offsets, times)))

    def flushed(self, topic: str, *, caught_up: bool = False) -> Effects:
        """A flush of a stage that is not yet done: give it to `do`, whole or in part, or never."""
        owned = frozenset(source for place, source in self._sources.items() if place[0] == topic)
        total = self.cluster.partitions if topic == CALLS else 1
        effects: Effects = self._stages[topic].flush(
            Clock(self.now_ms, owned if caught_up else frozenset(), total)
        )
        return effects

    def do(self, effects: Effects, *, commit: bool = True) -> None:
        """Publish, hand over, commit."""
        self.publish(effects.publish, *effects.then)
        self.waiting += effects.deliver
        if commit:
            for source, at in effects.commit.items():
                self.cluster.committed[source.topic, source.partition] = at

    def publish(self, *phases: Sequence[Outgoing]) -> None:
        """Append records to their logs at the time of now."""
        for each in (record for phase in phases for record in phase):
            self.cluster.logs[each.topic, each.partition or 0].append(
                Record(each.key, each.value, self.now_ms)
            )

    def flush(self, topic: str, *, caught_up: bool = False) -> None:
        """A flush, whole."""
        self.do(self.flushed(topic, caught_up=caught_up))

    def turn(self, now_ms: int, *, caught_up: bool = False, most: int | None = None) -> None:
        """Everything once, in order: calls, panes, alerts, messages. `caught_up`: the calls are proven to be idle."""
        self.now_ms = now_ms
        self.read(CALLS, most)
        self.flush(CALLS, caught_up=caught_up)
        self.read(PANES)
        self.flush(PANES)
        self.read(ALERTS)
        self.flush(ALERTS, caught_up=True)
        self.send()

    def send(self) -> None:
        """Deliver what waits: announced in the log, arrived, logged."""
        for each in self.waiting:
            self.publish([self.notify.announced(each, self.now_ms)])
            self.cluster.inbox.append(each)
            self.publish([self.notify.settled(each, Delivered("receipt"), self.now_ms)])
        self.waiting.clear()


def decoded(record: Record) -> Any:
    """The JSON of a record."""
    return msgspec.json.decode(record.value or b"null")

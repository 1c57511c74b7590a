"""The loop of `streams.loop` as a generator that stops at every effect boundary: the same order of effects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from simulation_broker import Broker, Group, Place

from notifiers.delivery import Delivered
from notifiers.notification import Notification
from streams.loop import FRESH_MS, Clock, Committed, Effects, Outgoing, Start
from streams.notify_stage import NotifyStage
from streams.records import Records, Source

Steps = Iterator[str]
"""Names of effect boundaries, in order; an empty name is a wait without one."""

WAIT = ""
Read = tuple[int, int]
"""How far the notification log was when it was read, and how often it had been read by then."""
TOPIC_ID = "id-of-topic"


@dataclass
class Chances:
    """How often what is not a fault of a worker happens; shares."""

    twice: float = 0.01
    again: float = 0.02
    shuffled: float = 0.3
    slow_fetch: float = 0.1
    lost_answer: float = 0.04


@dataclass
class StageLoop:
    """One stage of one worker: what it owns, and how far it has read."""

    name: str
    stage: Any
    broker: Broker
    group: Group
    member: int
    rng: random.Random
    chances: Chances
    idle_proof: bool = True
    before_assign: Callable[[Sequence[int]], None] = lambda _: None
    appended: Callable[[str, int], None] = lambda _topic, _offset: None
    after_revoke: Callable[[], None] = lambda: None
    after_assign: Callable[[Place, int | None], None] = lambda _place, _offset: None
    deliver: Callable[[Notification], None] = lambda _: None
    sources: dict[Place, Source] = field(default_factory=dict)
    positions: dict[Place, int] = field(default_factory=dict)
    stable: dict[Place, tuple[int, int]] = field(default_factory=dict)
    new: set[Place] = field(default_factory=set)
    assignment: int = 0
    generation: int = -1
    flushed_ms: int = 0
    stopping: bool = False
    total: int = 0

    def run(self) -> Steps:
        while not self.stopping:
            if self.new:
                yield from self._take_over()
                continue
            if not self.sources:
                yield WAIT
                continue
            fetched = self._fetch()
            assignment = self.assignment
            if fetched:
                yield "records fetched, not taken"
            for place, first, records in fetched:
                if assignment != self.assignment:
                    break
                if place in self.sources:
                    yield from self._do(
                        self.stage.take(self._records(place, first, records)), _TAKEN[self.name]
                    )
            now = self.broker.now_ms
            if now - self.flushed_ms >= self.stage.flush_ms:
                self.flushed_ms = now
                yield from self.flush()
            if not fetched:
                yield WAIT
        if self.sources:
            yield from self.flush()

    def flush(self) -> Steps:
        clock = Clock(self.broker.now_ms, self._caught_up(), self.total)
        yield from self._do(self.stage.flush(clock), _FLUSHED[self.name])

    def assign(self, places: frozenset[Place], generation: int) -> None:
        """Note which partitions a rebalance has given; they are taken over in the loop."""
        self.assignment += 1
        self.generation = generation
        self.new = {place for place in places if place not in self.sources}

    def _take_over(self) -> Steps:
        assignment, new = self.assignment, sorted(self.new)
        self.before_assign([number for _, number in new])
        yield "taking over: state read, commits not yet"
        committed = {place: self.group.committed.get(place) for place in new}
        yield "taking over: commits read, not yet sought"
        if assignment != self.assignment:
            return
        self.new = set()
        self.total = len(self.group.places)
        for place in new:
            source = Source(*place, TOPIC_ID)
            offset = self.stage.assign(source, Start(committed[place], 0))
            self.after_assign(place, offset)
            self.positions[place] = 0 if offset is None else offset
            self.sources[place] = source
            self.stable.pop(place, None)

    def revoke(self) -> None:
        """Give every partition up."""
        self.assignment += 1
        self.new.clear()
        for source in self.sources.values():
            self.stage.revoke(source)
        self.sources.clear()
        self.after_revoke()

    def _fetch(self) -> list[tuple[Place, int, list[Any]]]:
        fetched = []
        for place in list(self.sources):
            if self.rng.random() < self.chances.slow_fetch:
                continue
            log, position = self.broker.log(place), self.positions[place]
            if position > len(log):
                raise AssertionError(f"{self.name} reads {place} beyond its end")
            records = log[position : position + self.rng.choice((3, 20, 200, 200, 200))]
            self.stable[place] = (len(log), self.broker.now_ms)
            self.positions[place] = position + len(records)
            if records:
                fetched.append((place, position, records))
        self.rng.shuffle(fetched)
        return fetched

    def _records(self, place: Place, first: int, records: list[Any]) -> Records:
        offsets = np.arange(first, first + len(records), dtype=np.int64)
        times = np.array([at for _, _, at in records], np.int64)
        return Records(self.sources[place], [value for _, value, _ in records], offsets, times)

    def _caught_up(self) -> frozenset[Source]:
        if not self.idle_proof:
            return frozenset()
        fresh_from = self.broker.now_ms - FRESH_MS
        found = set()
        for place, source in self.sources.items():
            stable, polled = self.stable.get(place, (0, 0))
            if polled >= fresh_from and self.positions[place] >= stable:
                found.add(source)
        return frozenset(found)

    def _do(self, effects: Effects, names: _Names) -> Steps:
        assignment = self.assignment
        phases = (effects.publish, *effects.then)
        if any(phases) or effects.deliver:
            yield names.decided
        for number, phase in enumerate(phases):
            if phase:
                yield from self._publish(phase, names.between[number])
                yield names.published[number]
        for notification in effects.deliver:
            if assignment != self.assignment:
                break
            self.deliver(notification)
            yield "notification handed over, not announced"
        if effects.commit:
            self._commit(effects.commit)
            yield "committed"

    def _publish(self, records: Sequence[Outgoing], between: str) -> Steps:
        ordered = list(records)
        if len({each.partition for each in ordered}) > 1 and self.rng.random() < self.chances.shuffled:
            ordered = self._across_partitions(ordered)
        for number, each in enumerate(ordered):
            if number:
                yield between
            self._append(each)
            if self.rng.random() < self.chances.twice:
                self._append(each)
        if self.rng.random() < self.chances.again:
            # A retry of what had arrived already: everything for one partition once more, in order.
            partition = self.rng.choice(ordered).partition
            for each in ordered:
                if each.partition == partition:
                    self._append(each)

    def _across_partitions(self, records: list[Outgoing]) -> list[Outgoing]:
        """The same records with those of different partitions in another order."""
        queues: dict[int | None, list[Outgoing]] = {}
        for each in records:
            queues.setdefault(each.partition, []).append(each)
        turns = [each.partition for each in records]
        self.rng.shuffle(turns)
        heads = {partition: iter(queue) for partition, queue in queues.items()}
        return [next(heads[partition]) for partition in turns]

    def _append(self, each: Outgoing) -> None:
        self.appended(each.topic, self.broker.append((each.topic, each.partition or 0), each.key, each.value))

    def _commit(self, commit: Any) -> None:
        place_of = {source: place for place, source in self.sources.items()}
        offsets: dict[Place, Committed] = {
            place_of[source]: at for source, at in commit.items() if source in place_of
        }
        if offsets:
            self.group.commit(self.member, self.generation, offsets)


@dataclass(frozen=True)
class _Names:
    """Names of the boundaries around the phases of one kind of step."""

    decided: str
    between: tuple[str, ...]
    published: tuple[str, ...]


_TAKEN = {
    "ingest": _Names(
        "calls taken, rejected ones not published",
        ("between two rejected calls",),
        ("rejected calls published",),
    ),
    "evaluate": _Names(
        "panes taken, alerts not published",
        ("between two alerts",),
        ("alerts published, nobody notified",),
    ),
    "notify": _Names(
        "alerts taken, nothing logged", ("between two log records",), ("logged, not handed over",)
    ),
}
_FLUSHED = {
    "ingest": _Names(
        "flushed, no chunk published", ("between two chunks",), ("chunks published, not committed",)
    ),
    "evaluate": _Names(
        "snapshot taken, nothing published",
        ("", "between two snapshot chunks", "between two manifests", "between two removals"),
        (
            "",
            "snapshot chunks published, no manifest",
            "manifest published, nothing removed",
            "removals published, not committed",
        ),
    ),
    "notify": _Names("caught up, nothing logged", ("between two log records",), ("logged, not handed over",)),
}


@dataclass
class Sent:
    """One message in a receiver's hands: by whom, and how far the log was when the sender had read it.

    `announced`: where the log has its announcement; `owned`: whether the sender was still the one that notifies when
    the message arrived, which one that was stopped between its last check and the attempt is not.
    """

    at_ms: int
    worker: int
    incarnation: int
    read: Read
    notification: Notification
    announced: int
    owned: bool


@dataclass
class Attempt:
    """What is on its way to a receiver: accepted by it or not yet."""

    notification: Notification
    read: Read
    announced: int
    accepted: bool = False


@dataclass
class Outbox:
    """What `notifiers.delivery.Outbox` does, one step at a time; all receivers in one line."""

    stage: NotifyStage
    broker: Broker
    inbox: list[Sent]
    worker: int
    incarnation: int
    log_topic: str
    rng: random.Random
    chances: Chances
    queue: list[tuple[Notification, Read]] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    read: Read = (0, 0)
    wrote: Callable[[int, Read], None] = lambda _offset, _read: None
    owns: Callable[[], bool] = lambda: True
    term: int = 0
    under_way: Attempt | None = None

    def let_go(self) -> None:
        """The partition is another's: drop what waits. An attempt that is under way has a little time to end.

        If it does, its end is logged before the partition is given up; else nobody knows, and it may still arrive.
        """
        self.term += 1
        self.queue.clear()
        self.waiting.clear()
        attempt, self.under_way = self.under_way, None
        if attempt is None:
            return
        ends = self.rng.random()
        if not attempt.accepted and ends < 0.8:
            self._arrive(attempt)
        if attempt.accepted and ends < 0.6:
            self._log(attempt)

    def put(self, notification: Notification) -> None:
        if notification.id not in self.waiting:
            self.waiting.add(notification.id)
            self.queue.append((notification, self.read))

    def read_log(self) -> None:
        place = (self.log_topic, 0)
        self.stage.read_log(self.broker.compacted(place, self.rng))
        self.read = (self.broker.end(place), self.read[1] + 1)

    def run(self) -> Steps:
        while True:
            if self.queue and self.owns():
                yield from self._deliver(*self.queue[0])
            else:
                yield WAIT

    def _deliver(self, notification: Notification, read: Read) -> Steps:
        term = self.term
        yield "lease checked, not announced"
        if term != self.term:
            return
        record = self.stage.announced(notification, self.broker.now_ms)
        attempt = Attempt(notification, read, self._append(record, read))
        yield "announced, not attempted"
        while term == self.term:
            if not self.owns():
                yield WAIT
                continue
            self.under_way = attempt
            yield "attempt under way, not accepted"
            if term != self.term:
                return
            self._arrive(attempt)
            if self.rng.random() < self.chances.lost_answer:
                self.under_way = None
                again = replace(attempt.notification, possibly_repeated=True)
                attempt = Attempt(again, read, attempt.announced)
                yield "delivered, answer lost"
                continue
            yield "delivery accepted, not logged"
            if term != self.term:
                return
            self._log(attempt)
            self.under_way = None
            self.waiting.discard(notification.id)
            del self.queue[:1]
            yield "delivery logged"
            return

    def _arrive(self, attempt: Attempt) -> None:
        attempt.accepted = True
        self.inbox.append(
            Sent(
                self.broker.now_ms,
                self.worker,
                self.incarnation,
                attempt.read,
                attempt.notification,
                attempt.announced,
                self.owns(),
            )
        )

    def _log(self, attempt: Attempt) -> None:
        result = Delivered("receipt", attempt.notification.possibly_repeated)
        self._append(self.stage.settled(attempt.notification, result, self.broker.now_ms), attempt.read)

    def _append(self, record: Outgoing, read: Read) -> int:
        offset = self.broker.append((record.topic, record.partition or 0), record.key, record.value)
        self.wrote(offset, read)
        return offset

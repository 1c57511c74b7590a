"""The world of a seed: two workers on one broker under a seeded scheduler with a virtual clock, and their faults."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import simulation_traffic as sim
from simulation_boundaries import BOUNDARIES
from simulation_broker import Broker, Group, Place
from simulation_loop import WAIT, Chances, Outbox, Read, Sent, StageLoop, Steps

from notifiers.receivers import build_routes
from streams import snapshot
from streams.frontier import Lateness
from streams.ingest import IngestConfig
from streams.notify_stage import NotifyStage
from streams.pricing import PriceBook, Pricer
from streams.rule_log import RuleLog
from streams.spend import BatchPricer
from streams.stages import EvaluateStage, IngestStage

WORKERS = (0, 1)
SESSION_MS = 2_000
STAGES = ("ingest", "evaluate", "notify")
FAULTS = ("crash", "crash", "pause", "rebalance", "outage")
_WAITS = {"ingest": 3_000, "evaluate": 2_000, "notify": 900}
_PRICES = PriceBook()
_COMMON = frozenset({"ingest: between two chunks"})
"""Boundaries that are met so often that a fault waits longer for its turn."""


@dataclass
class Worker:
    """One process: a loop for each stage and an outbox, or nothing while it is down."""

    number: int
    incarnation: int = 0
    loops: dict[str, StageLoop] = field(default_factory=dict)
    paused_until_ms: int = 0
    log: RuleLog | None = None

    @property
    def alive(self) -> bool:
        return bool(self.loops)


class _Unseeing:
    """In place of the look for unknown fields: it has no effects, and costs a twentieth of a run."""

    def look(self, _: Any) -> list[str]:
        return []


@dataclass
class Thread:
    """Something that runs step by step in one incarnation of a worker."""

    worker: int
    incarnation: int
    stage: str
    steps: Steps


class World:
    """Runs one seed to its end; what happened is in `broker`, `inbox` and the counters."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.busy = self.rng.random() < 0.6
        """Whether no source is ever proven idle: then the calls alone decide which alerts there are."""
        self.traffic = sim.traffic(self.rng)
        self.broker = Broker()
        self.inbox: list[Sent] = []
        self.problems: list[str] = []
        self.log_writers: dict[int, tuple[int, int, Read]] = {}
        """Of each record of the notification log: worker, incarnation, and how it had read the log."""
        self.visited: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.workers = [Worker(number) for number in WORKERS]
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._known_rules = self.traffic.rule_log(changed=False)
        self._chances = Chances()
        self._draining = False
        self._plan: dict[str, list[tuple[int, str]]] = {}
        self._crashes_due = 3
        self._make_groups()
        self._make_plan()

    def run(self) -> None:
        """From the first call to the moment when everything has been said."""
        self.broker.now_ms = sim.BEGIN_MS - 500
        for worker in self.workers:
            self._start(worker)
        for arrival, partition, value in self.traffic.arrivals:
            self._at(arrival, lambda p=partition, v=value: self._arrive(p, v))
        if self.traffic.switch_ms is not None:
            self._at(self.traffic.switch_ms, self._change_rules)
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            self._at(sim.BEGIN_MS + self.rng.randint(3_000, 40_000), self._stop_broker)
        last = self.traffic.until_ms + 1_000
        self._force_crashes(last)
        self._until(lambda: self.broker.now_ms >= last and self.broker.now_ms > self.broker.down_until_ms)
        self._drain()

    def _make_groups(self) -> None:
        config = sim.settings()
        places: dict[str, tuple[Place, ...]] = {
            "ingest": tuple((sim.CALLS_TOPIC, number) for number in range(sim.PARTITIONS)),
            "evaluate": tuple((config.topics.panes, shard) for shard in self.traffic.shards),
            "notify": ((config.topics.alerts, 0),),
        }
        self.broker.groups = {name: Group(name, places[name]) for name in STAGES}

    def _make_plan(self) -> None:
        """Faults by boundary: each strikes when its boundary has been met so many times more."""
        for _ in range(self.rng.randint(5, 9)):
            boundary = self.rng.choice(BOUNDARIES)
            turns = self.rng.randint(1, 300 if boundary in _COMMON else 12)
            self._plan.setdefault(boundary, []).append((turns, self.rng.choice(FAULTS)))
        for planned in self._plan.values():
            planned.sort(reverse=True)

    def _force_crashes(self, last: int) -> None:
        """Every seed has three crashes: those that no boundary brings come at random times."""
        for number in range(3):
            at = sim.BEGIN_MS + (last - sim.BEGIN_MS) * (number + 2) // 5 + self.rng.randint(0, 4_000)
            self._at(at, lambda due=number + 1: self._crash_if_behind(due))

    def _crash_if_behind(self, due: int) -> None:
        if self.faults["crash"] < due:
            candidates = [worker for worker in self.workers if worker.alive]
            if candidates:
                self._crash(self.rng.choice(candidates))

    # The scheduler.

    def _at(self, at_ms: int, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (at_ms, self._sequence, action))

    def _until(self, done: Callable[[], bool]) -> None:
        queue, broker = self._queue, self.broker
        steps = 0
        while not done():
            at_ms, sequence, action = heapq.heappop(queue)
            if at_ms < broker.down_until_ms:
                # Nothing moves but the clock; the order in which things come is kept.
                heapq.heappush(queue, (broker.down_until_ms, sequence, action))
                continue
            broker.now_ms = max(broker.now_ms, at_ms)
            action()
            steps += 1
            if steps > 400_000:
                raise AssertionError("the run does not come to an end")

    def _spawn(self, worker: Worker, stage: str, steps: Steps) -> None:
        thread = Thread(worker.number, worker.incarnation, stage, steps)
        self._at(self.broker.now_ms + self.rng.randint(0, 20), lambda: self._step(thread))

    def _step(self, thread: Thread) -> None:
        worker = self.workers[thread.worker]
        if not worker.alive or thread.incarnation != worker.incarnation:
            return
        now = self.broker.now_ms
        if worker.paused_until_ms > now:
            self._at(worker.paused_until_ms + int(self.rng.random() * 30), lambda: self._step(thread))
            return
        boundary = next(thread.steps, None)
        if boundary is None:
            return
        delay = int(self.rng.random() * 6)
        if boundary == WAIT:
            delay += 200 if self._draining else _WAITS[thread.stage]
        else:
            name = f"{thread.stage}: {boundary}"
            self.visited[name] += 1
            planned = self._plan.get(name)
            if planned and not self._draining and self.visited[name] >= planned[-1][0]:
                self._strike(name, planned.pop()[1], worker)
        self._at(now + delay, lambda: self._step(thread))

    # Faults.

    def _strike(self, name: str, fault: str, worker: Worker) -> None:
        self.struck[name] += 1
        if fault == "crash":
            self._crash(worker)
        elif fault == "outage":
            # Nobody is there for a while: what happens meanwhile has begun and ended before anybody hears of it.
            self.faults["outage"] += 1
            for each in self.workers:
                if each.alive:
                    self._crash(each, (7_000, 12_000))
        elif fault == "pause":
            self._pause(worker)
        else:
            self.faults["rebalance"] += 1
            stage = name.partition(":")[0]
            self._at(self.broker.now_ms + self.rng.randint(0, 8), lambda: self._rebalance(stage))

    def _crash(self, worker: Worker, down_ms: tuple[int, ...] = (200, 900, 3_000, 6_000)) -> None:
        self.faults["crash"] += 1
        worker.loops = {}
        worker.paused_until_ms = 0
        incarnation = worker.incarnation
        now = self.broker.now_ms
        self._at(now + SESSION_MS, lambda: self._expire(worker, incarnation))
        self._at(now + self.rng.choice(down_ms), lambda: self._restart(worker, incarnation))

    def _restart(self, worker: Worker, incarnation: int) -> None:
        if worker.incarnation == incarnation and not worker.alive:
            self._start(worker)

    def _pause(self, worker: Worker) -> None:
        self.faults["pause"] += 1
        now = self.broker.now_ms
        length = self.rng.choice((300, 1_500, 4_000, 9_000, 33_000))
        worker.paused_until_ms = now + length
        incarnation = worker.incarnation
        self._at(now + SESSION_MS, lambda: self._expire(worker, incarnation))
        # Awake, it goes on with what it had in hand until it hears that others have its partitions.
        self._at(now + length + self.rng.randint(0, 400), lambda: self._hear(worker, incarnation))

    def _expire(self, worker: Worker, incarnation: int) -> None:
        """The coordinator gives a member up that is down or has been silent for a session."""
        silent = worker.incarnation == incarnation and (
            not worker.alive or worker.paused_until_ms > self.broker.now_ms
        )
        if silent:
            for name, group in self.broker.groups.items():
                if worker.number in group.members:
                    group.members.discard(worker.number)
                    self._rebalance(name)

    def _hear(self, worker: Worker, incarnation: int) -> None:
        if worker.incarnation != incarnation or not worker.alive:
            return
        for name, group in self.broker.groups.items():
            if worker.number not in group.members:
                self.faults["zombie"] += 1
                group.members.add(worker.number)
                self._rebalance(name)

    def _rebalance(self, stage: str) -> None:
        group = self.broker.groups[stage]
        for worker in self.workers:
            if worker.number in group.members and worker.paused_until_ms > self.broker.now_ms:
                group.members.discard(worker.number)
        group.deal(self.rng)
        if stage == "notify" and len(group.members) > 1:
            self.faults["notifier moved"] += 1
        for worker in self.workers:
            if worker.alive and worker.number in group.members:
                worker.loops[stage].revoke()
                self._join(worker.loops[stage], group)

    @staticmethod
    def _join(loop: StageLoop, group: Group) -> None:
        loop.assign(group.assignment.get(loop.member, frozenset()), group.generation)

    def _stop_broker(self) -> None:
        self.faults["broker pause"] += 1
        self.broker.down_until_ms = self.broker.now_ms + self.rng.choice((300, 1_000, 4_000))

    # Workers.

    def _start(self, worker: Worker) -> None:
        worker.incarnation += 1
        worker.paused_until_ms = 0
        worker.log = self._known_rules
        worker.loops, outbox = self._loops(worker)
        for name in STAGES:
            group, loop = self.broker.groups[name], worker.loops[name]
            self._spawn(worker, name, loop.run())
            if worker.number in group.members:
                # Back within its session: a static member takes up what it had, and nobody else notices.
                self._join(loop, group)
            else:
                group.members.add(worker.number)
                self._rebalance(name)
        self._spawn(worker, "notify", outbox.run())

    def _loops(self, worker: Worker) -> tuple[dict[str, StageLoop], Outbox]:
        config, log = sim.settings(), self._known_rules
        lateness = Lateness(config.calls.lateness, config.calls.skew)
        routes = build_routes(config.routes, config.receivers)
        notify = NotifyStage(config, routes)
        stages: dict[str, Any] = {
            "ingest": IngestStage(config, IngestConfig(lateness), log, lambda: BatchPricer(Pricer(_PRICES))),
            "evaluate": EvaluateStage(config, log),
            "notify": notify,
        }
        stages["ingest"]._ignored = _Unseeing()
        outbox = Outbox(
            notify,
            self.broker,
            self.inbox,
            worker.number,
            worker.incarnation,
            config.topics.notifications,
            self.rng,
            self._chances,
        )
        loops = {
            name: StageLoop(
                name,
                stages[name],
                self.broker,
                self.broker.groups[name],
                worker.number,
                self.rng,
                self._chances,
            )
            for name in STAGES
        }
        writer = (worker.number, worker.incarnation)

        def wrote(offset: int, read: Read) -> None:
            self.log_writers[offset] = (*writer, read)

        def appended(topic: str, offset: int) -> None:
            if topic == config.topics.notifications:
                wrote(offset, outbox.read)

        outbox.wrote = wrote
        loops["notify"].appended = appended
        outbox.owns = lambda: bool(loops["notify"].sources) and worker.number in loops["notify"].group.members
        loops["notify"].after_revoke = outbox.let_go
        loops["ingest"].idle_proof = not self.busy
        evaluate: EvaluateStage = stages["evaluate"]

        newest: dict[int, int | None] = {}

        def read_snapshots(shards: Any) -> None:
            for shard in shards:
                place = (config.topics.snapshots, shard)
                manifests = [
                    int(key.split(b"/")[1])
                    for key, _, _ in self.broker.log(place)
                    if key and key.startswith(b"manifest/")
                ]
                newest[shard] = max(manifests, default=None)
                evaluate.read_snapshots(shard, self.broker.live(place))
                # The same seed takes the same steps: no name is drawn from outside.
                evaluate._snapshots[shard]._generation = f"{self.rng.getrandbits(64):016x}"

        def check_start(place: Place, offset: int | None) -> None:
            """Of snapshots the newest that was ever whole is found, and none that is not is come across."""
            shard = place[1]
            if offset != newest[shard]:
                self.problems.append(
                    f"shard {shard} starts at {offset}, its newest snapshot is at {newest[shard]}"
                )
            self.problems += evaluate._snapshots[shard].problems

        loops["evaluate"].before_assign = read_snapshots
        loops["evaluate"].after_assign = check_start
        loops["notify"].before_assign = lambda _: outbox.read_log()
        loops["notify"].deliver = outbox.put
        return loops, outbox

    # What comes from outside.

    def _arrive(self, partition: int, value: bytes) -> None:
        self.broker.append((sim.CALLS_TOPIC, partition), None, value)

    def _change_rules(self) -> None:
        self._known_rules = self.traffic.rule_log(changed=True)
        for worker in self.workers:
            if worker.alive:
                self._at(
                    self.broker.now_ms + self.rng.randint(0, 3_000),
                    lambda each=worker, which=worker.incarnation: self._learn_rules(each, which),
                )

    def _learn_rules(self, worker: Worker, incarnation: int) -> None:
        if not worker.alive or worker.incarnation != incarnation:
            return
        if worker.paused_until_ms > self.broker.now_ms:
            self._at(worker.paused_until_ms, lambda: self._learn_rules(worker, incarnation))
            return
        ingest: IngestStage = worker.loops["ingest"].stage
        evaluate: EvaluateStage = worker.loops["evaluate"].stage
        ingest.ingest.switch(self._known_rules)
        evaluate._log = self._known_rules
        for shard in evaluate.shards.values():
            shard.switch(self._known_rules)

    # The end.

    def _drain(self) -> None:
        """Everything is alive and stays so: each stage in turn reads to the end, flushes a last time and stops."""
        self._draining = True
        for worker in self.workers:
            if not worker.alive:
                self._start(worker)
        self._until(self._settled)
        for name in STAGES:
            self._until(lambda name=name: self._read_out(name))
            loops = [worker.loops[name] for worker in self.workers]
            for loop in loops:
                loop.stopping = name != "notify"
            pause = self.broker.now_ms + sim.FLUSH_MS + 1_000
            self._until(lambda pause=pause: self.broker.now_ms >= pause)
        self._until(lambda: self._read_out("notify") and self._all_sent())

    def _settled(self) -> bool:
        now = self.broker.now_ms
        return all(
            worker.alive
            and worker.paused_until_ms <= now
            and all(
                frozenset(loop.sources) == group.assignment.get(worker.number)
                for name, group in self.broker.groups.items()
                for loop in (worker.loops[name],)
            )
            for worker in self.workers
        ) and all(group.members == set(WORKERS) for group in self.broker.groups.values())

    def _read_out(self, name: str) -> bool:
        return all(
            loop.positions[place] >= self.broker.end(place)
            for worker in self.workers
            for loop in (worker.loops[name],)
            for place in loop.sources
        )

    def _all_sent(self) -> bool:
        outboxes = [worker.loops["notify"].deliver.__self__ for worker in self.workers]  # type: ignore[attr-defined]
        waiting = any(
            worker.loops["notify"].sources and worker.loops["notify"].stage._notify.is_waiting
            for worker in self.workers
        )
        return not waiting and not any(outbox.queue for outbox in outboxes)


def small_snapshot_chunks() -> None:
    """Have a state of some kilobytes take several chunks, so that there is something between two of them."""
    snapshot.CHUNK_BYTES = 900  # type: ignore[misc]

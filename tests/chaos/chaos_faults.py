"""What is done to a running engine, when, and how long it took to evaluate again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from chaos_cluster import Brokers
from chaos_workers import Crew, Watch, Worker

PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Plan:
    """How often each thing is done."""

    kills: int
    joins: int = 2
    leaves: int = 2
    zombies: int = 1
    zombie_seconds: float = 60.0
    broker_kills: int = 1
    broker_seconds: float = 4.0
    bounces: int = 0
    cuts: int = 0
    cut_seconds: float = 15.0
    workers: int = 2

    def order(self, rng: random.Random) -> list[str]:
        """The faults in a random order; a leave follows a join."""
        names = ["kill"] * self.kills
        names += ["zombie"] * self.zombies + ["broker kill"] * self.broker_kills
        names += ["bounce"] * self.bounces + ["cut"] * self.cuts
        rng.shuffle(names)
        moves = [
            name
            for pair in zip(["join"] * self.joins, ["leave"] * self.leaves, strict=False)
            for name in pair
        ]
        places = sorted(rng.randrange(len(names) + 1) for _ in moves)
        for place, move in reversed(list(zip(places, moves, strict=True))):
            names.insert(place, move)
        return names


@dataclass(frozen=True)
class Recovery:
    """One kill -9: when, the seconds to the first takeover of shards, and to all evaluating again.

    None: the next fault came before that.
    """

    what: str
    takeover: float | None
    again: float | None


@dataclass
class Faults:
    """Strikes, one fault after the other."""

    plan: Plan
    rng: random.Random
    crew: Crew
    brokers: Brokers
    watch: Watch
    done: Counter[str] = field(default_factory=Counter)
    recoveries: list[Recovery] = field(default_factory=list)
    leave_seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    """What happened when (seconds since the epoch)."""
    wanted: set[int] = field(default_factory=set)
    _restarts: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """The whole plan."""
        for _ in range(self.plan.workers):
            await self._join()
        supervisor = asyncio.create_task(self.crew.supervise(self.wanted))
        try:
            if await self.watch.until_good(time.time(), PATIENCE_SECONDS) is None:
                self.problems.append(f"the workers did not come up within {PATIENCE_SECONDS:g} s")
                return
            for name in self.plan.order(self.rng):
                await self._strike(name)
            if self._restarts:
                await asyncio.wait(self._restarts)
            if await self.watch.until_good(time.time(), PATIENCE_SECONDS) is None:
                self.problems.append(
                    f"not all evaluated again within {PATIENCE_SECONDS:g} s after the last fault"
                )
        finally:
            supervisor.cancel()
            await asyncio.wait({supervisor})

    def note(self, what: str) -> None:
        """Put it on the timeline."""
        self.timeline.append((time.time(), what))

    def around(self, at: float) -> str:
        """What had been done last at some time."""
        before = [(then, what) for then, what in self.timeline if then <= at]
        return ", ".join(f"{what} {at - then:.1f} s before" for then, what in before[-2:])

    def struck(self, since: float, until: float) -> bool:
        """Whether anything was done between two times, or a moment before."""
        return any(since - 5 <= at <= until for at, _ in self.timeline)

    async def _strike(self, name: str) -> None:
        self.done[name] += 1
        self.note(name)
        # What comes after it strikes during the recovery of some kills.
        patient = self.rng.random() < 0.7 or name not in {"kill", "join"}
        struck = time.time()
        match name:
            case "kill":
                await self._kill()
            case "join":
                await self._join()
            case "leave":
                await self._leave()
            case "zombie":
                await self._zombie()
            case "broker kill":
                node = self.rng.choice(self.brokers.cluster.nodes)
                await self.brokers.kill_and_return(node, self.plan.broker_seconds)
            case "bounce":
                for node in self.brokers.cluster.nodes:
                    await self.brokers.bounce(node)
                    await asyncio.sleep(3)
            case "cut":
                await self.brokers.cut_off(self.plan.cut_seconds)
        ended = time.time()
        again = await self.watch.until_good(ended, PATIENCE_SECONDS) if patient else None
        if patient and again is None:
            self.problems.append(f"not evaluating again {PATIENCE_SECONDS:g} s after a {name}")
        self.note(f"{name} over")
        since = struck if name in {"kill", "leave", "join", "zombie"} else ended
        if name == "zombie":
            # The others go on while it is stopped.
            again = self.watch.recovered(struck)
        takeover = min(
            (at for worker in self.crew.running for at in worker.takeovers() if at > struck), default=None
        )
        self.recoveries.append(
            Recovery(
                name,
                None if takeover is None or again is None else takeover - since,
                None if again is None else again - since,
            )
        )
        await asyncio.sleep(self.rng.uniform(0, 1.5))

    async def _kill(self) -> None:
        worker = self.crew.pick(self.rng)
        if worker is None:
            # All were killed a moment ago: strike whoever comes next.
            await asyncio.sleep(2)
            worker = self.crew.pick(self.rng)
        if worker is None:
            self.done["kill"] -= 1
            return
        self.wanted.discard(worker.number)
        await worker.kill()
        self.note(f"killed {worker.number}")
        task = asyncio.create_task(self._start_again(worker, self.rng.uniform(0, 1.5)))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _start_again(self, worker: Worker, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await worker.start()
        self.note(f"started {worker.number}")
        self.wanted.add(worker.number)

    async def _join(self) -> None:
        worker = self.crew.seat()
        await worker.start()
        self.wanted.add(worker.number)

    async def _leave(self) -> None:
        worker = self.crew.pick(self.rng)
        if worker is None:
            self.done["leave"] -= 1
            return
        self.wanted.discard(worker.number)
        # A process that has not set up its signals yet ends by the signal itself.
        young = not worker.takeovers()
        seconds, code = await worker.terminate()
        self.leave_seconds.append(seconds)
        if code != 0 and not young:
            self.problems.append(f"SIGTERM ended a worker with exit code {code}")

    async def _zombie(self) -> None:
        worker = self.crew.pick(self.rng)
        if worker is None:
            self.done["zombie"] -= 1
            return
        self.note(f"stopped {worker.number}")
        worker.send(signal.SIGSTOP)
        worker.paused = True
        await asyncio.sleep(self.plan.zombie_seconds)
        worker.send(signal.SIGCONT)
        worker.paused = False

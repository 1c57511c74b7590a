"""The workers of a chaos run: real `tocsin worker` processes, a supervisor for them, and what their health says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from streams.broker import free_port, tied_to_parent

_READS = re.compile(r"^(\S+) INFO +(ingest|evaluate|notify) reads (.*)$", re.MULTILINE)


@dataclass
class Worker:
    """A seat: one process after the other with the same configuration."""

    number: int
    config: Path
    port: int
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    paused: bool = False
    starts: int = 0
    logs: list[Path] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        folder = self.config.parent
        self.logs.append(folder / f"worker-{self.number}-{self.starts}.log")
        self.starts += 1
        with self.logs[-1].open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *tied_to_parent(
                    [sys.executable, "-m", "streams.cli", "worker", "--config", str(self.config)]
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
                | self.environment,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, wherever it is."""
        if self.process is not None:
            self.send(signal.SIGKILL)
            await self.process.wait()
        self.paused = False

    async def terminate(self) -> tuple[float, int]:
        """SIGTERM; the seconds it took to end, and the exit code."""
        assert self.process is not None
        began = time.monotonic()
        self.send(signal.SIGTERM)
        code = await self.process.wait()
        return time.monotonic() - began, code

    def takeovers(self) -> list[float]:
        """When its present or last process said that evaluate has partitions (seconds since the epoch)."""
        if not self.logs:
            return []
        return [
            datetime.fromisoformat(at).timestamp()
            for at, stage, _ in _READS.findall(self.logs[-1].read_text(errors="replace"))
            if stage == "evaluate"
        ]


@dataclass
class Crew:
    """All workers; a supervisor starts whoever ended by itself."""

    folder: Path
    settings: dict[str, Any]
    environment: dict[str, str]
    workers: list[Worker] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Ends that nobody asked for, by the last line of the log."""

    def seat(self) -> Worker:
        """A new worker, which is not started yet."""
        number, port = len(self.workers) + 1, free_port()
        config = self.folder / f"worker-{number}.yaml"
        config.write_text(yaml.safe_dump(self.settings | {"web": {"listen": f"127.0.0.1:{port}"}}))
        self.workers.append(Worker(number, config, port, self.environment))
        return self.workers[-1]

    @property
    def running(self) -> list[Worker]:
        """Workers that run and are not stopped."""
        return [worker for worker in self.workers if worker.alive and not worker.paused]

    def pick(self, rng: random.Random) -> Worker | None:
        return rng.choice(self.running) if self.running else None

    async def supervise(self, wanted: set[int]) -> None:
        """Start workers of these numbers again when they end by themselves."""
        while True:
            for worker in self.workers:
                if worker.number in wanted and worker.process is not None and not worker.alive:
                    last = worker.logs[-1].read_text(errors="replace").strip().splitlines()[-1:]
                    self.ended.append(
                        f"worker {worker.number}, exit {worker.process.returncode}: {''.join(last)}"
                    )
                    await worker.start()
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        for worker in self.workers:
            worker.send(signal.SIGCONT)
            await worker.kill()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Watch]:
        """Ask every worker now and then how it is."""
        watch = Watch(self)
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.wait({task})


@dataclass
class Watch:
    """When the group as a whole evaluated: all partitions owned, and next to nothing left to read."""

    crew: Crew
    partitions: int = 3
    shards: int = 16
    most_left: int = 400
    good: bool = False
    good_at: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    turns: list[tuple[float, bool]] = field(default_factory=list)
    """Each time that it became well or unwell."""

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=0.6)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                asked = time.time()
                answers = await asyncio.gather(*[self._ask(session, worker) for worker in self.crew.running])
                owned = {
                    stage: sum(answer[stage]["partitions"] for answer in answers if stage in answer)
                    for stage in ("ingest", "evaluate", "notify")
                }
                left = sum(
                    answer[stage]["left_to_read"]
                    for answer in answers
                    for stage in ("ingest", "evaluate")
                    if stage in answer
                )
                good = (
                    owned == {"ingest": self.partitions, "evaluate": self.shards, "notify": 1}
                    and left <= self.most_left
                )
                if good != self.good:
                    self.turns.append((asked, good))
                self.good = good
                if good:
                    self.good_at = asked
                self.changed.set()
                self.changed = asyncio.Event()
                await asyncio.sleep(0.15)

    async def until_good(self, since: float, seconds: float) -> float | None:
        """The first time after `since` at which all was well; None if that took too long."""
        deadline = time.monotonic() + seconds
        while not (self.good and self.good_at > since):
            if time.monotonic() > deadline:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.changed.wait()
        return self.good_at

    def recovered(self, since: float) -> float | None:
        """When it first was well again after it was unwell after some time."""
        unwell = next((at for at, good in self.turns if at > since and not good), None)
        return next((at for at, good in self.turns if unwell is not None and at > unwell and good), None)

    @staticmethod
    async def _ask(session: aiohttp.ClientSession, worker: Worker) -> dict[str, Any]:
        try:
            async with session.get(f"http://127.0.0.1:{worker.port}/healthz") as response:
                stages: dict[str, Any] = (await response.json())["stages"]
                return stages
        except (aiohttp.ClientError, OSError, TimeoutError, KeyError):
            return {}

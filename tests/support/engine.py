"""A Tocsin of its own for a test: a folder with its configuration, topics and group of unique names, and processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from hdrh.histogram import HdrHistogram

from streams import chunk
from streams.block import Block
from streams.settings import TopicsSettings, load_settings
from streams.topics import create_topics

PATIENCE_SECONDS = 40.0
POLL_SECONDS = 0.05
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
NO_SHARED_DATA = f"the recorded data is not here ({SHARED_DATA.name} beside the project's folder)"

CALLS = "count:one:any"

Call = dict[str, Any]


async def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition about what other processes do holds."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


def real_calls(name: str) -> bytes:
    """The recorded calls of a data set, JSON lines, as the data's own program prints them."""
    import subprocess  # noqa: PLC0415 - only here

    program = [sys.executable, str(SHARED_DATA / "real_calls.py"), name]
    return subprocess.run(program, capture_output=True, check=True).stdout


def lines(calls: Iterable[Call]) -> bytes:
    return "".join(json.dumps(call) + "\n" for call in calls).encode()


@dataclass
class Worker:
    """A `tocsin worker` process; its log is in a file that `log` reads."""

    process: asyncio.subprocess.Process
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    async def says(self, text: str) -> None:
        """Wait until the log has a text."""
        await eventually(
            lambda: text in self.log or self.process.returncode is not None, f"log says {text!r}:\n{self.log}"
        )
        assert text in self.log, self.log

    async def terminate(self, seconds: float = 20.0) -> int:
        """SIGTERM, and the exit code; an end that takes longer fails the test."""
        self.process.terminate()
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL: no last flush, no last commit."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


@dataclass
class Engine:
    """A configuration in a folder, and what is done with it."""

    folder: Path
    broker: str
    settings: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "tocsin.yaml"

    def topic(self, name: str) -> str:
        found: str = self.settings["calls"]["topics"][0] if name == "calls" else self.settings["topics"][name]
        return found

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    async def __aenter__(self) -> Self:
        self.config.write_text(yaml.safe_dump(self.settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            await worker.kill()

    async def start(self) -> Worker:
        """Start a worker."""
        log_file = self.folder / f"worker-{len(self.workers)}.log"
        with log_file.open("wb") as log, (self.folder / "worker.out").open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command("worker", "--config", self.config), stdout=out, stderr=log, env=self._environ()
            )
        self.workers.append(Worker(process, log_file))
        return self.workers[-1]

    async def running(self) -> Worker:
        """Start a worker and wait until every stage has its partitions."""
        worker = await self.start()
        for stage in ("ingest", "evaluate", "notify"):
            await worker.says(f"{stage} reads ")
        return worker

    async def tocsin(self, *arguments: object, stdin: bytes = b"", code: int = 0) -> bytes:
        """Run a command to its end; its standard output."""
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environ(),
            cwd=self.folder,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin), PATIENCE_SECONDS)
        assert process.returncode == code, err.decode()
        return out

    async def create_topics(self) -> None:
        """Create the topics from here, which is quicker than a process of its own."""
        await create_topics(load_settings(self.config))

    async def publish(self, calls: bytes) -> None:
        """Publish calls from here, keyed like `tocsin publish` does."""
        producer = AIOKafkaProducer(bootstrap_servers=self.broker, acks="all")
        await producer.start()
        try:
            sent = []
            for line in calls.splitlines():
                call = json.loads(line)
                key = call.get("trace") or call.get("id")
                sent.append(await producer.send(self.topic("calls"), line, key=key and key.encode()))
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def publish_raw(self, values: Sequence[bytes | None], partition: int = 0) -> None:
        """Records as they are, to one partition of the calls topic."""
        producer = AIOKafkaProducer(bootstrap_servers=self.broker, acks="all", max_request_size=4 << 20)
        await producer.start()
        try:
            sent = [
                await producer.send(self.topic("calls"), value, key=b"key", partition=partition)
                for value in values
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    @contextlib.asynccontextmanager
    async def reading(self, name: str) -> AsyncIterator[TopicReader]:
        """A reader of one of the topics, from its start."""
        async with TopicReader(self.broker, self.topic(name)) as reader:
            yield reader

    def _environ(self) -> dict[str, str]:
        return {
            name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")
        } | self.environment


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "streams.cli", *map(str, arguments)]


def new_engine(folder: Path, broker: str, **changes: Any) -> Engine:
    """An engine with topics and a group of its own; `changes` are merged into the configuration, part by part."""
    unique = uuid.uuid4().hex[:8]
    settings: dict[str, Any] = {
        "kafka": {"brokers": [broker], "session_timeout": "2s"},
        "calls": {"topics": [f"calls-{unique}"], "partitions": 1, "lateness": "1s"},
        "topics": {name: f"{name}-{unique}" for name in TopicsSettings.model_fields},
        "group": f"tocsin-{unique}",
        "flush": "100ms",
        "overview": [],
        "web": {"listen": "off"},
    }
    for name, value in changes.items():
        known = settings.get(name)
        settings[name] = known | value if isinstance(known, dict) else value
    return Engine(folder, broker, settings)


class TopicReader:
    """Reads a topic, all partitions, from its start."""

    def __init__(self, broker: str, topic: str) -> None:
        self.records: list[ConsumerRecord[bytes, bytes]] = []
        self._topic = topic
        self._consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=broker,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=20,
        )

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        assert self._consumer.assignment(), f"no topic {self._topic}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Read until a condition about `records` holds."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not condition():
                    for batch in (await self._consumer.getmany(timeout_ms=100)).values():
                        self.records += batch
        except TimeoutError:
            raise AssertionError(
                f"not within {PATIENCE_SECONDS:g} s, after {len(self.records)} records of {self._topic}: {what}"
            ) from None

    @property
    def values(self) -> list[Any]:
        """The records' values as JSON."""
        return [json.loads(record.value) for record in self.records if record.value is not None]


@dataclass
class Cell:
    """What one series has in all panes: counts and sums by field name, histograms as bucket → count."""

    plain: dict[str, int] = field(default_factory=dict)
    counted: dict[str, dict[int, int]] = field(default_factory=dict)

    def percentile(self, name: str, rank: int) -> int:
        """Nearest rank, as the highest value of its bucket: read with the package that owns the layout."""
        layout = HdrHistogram(1, 3_600_000_000, 2)
        buckets = self.counted[name]
        wanted, seen = math.ceil(rank * sum(buckets.values()) / 100), 0
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= wanted:
                return int(layout.get_highest_equivalent_value(layout.get_value_from_index(bucket)))
        raise AssertionError("an empty histogram has no percentile")


class Panes:
    """A fold over the panes topic: of each pane of a source and series only the newest version counts."""

    def __init__(self) -> None:
        self._taken = 0
        self._newest: dict[tuple[Any, ...], tuple[int, dict[str, int], dict[str, dict[int, int]]]] = {}
        self.calls: dict[str, int] = {}

    def take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Take in what is new in the records read so far."""
        for record in records[self._taken :]:
            read = chunk.decode(record.value or b"")
            for block in read.blocks:
                self._take_block(read.source, read.version, block)
        self._taken = len(records)

    def _take_block(self, source: object, version: int, block: Block) -> None:
        counted: list[dict[str, dict[int, int]]] = [{} for _ in range(len(block))]
        for name, sparse in block.sparse.items():
            cells = zip(sparse.entry.tolist(), sparse.key.tolist(), sparse.count.tolist(), strict=True)
            for entry, bucket, count in cells:
                counted[entry].setdefault(name, {})[bucket] = count
        for entry, (row, start) in enumerate(zip(block.row.tolist(), block.start_ms.tolist(), strict=True)):
            key = block.view, source, block.series[row], start
            known_version, known, _ = self._newest.get(key, (-1, {}, {}))
            if known_version <= version:
                plain = {name: int(values[entry]) for name, values in block.columns.items()}
                self._newest[key] = version, plain, counted[entry]
                more = plain.get(CALLS, 0) - known.get(CALLS, 0)
                self.calls[block.view] = self.calls.get(block.view, 0) + more

    def together(self) -> dict[tuple[str, ...], Cell]:
        """All panes together, one cell per series with the fields of every view (all of the same dimensions)."""
        found: dict[str, dict[tuple[str, ...], Cell]] = {}
        for (view, _, series, _), (_, plain, counted_in) in self._newest.items():
            cell = found.setdefault(view, {}).setdefault(series, Cell())
            for name, value in plain.items():
                cell.plain[name] = cell.plain.get(name, 0) + value
            for name, buckets in counted_in.items():
                into = cell.counted.setdefault(name, {})
                for bucket, count in buckets.items():
                    into[bucket] = into.get(bucket, 0) + count
        result: dict[tuple[str, ...], Cell] = {}
        for cells in found.values():
            for series, cell in cells.items():
                both = result.setdefault(series, Cell())
                both.plain |= cell.plain
                both.counted |= cell.counted
        return result

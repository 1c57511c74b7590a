"""`tocsin demo`: an embedded broker, a worker and simulated traffic with incidents, watched in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.live import Live
from rich.text import Text

from notifiers.runbook import RunbookError
from notifiers.runbook_files import load_runbooks
from rules.loader import load_rules
from rules.problem import InvalidFilesError
from rules.view import SHARDS
from streams import alert_record, chunk
from streams.alert_record import AlertRecordError
from streams.alerts_seen import AlertsSeen
from streams.broker import EmbeddedBroker, EmbeddedBrokerError
from streams.chunk import ChunkError
from streams.kafka import new_consumer, new_producer, stop_client
from streams.live_overview import LiveOverview
from streams.live_table import Playing, screen
from streams.overview import overview_view
from streams.settings import PREFIX, Settings, load_settings
from streams.topics import TopicError, create_topics
from streams.traffic import Traffic
from streams.worker_process import read_line, terminate, worker_process

SPAN_MS: Final = 15_000
"""What the table is over."""
_PUBLISH_SECONDS: Final = 0.1
_LONGEST_STEP_MS: Final = 1_000
_SCREEN_SECONDS: Final = 0.5
_PLAIN_SECONDS: Final = 10.0
_CLIENT_SECONDS: Final = 0.4
_TAIL_LINES: Final = 30
_MESSAGE_LINES: Final = 200
_WIDEST: Final = 100


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says.

    `seconds`: stop after this long, None for until a signal. `rules`: the user's rule file in place of the shipped
    one. `rate`: factor on the traffic.
    """

    seconds: float | None = None
    as_json: bool = False
    rules: Path | None = None
    seed: int = 1
    rate: float = 1.0


async def run_demo(options: DemoOptions) -> int:
    """Run until the time is up, a signal comes, or a part fails; the exit code: 0, or 1 for a failure."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    # What the clients complain of while everything ends is no news, and would spoil the screen.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("streams").setLevel(logging.CRITICAL)
    # The demo is closed in itself: variables that point at a user's own cluster must not lead it there.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-demo-")))
        rules = options.rules
        if rules is None:
            shipped = resources.files("streams") / "demo_files" / "alerts.yaml"
            rules = stack.enter_context(resources.as_file(shipped))
        demo = _Demo(options, rules.resolve(), folder, stop)
        try:
            demo.check()
            await demo.run()
        except (
            DemoError,
            EmbeddedBrokerError,
            TopicError,
            InvalidFilesError,
            RunbookError,
            KafkaError,
        ) as error:
            demo.notes.print(Text(str(error)), soft_wrap=True)
            return 1
    return 0


class _Demo:
    """One run: its processes, its clients, and what has been seen."""

    def __init__(self, options: DemoOptions, rules: Path, folder: Path, stop: asyncio.Event) -> None:
        self.options = options
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDEST)
        # With --json, standard output carries nothing but JSON.
        self.notes = Console(highlight=False, stderr=True) if options.as_json else self.console
        self._rules = rules
        self._folder = folder
        self._stop = stop
        self._seen = AlertsSeen()
        self._published = 0
        self._overview = LiveOverview(overview_view(("feature",)))
        self._began = time.monotonic()
        self._log: deque[str] = deque(maxlen=_TAIL_LINES)
        self._traffic: Traffic | None = None
        self._is_live = not options.as_json and self.console.is_terminal and not self.console.is_dumb_terminal

    def check(self) -> None:
        """Read the rules, so that a mistake in them is said before anything starts."""
        load_rules([self._rules], self._rules.parent, load_runbooks(None).keys())

    async def run(self) -> None:
        """Start everything, watch, and stop everything."""
        self._welcome()
        async with EmbeddedBroker() as broker:
            settings = self._settings(broker.address)
            if not await self._unless_stopped(create_topics(settings)):
                async with (
                    worker_process(settings.base / "tocsin.yaml", self._environment()) as worker,
                    self._clients(settings) as (producer, consumer),
                ):
                    await self._watch(broker, worker, producer, consumer, settings)
        self._farewell()

    async def _unless_stopped(self, work: Awaitable[Any]) -> bool:
        """Do the work; True when a signal came first."""
        working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, stopped):
            task.cancel()
        if working.done() and not working.cancelled():
            working.result()
        return self._stop.is_set()

    async def _watch(
        self,
        broker: EmbeddedBroker,
        worker: asyncio.subprocess.Process,
        producer: AIOKafkaProducer,
        consumer: AIOKafkaConsumer,
        settings: Settings,
    ) -> None:
        """Until the time is up or a signal comes; a part that ends by itself is an error."""
        parts: dict[asyncio.Task[Any], str] = {}

        def part(work: Any, name: str) -> None:
            parts[asyncio.create_task(work, name=name)] = name

        part(self._stop.wait(), "")
        part(broker.wait(), "the embedded broker ended by itself")
        part(worker.wait(), "the worker ended by itself")
        part(self._publish(producer, settings.calls.topics[0]), "the simulator stopped")
        part(self._consume(consumer, settings), "reading the topics stopped")
        helpers = [asyncio.create_task(self._read_log(worker)), asyncio.create_task(self._show(worker))]
        left = None
        if self.options.seconds is not None:
            left = max(0.0, self.options.seconds - (time.monotonic() - self._began))
        try:
            done, _ = await asyncio.wait(parts, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done and not self._stop.is_set():
                await asyncio.wait(helpers, timeout=_CLIENT_SECONDS)
                raise DemoError(self._reason(parts, done, broker, worker))
        finally:
            for task in (*parts, *helpers):
                task.cancel()
            # Told at once, so that its end overlaps with the clients'.
            terminate(worker)
            await asyncio.wait((*parts, *helpers), timeout=_CLIENT_SECONDS)

    def _reason(
        self,
        parts: dict[asyncio.Task[Any], str],
        done: set[asyncio.Task[Any]],
        broker: EmbeddedBroker,
        worker: asyncio.subprocess.Process,
    ) -> str:
        """Which part ended, and what it said last. A process that ended explains the others."""
        first = next(task for task in parts if task in done)
        if worker.returncode is not None:
            said = "\n".join(self._log) or "(nothing)"
            return f"The worker ended with exit status {worker.returncode}. It said:\n{said}"
        if not broker.running:
            return f"The embedded broker ended by itself. It said:\n{broker.stderr_tail or '(nothing)'}"
        return f"The demo cannot go on: {parts[first]}: {first.exception()!r}"

    async def _publish(self, producer: AIOKafkaProducer, topic: str) -> None:
        """The simulator, in real time: the calls that ended since the last step."""
        position = _wall_ms()
        traffic = self._traffic = Traffic(self.options.seed, position, rate=self.options.rate)
        while True:
            # After a pause of the whole machine it catches up step by step.
            until = min(_wall_ms(), position + _LONGEST_STEP_MS)
            sent = [
                await producer.send(topic, msgspec.json.encode(event), key=event["trace"].encode())
                for _, event in traffic.calls(position, until)
            ]
            await asyncio.gather(*sent)
            self._published += len(sent)
            position = until
            await asyncio.sleep(_PUBLISH_SECONDS)

    async def _consume(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        """Panes into the overview, transitions into what is shown."""
        alerts = settings.topics.alerts
        while True:
            for source, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    if source.topic == alerts:
                        self._take_alert(record.value or b"")
                    else:
                        with contextlib.suppress(ChunkError):
                            self._overview.take(chunk.decode(record.value or b""))

    def _take_alert(self, value: bytes) -> None:
        try:
            transition = alert_record.decode(value)
        except AlertRecordError as error:
            self.notes.print(Text(str(error)))
            return
        self._seen.take(transition, time.monotonic() - self._began)
        if self.options.as_json:
            self._print_json(alert_record.to_json(transition))

    async def _read_log(self, worker: asyncio.subprocess.Process) -> None:
        """Drain the worker's standard error, and keep the end of it."""
        while line := await read_line(worker.stderr):
            self._log.append(line.rstrip())

    async def _show(self, worker: asyncio.subprocess.Process) -> None:
        """The worker's messages as they come, and the screen."""
        if self.options.as_json:
            while await read_line(worker.stdout):
                pass
            return
        if not self._is_live:
            await asyncio.gather(self._messages(worker, self.console), self._blocks())
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            await asyncio.gather(self._messages(worker, live.console), self._refresh(live))

    async def _messages(self, worker: asyncio.subprocess.Process, console: Console) -> None:
        """Print message by message: an empty line ends each."""
        lines: list[str] = []
        while line := await read_line(worker.stdout):
            text = line.rstrip("\r\n")
            lines.append(text)
            if not text or len(lines) >= _MESSAGE_LINES:
                console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
                lines.clear()

    async def _refresh(self, live: Live) -> None:
        while True:
            live.update(self._screen(), refresh=True)
            await asyncio.sleep(_SCREEN_SECONDS)

    async def _blocks(self) -> None:
        """Without a terminal, the table now and then."""
        while True:
            await asyncio.sleep(_PLAIN_SECONDS)
            self.console.print(self._screen())
            self.console.print()

    def _screen(self) -> Any:
        now = _wall_ms()
        traffic = self._traffic
        playing = Playing(None, 0)
        if traffic is not None:
            offset = now - traffic.start_ms
            incident = traffic.script.at(offset)
            upcoming = traffic.script.upcoming(offset)
            if incident is not None:
                playing = Playing(incident, incident.end_ms - offset % traffic.script.period_ms)
            elif upcoming is not None:
                playing = Playing(None, upcoming[1])
        return screen(self._overview.rows(SPAN_MS), self._seen.firing, playing, span_ms=SPAN_MS, now_ms=now)

    def _settings(self, address: str) -> Settings:
        """Write the worker's configuration, and read it as the worker will."""
        text = (resources.files("streams") / "demo_files" / "tocsin.yaml").read_text(encoding="utf-8")
        path = self._folder / "tocsin.yaml"
        # JSON is YAML: quoting is right whatever the path contains.
        own = (
            f"rules: [{json.dumps(str(self._rules))}]\nkafka: {{brokers: [{address}], session_timeout: 2s}}\n"
        )
        path.write_text(f"{text}{own}", encoding="utf-8")
        return load_settings(path)

    def _environment(self) -> dict[str, str]:
        """How the worker's console receiver is to write: as wide as our terminal, and in colour if it has colours."""
        variables = {"COLUMNS": str(min(self.console.width, _WIDEST)), "PYTHONIOENCODING": "utf-8"}
        if self._is_live and not self.console.no_color:
            variables["FORCE_COLOR"] = "1"
        return variables

    @contextlib.asynccontextmanager
    async def _clients(self, settings: Settings) -> AsyncIterator[tuple[AIOKafkaProducer, AIOKafkaConsumer]]:
        producer = new_producer(settings, "tocsin-demo")
        consumer = new_consumer(settings, None, "tocsin-demo")
        try:
            await producer.start()
            await consumer.start()
            sources = [TopicPartition(settings.topics.panes, shard) for shard in range(SHARDS)]
            sources.append(TopicPartition(settings.topics.alerts, 0))
            consumer.assign(sources)
            await consumer.seek_to_beginning(*sources)
            yield producer, consumer
        finally:
            closing = [asyncio.ensure_future(stop_client(client)) for client in (consumer, producer)]
            await asyncio.wait(closing, timeout=_CLIENT_SECONDS)

    def _print_json(self, value: dict[str, Any]) -> None:
        try:
            sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read has enough. What is still buffered must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._stop.set()

    def _welcome(self) -> None:
        self.notes.print(
            Text.assemble(
                ("Tocsin demo. ", "bold"),
                f"About {100 * self.options.rate:,.0f} simulated LLM calls a second go to a Kafka broker; a worker "
                "measures them, fires alerts, and writes here what Slack would show.\n",
                ("Rules: ", "bold"),
                f"{self._rules}\n",
                "Change a threshold there, or in a copy given with --rules, and run again: other alerts fire. "
                "Ctrl-C ends it.",
            ),
            soft_wrap=not self.notes.is_terminal,
        )

    def _farewell(self) -> None:
        seen = self._seen
        seconds = round(time.monotonic() - self._began, 1)
        if self.options.as_json:
            counts = {
                "seconds": seconds,
                "calls": self._published,
                **seen.summary(),
                "rules": str(self._rules),
            }
            self._print_json({"summary": counts})
            return
        self.console.print(
            f"Stopped after {seconds:.0f} s: {self._published:,} calls, {seen.fired} alerts fired, "
            f"{seen.resolved} resolved."
        )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000

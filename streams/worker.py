"""The worker: a Faust app whose services drive ingest, evaluate and notify. The only module that imports Faust."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faust.app.base import BootStrategy
from mode import Service

from notifiers.delivery import Outbox, Result
from notifiers.notification import Notification
from rules.quantities import SECOND
from streams import builtin
from streams.builtin import Condition
from streams.chunk import Seal
from streams.following import Following
from streams.kafka import new_consumer, read_live, read_to_end, start_client, stop_client
from streams.lease import GroupLease
from streams.loop import Loop, Stage
from streams.notify_stage import NotifyStage
from streams.records import Source
from streams.rules_watch import RulesWatch
from streams.setup import Setup, wall_ms
from streams.signals import on_first_signal, on_hangup
from streams.stage_run import StageRun, publish_at_last
from streams.stages import EvaluateStage, IngestStage
from streams.watching import watching

_log: Final = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 2.0
"""How long the last flush of a stage may take."""
DELIVERY_SECONDS: Final = 1.5
"""How long a notifier that stops or is followed by another waits for answers: what nobody heard of is sent again."""
STOP_SECONDS: Final = 4.0
"""How long everything may take between a signal and the end."""


class _Boot(BootStrategy):
    """Start nothing of Faust's that needs a broker: the services own their clients."""

    enable_kafka = False
    enable_web = False
    enable_sensors = False

    def agents(self) -> list[Any]:
        """None: calls never travel through a Faust stream."""
        return []


class _App(faust.App):
    BootStrategy = _Boot

    def _create_directories(self) -> None:
        """No data folder: it is for tables, which are not used."""


class _Worker(faust.Worker):
    def install_signal_handlers(self) -> None:
        """Ours are set before the app is built, which takes 100 ms."""

    def _setproctitle(self, info: str, *, ident: str = "tocsin") -> None:
        """The process keeps its name."""


class StageService(Service):
    """Runs one stage, and ends with a last flush."""

    abstract = False

    def __init__(self, setup: Setup, name: str, ready: asyncio.Event) -> None:
        super().__init__()
        self._setup = setup
        self._name = name
        self._ready = ready
        self.stage_run = StageRun(setup.settings, name, ready, self._drive)
        self._stopping = self.stage_run.stopping

    @abstractmethod
    def stage(self) -> Stage:
        """The stage, built once the rules are agreed on, and again whenever it is started again."""

    async def drive(self, stage: Stage, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        """Run the loop until told to stop."""
        await self.watched(Loop(stage, consumer, producer, self._stopping)).run()

    def watched(self, loop: Loop) -> Loop:
        """The same loop, after the watchdog has been shown it."""
        self.stage_run.use(loop)
        return loop

    def ask_to_stop(self) -> None:
        """Have the loop end after a last flush, without waiting for it."""
        self._stopping.set()

    async def _drive(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        await self.drive(self.stage(), consumer, producer)

    @Service.task
    async def _run(self) -> None:
        await self.stage_run.run()

    async def on_stop(self) -> None:
        """Flush, then give the clients up. Called by Faust once the worker stops."""
        self.ask_to_stop()
        if self._ready.is_set() and not self.crashed:
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.stage_run.ended.wait()
            except TimeoutError:
                _log.warning("%s did not finish its last flush within %g s", self._name, FLUSH_SECONDS)
        await self.stage_run.close()


class IngestService(StageService):
    """Calls to panes."""

    def __init__(self, setup: Setup, ready: asyncio.Event, rules: RulesWatch, *, accept_loss: bool) -> None:
        super().__init__(setup, "ingest", ready)
        self._rules = rules
        self._accept_loss = accept_loss

    def stage(self) -> IngestStage:
        """Ingest with the rules of now."""
        return IngestStage(
            self._setup.settings,
            self._setup.ingest,
            self._rules.known().log,
            self._setup.price,
            accept_loss=self._accept_loss,
        )

    async def _drive(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        stage = self.stage()
        loop = Loop(stage, consumer, producer, self._stopping)
        loop.follow(Following(stage, self._rules.known))
        await self.watched(loop).run()


class EvaluateService(StageService):
    """Panes to alert transitions."""

    def __init__(self, setup: Setup, ready: asyncio.Event, rules: RulesWatch) -> None:
        super().__init__(setup, "evaluate", ready)
        self._rules = rules
        self._stage: EvaluateStage | None = None

    def stage(self) -> Stage:
        """Evaluate with the rules of now."""
        self._stage = EvaluateStage(self._setup.settings, self._rules.known().log, uuid.uuid4().hex)
        return self._stage

    def watermarks_ms(self) -> list[int]:
        """The watermark of each shard here."""
        return [] if self._stage is None else [each.watermark_ms for each in self._stage.shards.values()]

    def seals(self) -> Mapping[Source, Seal]:
        """The newest seal of each source, as one of the shards here has them: every shard has all."""
        shards = {} if self._stage is None else self._stage.shards
        return shards[min(shards)].seals if shards else {}

    async def drive(self, stage: Stage, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        """Run the loop; the snapshots of a shard are read before it is taken over."""
        assert self._stage is not None
        loop = Loop(stage, consumer, producer, self._stopping, before_assign=self._read_snapshots)
        loop.follow(Following(self._stage, self._rules.known))
        await self.watched(loop).run()

    async def _read_snapshots(self, shards: Sequence[int]) -> None:
        settings = self._setup.settings
        reader = await start_client(
            lambda: new_consumer(settings, None, "tocsin-snapshots"), settings, self._stopping
        )
        if reader is None:
            return
        try:
            assert self._stage is not None
            for shard, live in (await read_live(reader, settings.topics.snapshots, shards)).items():
                self._stage.read_snapshots(shard, live)
        finally:
            await stop_client(reader)


class NotifyService(StageService):
    """Alert transitions to receivers."""

    def __init__(
        self,
        setup: Setup,
        ready: asyncio.Event,
        elsewhere: Callable[[int], Mapping[str, Iterable[Condition] | None]],
    ) -> None:
        super().__init__(setup, "notify", ready)
        self._elsewhere = elsewhere
        self._outbox: Outbox | None = None
        routes = builtin.with_other_receivers(setup.routes, setup.receivers)
        self._stage = NotifyStage(setup.settings, routes, self._conditions)

    def queues(self) -> dict[str, int]:
        """By receiver the age of the oldest waiting notification, in ms."""
        return {} if self._outbox is None else self._outbox.ages()

    def _conditions(self, now_ms: int) -> Mapping[str, Iterable[Condition] | None]:
        """What built-in alerts are about, by alert."""
        failing = self._stage.deliveries.conditions(self._setup.receivers, self.queues(), now_ms)
        return {**self._elsewhere(now_ms), builtin.NOTIFICATIONS_FAILING: failing}

    def stage(self) -> Stage:
        """Notify."""
        return self._stage

    async def drive(self, stage: Stage, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        """Run the loop beside the outbox; an error of either ends both."""

        async def announce(notification: Notification) -> None:
            await publish_at_last(producer, self._stage.announced(notification, wall_ms()))

        async def settled(notification: Notification, result: Result) -> None:
            await publish_at_last(producer, self._stage.settled(notification, result, wall_ms()))

        lease = GroupLease(consumer, lambda: loop.partitions, self._setup.settings.kafka.session_timeout)
        self._outbox = outbox = Outbox(
            self._setup.receivers.values(), settled, announce=announce, lease=lease
        )
        delivery = _Delivery(self._setup, outbox, lease)
        loop = Loop(
            stage, consumer, producer, self._stopping, before_assign=self._read_log, delivery=delivery
        )
        self.watched(loop)
        delivering = asyncio.create_task(outbox.run())
        try:
            looping = asyncio.create_task(loop.run())
            await asyncio.wait({delivering, looping}, return_when=asyncio.FIRST_COMPLETED)
            if not delivering.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DELIVERY_SECONDS):
                        await outbox.join()
            for task in (delivering, looping):
                if task.done():
                    task.result()
        finally:
            for task in (delivering, looping):
                task.cancel()
            for receiver in self._setup.receivers.values():
                close = getattr(receiver, "close", None)
                if close is not None:
                    await close()

    async def _read_log(self, _: Sequence[int]) -> None:
        """Read the notification log to its end."""
        settings = self._setup.settings
        reader = await start_client(
            lambda: new_consumer(settings, None, "tocsin-log"), settings, self._stopping
        )
        if reader is None:
            return
        try:
            self._stage.read_log(await read_to_end(reader, settings.topics.notifications))
        finally:
            await stop_client(reader)


@dataclass(frozen=True)
class _Delivery:
    """The outbox as the loop hands over to it."""

    setup: Setup
    outbox: Outbox
    lease: GroupLease

    async def put(self, notification: Notification) -> None:
        await self.outbox.put(notification, self.setup.message(notification))

    async def let_go(self) -> None:
        self.lease.forget()
        session_seconds = self.setup.settings.kafka.session_timeout / SECOND
        await self.outbox.let_go(min(DELIVERY_SECONDS, session_seconds / 4))


class TaskService(Service):
    """Runs something beside the stages; its error ends the worker."""

    abstract = False

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._work = work

    @Service.task
    async def _run(self) -> None:
        await self._work()


async def run_worker(setup: Setup, *, accept_loss: bool = False) -> None:
    """Run until SIGINT or SIGTERM. An error of a service ends the worker and is raised.

    `accept_loss`: go on where calls were deleted before they were counted, instead of refusing.
    """
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    on_first_signal(running, stop.set)
    app = _App(
        "tocsin",
        broker=f"kafka://{setup.settings.kafka.brokers[0]}",
        store="memory://",
        cache="memory://",
        web_enabled=False,
        stream_wait_empty=False,
        autodiscover=False,
    )
    ready = asyncio.Event()
    rules = RulesWatch(setup, ready)
    on_hangup(running, rules.ask_to_read_files)
    evaluate = EvaluateService(setup, ready, rules)

    def elsewhere(now_ms: int) -> Mapping[str, Iterable[Condition] | None]:
        settings = setup.settings
        return {
            builtin.SOURCE_SILENT: builtin.silent_sources(evaluate.seals(), settings.calls.topics, now_ms),
            builtin.RULES_NOT_LOADED: [
                *builtin.unloaded_rules(settings.topics.rules, rules.problems, now_ms),
                *builtin.unloaded_files(rules.file_problems, now_ms),
            ],
        }

    notify = NotifyService(setup, ready, elsewhere)
    stages = (IngestService(setup, ready, rules, accept_loss=accept_loss), evaluate, notify)
    parts = {stage.stage_run.name: stage.stage_run for stage in stages}
    beside = watching(setup, parts, _Facts(ready, evaluate, notify))
    for service in (TaskService(rules.run), *stages, *map(TaskService, beside)):
        app.service(service)  # type: ignore[arg-type]  # an instance works as well as a class
    worker = _Worker(
        app, loop=running, daemon=False, quiet=True, override_logging=False, redirect_stdouts=False
    )
    worker.spinner = None
    starting, stopped = asyncio.ensure_future(worker.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await worker.wait_for_stopped(stopped)
    finally:
        if stop.is_set():
            _log.info("stopping")
        for future in (starting, stopped):
            future.cancel()
        for stage in stages:
            # All at once: Faust stops one service after the other.
            stage.ask_to_stop()
        try:
            await asyncio.wait_for(worker.stop(), STOP_SECONDS)
        except TimeoutError:
            _log.warning("not everything stopped within %g s", STOP_SECONDS)
    if worker.crash_reason is not None:
        raise worker.crash_reason
    _log.info("stopped")


@dataclass(frozen=True)
class _Facts:
    """What the watchdog asks of the worker beside its stages."""

    ready: asyncio.Event
    evaluate: EvaluateService
    notify: NotifyService

    def rules_agreed(self) -> bool:
        return self.ready.is_set()

    def watermarks_ms(self) -> list[int]:
        return self.evaluate.watermarks_ms()

    def queues(self) -> dict[str, int]:
        return self.notify.queues()

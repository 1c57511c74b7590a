"""Kills what it can while calls flow, and compares what is left with the oracle.

`python tests/chaos/chaos_run.py --kills 100 --nodes 3`; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
for _folder in (_HERE, _HERE.parent / "support", _HERE.parent / "simulation", _HERE.parents[1]):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import yaml  # noqa: E402 - after the paths
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # noqa: E402
from chaos_calls import AHEAD_MS, LATENESS_MS, PARTITIONS, SKEW_MS, Traffic, oracle_rules, rule_text  # noqa: E402
from chaos_check import SENDING, Expected, Found, Log, Told, check  # noqa: E402
from chaos_cluster import Brokers, brokers  # noqa: E402
from chaos_faults import Faults, Plan  # noqa: E402
from chaos_report import Page  # noqa: E402
from chaos_workers import Crew  # noqa: E402
from fake_slack import TOKEN, FakeSlack, Received  # noqa: E402

from streams.settings import load_settings  # noqa: E402
from streams.topics import create_topics  # noqa: E402

SETTLE_SECONDS = 120.0
_RECEIVERS = {"C0ONCALL": "oncall", "webhook": "team"}
ROUTES = {"critical": ("oncall", "team"), "warning": ("team",)}
TOPICS = ("llm.panes", "llm.alerts", "llm.notifications")
CALLS = "llm.calls"
COUNTS = {CALLS: PARTITIONS, "llm.panes": 16}


@dataclass
class TimedSlack(FakeSlack):
    """The fake Slack, which also remembers who was told of what, and when."""

    told: list[Told] = field(default_factory=list)

    def _accept(self, channel: str, payload: dict[str, Any]) -> Received:
        received = super()._accept(channel, payload)
        self.told.append(Told(_RECEIVERS[channel], received.notification, time.time_ns() // 1_000_000))
        return received


@dataclass(frozen=True)
class Options:
    """A run."""

    seed: int
    plan: Plan
    nodes: int = 1
    rate: int = 150
    session_seconds: float = 3.0


def short(seed: int) -> Options:
    """The run that is part of the suite."""
    return Options(seed, Plan(10, zombie_seconds=5.0, broker_seconds=2.0), 1, 120, 2.5)


def configuration(options: Options, bootstrap: list[str], slack: FakeSlack) -> dict[str, Any]:
    return {
        "kafka": {
            "brokers": bootstrap,
            "replication": min(options.nodes, 3),
            "session_timeout": f"{options.session_seconds:g}s",
        },
        "calls": {
            "topics": [CALLS],
            "partitions": PARTITIONS,
            "lateness": f"{LATENESS_MS}ms",
            "skew": f"{SKEW_MS}ms",
        },
        "group": "chaos",
        "flush": "300ms",
        "snapshot": "3s",
        "overview": [],
        "rules": ["chaos.rules.yaml"],
        "receivers": {
            "oncall": {
                "slack": {"channel": "#llm-oncall", "token_env": "SLACK_BOT_TOKEN", "api_url": slack.api_url}
            },
            "team": {"slack": {"webhook_env": "SLACK_WEBHOOK_URL"}},
        },
        "routes": [{"where": {"severity": "critical"}, "to": ["oncall", "team"]}, {"to": ["team"]}],
    }


@dataclass
class Publisher:
    """Publishes calls by the clock until told to stop, each once and in order, whatever becomes of the brokers."""

    bootstrap: list[str]
    traffic: Traffic
    published: dict[int, list[bytes]] = field(
        default_factory=lambda: {each: [] for each in range(PARTITIONS)}
    )
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = 0.0

    async def run(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            enable_idempotence=True,
            request_timeout_ms=120_000,
            linger_ms=10,
        )
        await producer.start()
        began = time.monotonic()
        try:
            before = _now_ms()
            while not self.stopping.is_set():
                await asyncio.sleep(0.05)
                now = _now_ms()
                await self._send(producer, self.traffic.arrivals(before, now))
                before = now
            await producer.flush()
            await self._send(producer, self.traffic.last(_now_ms()))
            await producer.flush()
        finally:
            self.seconds = time.monotonic() - began
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, calls: list[tuple[int, bytes]]) -> None:
        for partition, value in calls:
            self.published[partition].append(value)
            await producer.send(CALLS, value, key=b"call", partition=partition)


async def read_logs(bootstrap: list[str], *topics: str) -> dict[str, dict[int, Log]]:
    """Every record of some topics, by partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    logs: dict[str, dict[int, list[tuple[bytes | None, bytes | None, int]]]] = {}
    try:
        places = [TopicPartition(topic, number) for topic in topics for number in range(COUNTS.get(topic, 1))]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(places)
        for place in places:
            logs.setdefault(place.topic, {})[place.partition] = []
        left = {place for place in places if ends[place] > 0}
        while left:
            for place, messages in (await consumer.getmany(*left, timeout_ms=200)).items():
                logs[place.topic][place.partition] += [
                    (each.key, each.value, each.timestamp) for each in messages
                ]
            left = {place for place in left if await consumer.position(place) < ends[place]}
    finally:
        await consumer.stop()
    return {topic: dict(of_topic) for topic, of_topic in logs.items()}


async def run(options: Options, folder: Path) -> Page:
    """One run, from nothing to the page."""
    # What the publisher has to say while its broker is away is known.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    began = time.monotonic()
    rng = random.Random(options.seed)
    with brokers(options.nodes) as cluster:
        async with TimedSlack() as slack:
            return await _run(options, folder, cluster, slack, rng, began)


async def _run(
    options: Options,
    folder: Path,
    cluster: Brokers,
    slack: TimedSlack,
    rng: random.Random,
    began: float,
) -> Page:
    settings = configuration(options, cluster.bootstrap, slack)
    (folder / "chaos.rules.yaml").write_text(rule_text(options.rate))
    config = folder / "chaos.yaml"
    config.write_text(yaml.safe_dump(settings))
    await create_topics(load_settings(config))
    secrets = {"SLACK_BOT_TOKEN": TOKEN, "SLACK_WEBHOOK_URL": slack.webhook_url}
    crew = Crew(folder, settings, secrets)
    publisher = Publisher(cluster.bootstrap, Traffic(random.Random(rng.random()), options.rate))
    publishing = asyncio.create_task(publisher.run())
    try:
        async with crew.watched() as watch:
            watch.most_left = max(400, 2 * options.rate)
            faults = Faults(options.plan, rng, crew, cluster, watch)
            await faults.run()
            page = Page(
                options.seed,
                options.nodes,
                options.rate,
                options.session_seconds,
                0,
                0,
                faults,
                None,
                cluster.how_cut_off,
            )
            publisher.stopping.set()
            await publishing
            page.load_seconds = publisher.seconds
            await _compare(page, cluster, slack, publisher, options)
    finally:
        publishing.cancel()
        await asyncio.wait({publishing})
        await crew.close()
    page.seconds = time.monotonic() - began
    return page


async def _compare(
    page: Page, cluster: Brokers, slack: TimedSlack, publisher: Publisher, options: Options
) -> None:
    """Wait until everything that must come is there, for a bounded time; then compare."""
    rules = oracle_rules(options.rate)
    deadline = time.monotonic() + SETTLE_SECONDS
    bootstrap = cluster.bootstrap
    calls = (await read_logs(bootstrap, CALLS))[CALLS]
    expected = await asyncio.to_thread(Expected, rules, calls)
    while True:
        logs = await read_logs(bootstrap, *TOPICS)
        await asyncio.to_thread(expected.take, logs["llm.panes"])
        complete = expected.is_complete
        settled = complete and _is_settled(expected, logs)
        if settled or time.monotonic() > deadline:
            break
        await asyncio.sleep(1)
    if not settled:
        page.problems.append(
            f"not everything was there after {SETTLE_SECONDS:g} s (panes complete: {complete})"
        )
    # What is told in the last moment is on its way to the log.
    await asyncio.sleep(1)
    logs = await read_logs(bootstrap, *TOPICS)
    found = Found(
        calls,
        logs["llm.panes"],
        logs["llm.alerts"][0],
        logs["llm.notifications"][0],
        list(slack.told),
        publisher.published,
        ROUTES,
        page.faults.around,
        page.faults.struck,
    )
    await asyncio.to_thread(expected.take, logs["llm.panes"])
    page.verdict = await asyncio.to_thread(check, expected, found)
    page.verdict.delays_ms = [delay + AHEAD_MS for delay in page.verdict.delays_ms]
    page.problems += [f"Slack refused a message: {problem}" for problem in slack.problems]


def _is_settled(expected: Expected, logs: Mapping[str, Mapping[int, Log]]) -> bool:
    """Whether all transitions are there, and each has its end in the notification log."""
    keys = {key.decode() for key, value, _ in logs["llm.alerts"][0] if key and value}
    records = [json.loads(value) for _, value, _ in logs["llm.notifications"][0] if value]
    ended = {record["id"] for record in records if record["outcome"] != SENDING}
    begun = {record["id"] for record in records}
    of_log = {record["transition"] for record in records}
    return len(keys) >= len(expected.transitions) and keys <= of_log and begun <= ended


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    """Run once, print the page, and say by the exit code whether anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3))
    parser.add_argument("--rate", type=int, default=200, help="calls per second")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--session", type=float, default=6.0, help="session timeout in seconds")
    parser.add_argument("--zombie", type=float, default=60.0, help="seconds of SIGSTOP")
    parser.add_argument("--keep", type=Path, default=None, help="an empty folder for logs, which is kept")
    parser.add_argument("--short", action="store_true", help="the run that is part of the suite")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    many = given.nodes > 1
    plan = Plan(
        given.kills,
        zombie_seconds=given.zombie,
        bounces=int(many),
        cuts=int(many),
        broker_seconds=5.0,
        workers=3,
    )
    options = Options(seed, plan, given.nodes, given.rate, given.session)
    if given.short:
        options = short(seed)
    print(f"seed {seed}: {options.plan}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tocsin-chaos-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        page = asyncio.run(run(options, folder))
    print(page.text)
    if page.all_problems:
        how = "--short" if given.short else f"--kills {given.kills} --nodes {given.nodes}"
        print(
            f"again (the same faults, at other moments): python tests/chaos/chaos_run.py --seed {seed} {how}"
        )
    sys.exit(1 if page.all_problems else 0)


if __name__ == "__main__":
    main()

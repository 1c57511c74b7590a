"""A worker says whether it is well, waits for its broker, recovers or ends with a reason, and stops when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from engine import (
    PATIENCE_SECONDS,
    Engine,
    Panes,
    Worker,
    eventually,
    lines,
    new_engine,
)
from fake_slack import TOKEN, FakeSlack
from kafka_node import KafkaCluster, KafkaUnavailableError, kafka_is_required

from streams.broker import EmbeddedBroker, free_port

BROKERS = [
    pytest.param("embedded_broker", marks=pytest.mark.embedded),
    pytest.param("apache_kafka", marks=pytest.mark.kafka),
]
RULES = """\
version: 1
groups:
  - name: tests
    rules:
      - {alert: Slow, by: [feature], measure: latency.p95, window: 10m, above: 1s, min_calls: 5,
         runbook: latency-high, summary: test}
"""
AWAY_SECONDS = 13.0
"""Longer than a producer tries, so that stages have to start again."""


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


@contextlib.asynccontextmanager
async def engine_with_health(folder: Path, broker: str, **settings: Any) -> AsyncIterator[tuple[Engine, str]]:
    """An engine whose worker listens on a port of its own, and the start of its URLs."""
    port = free_port()
    own = {"rules": ["alerts.yaml"], "web": {"listen": f"127.0.0.1:{port}"}}
    async with new_engine(folder, broker, **(own | settings)) as engine:
        engine.write("alerts.yaml", RULES)
        yield engine, f"http://127.0.0.1:{port}"


async def ask(url: str) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 where nobody listens."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.json()
    except aiohttp.ClientError:
        return 0, {}


async def answers(url: str, status: int, worker: Worker, containing: str = "") -> dict[str, Any]:
    """Wait for an answer with a status and a text in it."""
    last: tuple[int, dict[str, Any]] = 0, {}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while last[0] != status or containing not in json.dumps(last[1]):
                assert worker.process.returncode is None, worker.log
                last = await ask(url)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{url} still answers {last}\n{worker.log}") from None
    return last[1]


def calls_now(count: int, latency_ms: int = 9_000) -> bytes:
    first = time.time_ns() // 1_000_000 - count
    return lines(
        {"at": first + number, "model": "m", "feature": "chat", "latency_ms": latency_ms}
        for number in range(count)
    )


async def all_calls_are_in_the_panes(engine: Engine, count: int) -> None:
    panes = Panes()
    async with engine.reading("panes") as reader:

        def counted() -> bool:
            panes.take(reader.records)
            return bool(panes.calls) and min(panes.calls.values()) >= count

        await reader.until(counted, f"all {count} calls")
    assert set(panes.calls.values()) == {count}


async def test_health_and_readiness_over_the_life_of_a_worker(broker: str, tmp_path: Path) -> None:
    async with engine_with_health(tmp_path, broker) as (engine, url):
        assert b"no answer" in await stderr_of_health(engine)
        worker = await engine.start()
        await answers(f"{url}/readyz", 503, worker)
        ready = await answers(f"{url}/readyz", 200, worker)
        assert ready == {"status": "ready", "reasons": []}
        status, health = await ask(f"{url}/healthz")
        assert (status, health["status"], health["reasons"]) == (200, "ok", [])
        assert {name: stage["partitions"] for name, stage in health["stages"].items()} == {
            "ingest": 1,
            "evaluate": 16,
            "notify": 1,
        }
        for option in ("", "--ready"):
            said = await engine.tocsin("health", "--config", engine.config, *([option] if option else []))
            assert json.loads(said)["reasons"] == []
        assert await worker.terminate() == 0
        assert (await ask(f"{url}/healthz"))[0] == 0


async def stderr_of_health(engine: Engine) -> bytes:
    from engine import command  # noqa: PLC0415 - only here

    process = await asyncio.create_subprocess_exec(
        *command("health", "--config", engine.config), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    return said


@pytest.mark.embedded
async def test_a_worker_waits_for_a_broker_that_is_away_at_the_start(tmp_path: Path) -> None:
    broker = EmbeddedBroker(free_port())
    async with engine_with_health(tmp_path, broker.address) as (engine, url):
        worker = await engine.start()
        await answers(f"{url}/readyz", 503, worker, "no broker answers")
        status, health = await ask(f"{url}/healthz")
        assert (status, health["status"]) == (200, "waiting")
        async with broker:
            await answers(f"{url}/readyz", 200, worker)
            await engine.publish(calls_now(20))
            await all_calls_are_in_the_panes(engine, 20)
            assert await worker.terminate() == 0


@pytest.mark.embedded
async def test_a_worker_whose_broker_lost_everything_ends_with_the_reason(tmp_path: Path) -> None:
    broker = EmbeddedBroker(free_port())
    async with broker, engine_with_health(tmp_path, broker.address) as (engine, url):
        worker = await engine.start()
        await answers(f"{url}/readyz", 200, worker)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        await answers(f"{url}/readyz", 503, worker, "no broker answers")
        await broker.stop()
        await broker.start()
        assert await asyncio.wait_for(worker.process.wait(), 2 * PATIENCE_SECONDS) == 1
        last = worker.log.splitlines()[-1]
        # The broker creates a topic that somebody asks for, so it may be there again, with too few partitions.
        assert "is gone: it was deleted while the worker ran" in last or "is not there" in last, worker.log


@pytest.fixture(scope="module")
def stoppable_kafka() -> Iterator[KafkaCluster]:
    try:
        cluster = KafkaCluster()
    except KafkaUnavailableError as error:
        if kafka_is_required():
            raise
        pytest.skip(str(error))
    with cluster:
        yield cluster


@pytest.fixture
def own_kafka(stoppable_kafka: KafkaCluster) -> KafkaCluster:
    """A node for the tests that kill or pause it; it runs when a test begins."""
    [node] = stoppable_kafka.nodes
    if not node.running:
        node.start()
        node.wait_until_started()
    return stoppable_kafka


@pytest.mark.kafka
async def test_a_worker_recovers_when_its_broker_was_killed_and_loses_nothing(
    own_kafka: KafkaCluster, tmp_path: Path
) -> None:
    [node] = own_kafka.nodes
    async with engine_with_health(tmp_path, node.address) as (engine, url):
        worker = await engine.start()
        await answers(f"{url}/readyz", 200, worker)
        await engine.publish(calls_now(100))
        await eventually(lambda: "firing: Slow" in (tmp_path / "worker.out").read_text(), "the alert")
        node.kill()
        await answers(f"{url}/readyz", 503, worker, "no broker answers")
        await asyncio.sleep(AWAY_SECONDS)
        status, health = await ask(f"{url}/healthz")
        assert (status, health["status"]) == (200, "waiting")
        node.start()
        await asyncio.to_thread(node.wait_until_started)
        await answers(f"{url}/readyz", 200, worker)
        await engine.publish(calls_now(4_000, 10))
        await eventually(lambda: "esolved" in (tmp_path / "worker.out").read_text(), "its end")
        await all_calls_are_in_the_panes(engine, 4_100)
        assert await worker.terminate() == 0
        console = (tmp_path / "worker.out").read_text()
        assert (console.count("firing: Slow"), console.count("esolved")) == (1, 1)
        assert "is stuck" not in worker.log


@pytest.mark.kafka
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_second_signal_ends_a_worker_at_once(
    own_kafka: KafkaCluster, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    [node] = own_kafka.nodes
    async with engine_with_health(tmp_path, node.address) as (engine, url):
        worker = await engine.start()
        await answers(f"{url}/readyz", 200, worker)
        await engine.publish(calls_now(20))
        node.pause()  # so that the last flush cannot end
        try:
            worker.process.send_signal(signal.SIGTERM)
            await worker.says("stopping")
            worker.process.send_signal(number)
            assert await asyncio.wait_for(worker.process.wait(), 2) == code
        finally:
            node.resume()
        assert "stopped at once by a second signal" in worker.log
        again = await engine.start()
        await answers(f"{url}/readyz", 200, again)
        await all_calls_are_in_the_panes(engine, 20)
        assert await again.terminate() == 0


@pytest.mark.embedded
async def test_the_heartbeat_is_sent_while_the_engine_evaluates_and_stops_with_the_broker(
    embedded_broker: str, tmp_path: Path
) -> None:
    beats: list[float] = []

    async def take(_: web.Request) -> web.Response:
        beats.append(time.monotonic())
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_post("/ping/secret-id", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site_port = free_port()
    await web.TCPSite(runner, "127.0.0.1", site_port).start()
    broker = EmbeddedBroker(free_port())
    heartbeat = {"url_env": "HEARTBEAT_URL", "every": "1s"}
    try:
        async with (
            broker,
            engine_with_health(tmp_path, broker.address, heartbeat=heartbeat) as (engine, url),
        ):
            engine.environment["HEARTBEAT_URL"] = f"http://127.0.0.1:{site_port}/ping/secret-id"
            worker = await engine.start()
            await answers(f"{url}/readyz", 200, worker)
            await eventually(lambda: len(beats) >= 2, "two beats")
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                await answers(f"{url}/readyz", 503, worker)
                seen = len(beats)
                await asyncio.sleep(2.5)
                assert len(beats) <= seen + 1  # one may have been under way
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            await eventually(lambda: len(beats) > seen + 1, "beats again")
            assert "secret-id" not in worker.log
    finally:
        await runner.cleanup()


async def test_that_a_receiver_refuses_is_told_to_another_one_and_resolved_when_it_takes_again(
    broker: str, tmp_path: Path
) -> None:
    async with FakeSlack() as slack:
        bot = {"channel": "#no-such-channel", "token_env": "SLACK_BOT_TOKEN", "api_url": slack.api_url}
        settings = {
            "receivers": {
                "oncall": {"slack": bot},
                "team": {"slack": {"webhook_env": "SLACK_WEBHOOK_URL"}},
            },
            "routes": [{"to": ["oncall"]}],
        }
        async with engine_with_health(tmp_path, broker, **settings) as (engine, url):
            engine.environment |= {"SLACK_BOT_TOKEN": TOKEN, "SLACK_WEBHOOK_URL": slack.webhook_url}
            worker = await engine.start()
            await answers(f"{url}/readyz", 200, worker)
            await engine.publish(calls_now(20))
            await eventually(lambda: len(slack.inbox) >= 1, f"the other receiver is told:\n{worker.log}")
            assert await worker.terminate() == 0
            again = await engine.start()
            await answers(f"{url}/readyz", 200, again)
            async with engine.reading("alerts") as reader:
                await reader.until(
                    lambda: sum(each["group"] == "tocsin" for each in reader.values) >= 1, "the alert"
                )
                own = [each for each in reader.values if each["group"] == "tocsin"]
            assert await again.terminate() == 0
        [told] = slack.inbox
    assert told.channel == "webhook"
    assert "NotificationsFailing" in told.payload["text"]
    assert "channel_not_found" in told.payload["text"]
    assert len({each["id"] for each in own}) == 1
    assert own[0]["series"] == {"receiver": "oncall"}


@pytest.mark.embedded
async def test_an_address_that_is_taken_is_a_reason_to_end_where_it_was_asked_for(
    embedded_broker: str, tmp_path: Path
) -> None:
    async with engine_with_health(tmp_path, embedded_broker) as (engine, url):
        first = await engine.start()
        await answers(f"{url}/healthz", 200, first)
        second = await engine.start()
        assert await asyncio.wait_for(second.process.wait(), PATIENCE_SECONDS) == 1
        assert "cannot be listened on" in second.log

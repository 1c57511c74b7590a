"""Rules and prices that change while workers run: all switch at one boundary of event time."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from builders import records
from engine import Call, Engine, TopicReader, lines, new_engine

from streams import rule_log
from streams.alert_record import rfc3339, to_json
from streams.frontier import Lateness
from streams.ingest import IngestConfig
from streams.price_book import PriceBook
from streams.pricing import Pricer
from streams.replaying import Replay
from streams.rule_log import LEAD_MS
from streams.rules_topic import log_of
from streams.spend import BatchPricer

pytestmark = pytest.mark.embedded

SECOND = 1_000
LOWEST_PRICES = "version: 1\nprices: [{model: own, input: $1, output: $1}]\n"
HIGHER_PRICES = "version: 1\nprices: [{model: own, input: $1000, output: $1}]\n"


def rules(*alerts: str) -> str:
    text = "version: 1\ngroups:\n  - name: tests\n    rules:\n"
    return text + "".join(f"      - {{{alert}, runbook: latency-high, summary: test}}\n" for alert in alerts)


KEPT = "alert: Kept, by: [feature], measure: calls, window: 10s, above: 20"
COSTS = "alert: Costs, by: [feature], measure: spend, window: 10s, above: $0.5"
FIRST = rules(
    KEPT, COSTS, "alert: Changed, by: [feature], measure: latency.p95, window: 10s, above: 100ms",
    "alert: Removed, by: [model], measure: calls, window: 10s, above: 30",
)  # fmt: skip
SECOND_SET = rules(
    KEPT, COSTS, "alert: Changed, by: [feature], measure: latency.p95, window: 10s, above: 120ms",
    "alert: Added, by: [feature], measure: latency.max, window: 10s, above: 110ms",
)  # fmt: skip


def calls(start_ms: int, seconds: range) -> list[Call]:
    """Ten calls a second of two features, slower and slower."""
    return [
        {
            "id": f"id-{second}-{number}",
            "at": start_ms + second * SECOND + number * 100,
            "model": "own",
            "feature": "ab"[number % 2],
            "latency_ms": 100 + 10 * second,
            "tokens": {"input": 100, "output": 0},
        }
        for second in seconds
        for number in range(10)
    ]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def published(engine: Engine, number: int) -> list[rule_log.RulesRecord]:
    async with engine.reading("rules") as reader:
        await reader.until(lambda: len(reader.records) >= number, f"{number} rule sets")
        return [rule_log.decode(record.value or b"") for record in reader.records]


def replayed(found: list[rule_log.RulesRecord], events: list[Call]) -> list[dict[str, Any]]:
    config = IngestConfig(Lateness(1_000, 300_000))
    source = records([]).source
    engine = Replay(config, log_of(found, now_ms()), lambda: BatchPricer(Pricer(PriceBook())), source)
    transitions, _ = engine.feed(records(events))
    return [to_json(each) for each in transitions + engine.finish()]


def told(reader: TopicReader) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in reader.values if each["group"] == "tests"}


def plain(transition: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in transition.items() if name != "exemplars"}


async def test_two_running_workers_switch_at_the_boundary_of_a_version_that_is_activated(
    embedded_broker: str, tmp_path: Path
) -> None:
    settings = {"rules": ["alerts.yaml"], "prices": "prices.yaml", "calls": {"partitions": 2}}
    async with new_engine(tmp_path, embedded_broker, **settings) as engine:
        engine.write("alerts.yaml", FIRST)
        engine.write("prices.yaml", LOWEST_PRICES)
        one = await engine.running()
        two = await engine.start()
        await two.says("ingest reads")
        start_ms = now_ms() // SECOND * SECOND
        # Event time runs ahead of the clock: panes beyond the boundary are open before anybody knows of it, and the
        # clock does not stand in for data however long the command takes here.
        events = calls(start_ms, range(90))
        await engine.publish(lines(events))
        engine.write("alerts.yaml", SECOND_SET)
        engine.write("prices.yaml", HIGHER_PRICES)
        said = await engine.tocsin("rules", "activate", "--config", engine.config)
        first, second = await published(engine, 2)
        assert f"{second.hash} holds from" in said.decode()
        assert first.from_ms == 0
        assert second.from_ms >= second.published_ms + LEAD_MS
        assert second.from_ms < start_ms + 75 * SECOND, "too slow a machine for this test"
        end = rfc3339(second.from_ms + 12 * SECOND)
        expected = {
            each["id"]: plain(each) for each in replayed([first, second], events) if each["at"] <= end
        }
        assert {each["alert"] for each in expected.values()} == {
            "Kept",
            "Costs",
            "Changed",
            "Removed",
            "Added",
        }
        async with engine.reading("alerts") as reader:
            await reader.until(lambda: expected.keys() <= told(reader).keys(), "all transitions")
            found = told(reader)
        assert {key: plain(found[key]) for key in expected} == expected
        assert {key for key, each in found.items() if each["at"] <= end} == expected.keys()
        reasons = {(each["alert"], each["reason"]) for each in expected.values()}
        assert {("Removed", "rule removed"), ("Changed", "rule changed")} <= reasons
        assert all(f"rule set {second.hash} holds from" in worker.log for worker in (one, two))
        history = (await engine.tocsin("rules", "log", "--config", engine.config)).decode().splitlines()
        assert [line.split()[0] for line in history] == [first.hash, second.hash]
        assert [line.count("(price file)") for line in history] == [1, 1]
        assert await one.terminate() == await two.terminate() == 0


async def test_a_hangup_has_the_files_read_again_and_what_is_not_valid_changes_nothing(
    embedded_broker: str, tmp_path: Path
) -> None:
    async with new_engine(tmp_path, embedded_broker, rules=["alerts.yaml"]) as engine:
        engine.write("alerts.yaml", FIRST)
        worker = await engine.running()
        worker.process.send_signal(signal.SIGHUP)
        await worker.says("nothing to publish")
        engine.write("alerts.yaml", SECOND_SET.replace("120ms", "120 parsecs"))
        worker.process.send_signal(signal.SIGHUP)
        await worker.says("are not valid, so what holds stays in force")
        assert "alerts.yaml:7:" in worker.log
        async with engine.reading("alerts") as reader:
            await reader.until(lambda: states(reader) == ["firing"], "the alert fires")
            engine.write("alerts.yaml", SECOND_SET)
            worker.process.send_signal(signal.SIGHUP)
            await worker.says("published rule set")
            await reader.until(lambda: states(reader) == ["firing", "resolved"], "the alert is resolved")
        first, second = await published(engine, 2)
        assert first.hash != second.hash
        await worker.says(f"rule set {second.hash} holds from")
        # Files that were replaced do not come back by accident.
        engine.write("alerts.yaml", FIRST)
        worker.process.send_signal(signal.SIGHUP)
        await worker.says("tocsin rules activate")
        assert len(await published(engine, 2)) == 2
        assert await worker.terminate() == 0


def states(reader: TopicReader) -> list[str]:
    return [each["to"] for each in reader.values if each["alert"] == "RulesNotLoaded"]

"""The path from `tocsin publish` through broker and worker to panes, alerts and messages, with real processes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from engine import (
    NO_SHARED_DATA,
    PATIENCE_SECONDS,
    SHARED_DATA,
    Call,
    Cell,
    Panes,
    TopicReader,
    eventually,
    lines,
    new_engine,
    real_calls,
)
from fake_slack import TOKEN, FakeSlack

from rules.loader import load_rules
from streams.broker import EmbeddedBroker, free_port

BROKERS = [
    pytest.param("embedded_broker", marks=pytest.mark.embedded),
    pytest.param("apache_kafka", marks=pytest.mark.kafka),
]
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_SHARED_DATA)
BUCKET = 1.0079
"""A histogram of two significant digits may show up to this much of the true value, and never less than it."""


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def rules(*alerts: str) -> str:
    text = "version: 1\ngroups:\n  - name: tests\n    rules:\n"
    return text + "".join(f"      - {{{alert}, runbook: latency-high, summary: test}}\n" for alert in alerts)


BY_MODEL = rules(
    "alert: Slow, by: [provider, model], measure: latency.p95, window: 5m, above: 3s",
    "alert: SlowStart, by: [provider, model], measure: ttft.p95, window: 5m, above: 900ms",
    "alert: Reads, by: [provider, model], measure: tokens.input, window: 5m, above: 1M",
    "alert: Writes, by: [provider, model], measure: tokens.output, window: 5m, above: 1M",
    "alert: Fails, by: [provider, model], measure: error_rate, window: 5m, above: 5%",
)
BY_FEATURE = rules(
    "alert: Costs, by: [feature], measure: spend, window: 1h, above: $1",
    "alert: Reads, by: [feature], measure: tokens.input, window: 1h, above: 100M",
    "alert: Writes, by: [feature], measure: tokens.output, window: 1h, above: 100M",
)
PRICES = """\
version: 1
prices:
  - {provider: azure, model: gpt-4o, input: $2.50, output: $10.00}
"""


async def all_panes(reader: TopicReader, views: set[str], calls: int) -> dict[tuple[str, ...], Cell]:
    """Read panes until every view holds all calls; all panes together, by series."""
    panes = Panes()

    def complete() -> bool:
        panes.take(reader.records)
        return all(panes.calls.get(view, 0) >= calls for view in views)

    await reader.until(complete, f"all {calls} calls in every view")
    assert {panes.calls[view] for view in views} == {calls}
    return panes.together()


def view_hashes(path: Path) -> set[str]:
    return {view.hash for view in load_rules([path], path.parent, None).views}


@needs_shared_data
async def test_recorded_llmperf_calls_through_the_broker_agree_with_the_expected_numbers(
    broker: str, tmp_path: Path
) -> None:
    expected = json.loads((SHARED_DATA / "expected_llmperf.json").read_text())
    calls = real_calls("llmperf")
    async with new_engine(tmp_path, broker, rules=["alerts.yaml"], calls=partitions(3)) as engine:
        rule_file = engine.write("alerts.yaml", BY_MODEL)
        await engine.tocsin("topics", "create", "--config", engine.config)
        await engine.tocsin("publish", "-", "--config", engine.config, stdin=calls)
        worker = await engine.start()
        async with engine.reading("panes") as reader:
            found = await all_panes(reader, view_hashes(rule_file), calls.count(b"\n"))
        assert await worker.terminate() == 0
        exported = await engine.tocsin("export", "--config", engine.config, "--from", "1h")
        measured = await engine.tocsin(
            "measure", "--by", "provider,model", "--calls", "-", "--json", stdin=exported
        )

    assert exported.count(b"\n") == calls.count(b"\n")
    rows = {f"{row['series']['provider']}/{row['series']['model']}": row for row in json.loads(measured)}
    for pair, numbers in expected.items():
        cell = found[tuple(pair.split("/"))]
        assert cell.plain["count:one:any"] == numbers["calls"]
        assert cell.plain["count:one:error"] == numbers["errors"]
        assert cell.plain["sum:tokens.input:any"] == numbers["tokens"]["input"]
        assert cell.plain["sum:tokens.output:any"] == numbers["tokens"]["output"]
        for family in ("latency", "ttft"):
            for name, true in numbers[f"{family}_ms"].items():
                shown = cell.percentile(f"histogram:{family}:ok", int(name[1:])) / 1000
                assert true <= shown <= true * BUCKET, (pair, family, name)
                assert true <= rows[pair][f"{family}_ms"][name] <= true * BUCKET, (pair, family, name)
        assert rows[pair]["calls"] == numbers["calls"]
        assert rows[pair]["errors"] == numbers["errors"]
        assert rows[pair]["error_rate"] == pytest.approx(numbers["error_rate"], abs=1e-4)
        assert {name: rows[pair]["tokens"][name] for name in numbers["tokens"]} == numbers["tokens"]


@needs_shared_data
async def test_recorded_azure_calls_through_the_broker_cost_what_is_expected_to_the_nanodollar(
    broker: str, tmp_path: Path
) -> None:
    expected = json.loads((SHARED_DATA / "expected_azure.json").read_text())["features"]
    calls = real_calls("azure")
    settings = {"rules": ["alerts.yaml"], "prices": "prices.yaml", "calls": partitions(2)}
    async with new_engine(tmp_path, broker, **settings) as engine:
        rule_file = engine.write("alerts.yaml", BY_FEATURE)
        prices = engine.write("prices.yaml", PRICES)
        await engine.tocsin("topics", "create", "--config", engine.config)
        await engine.tocsin("publish", "-", "--config", engine.config, stdin=calls)
        worker = await engine.start()
        async with engine.reading("panes") as reader:
            found = await all_panes(reader, view_hashes(rule_file), calls.count(b"\n"))
        assert await worker.terminate() == 0
        exported = await engine.tocsin("export", "--config", engine.config, "--from", "1h")
        measured = await engine.tocsin(
            "measure", "--by", "feature", "--calls", "-", "--prices", prices, "--json", stdin=exported
        )
    rows = {row["series"]["feature"]: row for row in json.loads(measured)}
    for feature, numbers in expected.items():
        cell = found[feature,]
        assert cell.plain["count:one:any"] == numbers["calls"] == rows[feature]["calls"]
        assert cell.plain["sum:spend:any"] == numbers["spend_nanodollars"]
        assert rows[feature]["spend_nanodollars"] == numbers["spend_nanodollars"]
        for name, true in numbers["tokens"].items():
            assert cell.plain[f"sum:tokens.{name}:any"] == true == rows[feature]["tokens"][name]


def partitions(number: int, **more: Any) -> dict[str, Any]:
    return {"partitions": number, **more}


def incident(start: datetime, minutes: int = 12) -> list[Call]:
    """Two features, five calls a second; chat is slow and fails from the third to the fifth minute."""
    calls: list[Call] = []
    first = int(start.timestamp() * 1000)
    for number in range(minutes * 60 * 5):
        at = first + number * 200
        is_chat = number % 2 == 0
        is_bad = is_chat and 3 <= (at - first) / 60_000 < 5
        call: Call = {
            "id": f"call-{number}",
            "trace": f"trace-{number}",
            "at": at,
            "model": "gpt-4o",
            "provider": "openai",
            "feature": "chat" if is_chat else "search",
            "latency_ms": 5_000 + number % 700 if is_bad else 400 + number % 90,
            "tokens": {"input": 900, "output": 80},
        }
        if is_bad and number % 3 == 0:
            call |= {"status": "error", "error": {"type": "overloaded"}}
        calls.append(call)
    return calls


INCIDENT_RULES = rules(
    "alert: Slow, by: [feature], measure: latency.p95, window: 1m, above: {warning: 1s, critical: 5500ms}, for: 20s",
    "alert: Fails, by: [feature], measure: error_rate, window: 1m, above: 5%, keep_firing_for: 30s",
    "alert: Costs, by: [model], measure: spend, window: 5m, above: $2",
    "alert: Quiet, by: [feature], measure: calls, window: 1m, below: 10, for: 1m",
)


@pytest.mark.parametrize(
    ("broker", "count"),
    [
        pytest.param("embedded_broker", 1, marks=pytest.mark.embedded),
        pytest.param("embedded_broker", 3, marks=pytest.mark.embedded),
        pytest.param("apache_kafka", 3, marks=pytest.mark.kafka),
    ],
    indirect=["broker"],
)
async def test_transitions_through_the_broker_are_those_of_replay_to_the_id(
    broker: str, tmp_path: Path, count: int
) -> None:
    start = datetime(2026, 1, 5, 10, tzinfo=UTC)
    calls = lines(incident(start))
    async with new_engine(tmp_path, broker, rules=["alerts.yaml"], calls=partitions(count)) as engine:
        engine.write("alerts.yaml", INCIDENT_RULES)
        # Everything is there before the worker starts, so no clock stands in for data before the data's end.
        await engine.create_topics()
        await engine.publish(calls)
        until = datetime.now(UTC).isoformat()
        replayed = await engine.tocsin(
            *("replay", "--rules", "alerts.yaml", "--calls", "-", "--lateness", "1s", "--json"),
            *("--until", until),
            stdin=calls,
        )
        expected = [json.loads(line) for line in replayed.splitlines()]
        await engine.start()
        async with engine.reading("alerts") as reader:
            # The topic is at least once, and keyed by id: a worker that lost its shards for a moment repeats itself.
            await reader.until(lambda: len(by_id(reader)) >= len(expected), "all transitions")
            found = list(by_id(reader).values())

    def comparable(transitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # An exemplar names its source and offset, and those are others in a file. Each source shows calls of its own.
        plain = [
            each | {"exemplars": [shown["call"] for shown in each["exemplars"]] if count == 1 else []}
            for each in transitions
        ]
        return sorted(plain, key=lambda each: (each["at"], each["alert"], str(each["series"]), each["to"]))

    assert len(expected) >= 12
    assert {each["to"] for each in expected} == {"pending", "firing", "resolved", "inactive"}
    for mine, theirs in zip(comparable(found), comparable(expected), strict=True):
        assert mine == theirs


def by_id(reader: TopicReader) -> dict[str, Any]:
    return {each["id"]: each for each in reader.values}


NOW_RULES = rules("alert: Slow, by: [feature], measure: latency.p95, window: 10m, above: 1s, min_calls: 5")


def calls_now(count: int, latency_ms: int) -> bytes:
    """Calls of the last half second, in order."""
    first = time.time_ns() // 1_000_000 - 500
    return lines(
        {
            "at": first + 500 * number // count,
            "model": "gpt-4o",
            "feature": "chat",
            "latency_ms": latency_ms,
        }
        for number in range(count)
    )


async def test_firing_alert_reaches_slack_once_and_its_end_too_with_two_restarts_between(
    broker: str, tmp_path: Path
) -> None:
    async with FakeSlack() as slack:
        bot = {"channel": "#llm-oncall", "token_env": "SLACK_BOT_TOKEN", "api_url": slack.api_url}
        settings = {
            "rules": ["alerts.yaml"],
            "receivers": {
                "oncall": {"slack": bot},
                "team": {"slack": {"webhook_env": "SLACK_WEBHOOK_URL"}},
                "here": {"console": {}},
            },
            "routes": [{"to": ["oncall", "team", "here"]}],
        }
        async with new_engine(tmp_path, broker, **settings) as engine:
            engine.environment |= {"SLACK_BOT_TOKEN": TOKEN, "SLACK_WEBHOOK_URL": slack.webhook_url}
            engine.write("alerts.yaml", NOW_RULES)
            first = await engine.running()
            await engine.publish(calls_now(20, 9_000))
            await eventually(lambda: len(slack.inbox) >= 2, "both receivers have the firing alert")
            async with engine.reading("notifications") as log:
                # A message counts as sent once the log says so.
                await log.until(lambda: sent(log) >= 3, "the log has all three deliveries")
            assert await first.terminate() == 0
            second = await engine.running()
            await second.kill()
            third = await engine.running()
            await engine.publish(calls_now(1_000, 100))
            await eventually(lambda: len(slack.inbox) >= 4, "both receivers have its end")
            async with engine.reading("notifications") as log:
                await log.until(lambda: sent(log) >= 6, "the log has all six deliveries")
                outcomes = [
                    (each["receiver"], each["reason"]) for each in log.values if each["outcome"] == "sent"
                ]
            assert await third.terminate() == 0
            logs = first.log + second.log + third.log

        texts = {
            channel: [each.payload["text"] for each in slack.inbox if each.channel == channel]
            for channel in ("C0ONCALL", "webhook")
        }
        for told in texts.values():
            assert len(told) == 2
            assert "firing" in told[0]
            assert "Resolved" in told[1]
        assert sorted(outcomes) == sorted(
            (receiver, reason) for receiver in ("oncall", "team", "here") for reason in ("first", "resolved")
        )
        assert len(slack.attempts) == 4
        assert slack.problems == []
    console = (tmp_path / "worker.out").read_text()
    assert console.count("firing: Slow") == 1
    assert console.count("Resolved") == 1
    for secret in (TOKEN, slack.webhook_url):
        assert secret not in logs + console


def sent(log: TopicReader) -> int:
    return sum(each["outcome"] == "sent" for each in log.values)


BAD: list[tuple[bytes | None, str]] = [
    (None, "null value"),
    (b'{"model": "gpt-4o", "latency_ms": 12', "truncated"),
    (b'{"model": "gpt-\xff\xfe"}', "bad UTF-8"),
    (b'{"model": "gpt-4o", "latency_ms": NaN}', "NaN"),
    (b'{"model": "gpt-4o", "latency_ms": "12"}', "wrong type"),
    (b'{"model": "gpt-4o", "latency_ms": -1}', "negative latency"),
    (b'{"model": "gpt-4o", "at": "2026-01-05T00:00:00"}', "time without a zone"),
    (b'{"latency_ms": 12}', "no model"),
    (b"", "empty"),
    (b"[" * 1_000_000, "1 MB of nesting"),
    (b'{"model": "gpt-4o", "labels": ' + b'{"a":' * 150_000, "nested labels"),
]


async def test_bad_records_go_to_the_rejected_topic_and_the_stream_goes_on(
    broker: str, tmp_path: Path
) -> None:
    good = [json.dumps(call).encode() for call in incident(datetime(2026, 1, 5, tzinfo=UTC), 1)]
    values: list[bytes | None] = list(good)
    for number, (value, _) in enumerate(BAD):
        values.insert(7 * number, value)
    offset_of = {7 * number: value or b"" for number, (value, _) in enumerate(BAD)}
    settings = {"rules": ["alerts.yaml"], "calls": partitions(2, keep_rejected=True)}
    async with new_engine(tmp_path, broker, **settings) as engine:
        rule_file = engine.write("alerts.yaml", NOW_RULES)
        await engine.create_topics()
        await engine.publish_raw(values, partition=1)
        worker = await engine.start()
        async with engine.reading("panes") as panes, engine.reading("rejected") as rejected:
            await all_panes(panes, view_hashes(rule_file), len(good))
            await rejected.until(lambda: len(rejected.records) >= len(BAD), "all bad records")
            found = rejected.values
        assert await worker.terminate() == 0
    assert [each["offset"] for each in found] == list(offset_of)
    for each in found:
        original = offset_of[each["offset"]]
        assert (each["topic"], each["partition"]) == (engine.topic("calls"), 1)
        assert each["length"] == len(original)
        assert each["sha256"] == hashlib.sha256(original).hexdigest()
        assert 0 < len(each["reason"]) <= 500
        # What is too large to be kept whole is kept by its hash alone.
        assert ("original" in each) == (len(original) <= 500_000)
        if "original" in each:
            assert base64.b64decode(each["original"]) == original
    assert found[0]["reason"] == "null value"


@pytest.mark.embedded
async def test_worker_waits_for_a_broker_that_is_away_and_works_once_it_is_there(tmp_path: Path) -> None:
    port = free_port()
    async with new_engine(tmp_path, f"127.0.0.1:{port}", rules=["alerts.yaml"]) as engine:
        rule_file = engine.write("alerts.yaml", NOW_RULES)
        worker = await engine.start()
        await worker.says(f"no broker answers at 127.0.0.1:{port}")
        async with EmbeddedBroker(port):
            for stage in ("ingest", "evaluate", "notify"):
                await worker.says(f"{stage} reads ")
            await engine.publish(calls_now(7, 100))
            async with engine.reading("panes") as panes:
                await all_panes(panes, view_hashes(rule_file), 7)
            assert await worker.terminate() == 0
        assert "Traceback" not in worker.log


async def test_worker_that_waits_for_a_broker_ends_at_once(tmp_path: Path) -> None:
    async with new_engine(tmp_path, f"127.0.0.1:{free_port()}") as engine:
        worker = await engine.start()
        await worker.says("no broker answers at")
        assert await worker.terminate(2) == 0
        assert "Traceback" not in worker.log


async def test_worker_says_what_it_starts_with_and_ends_within_five_seconds(
    broker: str, tmp_path: Path
) -> None:
    async with new_engine(tmp_path, broker, rules=["alerts.yaml"], calls=partitions(4)) as engine:
        engine.write("alerts.yaml", NOW_RULES)
        worker = await engine.running()
        assert await worker.terminate(5) == 0
    said = worker.log
    assert f"tocsin 0.1.0, settings from {engine.config}" in said
    assert "1 rule (rule set " in said
    assert "from alerts.yaml" in said
    assert "receivers: here (Console)" in said
    assert f"ingest reads {engine.topic('calls')}: partitions 0-3 from the start" in said
    assert f"broker {broker}" in said
    assert "stopped" in said
    assert " ERROR " not in said


async def test_worker_whose_broker_went_away_still_ends_when_it_is_told_to(
    tmp_path: Path,
) -> None:
    async with new_engine(tmp_path, "", rules=["alerts.yaml"]) as engine:
        engine.write("alerts.yaml", NOW_RULES)
        async with EmbeddedBroker() as broker:
            engine.broker = broker.address
            engine.settings["kafka"]["brokers"] = [broker.address]
            await engine.__aenter__()
            worker = await engine.running()
        # SIGTERM while the broker is away: nothing can be flushed, and that must not hold the end up.
        assert await worker.terminate(10) == 0


async def test_topic_with_the_wrong_number_of_partitions_is_refused_with_what_to_do(
    broker: str, tmp_path: Path
) -> None:
    async with new_engine(tmp_path, broker, calls=partitions(3)) as engine:
        await engine.create_topics()
        # Read as the panes topic, the calls topic has the wrong number of partitions.
        engine.settings["topics"]["panes"], engine.settings["calls"]["topics"] = (
            engine.topic("calls"),
            [engine.topic("panes")],
        )
        await engine.__aenter__()
        worker = await engine.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await worker.process.wait() == 1
    said = worker.log
    assert f"topic {engine.topic('panes')} has 3 partitions and needs 16" in said
    assert said.count("Traceback") == 0

"""Golden cases: rules and calls in, every transition and Slack message out, compared with files.

A case is a directory of `cases/`: `alerts.yaml` and `calls.yaml` are written by hand, `transitions.json` (as `tocsin
replay --json` prints them) and `slack.json` by a run with TOCSIN_UPDATE_GOLDEN=1, to be checked against the reasoning
at the head of `calls.yaml` before they are kept.

In `calls.yaml` each entry of `calls` is a stream: `count` calls that end at `start` + `from`, and then one `every` so
often. A list among its fields has one value per call, in turn. `late_by` is how much later than it ended a call
arrives. The calls of all streams arrive in order of that time; `until` is where the clock stands at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_slack import message_problems

from notifiers.links import compile_trace_link
from notifiers.message import build_message
from notifiers.notification import decide, notification_id
from notifiers.runbook_files import load_runbooks
from rules.loader import load_rules
from rules.quantities import parse_duration
from rules.rule import RuleSet
from rules.transition import State, Transition
from streams.alert_record import rfc3339, to_json
from streams.ingest import IngestConfig
from streams.price_book import PriceBook
from streams.pricing import Pricer
from streams.records import Records, Source
from streams.replaying import Replay
from streams.rule_log import Epoch, RuleLog
from streams.spend import BatchPricer

CASES = sorted(path.name for path in (Path(__file__).parent / "cases").iterdir())
UPDATE = os.environ.get("TOCSIN_UPDATE_GOLDEN") == "1"
RUNBOOKS = load_runbooks(None)
TRACES = compile_trace_link("https://traces.example.com/trace/{trace}")
SOURCE = Source("calls.jsonl", 0)
RECEIVER = "oncall"


@dataclass(frozen=True)
class Case:
    """The input of a case: its rules, its calls in order of arrival, and where the clock stands at the end."""

    rules: RuleSet
    calls: list[bytes]
    until_ms: int | None


def read_case(name: str) -> Case:
    directory = case_path(name)
    document = yaml.safe_load((directory / "calls.yaml").read_text())
    assert set(document) <= {"start", "until", "calls"}
    start_ms = round(datetime.fromisoformat(document["start"]).timestamp() * 1_000)
    arrivals = [
        arrival
        for number, stream in enumerate(document["calls"])
        for arrival in calls_of(stream, "abcdefgh"[number], start_ms)
    ]
    in_order = sorted(arrivals, key=lambda arrival: arrival[0])
    return Case(
        rules=load_rules(["alerts.yaml"], directory, RUNBOOKS),
        calls=[json.dumps(call).encode() for _, call in in_order],
        until_ms=start_ms + parse_duration(document["until"]) if "until" in document else None,
    )


def calls_of(stream: dict[str, Any], letter: str, start_ms: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """When each call of a stream arrives, and the call."""
    assert set(stream) <= {"from", "every", "count", "late_by", "fields"}
    first_ms, step_ms = start_ms + parse_duration(stream["from"]), parse_duration(stream["every"])
    late_ms = parse_duration(stream.get("late_by", "0s"))
    for number in range(stream["count"]):
        at_ms = first_ms + number * step_ms
        ids = {"id": f"call-{letter}{number}", "trace": f"trace-{letter}{number}", "at": rfc3339(at_ms)}
        yield at_ms + late_ms, ids | in_turn(stream["fields"], number)


def in_turn(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {key: in_turn(inner, number) for key, inner in value.items()}
    return value[number % len(value)] if isinstance(value, list) else value


def replay(case: Case, batch: int) -> list[Transition]:
    engine = Replay(
        IngestConfig(), RuleLog([Epoch(0, case.rules)]), lambda: BatchPricer(Pricer(PriceBook())), SOURCE
    )
    found: list[Transition] = []
    for first in range(0, len(case.calls), batch):
        values = case.calls[first : first + batch]
        offsets = np.arange(first, first + len(values), dtype=np.int64) + 1
        transitions, rejected = engine.feed(Records(SOURCE, values, offsets, np.zeros(len(values), np.int64)))
        assert rejected == []
        found += transitions
    found += engine.finish(case.until_ms)
    assert engine.summary_errors == 0
    return found


def slack_payloads(transitions: list[Transition]) -> list[dict[str, Any]]:
    payloads = []
    for each in transitions:
        if decide(each).notifies:
            name = notification_id(each.id, RECEIVER)
            url = f"https://runbooks.example.com/{each.runbook}"
            message = build_message(each, RUNBOOKS[each.runbook], url, TRACES, name)
            payloads.append({"text": message.text, "blocks": list(message.blocks)})
    return payloads


def case_path(name: str) -> Path:
    return Path(__file__).parent / "cases" / name


def compare(path: Path, found: Any) -> None:
    """What was found is what the file holds; with TOCSIN_UPDATE_GOLDEN=1 the file is made to hold it."""
    if UPDATE:
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert json.loads(json.dumps(found)) == json.loads(path.read_text())


@pytest.mark.parametrize("name", CASES)
def test_the_calls_of_a_case_lead_to_its_transitions(name: str):
    compare(case_path(name) / "transitions.json", [to_json(each) for each in replay(read_case(name), 5_000)])


@pytest.mark.parametrize("name", CASES)
def test_the_transitions_of_a_case_lead_to_its_slack_messages(name: str):
    payloads = slack_payloads(replay(read_case(name), 5_000))
    assert [list(message_problems(payload)) for payload in payloads] == [[]] * len(payloads)
    compare(case_path(name) / "slack.json", payloads)


@pytest.mark.parametrize("name", CASES)
def test_how_the_calls_are_cut_into_batches_changes_nothing(name: str):
    case = read_case(name)
    assert replay(case, 7) == replay(case, 5_000)


@pytest.mark.parametrize("name", CASES)
def test_the_transitions_of_each_alert_join_up(name: str):
    by_alert: dict[str, list[Transition]] = {}
    for each in replay(read_case(name), 5_000):
        by_alert.setdefault(each.alert_id, []).append(each)
    for found in by_alert.values():
        assert found[0].from_state is State.INACTIVE
        for earlier, later in pairwise(found):
            over = earlier.to_state in (State.RESOLVED, State.INACTIVE)
            assert later.from_state is (State.INACTIVE if over else earlier.to_state)
            assert (later.episode_ms == earlier.episode_ms) is not over

"""`tocsin replay` and `tocsin measure` from files and pipes to what they print."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result
from engine import NO_SHARED_DATA, SHARED_DATA, real_calls

from streams.cli import main

START = datetime(2026, 1, 5, tzinfo=UTC)
RULE = """\
version: 1
groups:
  - name: g
    rules:
      - alert: Slow
        by: [feature]
        measure: latency.p95
        window: 1m
        above: 2s
        for: 10s
        min_calls: 5
        labels: {team: growth}
        runbook: latency-high
        summary: "{{ feature }} takes {{ value }}"
"""
FIELDS = {
    "id",
    "at",
    "alert",
    "severity",
    "series",
    "from",
    "to",
    "value",
    "unit",
    "threshold",
    "window",
    "calls",
    "labels",
    "runbook",
    "exemplars",
}


def calls(seconds: int = 240) -> list[dict[str, Any]]:
    """One call a second; those of the second minute are slow."""
    return [
        {
            "id": f"call-{number}",
            "at": (START + timedelta(seconds=number)).isoformat(),
            "model": "gpt-4o",
            "provider": "openai",
            "feature": "chat",
            "latency_ms": 5_000 if 60 <= number < 120 else 500,
            "tokens": {"input": 1_000, "output": 100},
        }
        for number in range(seconds)
    ]


def lines(events: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alerts.yaml").write_text(RULE)
    (tmp_path / "calls.jsonl").write_bytes(lines(calls()))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


def replay(*arguments: object) -> list[dict[str, Any]]:
    result = run("replay", "--rules", "alerts.yaml", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def measure(*arguments: object) -> list[dict[str, Any]]:
    result = run("measure", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_a_transition_has_the_documented_fields_in_base_units() -> None:
    found = replay("--calls", "calls.jsonl")
    assert [each["to"] for each in found] == ["pending", "firing", "resolved"]
    firing = found[1]
    assert firing.keys() >= FIELDS
    assert firing["series"] == {"feature": "chat"}
    assert (firing["unit"], firing["threshold"]) == ("ms", 2_000)
    assert 5_000 <= firing["value"] <= 5_000 * 1.0079
    assert firing["labels"] == {"team": "growth"}
    assert firing["summary"] == "chat takes 5.01 s"
    start, end = (datetime.fromisoformat(firing["window"][name]) for name in ("start", "end"))
    assert end - start == timedelta(minutes=1)
    assert datetime.fromisoformat(firing["at"]) == end
    assert 1 <= len(firing["exemplars"]) <= 5
    assert {each["call"]["latency_ms"] for each in firing["exemplars"]} == {5_000}
    assert len({each["id"] for each in found}) == 3


def test_until_sets_the_clock_at_the_end(folder: Path) -> None:
    (folder / "short.jsonl").write_bytes(lines(calls(66)))
    assert [each["to"] for each in replay("--calls", "short.jsonl")] == ["pending"]
    later = replay("--calls", "short.jsonl", "--until", "2026-01-05T00:01:30Z")
    assert [each["to"] for each in later] == ["pending", "firing"]
    assert later[-1]["at"] <= "2026-01-05T00:01:30.000Z"


def test_until_before_the_end_leaves_out_what_came_after_it() -> None:
    found = replay("--calls", "calls.jsonl", "--until", "2026-01-05T00:01:30Z")
    assert [each["to"] for each in found] == ["pending", "firing"]


def test_lateness_decides_what_disorder_is_taken(folder: Path) -> None:
    ordered = calls()
    disordered = ordered[5:] + ordered[:5]
    (folder / "disordered.jsonl").write_bytes(lines(disordered))
    strict = run(
        "replay", "--rules", "alerts.yaml", "--calls", "disordered.jsonl", "--lateness", "1s", "--json"
    )
    patient = run(
        "replay", "--rules", "alerts.yaml", "--calls", "disordered.jsonl", "--lateness", "1h", "--json"
    )
    assert "5 late" in strict.stderr
    assert "late" not in patient.stderr


def test_messages_are_printed_where_no_json_is_wanted() -> None:
    result = run("replay", "--rules", "alerts.yaml", "--calls", "calls.jsonl")
    assert result.exit_code == 0
    assert "firing: Slow" in result.stdout
    assert "Resolved after" in result.stdout
    assert "inactive to pending, not notified: pending" in result.stdout
    assert "240 calls, 3 transitions, 2 would have been sent" in result.stderr


def test_lines_that_are_no_calls_are_named_and_counted(folder: Path) -> None:
    (folder / "mixed.jsonl").write_bytes(b'{"model": 1}\n' + lines(calls(20)) + b"\nno json\n")
    result = run("replay", "--rules", "alerts.yaml", "--calls", "mixed.jsonl", "--json")
    assert result.exit_code == 0
    assert "mixed.jsonl:1: rejected: not a call event" in result.stderr
    assert "mixed.jsonl:23: rejected: not a call event" in result.stderr
    assert "20 calls, 0 transitions, 2 rejected" in result.stderr


def test_an_empty_input_is_no_error(folder: Path) -> None:
    (folder / "empty.jsonl").write_bytes(b"")
    assert replay("--calls", "empty.jsonl") == []
    assert measure("--calls", "empty.jsonl") == []
    assert run("measure", "--calls", "empty.jsonl").stdout == "no calls\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("replay", "--rules", "alerts.yaml", "--calls", "none.jsonl"),
            "none.jsonl cannot be read: No such file",
        ),
        (("replay", "--rules", "alerts.yaml", "--calls", "."), ". cannot be read: Is a directory"),
        (("replay", "--rules", "none.yaml", "--calls", "calls.jsonl"), "none.yaml: matches no rule file"),
        (("replay", "--rules", "alerts.yaml", "--calls", "calls.jsonl", "--until", "noon"), "--until: "),
        (("replay", "--rules", "alerts.yaml", "--calls", "calls.jsonl", "--lateness", "5"), "--lateness: "),
        (
            ("replay", "--rules", "alerts.yaml", "--calls", "calls.jsonl", "--runbooks", "none"),
            "none: no such directory",
        ),
        (("measure", "--calls", "none.jsonl"), "none.jsonl cannot be read"),
        (
            ("measure", "--calls", "calls.jsonl", "--by", "modell"),
            '--by: "modell" is no dimension (did you mean "model"?)',
        ),
        (("measure", "--calls", "calls.jsonl", "--where", "model"), '--where: "model" is not NAME=VALUE'),
        (("measure", "--calls", "calls.jsonl", "--where", "modell=a"), '--where: "modell" is no dimension'),
        (
            ("measure", "--calls", "calls.jsonl", "--window", "0s"),
            "--window: a window must be longer than 0s",
        ),
        (("measure", "--calls", "calls.jsonl", "--window", "5 parsecs"), "--window: "),
    ],
)
def test_what_cannot_be_read_is_exit_1_and_named_without_a_traceback(
    arguments: tuple[str, ...], said: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stdout == ""


def test_a_price_file_that_is_not_there_is_a_usage_error() -> None:
    assert run("measure", "--calls", "calls.jsonl", "--prices", "none.yaml").exit_code == 2


def test_a_price_file_decides_the_spend(folder: Path) -> None:
    (folder / "prices.yaml").write_text(
        "version: 1\nprices:\n  - {provider: openai, model: gpt-4o, input: $1, output: $10}\n"
    )
    (row,) = measure("--calls", "calls.jsonl", "--prices", "prices.yaml")
    assert row["spend_nanodollars"] == 240 * (1_000 * 1_000 + 100 * 10_000)
    assert row["spend_per_call_nanodollars"] == 2_000_000


def test_measures_of_each_series_have_the_documented_shape() -> None:
    (row,) = measure("--calls", "calls.jsonl", "--by", "provider,model")
    assert row["series"] == {"provider": "openai", "model": "gpt-4o"}
    assert (row["calls"], row["errors"], row["error_rate"]) == (240, 0, 0.0)
    assert row["latency_ms"].keys() >= {"p50", "p95", "p99"}
    assert 500 <= row["latency_ms"]["p50"] <= 500 * 1.0079
    assert 5_000 <= row["latency_ms"]["p95"] <= 5_000 * 1.0079
    assert row["ttft_ms"]["p95"] is None
    assert (row["tokens"]["input"], row["tokens"]["output"]) == (240_000, 24_000)
    assert isinstance(row["spend_nanodollars"], int)
    assert "window" not in row


def test_tumbling_windows_are_half_open_and_cover_all_calls() -> None:
    rows = measure("--calls", "calls.jsonl", "--window", "1m")
    assert [row["window"]["start"] for row in rows] == [
        f"2026-01-05T00:0{minute}:00.000Z" for minute in range(4)
    ]
    assert [row["window"]["end"] for row in rows] == [
        f"2026-01-05T00:0{minute}:00.000Z" for minute in range(1, 5)
    ]
    assert [row["calls"] for row in rows] == [60] * 4
    assert [row["latency_ms"]["max"] for row in rows] == [500, 5_000, 500, 500]


def test_where_keeps_the_calls_that_match(folder: Path) -> None:
    events = calls(10)
    for number, event in enumerate(events):
        event["feature"] = ("chat", "search", "other")[number % 3]
    (folder / "three.jsonl").write_bytes(lines(events))
    result = run(
        "measure", "--calls", "three.jsonl", "--by", "feature", "--where", "feature=chat,search", "--json"
    )
    assert {row["series"]["feature"]: row["calls"] for row in json.loads(result.stdout)} == {
        "chat": 4,
        "search": 3,
    }
    assert "3 left out by the filter" in result.stderr


def test_the_table_shows_values_of_others_as_they_are_and_without_control_characters(folder: Path) -> None:
    (folder / "odd.jsonl").write_bytes(lines([calls(1)[0] | {"model": "[bold]x\x1b[31m"}]))
    shown = run("measure", "--calls", "odd.jsonl", "--by", "model").stdout
    assert "[bold]x" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_files_are_recognised_by_their_content(folder: Path, packed: Any) -> None:
    (folder / "packed").write_bytes(packed(lines(calls())))
    assert measure("--calls", "packed") == measure("--calls", "calls.jsonl")


@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_dash_is_standard_input(packed: Any) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "streams.cli", "measure", "--calls", "-", "--json"],
        input=packed(lines(calls())),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == measure("--calls", "calls.jsonl")


def test_several_rule_files_are_one_rule_set(folder: Path) -> None:
    (folder / "more.yaml").write_text(
        RULE.replace("name: g", "name: h").replace("alert: Slow", "alert: Other")
    )
    assert {each["alert"] for each in replay("--rules", "more.yaml", "--calls", "calls.jsonl")} == {
        "Slow",
        "Other",
    }


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_SHARED_DATA)
def test_recorded_calls_through_a_pipe_are_measured_as_expected() -> None:
    expected = json.loads((SHARED_DATA / "expected_llmperf.json").read_text())
    result = subprocess.run(
        [sys.executable, "-m", "streams.cli", "measure", "--by", "provider,model", "--calls", "-", "--json"],
        input=real_calls("llmperf"),
        capture_output=True,
        timeout=60,
        check=True,
    )
    rows = {"/".join(row["series"].values()): row for row in json.load(io.BytesIO(result.stdout))}
    for pair, numbers in expected.items():
        row = rows[pair]
        assert (row["calls"], row["errors"]) == (numbers["calls"], numbers["errors"])
        assert {name: row["tokens"][name] for name in ("input", "output")} == numbers["tokens"]
        for family in ("latency_ms", "ttft_ms"):
            for name, true in numbers[family].items():
                assert true <= row[family][name] <= true * 1.0079

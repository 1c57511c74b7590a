from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from builders import MINUTE, SECOND, SOURCE, at, call, raw, records, replay, rule

from rules.transition import State
from streams import call_files
from streams.call_files import CallFile, CallFileError
from streams.records import Source

NOON = at("12:00:00")
SLOW = rule("Slow", "latency.p95", above=1_000, critical=5_000, window=MINUTE, min_calls=3, for_ms=2 * SECOND)
CALLS = [
    call(NOON + second * 1_000, feature="chat", latency_ms=6_000 if second > 30 else 200, id=f"c{second}")
    for second in range(60)
]


def test_transitions_come_with_the_calls_that_sealed_their_ticks() -> None:
    engine = replay(SLOW)
    found, rejected = engine.feed(records([*CALLS, b"{"]))
    assert [(one.to_state, one.severity, (one.at_ms - NOON) // 1_000) for one in found] == [
        (State.PENDING, "critical", 33),
        (State.FIRING, "critical", 35),
    ]
    assert [each.offset for each in rejected] == [60]
    assert engine.counts.accepted == 60
    assert engine.summary_errors == 0


def test_a_firing_transition_tells_what_is_needed_to_act() -> None:
    engine = replay(SLOW)
    _, fired = engine.feed(records(CALLS))[0]
    assert fired.series == (("feature", "chat"),)
    assert (fired.from_state, fired.window_start_ms, fired.window_end_ms) == (
        State.PENDING,
        fired.at_ms - MINUTE,
        fired.at_ms,
    )
    assert (fired.calls, fired.threshold, fired.unit) == (35, 5_000, "ms")
    assert 6_000 <= fired.value <= 6_000 * 1.0079
    assert [one.call["id"] for one in fired.exemplars] == ["c31", "c32", "c33", "c34", "c0"]
    assert fired.exemplars[0].offset == 31
    assert fired.exemplars[0].source == "llm.calls/0"


def test_at_the_end_the_clock_stands_at_the_last_call_or_where_it_is_told() -> None:
    quiet = rule("Quiet", "calls", below=1, window=10 * SECOND)
    engine = replay(quiet)
    assert engine.finish() == []
    engine.feed(records([call(NOON, feature="a")]))
    assert engine.last_ms == NOON
    assert engine.finish() == []
    (fired,) = engine.finish(NOON + MINUTE)
    assert (fired.to_state, fired.at_ms) == (State.FIRING, NOON + 11_000)


def test_transitions_of_several_rules_come_in_order_of_time_and_name() -> None:
    rules = [
        rule(name, "calls", above=above, window=10 * SECOND) for name, above in (("B", 2), ("A", 2), ("C", 1))
    ]
    found, _ = replay(*rules).feed(records(CALLS))
    assert [(one.alert, (one.at_ms - NOON) // 1_000) for one in found] == [("C", 2), ("A", 3), ("B", 3)]


LINES = b"".join(raw(each) + b"\n" for each in CALLS[:3])
# Without the time of compression, so that every process of a run names these tests alike.
GZIPPED = gzip.compress(LINES, mtime=0)


@pytest.mark.parametrize(
    "packed",
    [LINES, LINES.rstrip(), gzip.compress(LINES), zstandard.compress(LINES), zstandard.compress(LINES) * 2],
)
def test_files_are_read_plain_gzip_and_zstd_by_what_is_in_them(tmp_path: Path, packed: bytes) -> None:
    file = tmp_path / "calls.data"
    file.write_bytes(packed)
    calls = CallFile(str(file))
    (found,) = list(calls.batches())
    assert list(found.values)[:3] == [raw(each) for each in CALLS[:3]]
    assert found.offsets.tolist()[:3] == [1, 2, 3]
    assert found.source == Source(str(file), 0)
    assert calls.size == len(packed)
    assert 0 < calls.position <= len(packed)
    calls.close()


def test_empty_lines_are_passed_over_and_offsets_are_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_bytes(b"\n  \n" + LINES.replace(b"\n", b"\r\n\n"))
    calls = CallFile(str(file), default_ms=NOON)
    (found,) = calls.batches()
    assert found.offsets.tolist() == [3, 5, 7]
    assert found.times_ms.tolist() == [NOON] * 3
    calls.close()


def test_a_line_that_is_too_long_is_cut_and_the_lines_after_it_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_files, "LINE_BYTES", 200)
    file = tmp_path / "calls.jsonl"
    file.write_bytes(b"x" * 450 + b"\n" + LINES)
    calls = CallFile(str(file))
    (found,) = calls.batches()
    assert found.offsets.tolist() == [1, 2, 3, 4]
    _, rejected = replay(SLOW).feed(replace(found, source=SOURCE))
    assert [each.offset for each in rejected] == [1]
    calls.close()


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_files, "BATCH", 2)
    file = tmp_path / "calls.jsonl"
    file.write_bytes(LINES)
    calls = CallFile(str(file))
    assert [len(batch) for batch in calls.batches()] == [2, 1]
    calls.close()


@pytest.mark.parametrize("broken", [GZIPPED[:-9], b"\x1f\x8bnonsense", b"\x28\xb5\x2f\xfdnonsense"])
def test_a_file_that_ends_too_early_or_is_damaged_is_named_with_the_reason(
    tmp_path: Path, broken: bytes
) -> None:
    file = tmp_path / "calls.jsonl.gz"
    file.write_bytes(broken)
    calls = CallFile(str(file))
    with pytest.raises(CallFileError, match=r"calls\.jsonl\.gz cannot be read to its end"):
        list(calls.batches())
    calls.close()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallFileError, match="No such file"):
        CallFile(str(tmp_path / "absent.jsonl"))


def test_what_is_shown_of_a_call_is_plain_json() -> None:
    engine = replay(SLOW)
    _, fired = engine.feed(records(CALLS))[0]
    assert json.loads(json.dumps([dict(one.call) for one in fired.exemplars]))[0]["latency_ms"] == 6_000

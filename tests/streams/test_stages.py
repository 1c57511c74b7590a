"""The stages at the loop's border: rejected records, and positions as text beside a committed offset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from builders import call, no_prices, raw, rule, rule_log

from streams.ingest import IngestConfig
from streams.loop import Start, describe_starts
from streams.records import Records, Source
from streams.settings import load_settings
from streams.stages import KEPT_BYTES, IngestStage

SOURCE = Source("llm.calls", 3, "topic-id")


def stage(folder: Path, *, keep: bool) -> IngestStage:
    path = folder / "tocsin.yaml"
    path.write_text(f"calls: {{keep_rejected: {str(keep).lower()}}}\n")
    made = IngestStage(load_settings(path), IngestConfig(), rule_log(rule()), no_prices)
    made.assign(SOURCE, Start())
    return made


def rejected(made: IngestStage, *values: bytes | None) -> list[dict[str, Any]]:
    number = len(values)
    effects = made.take(Records(SOURCE, values, np.arange(7, 7 + number), np.full(number, 1_767_607_200_000)))
    assert {each.topic for each in effects.publish} <= {"llm.calls.rejected"}
    return [json.loads(each.value or b"") for each in effects.publish]


def test_a_rejected_record_is_named_by_its_source_and_not_repeated(tmp_path: Path) -> None:
    (found,) = rejected(stage(tmp_path, keep=False), raw(call()), b"not json")
    assert found.keys() == {"reason", "topic", "partition", "offset", "length", "sha256"}
    assert (found["topic"], found["partition"], found["offset"], found["length"]) == ("llm.calls", 3, 8, 8)


@pytest.mark.parametrize(("length", "kept"), [(KEPT_BYTES, True), (KEPT_BYTES + 1, False)])
def test_bytes_are_kept_where_asked_for_and_where_they_fit(tmp_path: Path, length: int, kept: bool) -> None:
    (found,) = rejected(stage(tmp_path, keep=True), b"x" * length)
    assert ("original" in found) is kept
    assert found["length"] == length


@pytest.mark.parametrize(
    ("starts", "text"),
    [
        ({("a", 0): None}, "a: partition 0 from the start"),
        (
            {("a", 0): None, ("a", 1): None, ("a", 2): None, ("a", 5): None},
            "a: partitions 0-2,5 from the start",
        ),
        ({("a", 0): 7, ("a", 1): None}, "a: partition 0 from offset 7, partition 1 from the start"),
        ({("b", 0): 1, ("a", 3): 2}, "a: partition 3 from offset 2; b: partition 0 from offset 1"),
    ],
)
def test_where_partitions_start_is_said_in_short(
    starts: dict[tuple[str, int], int | None], text: str
) -> None:
    assert describe_starts({TopicPartition(*place): offset for place, offset in starts.items()}) == text


def test_a_thousand_different_offsets_are_not_all_said() -> None:
    text = describe_starts({TopicPartition("a", number): number for number in range(1_000)})
    assert text.endswith(", and 988 more offsets")
    assert len(text) < 500

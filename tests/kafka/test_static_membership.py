"""With `kafka.instance` a quick restart of a worker moves no partition."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from engine import Engine, Worker, eventually, new_engine

RULES = """\
version: 1
groups:
  - name: tests
    rules:
      - {alert: Slow, by: [feature], measure: latency.p95, window: 10m, above: 1s, runbook: latency-high, summary: test}
"""


async def start(engine: Engine, instance: str) -> Worker:
    engine.environment["TOCSIN_KAFKA__INSTANCE"] = instance
    return await engine.start()


def shards(worker: Worker) -> list[set[int]]:
    """The shards that it said it reads, each time that it was assigned some."""
    return [
        {
            number
            for run in re.findall(r"partitions? ([\d,-]+) from", line)
            for first, _, last in (part.partition("-") for part in run.split(","))
            for number in range(int(first), int(last or first) + 1)
        }
        for line in re.findall(r"evaluate reads (.*)", worker.log)
    ]


async def evaluates(worker: Worker) -> None:
    for stage in ("ingest", "evaluate"):
        await worker.says(f"{stage} reads ")


@pytest.mark.kafka
async def test_a_static_member_that_is_killed_or_ended_and_comes_back_soon_has_its_partitions_again(
    apache_kafka: str, tmp_path: Path
) -> None:
    settings = {
        "rules": ["alerts.yaml"],
        "kafka": {"session_timeout": "25s"},
        "calls": {"partitions": 2},
    }
    async with new_engine(tmp_path, apache_kafka, **settings) as engine:
        engine.write("alerts.yaml", RULES)
        first = await start(engine, "one")
        await evaluates(first)
        second = await start(engine, "two")
        await evaluates(second)
        await eventually(lambda: len(shards(first)) == 2, "the first worker gives half of its shards up")
        before = shards(first)[-1], shards(second)
        assert before[0] | before[1][-1] == set(range(16))

        await first.kill()
        first = await start(engine, "one")
        await evaluates(first)
        assert (shards(first)[-1], shards(second)) == before

        assert await first.terminate() == 0
        first = await start(engine, "one")
        await evaluates(first)
        assert (shards(first)[-1], shards(second)) == before
        assert await second.terminate() == 0
        assert await first.terminate() == 0

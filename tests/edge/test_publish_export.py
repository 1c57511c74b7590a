"""`tocsin topics`, `publish` and `export` against a broker: what they print, and what is in the topic afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine import Engine, command, lines, new_engine

pytestmark = pytest.mark.embedded

CALLS = [
    {"id": f"call-{number}", "trace": f"trace-{number % 5}", "at": 1_767_607_200_000 + number, "model": "m"}
    for number in range(40)
]


@pytest.fixture
async def engine(embedded_broker: str, tmp_path: Path) -> AsyncIterator[Engine]:
    async with new_engine(tmp_path, embedded_broker, calls={"partitions": 3}) as made:
        yield made


async def test_topics_are_created_once_and_listed(engine: Engine) -> None:
    listed = (await engine.tocsin("topics", "list", "--config", engine.config)).decode()
    created = (await engine.tocsin("topics", "create", "--config", engine.config)).decode()
    again = (await engine.tocsin("topics", "create", "--config", engine.config)).decode()
    after = (await engine.tocsin("topics", "list", "--config", engine.config)).decode()
    names = [engine.topic("calls"), *engine.settings["topics"].values()]
    assert listed.count("missing") == len(names)
    assert sorted(line.removeprefix("created ") for line in created.splitlines()) == sorted(names)
    assert again == "nothing to create: every topic is there\n"
    assert "missing" not in after
    assert [line.split()[1] for line in after.splitlines() if line.startswith(engine.topic("calls"))] == ["3"]
    assert [line.split()[1] for line in after.splitlines() if line.startswith(engine.topic("panes"))] == [
        "16"
    ]


async def test_published_calls_come_back_from_export_byte_by_byte(engine: Engine) -> None:
    await engine.create_topics()
    path = engine.folder / "calls.jsonl.gz"
    path.write_bytes(gzip.compress(lines(CALLS)))
    said = await engine.tocsin("publish", path, "--config", engine.config)
    assert said.decode() == f"published 40 calls to {engine.topic('calls')}\n"
    exported = await engine.tocsin("export", "--from", "1h", "--config", engine.config)
    assert sorted(exported.splitlines()) == sorted(lines(CALLS).splitlines())
    async with engine.reading("calls") as reader:
        await reader.until(lambda: len(reader.records) >= len(CALLS), "all calls")
    partition_of: dict[bytes | None, set[int]] = {}
    for record in reader.records:
        assert record.key == json.loads(record.value or b"")["trace"].encode()
        partition_of.setdefault(record.key, set()).add(record.partition)
    assert {len(partitions) for partitions in partition_of.values()} == {1}


async def test_export_keeps_to_its_time_range(engine: Engine) -> None:
    await engine.create_topics()
    await engine.publish(lines(CALLS))
    none = await engine.tocsin("export", "--from", "2h", "--to", "1h", "--config", engine.config)
    every = await engine.tocsin(
        "export", "--from", "1h", "--to", "2099-01-01T00:00:00Z", "--config", engine.config
    )
    assert none == b""
    assert every.count(b"\n") == len(CALLS)


async def test_lines_that_are_no_calls_are_named_and_left_out_with_exit_1(engine: Engine) -> None:
    await engine.create_topics()
    bad = (
        b'{"model": 1}\n{"model": "m", "at": "2026-01-05T00:00:00"}\n\xff\n{"model": "m", "latency_ms": -1}\n'
    )
    process_input = lines(CALLS[:2]) + bad + b"\n" + lines(CALLS[2:3])
    said = await engine.tocsin("publish", "-", "--config", engine.config, stdin=process_input, code=1)
    assert said.decode() == f"published 3 calls to {engine.topic('calls')}, 4 lines were no calls\n"
    exported = await engine.tocsin("export", "--from", "1h", "--config", engine.config)
    assert sorted(exported.splitlines()) == sorted(lines(CALLS[:3]).splitlines())


async def test_another_topic_can_be_named(engine: Engine) -> None:
    await engine.create_topics()
    other = engine.topic("rejected")
    said = await engine.tocsin(
        "publish", "-", "--topic", other, "--config", engine.config, stdin=lines(CALLS[:1])
    )
    assert said.decode() == f"published 1 call to {other}\n"


@pytest.mark.parametrize("arguments", [("publish", "-"), ("export", "--from", "1h")])
async def test_a_topic_that_is_not_there_is_named_with_what_to_do(
    engine: Engine, arguments: tuple[str, ...]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(*arguments, "--config", engine.config),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert engine.topic("calls") in said.decode()
    assert "create" in said.decode()
    assert "tocsin topics create" in said.decode()
    assert "Traceback" not in said.decode()

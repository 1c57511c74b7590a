"""What the Kafka clients are built with, where a wrong argument would show only after a broker was lost."""

from __future__ import annotations

from typing import Any

import pytest

from rules.problem import InvalidFilesError
from streams.kafka import new_consumer, new_producer, stop_client
from streams.settings import Settings, load_settings

ALL = -1
"""acks=all, as the protocol writes it."""


async def test_a_send_counts_only_when_every_in_sync_replica_has_it():
    producer = new_producer(Settings(), "test")
    acks = producer._sender._acks
    await stop_client(producer)
    assert acks == ALL


async def test_consumers_read_committed_records_and_commit_nothing_by_themselves():
    consumer = new_consumer(Settings(), "group", "test")
    await stop_client(consumer)
    assert consumer._isolation_level == "read_committed"
    assert not consumer._enable_auto_commit
    assert consumer._auto_offset_reset == "earliest"


@pytest.mark.parametrize(
    ("instance", "group", "expected"),
    [
        (None, "tocsin.ingest", None),
        ("worker-1", "tocsin.ingest", "worker-1.tocsin-ingest"),
        ("worker-1", None, None),
    ],
)
async def test_an_instance_makes_a_static_member_of_whoever_has_a_group(
    instance: str | None, group: str | None, expected: str | None
):
    settings = Settings.model_validate({"kafka": {"instance": instance}})
    consumer = new_consumer(settings, group, "tocsin-ingest")
    await stop_client(consumer)
    assert consumer._group_instance_id == expected


@pytest.mark.parametrize("name", ["", "worker 1", "a/b", "x" * 101])
def test_an_instance_that_kafka_would_not_take_is_refused(name: str, monkeypatch: Any):
    monkeypatch.setenv("TOCSIN_KAFKA__INSTANCE", name)
    with pytest.raises(InvalidFilesError, match="TOCSIN_KAFKA__INSTANCE"):
        load_settings(None)

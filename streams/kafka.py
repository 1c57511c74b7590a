"""Kafka clients: consumers and producers as Tocsin uses them, and waiting for a broker that is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.settings import Settings

_log: Final = logging.getLogger(__name__)
_Client = TypeVar("_Client", AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient)

STOP_SECONDS: Final = 2.0
LONGEST_WAIT_SECONDS: Final = 10.0
FETCH_BYTES: Final = 4 << 20


def new_consumer(settings: Settings, group: str | None, client_id: str) -> AIOKafkaConsumer:
    """A consumer that reads committed records only, from the log's start, and commits nothing by itself."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.brokers,
        group_id=group,
        client_id=client_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        # 20 ms: an empty long poll of the embedded broker does not wake when something is produced.
        fetch_max_wait_ms=20,
        max_partition_fetch_bytes=FETCH_BYTES,
        session_timeout_ms=settings.kafka.session_timeout,
        heartbeat_interval_ms=max(300, settings.kafka.session_timeout // 4),
    )


def new_producer(settings: Settings, client_id: str) -> AIOKafkaProducer:
    """A producer whose sends count only when every in-sync replica has them."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka.brokers,
        client_id=client_id,
        acks="all",
        compression_type="lz4",
        max_request_size=1_000_000,
        request_timeout_ms=10_000,
    )


async def start_client(
    client: Callable[[], _Client], settings: Settings, stopping: asyncio.Event
) -> _Client | None:
    """Start a client, waiting with back-off while the broker is away; None when `stopping` is set meanwhile."""
    pause = 0.5
    while not stopping.is_set():
        candidate = client()
        try:
            await candidate.start()
        except (KafkaError, OSError) as error:
            await stop_client(candidate)
            _log.warning(
                "no broker answers at %s (%s): trying again in %g s",
                ", ".join(settings.kafka.brokers),
                error,
                pause,
            )
            await wait(stopping, pause)
            pause = min(2 * pause, LONGEST_WAIT_SECONDS)
        else:
            return candidate
    return None


async def stop_client(client: AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient) -> None:
    """Stop a client within a bound, whatever became of its broker."""
    stop: Callable[[], Awaitable[None]] = (
        client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    )
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stop()
    except TimeoutError:
        _log.warning("%s did not stop within %g s", type(client).__name__, STOP_SECONDS)
    except asyncio.CancelledError:
        # aiokafka 0.14 lets the cancellation of its own fetch task out when the broker is gone.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except (KafkaError, OSError) as error:
        _log.warning("%s did not stop cleanly: %s", type(client).__name__, error)


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Sleep, but no longer than until the event is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def read_to_end(consumer: AIOKafkaConsumer, topic: str, partition: int = 0) -> list[bytes | None]:
    """Every value of a partition, from its start to its present end."""
    return [value for _, value in await _read_all(consumer, topic, partition)]


async def read_live(consumer: AIOKafkaConsumer, topic: str, partition: int) -> dict[bytes, bytes]:
    """The newest value of each key of a compacted partition, without the removed ones."""
    live: dict[bytes, bytes] = {}
    for key, value in await _read_all(consumer, topic, partition):
        if value is None:
            live.pop(key or b"", None)
        else:
            live[key or b""] = value
    return live


async def _read_all(
    consumer: AIOKafkaConsumer, topic: str, number: int
) -> list[tuple[bytes | None, bytes | None]]:
    partition = TopicPartition(topic, number)
    consumer.assign([partition])
    await consumer.seek_to_beginning(partition)
    records: list[tuple[bytes | None, bytes | None]] = []
    while True:
        for messages in (await consumer.getmany(timeout_ms=200)).values():
            records += [(message.key, message.value) for message in messages]
        # The broker's answer to a fetch says where the end is; `end_offsets` of the embedded broker is wrong.
        end = consumer.last_stable_offset(partition)
        if end is not None and await consumer.position(partition) >= end:
            return records

"""Kafka clients: consumers and producers as Tocsin uses them, and waiting for a broker that is away."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.kafka_refusals import refusal
from streams.kafka_security import KafkaSecurityError, NoBrokerError, read_access
from streams.settings import Settings

_log: Final = logging.getLogger(__name__)
_Client = TypeVar("_Client", AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient)

STOP_SECONDS: Final = 2.0
LONGEST_WAIT_SECONDS: Final = 10.0
FETCH_BYTES: Final = 4 << 20


def connection_arguments(settings: Settings) -> dict[str, Any]:
    """Where the cluster is and as whom to reach it: arguments that every client is built with.

    Files and variables are read each time, so that a client built later has a password that was renewed.

    Raises:
        KafkaSecurityError: a variable or a file that was there at the start is not there any more.
    """
    access = read_access(settings.kafka.security, settings.base, os.environ)
    return {"bootstrap_servers": settings.kafka.brokers, **access.arguments()}


def new_consumer(
    settings: Settings, group: str | None, client_id: str, *, wait_ms: int = 20
) -> AIOKafkaConsumer:
    """A consumer that reads committed records only, from the log's start, and commits nothing by itself.

    With `kafka.instance` it is a static member of its group: it does not leave the group when it stops, and whoever
    comes back under its name within the session timeout has the same partitions again, without a rebalance.
    """
    instance = settings.kafka.instance
    return AIOKafkaConsumer(
        **connection_arguments(settings),
        group_id=group,
        # Named after the client too: in no group do two consumers of a worker have the same name.
        group_instance_id=None if group is None or instance is None else f"{instance}.{client_id}",
        client_id=client_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        # Short: an empty long poll of the embedded broker does not wake when something is produced.
        fetch_max_wait_ms=wait_ms,
        max_partition_fetch_bytes=FETCH_BYTES,
        session_timeout_ms=settings.kafka.session_timeout,
        # A worker hears of a rebalance by the answer to its next heartbeat: others wait for it meanwhile.
        heartbeat_interval_ms=min(1_000, max(300, settings.kafka.session_timeout // 10)),
    )


def new_producer(settings: Settings, client_id: str) -> AIOKafkaProducer:
    """A producer whose sends count only when every in-sync replica has them."""
    return AIOKafkaProducer(
        **connection_arguments(settings),
        client_id=client_id,
        acks="all",
        compression_type="zstd",
        max_request_size=1_000_000,
        request_timeout_ms=10_000,
    )


async def start_client(
    client: Callable[[], _Client], settings: Settings, stopping: asyncio.Event
) -> _Client | None:
    """Start a client, waiting with back-off while the broker is away; None when `stopping` is set meanwhile.

    Raises:
        KafkaSecurityError: a broker answers and refuses this client; waiting would not help.
    """
    pause = 0.5
    while not stopping.is_set():
        candidate = client()
        try:
            await candidate.start()
        except (KafkaError, OSError) as error:
            await stop_client(candidate)
            _log.warning("%s: trying again in %g s", await no_broker(settings, error), pause)
            await wait(stopping, pause)
            pause = min(2 * pause, LONGEST_WAIT_SECONDS)
        else:
            return candidate
    return None


async def start_at_once(client: AIOKafkaConsumer | AIOKafkaProducer, settings: Settings) -> None:
    """Start a command's client: it does not wait for a broker.

    Raises:
        NoBrokerError: none answers.
        KafkaSecurityError: a broker answers and refuses this client.
    """
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        raise NoBrokerError(
            f"{await no_broker(settings, error)}; see kafka.brokers in the settings"
        ) from error


async def no_broker(settings: Settings, error: Exception) -> str:
    """Why a client could not start.

    Raises:
        KafkaSecurityError: a broker answers and refuses this client.
    """
    found = await refusal(settings.kafka.brokers, settings.kafka.security, settings.base)
    if found is None:
        return f"no broker answers at {', '.join(settings.kafka.brokers)} ({error})"
    if found.final:
        raise KafkaSecurityError([found.cause]) from error
    return found.cause


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
    return [message.value async for message in _read_all(consumer, topic, [partition])]


async def read_live(
    consumer: AIOKafkaConsumer, topic: str, partitions: Sequence[int]
) -> dict[int, dict[bytes, bytes]]:
    """By partition, the newest value of each key of a compacted topic, without the removed ones."""
    live: dict[int, dict[bytes, bytes]] = {number: {} for number in partitions}
    async for message in _read_all(consumer, topic, partitions):
        if message.value is None:
            live[message.partition].pop(message.key or b"", None)
        else:
            live[message.partition][message.key or b""] = message.value
    return live


async def _read_all(consumer: AIOKafkaConsumer, topic: str, numbers: Sequence[int]) -> AsyncIterator[Any]:
    """The messages of some partitions from their start to their present end, each partition in order."""
    left = {TopicPartition(topic, number) for number in numbers}
    consumer.assign(left)
    await consumer.seek_to_beginning(*left)
    while left:
        for messages in (await consumer.getmany(*left, timeout_ms=200)).values():
            for message in messages:
                yield message
        for partition in list(left):
            # The broker's answer to a fetch says where the end is; `end_offsets` of the embedded broker is wrong.
            end = consumer.last_stable_offset(partition)
            if end is not None and await consumer.position(partition) >= end:
                left.remove(partition)

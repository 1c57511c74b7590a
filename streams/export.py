"""`tocsin export`: the calls that arrived in a time range, as JSON lines."""

from __future__ import annotations

import sys

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.call_files import CallFileError
from streams.durations import moment_of
from streams.kafka import new_consumer, start_at_once, stop_client
from streams.settings import Settings
from streams.setup import wall_ms
from streams.topic_ids import describe_topics


async def run_export(settings: Settings, start: str, end: str | None) -> None:
    """Print each call whose record arrived in [start, end), one a line, partition by partition.

    Raises:
        InvalidFilesError: a time that cannot be read.
        CallFileError: the topics are not there.
        NoBrokerError: no broker answers.
    """
    now = wall_ms()
    from_ms = moment_of(start, "--from", now)
    to_ms = now if end is None else moment_of(end, "--to", now)
    consumer = new_consumer(settings, None, "tocsin-export")
    try:
        await start_at_once(consumer, settings)
        found = await describe_topics(consumer._client, settings.calls.topics)  # noqa: SLF001 - no public way
        missing = [topic for topic in settings.calls.topics if topic not in found]
        if missing:
            raise CallFileError(
                f"topics {', '.join(missing)} do not exist: create them with `tocsin topics create`"
            )
        for topic, (_, partitions) in found.items():
            for number in range(partitions):
                await _print_partition(consumer, TopicPartition(topic, number), from_ms, to_ms)
    finally:
        await stop_client(consumer)


async def _print_partition(
    consumer: AIOKafkaConsumer, partition: TopicPartition, from_ms: int, to_ms: int
) -> None:
    consumer.assign([partition])
    at = (await consumer.offsets_for_times({partition: from_ms})).get(partition)
    if at is None:
        return
    consumer.seek(partition, at.offset)
    while True:
        for messages in (await consumer.getmany(timeout_ms=200)).values():
            for message in messages:
                if message.timestamp >= to_ms:
                    return
                if message.timestamp >= from_ms and message.value is not None:
                    # A line break inside a record would make two lines of it.
                    sys.stdout.buffer.write(message.value.replace(b"\n", b" ") + b"\n")
        end = consumer.last_stable_offset(partition)
        if end is not None and await consumer.position(partition) >= end:
            sys.stdout.flush()
            return

"""`tocsin publish`: calls from a file to the calls topic, each checked as a whole first."""

from __future__ import annotations

import asyncio

import click
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.call_files import CallFile, CallFileError
from streams.event import FULL
from streams.kafka import new_producer, stop_client
from streams.progress import with_progress
from streams.settings import Settings
from streams.topic_ids import describe_topics

_SHOWN = 20


async def run_publish(settings: Settings, calls: str, topic: str) -> int:
    """Publish; 0 when every line was a call, 1 when some were not (they are named, and not published).

    Raises:
        CallFileError: the file cannot be read, or the topic is not there.
    """
    file = CallFile(calls)
    producer = new_producer(settings, "tocsin-publish")
    published = invalid = 0
    try:
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            raise CallFileError(
                f"no broker answers at {', '.join(settings.kafka.brokers)}: {error}; see kafka.brokers in the settings"
            ) from error
        if topic not in await describe_topics(producer.client, [topic]):
            raise CallFileError(f"topic {topic} does not exist: create it with `tocsin topics create`")
        for batch in with_progress(file, file.batches()):
            good: list[tuple[bytes | None, bytes]] = []
            for number, value in zip(batch.offsets.tolist(), batch.values, strict=True):
                raw = value or b""
                try:
                    call = FULL.decode(raw)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    invalid += 1
                    if invalid <= _SHOWN:
                        click.echo(f"{batch.source.topic}:{number}: not published: {error}", err=True)
                    continue
                # Calls of one trace stay in order; a repeated id lands where it was, so that it counts once.
                key = call.trace or call.id
                good.append((key.encode() if key else None, raw))
            await _send(producer, topic, good)
            published += len(good)
    finally:
        await stop_client(producer)
    click.echo(
        f"published {published:,} calls to {topic}"
        + (f", {invalid:,} lines were no calls" if invalid else "")
    )
    return 1 if invalid else 0


async def _send(producer: AIOKafkaProducer, topic: str, calls: list[tuple[bytes | None, bytes]]) -> None:
    sent = [await producer.send(topic, value, key=key) for key, value in calls]
    await asyncio.gather(*sent)

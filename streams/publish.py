"""`tocsin publish`: calls from a file to the calls topic, each checked as a whole first."""

from __future__ import annotations

import asyncio

import click
from aiokafka import AIOKafkaProducer

from rules.visible import visible
from streams.call import Batch, Reader
from streams.call_files import CallFile, CallFileError
from streams.event import FIELDS
from streams.ignored import Ignored
from streams.kafka import new_producer, start_at_once, stop_client
from streams.needs import Needs
from streams.pricing import PriceBook, Pricer
from streams.progress import with_progress
from streams.replay import counted
from streams.settings import Settings
from streams.setup import wall_ms
from streams.spend import BatchPricer
from streams.topic_ids import describe_topics

_SHOWN = 20


async def run_publish(settings: Settings, calls: str, topic: str) -> int:
    """Publish; 0 when every line was a call, 1 when some were not (they are named, and not published).

    Raises:
        CallFileError: the file cannot be read, or the topic is not there.
        NoBrokerError: no broker answers.
    """
    # A call without a time gets that of its record, which is about now.
    file = CallFile(calls, default_ms=wall_ms())
    reader = Reader(Needs(frozenset(FIELDS), frozenset()), BatchPricer(Pricer(PriceBook())))
    producer = new_producer(settings, "tocsin-publish")
    ignored = Ignored()
    published = invalid = 0
    try:
        await start_at_once(producer, settings)
        if topic not in await describe_topics(producer.client, [topic]):
            raise CallFileError(f"topic {topic} does not exist: create it with `tocsin topics create`")
        for batch in with_progress(file, file.batches()):
            read, rejected = reader.read(batch)
            for each in rejected[: max(0, _SHOWN - invalid)]:
                reason = visible(each.reason)
                click.echo(f"{visible(each.source.topic)}:{each.offset}: not published: {reason}", err=True)
            invalid += len(rejected)
            ignored.look(batch)
            await _send(producer, topic, read)
            published += len(read)
    finally:
        file.close()
        await stop_client(producer)
    click.echo(
        f"published {counted(published, 'call')} to {topic}"
        + (
            f", {counted(invalid, 'line')} {'was no call' if invalid == 1 else 'were no calls'}"
            if invalid
            else ""
        )
    )
    if (unknown := ignored.text()) is not None:
        click.echo(unknown, err=True)
    return 1 if invalid else 0


async def _send(producer: AIOKafkaProducer, topic: str, calls: Batch) -> None:
    sent = []
    for call, value in zip(calls.calls, calls.raw, strict=True):
        # Calls of one trace stay in order; a repeated id lands where it was, so that it counts once.
        key = call.trace or call.id
        sent.append(await producer.send(topic, value, key=key.encode() if key else None))
    await asyncio.gather(*sent)

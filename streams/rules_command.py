"""`tocsin rules`: the history of rule sets, and putting files in force."""

from __future__ import annotations

import asyncio

import click

from streams.alert_record import rfc3339
from streams.kafka import new_consumer, new_producer, start_client, stop_client
from streams.rules_topic import agree_on_rules, read_records, settled
from streams.settings import Settings
from streams.setup import Setup, wall_ms
from streams.topics import create_topics


async def print_rules_log(settings: Settings) -> None:
    """One line per version, newest last: hash, from when it holds, when it was published, prices, files."""
    consumer = await start_client(
        lambda: new_consumer(settings, None, "tocsin-rules"), settings, asyncio.Event()
    )
    if consumer is None:  # only when stopping, which nobody can here
        return
    try:
        records = await read_records(consumer, settings.topics.rules)
    finally:
        await stop_client(consumer)
    for record in settled(records):
        since = "the beginning" if record.from_ms == 0 else rfc3339(record.from_ms)
        names = ", ".join(file.name for file in record.files)
        prices = f"prices {record.prices[:16]}" + (" (price file)" if record.price_file else "")
        click.echo(
            f"{record.hash}  from {since}  published {rfc3339(record.published_ms)}  {prices}  {names}"
        )
    if not records:
        click.echo("no rule set was ever published: start a worker")


async def activate_rules(setup: Setup) -> None:
    """Put the files of the settings in force, even where they were replaced before. Running workers follow.

    Raises:
        InvalidFilesError: rule files and price file together are too large for a record.
    """
    settings = setup.settings
    await create_topics(settings)
    stopping = asyncio.Event()
    consumer = await start_client(lambda: new_consumer(settings, None, "tocsin-rules"), settings, stopping)
    producer = await start_client(lambda: new_producer(settings, "tocsin-rules"), settings, stopping)
    if consumer is None or producer is None:  # only when stopping, which nobody can here
        return
    try:
        log = await agree_on_rules(setup, consumer, producer, wall_ms, activate=True)
    finally:
        await stop_client(consumer)
        await stop_client(producer)
    newest = log.epochs[-1]
    since = "the beginning" if newest.from_ms == 0 else rfc3339(newest.from_ms)
    click.echo(f"{newest.rules.hash} holds from {since} of event time")

"""`tocsin broker`: the embedded broker by itself."""

from __future__ import annotations

import asyncio
import signal

import click

from streams.broker import EmbeddedBroker, EmbeddedBrokerError


async def run_broker(port: int) -> None:
    """Run until a signal. Raises EmbeddedBrokerError when it does not start, or ends by itself."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with EmbeddedBroker(port) as broker:
        click.echo(f"broker at {broker.address}; everything is in memory; Ctrl-C ends it", err=True)
        ended, stopped = asyncio.create_task(broker.wait()), asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, stopped):
            task.cancel()
        if not stop.is_set():
            raise EmbeddedBrokerError(
                f"the broker ended by itself. Its last output:\n{broker.stderr_tail or '(none)'}"
            )

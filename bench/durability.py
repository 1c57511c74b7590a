"""What durability costs ingest: the worker's loop as it is, and without anything that only a crash makes worth having.

`.venv/bin/python bench/durability.py`. Without: pane records are sent with acks=0 and nobody waits for them, and no
position is written or committed. Runs alternate on one core, the broker has another; by CPU time, which other programs
disturb less, and by the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
from collections.abc import Callable
from dataclasses import replace

from aiokafka import AIOKafkaProducer
from end_to_end import Run, _Measured, bench_settings, broker, cores, prepare
from harness import pin, print_table
from workload import config, pricing, rule_log

from streams.kafka import new_consumer, new_producer
from streams.loop import Clock, Effects, Loop
from streams.settings import Settings

RATE = 50_000
CALLS = 300_000
ROUNDS = 5


class _Forgetful(_Measured):
    """The stage without a position to come back to."""

    def flush(self, clock: Clock) -> Effects:
        return replace(super().flush(clock), commit={})


def careless_producer(settings: Settings) -> AIOKafkaProducer:
    """A producer like the worker's whose sends count as soon as they are sent."""
    careful = new_producer(settings, "bench")
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka.brokers,
        client_id="bench",
        acks=0,
        compression_type="zstd",
        max_request_size=careful._max_request_size,  # noqa: SLF001 - the same as the worker's
    )


async def run(
    settings: Settings,
    count: int,
    group: str,
    stage_type: type[_Measured],
    producer_of: Callable[[Settings], AIOKafkaProducer],
) -> Run:
    """The whole topic, once."""
    consumer, producer = new_consumer(settings, group, "bench"), producer_of(settings)
    stopping = asyncio.Event()
    stage = stage_type(settings, config(), rule_log(), pricing())
    stage.watch(count, stopping)
    await producer.start()
    try:
        await consumer.start()
        try:
            await Loop(stage, consumer, producer, stopping).run()
            if stage.clock is None:
                raise RuntimeError("nothing was assigned")
            return stage.clock.run(count)
        finally:
            await consumer.stop()
    finally:
        await producer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    mine, brokers = cores()
    kinds: dict[str, tuple[type[_Measured], Callable[[Settings], AIOKafkaProducer]]] = {
        "as it is": (_Measured, lambda settings: new_producer(settings, "bench")),
        "without durability": (_Forgetful, careless_producer),
    }
    runs: dict[str, list[Run]] = {name: [] for name in kinds}
    with broker(brokers) as (name, address):
        settings = bench_settings(address, "bench.durability")
        asyncio.run(prepare(settings, options.calls, RATE))
        if mine is not None:
            pin(mine)
        for number in range(options.rounds):
            for kind, (stage_type, producer_of) in kinds.items():
                group = f"durability-{number}-{kind.replace(' ', '-')}"
                runs[kind].append(asyncio.run(run(settings, options.calls, group, stage_type, producer_of)))
    print(
        f"\n{options.calls:,} calls, {RATE:,} per second of event time, {name}; median of {options.rounds} runs\n"
    )
    cpu = {kind: statistics.median(each.cpu_seconds for each in of_kind) for kind, of_kind in runs.items()}
    wall = {kind: statistics.median(each.seconds for each in of_kind) for kind, of_kind in runs.items()}
    base = "without durability"
    rows = [
        [
            kind,
            f"{options.calls / wall[kind]:,.0f}",
            f"{wall[kind] / wall[base] - 1:+.1%}",
            f"{1e9 * cpu[kind] / options.calls:,.0f}",
            f"{cpu[kind] / cpu[base] - 1:+.1%}",
        ]
        for kind in kinds
    ]
    print_table(["", "calls/s", "time", "CPU ns/call", "CPU"], rows)


if __name__ == "__main__":
    main()

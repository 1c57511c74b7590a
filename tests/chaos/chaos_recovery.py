"""Kill -9 to evaluating again, at 10,000 series and 5,000 calls/s: `python tests/chaos/chaos_recovery.py`.

Two workers share the work; one of them is killed and started again a second later. With `--static` workers have a
`kafka.instance`, and come back to the partitions that they had. Nothing is compared here: chaos_run.py does that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chaos_run
import yaml
from aiokafka import AIOKafkaProducer
from chaos_cluster import brokers
from chaos_workers import Crew, Watch

from streams.settings import load_settings
from streams.topics import create_topics

SERIES = 10_000
RATE = 5_000
TOGETHER = 100
PARTITIONS = 6
WARM_UP_SECONDS = 45.0
RULES = """\
version: 1
groups:
  - name: recovery
    rules:
      - {alert: Slow, by: [user], measure: latency.p95, window: 5m, above: 60s, runbook: latency-high, summary: test}
"""


def settings_for(bootstrap: list[str], session: str) -> dict[str, Any]:
    """Defaults, but for the session timeout."""
    return {
        "kafka": {"brokers": bootstrap, "session_timeout": session},
        "calls": {"topics": [chaos_run.CALLS], "partitions": PARTITIONS},
        "group": "recovery",
        "rules": ["recovery.rules.yaml"],
    }


async def load(bootstrap: list[str]) -> None:
    """Calls by the clock, in record batches of 100, until cancelled."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        rng, made, began = random.Random(1), 0, time.monotonic()
        while True:
            while made < (time.monotonic() - began) * RATE:
                batch, now = producer.create_batch(), time.time_ns() // 1_000_000
                for number in range(made, made + TOGETHER):
                    call = {
                        "id": f"call-{number}",
                        "at": now - rng.randrange(300),
                        "model": "m",
                        "user": f"user-{number % SERIES}",
                        "latency_ms": rng.randrange(100, 3_000),
                        "tokens": {"input": 900, "output": 80},
                    }
                    batch.append(key=None, value=json.dumps(call).encode(), timestamp=None)
                await producer.send_batch(batch, chaos_run.CALLS, partition=made // TOGETHER % PARTITIONS)
                made += TOGETHER
            await asyncio.sleep(0.01)
    finally:
        await producer.stop()


async def measure(kills: int, session: str, *, static: bool, folder: Path) -> dict[str, list[float]]:
    """Seconds from each kill, by what was reached."""
    found: dict[str, list[float]] = {"partitions taken over": [], "all evaluating, caught up": []}
    with brokers(1) as cluster:
        settings = settings_for(cluster.bootstrap, session)
        (folder / "recovery.rules.yaml").write_text(RULES)
        config = folder / "recovery.yaml"
        config.write_text(yaml.safe_dump(settings))
        await create_topics(load_settings(config))
        crew = Crew(folder, settings, {})
        loading = asyncio.create_task(load(cluster.bootstrap))
        try:
            for number in (1, 2):
                worker = crew.seat()
                if static:
                    worker.environment = {"TOCSIN_KAFKA__INSTANCE": f"worker-{number}"}
                await worker.start()
            async with crew.watched() as watch:
                watch.partitions, watch.most_left = PARTITIONS, RATE
                await watch.until_good(time.time(), 120)
                await asyncio.sleep(WARM_UP_SECONDS)
                rng = random.Random(2)
                for _ in range(kills):
                    await _kill_once(crew, watch, rng, found)
        finally:
            loading.cancel()
            await asyncio.wait({loading})
            await crew.close()
    return found


async def _kill_once(crew: Crew, watch: Watch, rng: random.Random, found: dict[str, list[float]]) -> None:
    worker = rng.choice(crew.workers)
    struck = time.time()
    await worker.kill()
    await asyncio.sleep(1)
    await worker.start()
    again = await watch.until_good(struck, 120)
    # A stale answer may have come in between: well is what was unwell before.
    again = watch.recovered(struck) or again
    takeovers = [at for each in crew.workers for at in each.takeovers() if at > struck]
    if again is not None and takeovers:
        found["partitions taken over"].append(min(takeovers) - struck)
        found["all evaluating, caught up"].append(again - struck)
    await asyncio.sleep(rng.uniform(12, 16))


def lines_of(found: dict[str, Sequence[float]]) -> list[str]:
    return [
        f"  {what:<28} p50 {statistics.median(of):.1f} s, max {max(of):.1f} s ({len(of)} kills)"
        for what, of in found.items()
        if of
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--session", default="6s")
    parser.add_argument("--static", action="store_true")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-recovery-") as scratch,
        contextlib.suppress(KeyboardInterrupt),
    ):
        found = asyncio.run(measure(given.kills, given.session, static=given.static, folder=Path(scratch)))
        how = "static members" if given.static else "dynamic members"
        print(f"{SERIES:,} series, {RATE:,} calls/s, session timeout {given.session}, {how}")
        print("\n".join(lines_of(dict(found))))


if __name__ == "__main__":
    main()

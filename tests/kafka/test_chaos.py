"""Chaos: workers and the broker are killed under load, and what is left is compared with the oracle.

The run prints its page, and at another seed (TOCSIN_TEST_CHAOS_SEED) strikes in another order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from chaos_run import run, short
from kafka_node import KafkaUnavailableError, kafka_is_required

SEED = int(os.environ.get("TOCSIN_TEST_CHAOS_SEED", "1"))


@pytest.mark.kafka
@pytest.mark.skipif(
    "TOCSIN_TEST_CHAOS" not in os.environ,
    reason="finds panes that nobody published, which is open (docs/limits.md); set TOCSIN_TEST_CHAOS=1 to run it",
)
async def test_nothing_is_lost_or_double_when_workers_and_the_broker_are_killed_under_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        page = await run(short(SEED), tmp_path)
    except KafkaUnavailableError as error:
        if kafka_is_required():
            raise
        pytest.skip(str(error))
    with capsys.disabled():
        sys.stdout.write(f"\n{page.text}")
    assert not page.all_problems, page.text
    done = page.faults.done
    assert done["kill"] >= 10
    assert (done["join"], done["leave"], done["zombie"], done["broker kill"]) == (2, 2, 1, 1)
    assert page.verdict is not None
    assert page.verdict.report.compared["transitions"] >= 10

"""Real calls of others, where the recorded data lies beside the repository; what is expected was computed elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from builders import no_prices

from streams.call_files import CallFile
from streams.measuring import Measured, measure_calls
from streams.price_file import read_price_book
from streams.pricing import Pricer
from streams.spend import BatchPricer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "real_calls.py").exists(), reason="no recorded data in ../shared/data beside the repository"
)
PRICES = """\
version: 1
prices:
  - {model: gpt-4o, provider: azure, input: $2.50, output: $10.00}
"""


def printed(kind: str, folder: Path) -> Path:
    file = folder / f"{kind}.jsonl"
    with file.open("wb") as out:
        subprocess.run([sys.executable, str(DATA / "real_calls.py"), kind], stdout=out, check=True)
    return file


def measure(file: Path, by: tuple[str, ...], price: BatchPricer, **options: Any) -> Measured:
    calls = CallFile(str(file))
    try:
        return measure_calls(calls.batches(), by, price, **options)
    finally:
        calls.close()


def test_recorded_calls_of_ten_providers_and_models_are_measured_as_expected(tmp_path: Path) -> None:
    expected = json.loads((DATA / "expected_llmperf.json").read_text())
    found = measure(printed("llmperf", tmp_path), ("provider", "model"), no_prices())
    values = {"/".join(row.series): row.values for row in found.rows}
    assert (found.counts.accepted, found.counts.rejected, len(values)) == (2_845, 0, 19)
    for pair, exact in expected.items():
        ours = values[pair]
        assert (ours["calls"], ours["errors"]) == (exact["calls"], exact["errors"]), pair
        assert ours["error_rate"] == pytest.approx(exact["error_rate"], abs=1e-6), pair
        assert (ours["tokens.input"], ours["tokens.output"]) == (
            exact["tokens"]["input"],
            exact["tokens"]["output"],
        )
        for family in ("latency", "ttft"):
            for name, value in exact[f"{family}_ms"].items():
                assert value <= (ours[f"{family}.{name}"] or 0) <= value * 1.0079, (pair, family, name)


def test_the_spend_of_an_hour_of_recorded_traffic_is_right_to_the_nanodollar(tmp_path: Path) -> None:
    expected = json.loads((DATA / "expected_azure.json").read_text())["features"]
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    book = BatchPricer(Pricer(read_price_book(prices)))
    file = printed("azure", tmp_path)
    values = {row.series[0]: row.values for row in measure(file, ("feature",), book).rows}
    assert set(values) == set(expected)
    for feature, exact in expected.items():
        ours = values[feature]
        assert ours["calls"] == exact["calls"]
        assert ours["spend"] == exact["spend_nanodollars"]
        assert (ours["tokens.input"], ours["tokens.output"]) == (
            exact["tokens"]["input"],
            exact["tokens"]["output"],
        )
        assert Decimal(ours["spend_per_call"] or 0) == pytest.approx(
            Decimal(exact["spend_nanodollars"]) / exact["calls"]
        )
    minutes = measure(file, ("feature",), book, window_ms=60_000, names=["calls", "spend", "spend_per_call"])
    for feature, exact in expected.items():
        rows = [row.values for row in minutes.rows if row.series == (feature,)]
        assert sum(int(row["calls"] or 0) for row in rows) == exact["calls"]
        assert sum(int(row["spend"] or 0) for row in rows) == exact["spend_nanodollars"]

from __future__ import annotations

import numpy as np
import pytest
from table import Table

from rules.measures import measure
from rules.quantities import MINUTE
from rules.reading import comparable, is_zero_of_nothing, read
from rules.view import CALLS

A, B = ("chat",), ("search",)


def reading(name: str, numbers=None, values=None, span_ms: int = 5 * MINUTE):
    wanted = measure(name)
    given = {"sample": wanted.sample, "numerator": wanted.numerator, "denominator": wanted.denominator}
    columns = {given[key]: column for key, column in (numbers or {}).items()}
    samples = {given[key]: column for key, column in (values or {}).items()}
    return read(wanted, Table([A, B], columns, samples), span_ms)


def test_a_ratio_is_its_part_over_its_whole_and_undefined_without_calls():
    found = reading("error_rate", {"numerator": [3, 0], "sample": [60, 0]})
    assert found.value.tolist() == [0.05, 0.0]
    assert found.sample.tolist() == [60, 0]
    assert found.defined.tolist() == [True, False]
    assert not np.isnan(found.compared).any()


def test_a_mean_is_in_the_base_unit_and_undefined_without_known_values():
    found = reading("latency.avg", {"numerator": [4_500_000, 0], "sample": [3, 0]})
    assert found.value.tolist() == [1_500.0, 0.0]
    assert found.defined.tolist() == [True, False]


def test_the_cache_hit_rate_divides_tokens_and_counts_calls():
    found = reading("cache_hit_rate", {"numerator": [250, 0], "denominator": [1_000, 0], "sample": [4, 2]})
    assert found.value.tolist() == [0.25, 0.0]
    assert found.sample.tolist() == [4, 2]
    assert found.defined.tolist() == [True, False]


def test_a_percentile_is_in_the_base_unit_and_undefined_without_calls():
    found = reading(
        "latency.p95", {"sample": [20, 0]}, {"numerator": [[1_000 * n for n in range(1, 21)], []]}
    )
    assert found.value.tolist() == [19.009, 0.0]
    assert found.compared.tolist() == [19_009, 0]
    assert found.defined.tolist() == [True, False]


def test_a_maximum_is_undefined_without_calls():
    found = reading("latency.max", {"numerator": [61_500, 0], "sample": [1, 0]})
    assert found.value.tolist() == [61.5, 0.0]
    assert found.defined.tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "total", "value"),
    [
        ("calls", 600, 600),
        ("calls_per_second", 600, 2.0),
        ("errors", 600, 600),
        ("spend", 600, 600),
        ("tokens.input", 600, 600),
        ("tokens.input.per_minute", 600, 120.0),
        ("users", 600, 600.0),
    ],
)
def test_a_count_or_a_sum_of_nothing_is_0_and_defined(name: str, total: int, value: float):
    found = reading(name, {"sample": [7, 0], "numerator": [total, 0]})
    assert found.value.tolist() == [value, 0]
    assert found.defined.tolist() == [True, True]
    assert is_zero_of_nothing(measure(name))


def test_money_stays_in_whole_nanodollars():
    found = reading("spend", {"sample": [1, 0], "numerator": [2**60 + 1, 0]})
    assert found.value.dtype == np.int64
    assert found.value.tolist() == [2**60 + 1, 0]


@pytest.mark.parametrize(("name", "sample"), [("rejected", 4), ("late", 4), ("clamped", 4), ("lag", 0)])
def test_a_measure_of_the_engine_has_no_calls_and_is_0_where_nothing_happened(name: str, sample: int):
    wanted = measure(name)
    assert wanted.fields == (wanted.numerator,)
    found = read(wanted, Table([(), ()], {wanted.numerator: [4, 0]}), MINUTE)
    assert found.value.tolist() == [4, 0]
    assert found.sample.tolist() == [sample, 0]
    assert found.defined.tolist() == [True, True]
    assert is_zero_of_nothing(wanted)


@pytest.mark.parametrize(
    "name", ["error_rate", "latency.p95", "latency.avg", "latency.max", "spend_per_call", "cache_hit_rate"]
)
def test_what_needs_a_sample_is_not_0_without_one(name: str):
    assert not is_zero_of_nothing(measure(name))


def test_the_threshold_of_a_percentile_is_compared_bucket_by_bucket():
    table = Table([A])
    assert comparable(measure("latency.p95"), table, 2_000) == 2_000_009
    assert comparable(measure("latency.p95"), table, 2_000.0049) == 2_000_009


def test_a_threshold_is_not_put_into_a_lower_bucket_by_the_error_of_a_product():
    threshold = 0.000249
    assert int(threshold * 1_000_000) == 248, "an example of the error"
    found = comparable(measure("score.groundedness.p5"), Exactly([A]), threshold)
    assert found == 249


def test_other_thresholds_stay_as_they_are():
    assert comparable(measure("error_rate"), Table([A]), 0.02) == 0.02
    assert comparable(measure("spend"), Table([A], {CALLS: [1]}), 5_000_000_000) == 5_000_000_000


class Exactly(Table):
    """A histogram whose buckets are single integers."""

    def highest_equivalent(self, value: float) -> int:
        return int(value)

from __future__ import annotations

from collections import Counter

import numpy as np
from hdrh.histogram import HdrHistogram
from hypothesis import example, given
from hypothesis import strategies as st

from rules.measures import LARGEST_PERCENTILE
from streams.histogram import (
    BUCKETS,
    HIGHEST,
    UPPER,
    bucket_index,
    count_keys,
    highest_equivalent,
    merge_counts,
    nearest_rank,
    percentiles,
)

stored = st.integers(0, HIGHEST) | st.integers(0, 2_000)
counted = st.lists(st.tuples(st.integers(0, 50), st.integers(-5, 5)), max_size=40)


def as_arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([key for key, _ in pairs], np.int64), np.array([count for _, count in pairs], np.int64)


def test_the_largest_threshold_that_a_rule_may_have_is_where_the_layout_ends() -> None:
    assert UPPER[-1] == LARGEST_PERCENTILE


@given(st.lists(stored, min_size=1, max_size=60))
@example([0, 1, 127, 128, 255, 256, 257, HIGHEST])
def test_counts_per_bucket_equal_those_of_the_packages_own_record_value(values: list[int]) -> None:
    package = HdrHistogram(1, HIGHEST, 2)
    for value in values:
        assert package.record_value(value)
    ours = np.bincount(bucket_index(np.array(values, np.int64)), minlength=BUCKETS)
    assert ours.tolist() == [package.counts[i] for i in range(BUCKETS)]


@given(st.lists(stored, min_size=1, max_size=60), st.integers(1, 99))
def test_a_percentile_is_the_upper_end_of_the_bucket_of_the_ceil_nearest_rank(
    values: list[int], rank: int
) -> None:
    keys, counts = count_keys(bucket_index(np.array(values, np.int64)))
    found = int(percentiles(1, keys, counts, rank)[0])
    exact = sorted(values)[max(0, -(-len(values) * rank // 100) - 1)]
    package = HdrHistogram(1, HIGHEST, 2)
    assert found == package.get_highest_equivalent_value(exact)
    assert exact <= found <= exact * 1.0079


@given(st.lists(st.lists(stored, max_size=20), min_size=1, max_size=6), st.integers(1, 99))
def test_percentiles_of_many_rows_equal_those_of_each_row_alone(rows: list[list[int]], rank: int) -> None:
    keys = [row * BUCKETS + bucket_index(np.array(values, np.int64)) for row, values in enumerate(rows)]
    together = percentiles(len(rows), *count_keys(np.concatenate(keys)), rank)
    alone = [
        percentiles(1, *count_keys(bucket_index(np.array(values, np.int64))), rank)[0] if values else 0
        for values in rows
    ]
    assert together.tolist() == alone


@given(st.integers(1, 10**9), st.integers(1, 99))
def test_the_nearest_rank_is_exact_for_any_count(count: int, rank: int) -> None:
    found = int(nearest_rank(np.array([count]), rank)[0])
    assert 100 * (found - 1) < count * rank <= 100 * found or found == 1


@given(st.lists(st.integers(0, 200) | st.integers(0, 10**15), max_size=80))
def test_count_keys_equals_a_counter_for_dense_and_for_scattered_keys(keys: list[int]) -> None:
    found, counts = count_keys(np.array(keys, np.int64))
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == Counter(keys)
    assert found.tolist() == sorted(set(keys))


@given(counted)
def test_merged_counts_are_sums_by_key_in_order_without_the_zeros(pairs: list[tuple[int, int]]) -> None:
    naive: Counter[int] = Counter()
    for key, count in pairs:
        naive[key] += count
    keys, counts = merge_counts(*as_arrays(pairs))
    assert list(zip(keys.tolist(), counts.tolist(), strict=True)) == sorted(
        (k, c) for k, c in naive.items() if c
    )


@given(counted, counted, counted)
def test_merging_is_associative_and_commutative(
    one: list[tuple[int, int]], two: list[tuple[int, int]], three: list[tuple[int, int]]
) -> None:
    def merged(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return merge_counts(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))

    a, b, c = as_arrays(one), as_arrays(two), as_arrays(three)
    for left, right in ((merged(a, b), merged(b, a)), (merged(merged(a, b), c), merged(a, merged(b, c)))):
        assert left[0].tolist() == right[0].tolist()
        assert left[1].tolist() == right[1].tolist()


@given(stored)
def test_the_highest_equivalent_of_a_value_is_the_packages(value: int) -> None:
    assert highest_equivalent(value) == HdrHistogram(1, HIGHEST, 2).get_highest_equivalent_value(value)


def test_the_layouts_ends_stand_for_what_lies_beyond_them() -> None:
    assert highest_equivalent(-5) == 0
    assert highest_equivalent(1e18) == highest_equivalent(2 * HIGHEST) == UPPER[-1]


def test_values_outside_the_layout_have_no_bucket() -> None:
    index = bucket_index(np.array([-1, 1 << 40], np.int64))
    assert index[0] < 0
    assert index[1] >= BUCKETS


def test_nothing_has_percentile_zero_and_no_keys() -> None:
    nothing = np.zeros(0, np.int64)
    assert percentiles(2, nothing, nothing, 95).tolist() == [0, 0]
    assert merge_counts(nothing, nothing)[0].tolist() == []

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.distinct import KEYS, RANKS, REGISTERS, STANDARD_ERROR, estimates, highest_ranks, sketch_keys

SIZES = (1, 2, 10, 100, 1_000, 5_000, 8_000, 10_000, 10_500, 12_000, 15_000, 20_000, 100_000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_is_within_four_standard_errors(size: int, seed: int) -> None:
    keys = sketch_keys(f"user-{seed}-{number}" for number in range(size))
    assert abs(estimates(1, keys)[0] - size) <= max(4 * STANDARD_ERROR * size, 0.5)


def test_the_mean_error_over_many_sets_has_no_bias_around_the_switch_from_linear_counting() -> None:
    random = np.random.default_rng(7)
    for size in (9_000, 10_240, 12_000, 16_000):
        found = []
        for _ in range(60):
            numbers = random.integers(0, 1 << 63, size, dtype=np.int64)
            # A sketch of uniform hashes, built from their bits alone.
            register, rest = numbers >> 51, numbers & ((1 << 51) - 1)
            rank = 51 - np.floor(np.log2(np.maximum(rest, 1))).astype(np.int64)
            found.append(estimates(1, register * RANKS + rank)[0] / size - 1)
        assert abs(float(np.mean(found))) <= 4 * STANDARD_ERROR / 60**0.5 + 0.002, size


def test_the_same_value_counts_once_and_gives_the_same_key_in_every_process() -> None:
    assert estimates(1, sketch_keys(["ana"] * 1_000))[0] == pytest.approx(1, abs=0.01)
    assert ((sketch_keys(["ana"]) >= 0) & (sketch_keys(["ana"]) < KEYS)).all()


@given(st.lists(st.text(max_size=4), max_size=60), st.lists(st.text(max_size=4), max_size=60))
def test_the_union_of_two_sketches_is_the_sketch_of_the_union(one: list[str], other: list[str]) -> None:
    both = np.concatenate((highest_ranks(sketch_keys(one)), highest_ranks(sketch_keys(other))))
    assert highest_ranks(both).tolist() == highest_ranks(sketch_keys(set(one) | set(other))).tolist()
    assert estimates(1, both).tolist() == estimates(1, sketch_keys([*one, *other])).tolist()


@given(st.lists(st.integers(0, KEYS - 1), max_size=200))
def test_the_highest_rank_of_each_register_is_kept(keys: list[int]) -> None:
    highest: dict[int, int] = {}
    for key in keys:
        highest[key // RANKS] = max(highest.get(key // RANKS, 0), key % RANKS)
    expected = sorted(register * RANKS + rank for register, rank in highest.items())
    assert highest_ranks(np.array(keys, np.int64)).tolist() == expected


def test_rows_are_estimated_apart_and_an_empty_row_is_zero() -> None:
    keys = np.concatenate((sketch_keys(map(str, range(100))), 2 * KEYS + sketch_keys(map(str, range(7)))))
    found = estimates(3, keys)
    assert found[0] == pytest.approx(100, rel=0.05)
    assert found[1] == 0
    assert found[2] == pytest.approx(7, rel=0.05)
    assert estimates(2, np.zeros(0, np.int64)).tolist() == [0, 0]


def test_a_sketch_whose_registers_are_all_filled_is_still_estimated() -> None:
    full = np.arange(REGISTERS, dtype=np.int64) * RANKS + 2
    assert estimates(1, full)[0] > REGISTERS
    highest = np.arange(REGISTERS, dtype=np.int64) * RANKS + 53
    assert estimates(1, highest)[0] > 1e18

"""The histogram layout: HdrHistogram's buckets, indexed and searched for whole arrays at once.

The package `hdrhistogram` owns the layout (lowest 1, two significant digits); its `record_value` is the oracle in the
tests. With lowest = 1 the index of a bucket is the top bits of the value's float64 mantissa and exponent
(HdrHistogram, "sub-bucket" arithmetic), so an array of values costs a shift and a subtraction.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

LOWEST: Final = 1
HIGHEST: Final = 3_600_000_000
"""One hour in microseconds: the largest stored integer that every histogram takes."""
DIGITS: Final = 2
"""Significant digits: buckets are at most 1/128 = 0.78 % wide."""

_TEMPLATE: Final = HdrHistogram(LOWEST, HIGHEST, DIGITS, word_size=4)
BUCKETS: Final[int] = int(_TEMPLATE.counts_len)
_MAGNITUDE: Final[int] = int(_TEMPLATE.sub_bucket_half_count_magnitude)
_HALF: Final[int] = int(_TEMPLATE.sub_bucket_half_count)
_OFFSET: Final[int] = (_MAGNITUDE + 1022) << _MAGNITUDE
_SHIFT: Final[int] = 52 - _MAGNITUDE

UPPER: Final[NDArray[np.int64]] = np.array(
    [_TEMPLATE.get_highest_equivalent_value(_TEMPLATE.get_value_from_index(i)) for i in range(BUCKETS)],
    dtype=np.int64,
)
"""int64[BUCKETS]: the highest stored integer of each bucket."""


def bucket_index(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bucket of each stored integer, int64 of the same shape; outside [0, BUCKETS) where the layout has none."""
    as_float = values.astype(np.float64)
    index = (as_float.view(np.int64) >> _SHIFT) - _OFFSET
    small = as_float < _HALF
    if small.any():
        index = np.where(small, np.where(values >= 0, values, -1), index)
    return index


def highest_equivalent(value: float) -> int:
    """The largest stored integer in the bucket of `value`, cut to a whole number; the layout's ends beyond them."""
    held = max(0, min(int(value), int(UPPER[-1])))
    return int(UPPER[bucket_index(np.array([held], dtype=np.int64))[0]])


def nearest_rank(count: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    """ceil(rank / 100 * count), at least 1: the nearest rank of a percentile, in exact integers."""
    return np.maximum(-(-count * rank // 100), 1)


def count_keys(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct keys in ascending order and how often each occurs, both int64.

    Counting into a dense range is some ten times cheaper than sorting wherever the keys are dense enough.
    """
    if len(keys) == 0:
        return keys, np.zeros(0, np.int64)
    low, high = int(keys.min()), int(keys.max())
    if high - low < 8 * len(keys) + 65_536:
        counts = np.bincount(keys - low, minlength=1)
        found = np.flatnonzero(counts)
        return found + low, counts[found]
    found, counts = np.unique(keys, return_counts=True)
    return found, counts.astype(np.int64)


def merge_counts(
    keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum counts of equal keys: distinct keys ascending, and their sums; entries that sum to zero are left out."""
    if len(keys) == 0:
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    sums = np.add.reduceat(counts, starts)
    kept = sums != 0
    return keys[starts][kept], sums[kept]


def percentiles(
    rows: int, keys: NDArray[np.int64], counts: NDArray[np.int64], rank: int
) -> NDArray[np.int64]:
    """Nearest-rank percentile of each row, int64[rows]: the highest stored integer of its bucket, 0 where empty.

    `keys` are `row * BUCKETS + bucket`, ascending and distinct; `counts` their positive counts.
    """
    result = np.zeros(rows, np.int64)
    if len(keys) == 0:
        return result
    row = keys // BUCKETS
    running = np.cumsum(counts)
    present, first = np.unique(row, return_index=True)
    before = np.where(first > 0, running[first - 1], 0)
    last = np.concatenate((first[1:], [len(keys)])) - 1
    target = before + nearest_rank(running[last] - before, rank)
    at = np.searchsorted(running, target, side="left")
    result[present] = UPPER[keys[at] % BUCKETS]
    return result

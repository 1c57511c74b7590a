"""Distinct counts: HyperLogLog with 4,096 registers, as sparse (register, rank) keys that merge by union.

Flajolet, Fusy, Gandouet, Meunier: "HyperLogLog" (2007), with the estimator of Ertl: "New cardinality estimation
algorithms for HyperLogLog sketches" (2017, arXiv:1702.01284, algorithm 6), which needs no switch to linear counting and
so has not the bias of the original near 2.5 m (+2.5 % for 10,000 values). The standard error is 1.04 / sqrt(4096) =
1.6 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

REGISTER_BITS: Final = 12
REGISTERS: Final = 1 << REGISTER_BITS
RANKS: Final = 64
KEYS: Final = REGISTERS * RANKS
"""Keys of one sketch lie in [0, KEYS): `register * RANKS + rank`."""
STANDARD_ERROR: Final = 1.04 / REGISTERS**0.5
_HIGHEST_RANK: Final = 64 - REGISTER_BITS + 1
_ALPHA: Final = 1 / (2 * np.log(2))


def sketch_keys(values: Iterable[str]) -> NDArray[np.int64]:
    """The key of each string, int64. The same string gives the same key in every process."""
    return np.array([_key(value) for value in values], dtype=np.int64)


def highest_ranks(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each register (of each row) the highest rank only, ascending: all that an estimate or a union needs."""
    keys = np.unique(keys)
    last = np.ones(len(keys), bool)
    last[:-1] = keys[1:] // RANKS != keys[:-1] // RANKS
    return keys[last]


def estimates(rows: int, keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated distinct values of each row, float64[rows], from keys `row * KEYS + sketch key` in any order."""
    result = np.zeros(rows)
    if len(keys) == 0:
        return result
    keys = highest_ranks(keys)
    present, row = np.unique(keys // KEYS, return_inverse=True)
    size = len(present) * RANKS
    registers_of_rank = np.bincount(row * RANKS + keys % RANKS, minlength=size).reshape(-1, RANKS)
    empty = REGISTERS - registers_of_rank.sum(axis=1)
    total = REGISTERS * _tau(1 - registers_of_rank[:, _HIGHEST_RANK] / REGISTERS)
    for rank in range(_HIGHEST_RANK - 1, 0, -1):
        total = (total + registers_of_rank[:, rank]) / 2
    # 0 with every register at its end, which no set of values reaches.
    total = np.maximum(total + REGISTERS * _sigma(empty / REGISTERS), 2.0**-64)
    result[present] = _ALPHA * REGISTERS**2 / total
    return result


def _sigma(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sigma of Ertl, equation 13: x + the sum of x^(2^k) 2^(k-1) for k from 1; for x < 1."""
    total, factor = x, 1.0
    while True:
        x = x * x
        before, total = total, total + x * factor
        factor *= 2
        if (total == before).all():
            return total


def _tau(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tau of Ertl, equation 24: a third of 1 - x - the sum of (1 - x^(2^-k))^2 2^-k for k from 1."""
    total, factor = 1 - x, 1.0
    while True:
        x = np.sqrt(x)
        factor /= 2
        before, total = total, total - (1 - x) ** 2 * factor
        if (total == before).all():
            return total / 3


def _key(value: str) -> int:
    number = int.from_bytes(
        hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
    register = number >> (64 - REGISTER_BITS)
    rest = number & ((1 << (64 - REGISTER_BITS)) - 1)
    rank = (64 - REGISTER_BITS) - rest.bit_length() + 1
    return register * RANKS + rank

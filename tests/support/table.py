"""Totals of a window written down by hand, for tests of what rules read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rules.labels import Series
from rules.transition import Exemplar
from rules.view import Field

BUCKET = 10
"""Width of this table's histogram buckets, in stored integers: another layout than the engine's, on purpose."""


class Table:
    """One row per series. `numbers` has one number per row for each field, `values` the calls' values of each row."""

    def __init__(
        self,
        series: Sequence[Series],
        numbers: Mapping[Field, Sequence[float]] | None = None,
        values: Mapping[Field, Sequence[Sequence[int]]] | None = None,
        shown: Mapping[Series, Sequence[Exemplar]] | None = None,
    ) -> None:
        self.series = list(series)
        self.numbers = numbers or {}
        self.values = values or {}
        self.shown = shown or {}

    def total(self, field: Field):
        return np.array(self.numbers[field], np.int64)

    def percentile(self, field: Field, rank: int):
        return np.array([self._nearest_rank(sorted(calls), rank) for calls in self.values[field]], np.int64)

    def distinct(self, field: Field):
        return np.array(self.numbers[field], np.float64)

    def highest_equivalent(self, value: float) -> int:
        return int(value) // BUCKET * BUCKET + BUCKET - 1

    def exemplars(self, row: int, field: Field, limit: int) -> tuple[Exemplar, ...]:  # noqa: ARG002 - one list per series
        return tuple(self.shown.get(self.series[row], ()))[:limit]

    def _nearest_rank(self, ordered: Sequence[int], rank: int) -> int:
        at = max(1, -(-len(ordered) * rank // 100))
        return self.highest_equivalent(ordered[at - 1]) if ordered else 0

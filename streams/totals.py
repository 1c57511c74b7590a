"""Totals of one content that does not move: what `measure` and the overview read measures from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.transition import Exemplar
from rules.view import Field, FieldKind
from streams import distinct, histogram
from streams.content import Content, Rows
from streams.times import UNKNOWN

Ints = NDArray[np.int64]


class ContentTotals:
    """A `rules.reading.Totals` over one content: a row for every series known."""

    def __init__(self, rows: Rows, content: Content) -> None:
        self._rows = rows
        self._content = content

    @property
    def series(self) -> list[Series]:
        """The series of each row."""
        return self._rows.series

    def total(self, field: Field) -> Ints:
        """int64[rows]: a count, sum or peak; 0 where there is nothing."""
        column = np.zeros(len(self.series), np.int64)
        values = self._content.columns[field]
        column[self._content.rows] = np.where(values == UNKNOWN, 0, values) if _is_peak(field) else values
        return column

    def percentile(self, field: Field, rank: int) -> Ints:
        """int64[rows]: nearest rank, highest equivalent stored integer; 0 where empty."""
        keys, counts = self._content.sparse[field]
        return histogram.percentiles(len(self.series), keys, counts, rank)

    def distinct(self, field: Field) -> NDArray[np.float64]:
        """float64[rows]: estimated distinct values."""
        return distinct.estimates(len(self.series), self._content.sparse[field][0])

    def highest_equivalent(self, value: float) -> int:
        """The largest stored integer that the histogram layout cannot tell from `value`."""
        return histogram.highest_equivalent(value)

    def exemplars(self, row: int, field: Field, limit: int) -> tuple[Exemplar, ...]:
        """Up to `limit` calls of one row, the largest value first."""
        return self._content.exemplars.get((row, field), ())[:limit]


def _is_peak(field: Field) -> bool:
    return field.kind is FieldKind.PEAK

"""Reading measures off a window's totals: one value per series, with its sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.measures import Formula, Measure
from rules.quantities import MINUTE, SECOND
from rules.transition import Exemplar
from rules.view import ENGINE_SOURCE, Field

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Totals(Protocol):
    """What a window of a view holds at a tick: one row per series, in a fixed order."""

    @property
    def series(self) -> list[Series]:
        """The series of each row; rows that hold no series are empty tuples where the view has dimensions."""

    def total(self, field: Field) -> Ints:
        """int64[rows]: a count, sum or peak, in stored integers."""

    def percentile(self, field: Field, rank: int) -> Ints:
        """int64[rows]: the nearest-rank percentile's highest equivalent stored integer; 0 where empty."""

    def distinct(self, field: Field) -> Floats:
        """float64[rows]: the estimated number of distinct values."""

    def highest_equivalent(self, value: float) -> int:
        """The largest stored integer that the histogram layout cannot tell from `value`."""

    def exemplars(self, row: int, field: Field, limit: int) -> tuple[Exemplar, ...]:
        """Up to `limit` exemplars of one row, the largest value first."""


_ZERO_OF_NOTHING: Final = (Formula.TOTAL, Formula.PER_SECOND, Formula.PER_MINUTE, Formula.DISTINCT)


@dataclass(frozen=True, slots=True)
class Readings:
    """A measure over all rows.

    `value`: int64 or float64[rows] in the base unit. `sample`: int64[rows], the calls it was computed from. `defined`:
    bool[rows]. `compared`: what thresholds are compared with, in the scale that `comparable` puts a threshold into.
    """

    value: Ints | Floats
    sample: Ints
    defined: Bools
    compared: Ints | Floats


def read(measure: Measure, totals: Totals, span_ms: int) -> Readings:
    """The measure's value of every row over a window of `span_ms`.

    A ratio, mean, percentile or maximum without a sample is undefined; a count or sum of nothing is 0. So are the
    engine's own measures, which have no sample of calls: where nothing lags, the lag is 0.
    """
    if measure.source == ENGINE_SOURCE:
        own = totals.total(measure.numerator)
        counted = own if measure.formula is Formula.TOTAL else np.zeros_like(own)
        return Readings(own, counted, np.ones(len(own), dtype=bool), own)
    sample = totals.total(measure.sample)
    defined = np.ones(len(sample), dtype=bool)
    match measure.formula:
        case Formula.PERCENTILE:
            stored = totals.percentile(measure.numerator, measure.percentile)
            return Readings(stored / measure.scale, sample, sample > 0, stored)
        case Formula.RATIO | Formula.MEAN:
            whole = totals.total(measure.denominator or measure.numerator)
            defined = whole > 0
            part = totals.total(measure.numerator)
            value = np.divide(part, whole * measure.scale, out=np.zeros(len(part)), where=defined)
        case Formula.PEAK:
            defined = sample > 0
            value = totals.total(measure.numerator) / measure.scale
        case Formula.DISTINCT:
            value = totals.distinct(measure.numerator)
        case Formula.TOTAL:
            whole_numbers = totals.total(measure.numerator)
            return Readings(whole_numbers, sample, defined, whole_numbers)
        case Formula.PER_SECOND:
            value = totals.total(measure.numerator) * SECOND / span_ms
        case _:  # per minute
            value = totals.total(measure.numerator) * MINUTE / span_ms
    return Readings(value, sample, defined, value)


def is_zero_of_nothing(measure: Measure) -> bool:
    """Whether the measure of no calls at all is 0 rather than undefined."""
    return measure.source == ENGINE_SOURCE or measure.formula in _ZERO_OF_NOTHING


def comparable(measure: Measure, totals: Totals, threshold: float) -> float:
    """A threshold in the scale of `Readings.compared`.

    A percentile's threshold becomes the highest value of its bucket: P95 > threshold exactly when the bucket of P95 is
    above the bucket of the threshold, so that the histogram's rounding never fires an alert.
    """
    if measure.formula is Formula.PERCENTILE:
        # Rounded before it is cut to a whole number: 0.001004 x 1,000,000 is 1003.9999999999999.
        return totals.highest_equivalent(round(threshold * measure.scale, 6))
    return threshold

"""Filtering: the rows of a batch that pass the matchers of `where`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rules.labels import Matcher
from streams.call import Batch

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def filtered(batch: Batch, where: Iterable[Matcher]) -> Ints | None:
    """Rows of the calls that pass every matcher, or None when all do."""
    passes: Bools | None = None
    for matcher in where:
        table = batch.passing(matcher)
        column = table[batch.codes(matcher.dimension)]
        passes = column if passes is None else passes & column
    return None if passes is None or passes.all() else np.flatnonzero(passes)

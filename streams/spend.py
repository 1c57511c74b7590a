"""Pricing of batches: from a batch's columns to the price book and back."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.labels import NONE
from streams.call import Batch
from streams.pricing import CallColumns, Pricer
from streams.times import UNKNOWN

_UNPRICED: Final = -1


class BatchPricer:
    """Prices calls with a price book; its cache of unit prices is the only state."""

    def __init__(self, pricer: Pricer) -> None:
        self._pricer = pricer

    def __call__(self, batch: Batch) -> NDArray[np.int64]:
        """Nano-dollars of each call, int64[n], UNKNOWN where unpriced."""
        providers = batch.dictionary("provider").values_by_code
        costs = batch.attributes("cost_usd")
        reported = costs.count(None) != len(costs)
        columns = CallColumns(
            provider=batch.codes("provider"),
            providers=[None if name == NONE else name for name in providers],
            model=batch.codes("model"),
            models=batch.dictionary("model").values_by_code,
            at_ms=batch.at_ms,
            input=_tokens(batch, "tokens.input"),
            cached_input=_tokens(batch, "tokens.cached_input"),
            cache_write=_tokens(batch, "tokens.cache_write"),
            output=_tokens(batch, "tokens.output"),
            cost_usd=np.array(costs, np.float64) if reported else np.full(len(batch), np.nan),
        )
        spend = self._pricer.spend(columns).nanodollars
        return np.where(spend == _UNPRICED, UNKNOWN, spend)


def _tokens(batch: Batch, name: str) -> NDArray[np.int64]:
    return np.maximum(batch.column(name), -1)

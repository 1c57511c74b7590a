"""Prices by the rules log: a call is priced by the version in force at its pane, whoever prices it and whenever."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streams.call import Batch, Pricing
from streams.frontier import pane_start
from streams.pricing import Pricer
from streams.rule_log import RuleLog
from streams.spend import BatchPricer


def pricing_by(log: RuleLog, own: Callable[[], Pricing]) -> Pricing:
    """A fresh pricing by a log; `own` makes the one for epochs that name no prices."""
    made: dict[str | None, Pricing] = {}
    by_epoch = []
    for epoch in log.epochs:
        version = None if epoch.prices is None else epoch.prices.version
        if version not in made:
            made[version] = own() if epoch.prices is None else BatchPricer(Pricer(epoch.prices))
        by_epoch.append(made[version])
    return by_epoch[0] if len(made) == 1 else _ByEpoch(log, by_epoch)


class _ByEpoch:
    """Prices each call of a batch with the pricing of its epoch."""

    def __init__(self, log: RuleLog, by_epoch: Sequence[Pricing]) -> None:
        self._log = log
        self._by_epoch = by_epoch

    def __call__(self, batch: Batch) -> NDArray[np.int64]:
        position = self._log.index(pane_start(batch.at_ms))
        distinct: list[int] = np.unique(position).tolist()
        if len(distinct) == 1:
            return self._by_epoch[distinct[0]](batch)
        spend = np.empty(len(batch), np.int64)
        for number in distinct:
            rows = np.flatnonzero(position == number)
            spend[rows] = self._by_epoch[number](batch.take(rows))
        return spend

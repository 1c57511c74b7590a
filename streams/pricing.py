"""What batches of calls cost, in integer nano-dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.price_book import DAY_MS, PICO, PriceBook, PriceEntry, Rates, UnitPrice, Unpriced

__all__ = [
    "CallColumns",
    "Outcome",
    "PriceBook",
    "PriceEntry",
    "Pricer",
    "Rates",
    "Spend",
    "UnitPrice",
    "Unpriced",
    "inclusive_input",
]

Ints = NDArray[np.int64]

_LARGEST: Final = 2**62  # of a sum in pico-dollars: half of int64, so that a sum never overflows
_LARGEST_NANO: Final = 2**63 - 1
_LARGEST_DOLLARS: Final = 9e9  # a reported cost above it does not fit into int64 nano-dollars
_DIRECT_KEYS: Final = 65_536  # (day, provider, model) keys that are counted in a table; more are sorted
_NEVER: Final = 2**63 - 1
_PICO_PER_NANO: Final = 1000

_Row = tuple[int, int, int, int, int]
_NOTHING: Final[_Row] = (0, 0, 0, 0, 0)


class Outcome(IntEnum):
    """How a call got its cost, or why it has none."""

    UNKNOWN_PRICE = 0  # unpriced: no price for this provider and model
    UNKNOWN_USAGE = 1  # unpriced: input or output tokens are unknown
    TOO_LARGE = 2  # unpriced: the cost does not fit into 64 bits, so the token counts are not believed
    FROM_TOKENS = 3
    FROM_TOKENS_SUSPECT_ZERO = 4  # a cost of 0 was reported for tokens that have a price
    REPORTED = 5
    REPORTED_ZERO = 6  # 0 was reported, and the model is free
    REPORTED_ZERO_UNCHECKED = 7  # 0 was reported, and no price is known to check it against


@dataclass(frozen=True, slots=True)
class CallColumns:
    """What pricing needs of a batch of n calls.

    `provider` and `model`: integer[n] codes from 0, indexes into `providers` (None: absent) and `models`.
    `at_ms`: int64[n], UTC. Token counts: int64[n], -1 for unknown. `cost_usd`: float64[n], the reported cost,
    NaN where absent; one that is negative or above 9e9 counts as absent.
    """

    provider: NDArray[np.integer]
    providers: Sequence[str | None]
    model: NDArray[np.integer]
    models: Sequence[str]
    at_ms: Ints
    input: Ints
    cached_input: Ints
    cache_write: Ints
    output: Ints
    cost_usd: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spend:
    """`nanodollars`: int64[n], -1 where unpriced. `outcome`: uint8[n] of `Outcome`."""

    nanodollars: Ints
    outcome: NDArray[np.uint8]

    def count(self, outcome: Outcome) -> int:
        """The number of calls with this outcome."""
        return int(np.count_nonzero(self.outcome == outcome))


def inclusive_input(input_tokens: Ints, cached_input: Ints, cache_write: Ints) -> Ints:
    """Input tokens with the cached ones in them: int64[n], -1 where unknown. Cached counts of -1 are 0.

    By the OpenTelemetry conventions input includes what was read from and written to a cache. Where these two
    exceed it, the source counts exclusively, and they are added.
    """
    special = np.maximum(cached_input, 0) + np.maximum(cache_write, 0)
    return np.where((special > input_tokens) & (input_tokens >= 0), input_tokens + special, input_tokens)


@dataclass(frozen=True, slots=True)
class _Day:
    """The rows of one provider, model and day: `rows[k]` from millisecond `starts[k]` of the day."""

    starts: tuple[int, ...]
    rows: tuple[int, ...]


class _Table:
    """Unit prices as columns; the bands of a price are consecutive rows, lowest first."""

    def __init__(self) -> None:
        self.days: dict[tuple[str | None, str, int], _Day] = {}
        self._prices: list[UnitPrice | Unpriced] = []  # by row
        self._rates: list[_Row] = []
        self._flags: list[tuple[bool, bool, bool, bool]] = []
        self._limits: list[int] = []
        self._starts: list[tuple[int, ...]] = []
        self.freeze()

    def add(self, price: UnitPrice | Unpriced) -> int:
        """Append a price and return its first row."""
        first = len(self._prices)
        if isinstance(price, Unpriced):
            self._append(price, _NOTHING, (False, False, True, False), _LARGEST)
            return first
        for rates in price.bands:
            row = (rates.input, rates.cached_input, rates.cache_write, rates.output, price.per_request)
            # A price finer than a pico-dollar, or too large for int64 at any usage, goes call by call.
            exact = price.scale != PICO or sum(row) > _LARGEST
            flags = (True, price.is_free, price.needs_output, exact)
            if exact:
                self._append(price, _NOTHING, flags, _LARGEST)
            else:
                self._append(price, row, flags, (_LARGEST - price.per_request) // max(1, sum(row[:4])))
        return first

    def _append(
        self, price: UnitPrice | Unpriced, row: _Row, flags: tuple[bool, bool, bool, bool], limit: int
    ) -> None:
        self._prices.append(price)
        self._rates.append(row)
        self._flags.append(flags)
        self._limits.append(limit)
        self._starts.append(price.starts if isinstance(price, UnitPrice) else ())

    def freeze(self) -> None:
        """Make the columns of the rows added so far."""
        self.rates: Ints = np.array(self._rates, np.int64).reshape(-1, 5).T.copy()
        flags = np.array(self._flags, bool).reshape(-1, 4).T.copy()
        self.priced, self.free, self.needs_output, self.exact = flags
        self.any_exact = bool(self.exact.any())
        # Token counts up to this overflow neither their sum nor the cost at any price of the table.
        self.token_limit = min([_LARGEST // 4, *self._limits])
        depth = max(map(len, self._starts), default=0)
        padded = [(*starts, *(_NEVER,) * (depth - len(starts))) for starts in self._starts]
        self.tier_starts: Ints = np.array(padded, np.int64).reshape(len(padded), depth).T.copy()

    def price(self, row: int) -> UnitPrice | Unpriced:
        """The price that a row is a band of."""
        return self._prices[row]


class Pricer:
    """Prices batches, looking up each (provider, model, UTC day) once.

    Running state: the unit prices looked up so far, at most `cached_days` between batches. Above that they
    are dropped together, which costs a look-up each (0.1 to 2 ms) and changes no result.
    """

    def __init__(self, book: PriceBook, cached_days: int = 4096) -> None:
        self.book: Final = book
        self._cached_days: Final = cached_days
        self._table = _Table()

    @property
    def cached(self) -> int:
        """The number of (provider, model, UTC day) look-ups that are kept."""
        return len(self._table.days)

    def spend(self, calls: CallColumns) -> Spend:
        """The cost of each call.

        A positive reported cost wins. A reported 0 is a cost when the model is free or has no known price.
        Otherwise the tokens are priced: input includes cached input and cache writes, or these are added to
        it where they exceed it; input or output unknown leaves the call unpriced. Sums are exact; the result
        is rounded half to even.
        """
        if len(calls.at_ms) == 0:
            return Spend(np.empty(0, np.int64), np.empty(0, np.uint8))
        row = self._rows(calls)
        table = self._table

        cached, written = np.maximum(calls.cached_input, 0), np.maximum(calls.cache_write, 0)
        special = cached + written
        fresh = np.where(special > calls.input, calls.input, calls.input - special)
        total = fresh + special
        band = row
        for starts in table.tier_starts:
            band = band + (total > starts[row])

        rates = table.rates
        output = np.maximum(calls.output, 0)
        pico = fresh * rates[0][band]
        pico += cached * rates[1][band]
        pico += written * rates[2][band]
        pico += output * rates[3][band]
        pico += rates[4][band]
        nano = _to_nano(pico)

        priced = table.priced[row]
        known = (calls.input >= 0) & ((calls.output >= 0) | ~table.needs_output[row])
        nano[~(priced & known)] = -1
        outcome = _FROM_TOKENS[priced.astype(np.intp) * 2 + known]
        self._price_exactly(calls, row, priced & known, nano, outcome)

        stated = calls.cost_usd >= 0
        if stated.any():
            used = known & ((total > 0) | (output > 0))
            _apply_reported(calls.cost_usd, stated, priced, table.free[row], used, nano, outcome)
        return Spend(nano, outcome)

    def _price_exactly(
        self,
        calls: CallColumns,
        row: NDArray[np.intp],
        wanted: NDArray[np.bool_],
        nano: Ints,
        outcome: NDArray[np.uint8],
    ) -> None:
        """Price in Python integers what int64 pico-dollars cannot: finer prices, absurd token counts."""
        table = self._table
        counts = (calls.input, calls.cached_input, calls.cache_write, calls.output)
        beyond = max(int(column.max()) for column in counts) > table.token_limit
        if not (beyond or table.any_exact):
            return
        chosen = table.exact[row]
        if beyond:
            for column in counts:
                chosen |= column > table.token_limit
        places = np.flatnonzero(chosen & wanted)
        usages = zip(*(column[places].tolist() for column in counts), strict=True)
        for index, first, usage in zip(places.tolist(), row[places].tolist(), usages, strict=True):
            price = table.price(first)
            if isinstance(price, Unpriced):
                continue
            cost = price.cost(*usage)
            if cost is not None and cost <= _LARGEST_NANO:
                nano[index] = cost
            else:
                nano[index], outcome[index] = -1, Outcome.TOO_LARGE

    def _rows(self, calls: CallColumns) -> NDArray[np.intp]:
        """intp[n]: the first row of the price in force for each call; rows that are missing are looked up."""
        if len(self._table.days) > self._cached_days:
            self._table = _Table()
        models = len(calls.models)
        pairs = len(calls.providers) * models
        low, high = int(calls.at_ms.min()) // DAY_MS, int(calls.at_ms.max()) // DAY_MS
        key = calls.provider.astype(np.int64) * models + calls.model
        days: list[int] | range = range(low, high + 1)
        if len(days) > 1:
            day = calls.at_ms // DAY_MS
            if len(days) * pairs > _DIRECT_KEYS:
                distinct_days, day_index = np.unique(day, return_inverse=True)
                days = distinct_days.tolist()
                key += day_index * pairs
            else:
                key += (day - low) * pairs
        size = len(days) * pairs
        if size <= _DIRECT_KEYS:
            distinct = np.flatnonzero(np.bincount(key, minlength=size))
            found = self._find(calls, distinct.tolist(), days)
            by_key = np.empty(size, np.intp)
            by_key[distinct] = [day.rows[0] for day in found]
            row = by_key[key]
        else:
            distinct, inverse = np.unique(key, return_inverse=True)
            found = self._find(calls, distinct.tolist(), days)
            row = np.array([day.rows[0] for day in found], np.intp)[inverse]
        for one, day_rows in zip(distinct.tolist(), found, strict=True):
            if len(day_rows.rows) > 1:
                here = np.flatnonzero(key == one)
                segment = np.searchsorted(day_rows.starts, calls.at_ms[here] % DAY_MS, side="right") - 1
                row[here] = np.array(day_rows.rows, np.intp)[segment]
        return row

    def _find(self, calls: CallColumns, keys: list[int], days: list[int] | range) -> list[_Day]:
        table, models = self._table, len(calls.models)
        pairs = len(calls.providers) * models
        found, grown = [], False
        for key in keys:
            day_index, pair = divmod(key, pairs)
            provider, model = divmod(pair, models)
            name = (calls.providers[provider], calls.models[model], days[day_index])
            day = table.days.get(name)
            if day is None:
                prices = self.book.day_prices(*name)
                rows = tuple(table.add(price) for _, price in prices)
                day = _Day(tuple(start for start, _ in prices), rows)
                table.days[name] = day
                grown = True
            found.append(day)
        if grown:
            table.freeze()
        return found


_FROM_TOKENS: Final = np.array(
    [Outcome.UNKNOWN_PRICE, Outcome.UNKNOWN_PRICE, Outcome.UNKNOWN_USAGE, Outcome.FROM_TOKENS], np.uint8
)


def _to_nano(pico: Ints) -> Ints:
    """int64[n] nano-dollars, rounded half to even."""
    nano = pico // _PICO_PER_NANO
    twice = 2 * (pico - nano * _PICO_PER_NANO)
    nano += (twice > _PICO_PER_NANO) | ((twice == _PICO_PER_NANO) & (nano % 2 == 1))
    return nano


def _apply_reported(
    cost_usd: NDArray[np.float64],
    stated: NDArray[np.bool_],
    priced: NDArray[np.bool_],
    free: NDArray[np.bool_],
    used: NDArray[np.bool_],
    nano: Ints,
    outcome: NDArray[np.uint8],
) -> None:
    """Write the reported costs that win over `nano` and `outcome`, and mark the zeros that do not."""
    reported = stated & (cost_usd > 0) & (cost_usd <= _LARGEST_DOLLARS)
    nano[reported] = np.rint(cost_usd[reported] * 1e9).astype(np.int64)
    outcome[reported] = Outcome.REPORTED
    zero = stated & (cost_usd == 0)
    if zero.any():
        believed = zero & (free | ~priced)
        nano[believed] = 0
        outcome[believed] = np.where(priced[believed], Outcome.REPORTED_ZERO, Outcome.REPORTED_ZERO_UNCHECKED)
        outcome[zero & ~believed & used & (nano >= 0)] = Outcome.FROM_TOKENS_SUSPECT_ZERO

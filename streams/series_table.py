"""Series of one view on one source: from columns of codes to series numbers, vectorised."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.view import View
from streams.call import Batch, Codes
from streams.dictionary import Dictionary

Ints = NDArray[np.int64]

_NO_CODES: Final = np.zeros(0, np.int64)
_DENSE: Final = 1 << 21
"""Entries of the direct look-up table; combinations beyond it are looked up by distinct value."""
_COMBINED: Final = 1 << 62
"""Combinations that one integer can number."""


class SeriesTable:
    """Numbers series in order of first sight. Codes can be forgotten; the numbers stay."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.series: list[Series] = []
        self._number: dict[Series, int] = {}
        self._shape: tuple[int, ...] = ()
        self._dense: NDArray[np.int32] | None = None
        self._sparse: dict[int, int] = {}
        self._single: Ints = _NO_CODES

    def __len__(self) -> int:
        return len(self.series)

    def numbers(self, batch: Batch, rows: Ints | None) -> Ints:
        """int64[n]: the series number of each call (of the given rows, or of all)."""
        count = len(batch) if rows is None else len(rows)
        if not self.view.by:
            return np.full(count, self.number(()), np.int64)
        if len(self.view.by) == 1:
            return self._by_code(batch.codes(self.view.by[0]), rows, batch.dictionary(self.view.by[0]))
        dictionaries = [batch.dictionary(name) for name in self.view.by]
        codes = [batch.codes(name) if rows is None else batch.codes(name)[rows] for name in self.view.by]
        shape = tuple(max(4, 1 << (len(known.values_by_code) - 1).bit_length()) for known in dictionaries)
        if shape != self._shape:
            self.forget_codes()
            self._shape = shape
            size = int(np.prod([float(side) for side in shape]))
            self._dense = np.full(size, -1, np.int32) if size <= _DENSE else None
        if float(np.prod([float(side) for side in shape])) > _COMBINED:
            return self._by_value(codes, dictionaries)
        combined = codes[0].astype(np.int64)
        for side, column in zip(shape[1:], codes[1:], strict=True):
            combined = combined * side + column
        if self._dense is None:
            return self._by_distinct(combined, dictionaries)
        found = self._dense[combined]
        new = found < 0
        if new.any():
            for value in _in_order_of_arrival(combined[new]):
                self._dense[value] = self._resolve(value, dictionaries)
            found = self._dense[combined]
        return found.astype(np.int64)

    def number(self, series: Series) -> int:
        """The number of a series, given to it now if it is new."""
        found = self._number.get(series)
        if found is None:
            found = self._number[series] = len(self.series)
            self.series.append(series)
        return found

    def forget_codes(self) -> None:
        """Drop everything that refers to dictionaries, because those were rebuilt or have outgrown the table."""
        self._shape, self._dense, self._sparse = (), None, {}
        self._single = _NO_CODES

    def keep_only(self, numbers: Ints) -> NDArray[np.int64]:
        """Forget all series but these; returns the new number by old number, int64, -1 where forgotten."""
        renumbered = np.full(len(self.series), -1, np.int64)
        renumbered[numbers] = np.arange(len(numbers))
        kept = [self.series[number] for number in numbers.tolist()]
        self.series, self._number = kept, {series: number for number, series in enumerate(kept)}
        self.forget_codes()
        return renumbered

    def _by_code(self, codes: Codes, rows: Ints | None, dictionary: Dictionary) -> Ints:
        """One dimension: its codes are the combinations, and the look-up table grows with the dictionary."""
        if rows is not None:
            codes = codes[rows]
        have, known = len(self._single), len(dictionary.values_by_code)
        if have < known:
            wider = np.full(max(64, 2 * known), -1, np.int64)
            wider[:have] = self._single
            self._single = wider
        found = self._single[codes]
        new = found < 0
        if new.any():
            for code in dict.fromkeys(codes[new].tolist()):
                self._single[code] = self.number((dictionary.values_by_code[code],))
            found = self._single[codes]
        return found

    def _by_distinct(self, combined: Ints, dictionaries: list[Dictionary]) -> Ints:
        distinct, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
        numbers = np.empty(len(distinct), np.int64)
        for position in np.argsort(first).tolist():
            value = int(distinct[position])
            known = self._sparse.get(value)
            if known is None:
                known = self._sparse[value] = self._resolve(value, dictionaries)
            numbers[position] = known
        return numbers[inverse]

    def _by_value(self, codes: list[Codes], dictionaries: list[Dictionary]) -> Ints:
        """Where the product of all dictionaries' sizes does not fit an integer: combine the values of this batch."""
        combined = codes[0].astype(np.int64)
        for column in codes[1:]:
            _, combined = np.unique(combined, return_inverse=True)
            combined = combined * (int(column.max(initial=0)) + 1) + column
        _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
        numbers = np.empty(len(first), np.int64)
        for position in np.argsort(first).tolist():
            row = int(first[position])
            series = tuple(
                known.values_by_code[int(column[row])]
                for known, column in zip(dictionaries, codes, strict=True)
            )
            numbers[position] = self.number(series)
        return numbers[inverse]

    def _resolve(self, combined: int, dictionaries: list[Dictionary]) -> int:
        values: list[str] = []
        for side, known in zip(reversed(self._shape), reversed(dictionaries), strict=True):
            combined, code = divmod(combined, side)
            values.append(known.values_by_code[code])
        return self.number(tuple(reversed(values)))


def _in_order_of_arrival(values: Ints) -> list[int]:
    return list(dict.fromkeys(values.tolist()))

"""Open panes of one view on one source: cells (pane x series) that calls are accumulated into, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.labels import OTHER
from rules.rule import PANE_MS
from rules.transition import Exemplar
from rules.view import Field, FieldKind, View
from streams.block import Block, Candidate, Sparse
from streams.call import Batch
from streams.content import key_width
from streams.distinct import highest_ranks
from streams.event import ShownCall
from streams.filter import filtered
from streams.histogram import BUCKETS, count_keys, merge_counts
from streams.series_table import SeriesTable
from streams.times import UNKNOWN

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SERIES_PER_PANE: Final = 10_000
"""Series beyond this number in one pane, by order of arrival, are gathered under `<other>`."""
EXEMPLARS_PER_PANE: Final = 16
"""The first series of a pane, by order of arrival, whose exemplars are kept: a bound on what travels."""


@dataclass(slots=True)
class _Slot:
    """One open pane: its start, the number of its series, and its cell for series beyond the cap."""

    start_ms: int
    series: int = 0
    other: int = -1


@dataclass(slots=True)
class _Columns:
    """Arrays indexed by cell."""

    start_ms: Ints
    number: Ints
    touched: Bools
    fields: dict[Field, Ints] = field(default_factory=dict)


class ViewPanes:
    """The open panes of one view on one source."""

    def __init__(self, view: View, *, pane_ms: int = PANE_MS, series_per_pane: int = SERIES_PER_PANE) -> None:
        self.view = view
        self.pane_ms = pane_ms
        self.series_per_pane = series_per_pane
        self.table = SeriesTable(view)
        self.other_calls = 0
        self.out_of_range = 0
        self._slots: dict[int, int] = {}
        self._panes: list[_Slot | None] = []
        self._free_slots: list[int] = []
        self._cell_of = np.full((0, 0), -1, np.int64)  # [slot, series number] -> cell
        self._free: list[int] = []
        self._size = 0
        self._cells = _Columns(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool))
        self._plain = [f for f in view.fields if f.kind in (FieldKind.COUNT, FieldKind.SUM, FieldKind.PEAK)]
        self._sparse = [f for f in view.fields if f.kind in (FieldKind.HISTOGRAM, FieldKind.DISTINCT)]
        self._shown = [f for f in view.fields if f.kind is FieldKind.EXEMPLAR]
        self._counted: dict[Field, tuple[Ints, Ints]] = dict.fromkeys(self._sparse, (_NONE, _NONE))
        self._pending: dict[Field, list[Ints]] = {f: [] for f in self._sparse}
        self._pending_calls = 0
        self._candidates: dict[Field, dict[int, Candidate]] = {f: {} for f in self._shown}
        self._eligible = np.zeros(0, bool)
        for each in self._plain + self._shown:
            self._cells.fields[each] = np.zeros(0, np.int64)

    @property
    def open_starts(self) -> list[int]:
        """Starts of the open panes, ascending."""
        return sorted(self._slots)

    def add(self, batch: Batch, starts: Ints, pane: Ints) -> None:
        """Count calls in. `starts`: the distinct pane starts of the batch; `pane`: int64[n], index into them."""
        rows = filtered(batch, self.view.where)
        if rows is not None and len(rows) == 0:
            return
        numbers = self.table.numbers(batch, rows)
        if len(self.table) > self._cell_of.shape[1]:
            self._widen(0, max(16, 2 * len(self.table)))
        slots = np.array([self._slot(start) for start in starts.tolist()], np.int64)
        cells = self._cells_for(slots, pane if rows is None else pane[rows], numbers)
        self._cells.touched[cells] = True
        at = np.full(len(batch), -1, np.int64)
        at[slice(None) if rows is None else rows] = cells
        whole = rows is None
        for each in self._plain:
            self._accumulate(each, batch, at, whole=whole)
        for each in self._sparse:
            self._record(each, batch, at, whole=whole)
        for each in self._shown:
            self._show(each, batch, at, whole=whole)

    def touched(self, source: str, described: dict[int, ShownCall], until_ms: int | None = None) -> Block:
        """The whole content of every cell changed since the last call, in order of pane start and of arrival.

        Panes that end after `until_ms` are kept for a later call. `described` is shared by the views of a source, which
        often show the same calls.
        """
        cells = np.flatnonzero(self._cells.touched[: self._size])
        if until_ms is not None:
            cells = cells[self._cells.start_ms[cells] + self.pane_ms <= until_ms]
        self._cells.touched[cells] = False
        return self._block(cells, source, described)

    def seal(self, before_ms: int) -> None:
        """Drop the panes that end at or before a time."""
        gone = [start for start in self._slots if start + self.pane_ms <= before_ms]
        if not gone:
            return
        held = self._cells.number[: self._size]
        dead = (held >= 0) & (self._cells.start_ms[: self._size] <= before_ms - self.pane_ms)
        freed = np.flatnonzero(dead)
        for start in gone:
            slot = self._slots.pop(start)
            pane, self._panes[slot] = self._panes[slot], None
            self._free_slots.append(slot)
            if pane is None or pane.other >= 0:
                self._cell_of[slot] = -1  # series beyond the cap share a cell
            else:
                self._cell_of[slot, held[freed[self._cells.start_ms[freed] == start]]] = -1
        self._cells.number[freed] = -1
        self._cells.touched[freed] = False
        self._eligible[freed] = False
        for each, array in self._cells.fields.items():
            array[freed] = _initial(each)
        for each in self._sparse:
            keys, counts = self._compacted(each)
            alive = ~dead[keys // key_width(each)]
            self._counted[each] = (keys[alive], counts[alive])
        for candidates in self._candidates.values():
            for cell in [cell for cell in candidates if dead[cell]]:
                del candidates[cell]
        self._free.extend(freed.tolist())

    def forget_series(self, limit: int) -> None:
        """Keep only the series of open cells once more than `limit` are known: memory follows what is open."""
        if len(self.table) <= limit:
            return
        used = self._cells.number[: self._size]
        renumbered = self.table.keep_only(np.unique(used[used >= 0]))
        self._cells.number[: self._size] = np.where(used >= 0, renumbered[used], -1)
        narrowed = np.full((len(self._cell_of), max(16, len(self.table))), -1, np.int64)
        old = np.flatnonzero(renumbered >= 0)
        narrowed[:, renumbered[old]] = self._cell_of[:, old]
        self._cell_of = narrowed

    def _slot(self, start_ms: int) -> int:
        found = self._slots.get(start_ms)
        if found is None:
            if self._free_slots:
                found = self._free_slots.pop()
            else:
                found = len(self._panes)
                self._panes.append(None)
                if found >= self._cell_of.shape[0]:
                    self._widen(2 * found + 4, 0)
            self._panes[found] = _Slot(start_ms)
            self._slots[start_ms] = found
        return found

    def _widen(self, slots: int, numbers: int) -> None:
        have_slots, have_numbers = self._cell_of.shape
        if slots > have_slots or numbers > have_numbers:
            wider = np.full((max(slots, have_slots), max(numbers, have_numbers)), -1, np.int64)
            wider[:have_slots, :have_numbers] = self._cell_of
            self._cell_of = wider

    def _cells_for(self, slots: Ints, pane: Ints, numbers: Ints) -> Ints:
        """The cell of each call; `slots` are those of the batch's panes, `pane` says which of them each call is in."""
        width = self._cell_of.shape[1]
        at = (slots * width)[pane] + numbers
        cells: Ints = self._cell_of.ravel()[at]
        missing = cells < 0
        if missing.any():
            wanted, first = np.unique(at[missing], return_index=True)
            new_slot, new_number = np.divmod(wanted[np.argsort(first)], width)
            for slot in np.unique(new_slot).tolist():
                self._open(slot, new_number[new_slot == slot])
            if self._cell_of.shape[1] != width:  # made wider for the series of those beyond the cap
                at = (slots * self._cell_of.shape[1])[pane] + numbers
            cells = self._cell_of.ravel()[at]
        return cells

    def _open(self, slot: int, numbers: Ints) -> None:
        """Give series that are new to a pane, in order of arrival, their cells."""
        pane = self._panes[slot]
        assert pane is not None
        room = max(0, self.series_per_pane - pane.series)
        opened, beyond = numbers[:room], numbers[room:]
        self._cell_of[slot, opened] = self._new_cells(pane, opened)
        pane.series += len(opened)
        if len(beyond) == 0:
            return
        if pane.other < 0:
            # A call may itself say "<other>": it shares the cell, so that no pane has a series twice.
            other = self.table.number((OTHER,) * len(self.view.by))
            self._widen(0, len(self.table))
            if self._cell_of[slot, other] < 0:
                self._cell_of[slot, other] = self._new_cells(pane, np.array([other]))[0]
            pane.other = int(self._cell_of[slot, other])
        self._cell_of[slot, beyond] = pane.other
        self.other_calls += len(beyond)

    def _new_cells(self, pane: _Slot, numbers: Ints) -> Ints:
        count = len(numbers)
        reused = self._free[max(0, len(self._free) - count) :]
        del self._free[len(self._free) - len(reused) :]
        fresh = count - len(reused)
        cells = np.concatenate(
            (np.array(reused, np.int64), np.arange(self._size, self._size + fresh, dtype=np.int64))
        )
        self._size += fresh
        if self._size > len(self._cells.number):
            self._grow(max(64, 2 * self._size))
        self._cells.start_ms[cells] = pane.start_ms
        self._cells.number[cells] = numbers
        self._eligible[cells] = pane.series + np.arange(count) < EXEMPLARS_PER_PANE
        return cells

    def _grow(self, capacity: int) -> None:
        def grown(array: NDArray[np.generic], fill: int) -> NDArray[np.generic]:
            wider = np.full(capacity, fill, array.dtype)
            wider[: len(array)] = array
            return wider

        cells = self._cells
        cells.start_ms = grown(cells.start_ms, 0)  # type: ignore[assignment]
        cells.number = grown(cells.number, -1)  # type: ignore[assignment]
        cells.touched = grown(cells.touched, 0)  # type: ignore[assignment]
        self._eligible = np.asarray(grown(self._eligible, 0), bool)
        for each, array in cells.fields.items():
            cells.fields[each] = np.asarray(grown(array, _initial(each)), np.int64)

    def _accumulate(self, each: Field, batch: Batch, at: Ints, *, whole: bool) -> None:
        rows, values = batch.chosen(each.column, each.selection)
        cells, values = _of_view(at, rows, values, whole=whole)
        target = self._cells.fields[each]
        match each.kind:
            case FieldKind.COUNT:
                np.add.at(target, cells, np.int64(1))
            case FieldKind.SUM:
                np.add.at(target, cells, values)
            case _:
                np.maximum.at(target, cells, values)

    def _record(self, each: Field, batch: Batch, at: Ints, *, whole: bool) -> None:
        if each.kind is FieldKind.HISTOGRAM:
            rows, keys = batch.buckets(each.column, each.selection)
        else:
            rows, keys = batch.sketch(each.column, each.selection)
        cells, keys = _of_view(at, rows, keys, whole=whole)
        if each.kind is FieldKind.HISTOGRAM:
            held = np.clip(
                keys, 0, BUCKETS - 1
            )  # beyond the layout its ends: a call of two hours is not left out
            self.out_of_range += int(np.count_nonzero(held != keys))
            keys = held
        if len(keys):
            self._pending[each].append(cells * key_width(each) + keys)
            self._pending_calls += len(keys)
            if self._pending_calls > _PENDING:
                self._compact()

    def _show(self, each: Field, batch: Batch, at: Ints, *, whole: bool) -> None:
        rows, values = batch.chosen(each.column, each.selection)
        cells, values = _of_view(at, rows, values, whole=whole)
        positions = np.flatnonzero(at >= 0) if rows is None else rows[at[rows] >= 0]
        best = self._cells.fields[each]
        better = (values > best[cells]) & self._eligible[cells]
        if not better.any():
            return
        cells, values, positions = cells[better], values[better], positions[better]
        np.maximum.at(best, cells, values)
        top = values == best[cells]
        cells, positions = cells[top], positions[top]
        # Of equal values the first by offset stands, whatever the batches: `better` is strict, this takes the first.
        distinct, first = np.unique(cells, return_index=True)
        candidates = self._candidates[each]
        positions = positions[first]
        for cell, position, offset, at_ms, value in zip(
            distinct.tolist(),
            positions.tolist(),
            batch.offsets[positions].tolist(),
            batch.at_ms[positions].tolist(),
            best[distinct].tolist(),
            strict=True,
        ):
            raw = batch.raw[position]
            assert raw is not None
            candidates[cell] = Candidate(offset, at_ms, value, raw)

    def _compact(self) -> None:
        """Bound what waits to be counted where flushes are rare, as in measuring a whole file."""
        for each in self._sparse:
            self._compacted(each)
        self._pending_calls = 0

    def _compacted(self, each: Field) -> tuple[Ints, Ints]:
        """All keys of a sparse field with their counts; a distinct field has the highest key of each register, once."""
        pending = self._pending[each]
        keys, counts = self._counted[each]
        if pending:
            new_keys, new_counts = count_keys(np.concatenate(pending))
            pending.clear()
            if len(keys):
                keys, counts = merge_counts(
                    np.concatenate((keys, new_keys)), np.concatenate((counts, new_counts))
                )
            else:
                keys, counts = new_keys, new_counts
            if each.kind is FieldKind.DISTINCT:
                keys = highest_ranks(keys)
                counts = np.ones(len(keys), np.int64)
            self._counted[each] = (keys, counts)
        return keys, counts

    def _block(self, cells: Ints, source: str, described: dict[int, ShownCall]) -> Block:
        start, number = self._cells.start_ms[cells], self._cells.number[cells]
        # One key sorts twice as fast as two. It cannot overflow: open panes and series are counted in thousands.
        pane_of_start = start if len(cells) == 0 else (start - start.min()) // self.pane_ms
        order = np.argsort(pane_of_start * len(self.table) + number)
        cells, start, number = cells[order], start[order], number[order]
        is_used = np.zeros(len(self.table), bool)
        is_used[number] = True
        used, row = np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[number]
        entry_of = np.full(max(1, self._size), -1, np.int64)
        entry_of[cells] = np.arange(len(cells))
        known = self.table.series
        sparse = {}
        for each in self._sparse:
            keys, counts = self._compacted(each)
            entry = entry_of[keys // key_width(each)]
            kept = entry >= 0
            by_entry = np.argsort(entry[kept], kind="stable")
            sparse[each.name] = Sparse(
                entry[kept][by_entry], (keys[kept] % key_width(each))[by_entry], counts[kept][by_entry]
            )
        shown: list[tuple[int, str, Exemplar]] = []
        for each in self._shown:
            name, candidates = each.name, self._candidates[each]
            held = np.fromiter(candidates, np.int64, len(candidates))
            entries = entry_of[held]
            held, entries = held[entries >= 0], entries[entries >= 0]
            by_position = np.argsort(entries)
            for entry, cell in zip(entries[by_position].tolist(), held[by_position].tolist(), strict=True):
                shown.append((entry, name, candidates[cell].exemplar(source, described)))
        return Block(
            view=self.view.hash,
            series=tuple([known[number] for number in used.tolist()]),
            row=row.astype(np.int64),
            start_ms=start,
            columns={each.name: self._cells.fields[each][cells] for each in self._plain},
            sparse=sparse,
            exemplars=tuple(shown),
        )


_NONE: Final = np.zeros(0, np.int64)
_PENDING: Final = 1 << 22
"""Values that wait to be counted into histograms and distinct counts, at most, over all fields of a view."""


def _initial(each: Field) -> int:
    return UNKNOWN if each.kind in (FieldKind.PEAK, FieldKind.EXEMPLAR) else 0


def _of_view(at: Ints, rows: Ints | None, values: Ints, *, whole: bool) -> tuple[Ints, Ints]:
    """Cells and values of the chosen calls that the view sees."""
    cells = at if rows is None else at[rows]
    if whole:
        return cells, values
    seen = cells >= 0
    return cells[seen], values[seen]

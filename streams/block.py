"""Blocks: whole contents of some cells of one view as arrays, and the candidates for their exemplars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rules.labels import Series
from rules.transition import Exemplar
from rules.view import View
from streams.event import ShownCall, show

Ints = NDArray[np.int64]


# Contents are moved about, never compared.
@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """A sparse field of many cells: `entry` (which cell), `key` within the cell, `count`; all int64[k]."""

    entry: Ints
    key: Ints
    count: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Whole contents of some cells of one view: one entry per cell.

    `row`: int64[n], index into `series`. `start_ms`: int64[n], pane starts. `columns`: int64[n] by field name, for
    counts, sums and peaks. `sparse`: by field name, for histograms and distinct counts. `exemplars`: entry, field name
    and the call.
    """

    view: str
    series: tuple[Series, ...]
    row: Ints
    start_ms: Ints
    columns: dict[str, Ints]
    sparse: dict[str, Sparse]
    exemplars: tuple[tuple[int, str, Exemplar], ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    def select(self, entries: Ints) -> Block:
        """The entries at these positions, ascending, as a block of their own."""
        new_of = np.full(len(self), -1, np.int64)
        new_of[entries] = np.arange(len(entries))
        used, row = np.unique(self.row[entries], return_inverse=True)
        sparse = {}
        for name, values in self.sparse.items():
            kept = new_of[values.entry] >= 0
            sparse[name] = Sparse(new_of[values.entry[kept]], values.key[kept], values.count[kept])
        return Block(
            view=self.view,
            series=tuple(self.series[i] for i in used.tolist()),
            row=row.astype(np.int64),
            start_ms=self.start_ms[entries],
            columns={name: values[entries] for name, values in self.columns.items()},
            sparse=sparse,
            exemplars=tuple(
                (int(new_of[i]), name, each) for i, name, each in self.exemplars if new_of[i] >= 0
            ),
        )


@dataclass(slots=True)
class Candidate:
    """The exemplar of one cell so far: its record, unread until it is published."""

    offset: int
    at_ms: int
    value: int
    raw: bytes
    shown: ShownCall | None = None

    def exemplar(self, source: str, described: dict[int, ShownCall]) -> Exemplar:
        """The call as it may be shown; `described` are the calls described so far, by offset."""
        if self.shown is None:
            self.shown = described.get(self.offset)
            if self.shown is None:
                self.shown = described[self.offset] = show(self.raw)
        return Exemplar(self.at_ms, source, self.offset, self.value, self.shown)


def by_shard(view: View, block: Block) -> Iterable[tuple[int, Block]]:
    """The block cut by shard; whole where its view lies on one."""
    if len(block) == 0:
        return
    of_series = np.array([view.shard(each) for each in block.series], np.int64) if view.parent else None
    if of_series is None:
        yield view.shard(block.series[0]), block
        return
    of_entry = of_series[block.row]
    for shard in np.unique(of_entry).tolist():
        yield shard, block.select(np.flatnonzero(of_entry == shard))

"""Repeated calls: rows whose id was seen before in the same open pane."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streams.call import Batch

Ints = NDArray[np.int64]


def repeated_rows(seen: dict[int, set[str]], batch: Batch, starts: Ints, pane: Ints) -> list[int]:
    """Rows whose id was seen before in the same open pane; the others' ids are seen from now on."""
    ids = batch.ids()
    if ids.count(None) == len(ids):
        return []
    if len(starts) == 1:
        return _in_one_pane(seen.setdefault(int(starts[0]), set()), ids, range(len(ids)))
    order = np.argsort(pane, kind="stable")
    edges = np.searchsorted(pane[order], np.arange(len(starts) + 1)).tolist()
    rows = order.tolist()
    repeated: list[int] = []
    for number, start in enumerate(starts.tolist()):
        mine = rows[edges[number] : edges[number + 1]]
        repeated += _in_one_pane(seen.setdefault(start, set()), [ids[row] for row in mine], mine)
    return repeated


def _in_one_pane(seen: set[str], ids: list[str | None], rows: Iterable[int]) -> list[int]:
    fresh = set(ids)
    if None not in fresh and len(fresh) == len(ids) and seen.isdisjoint(fresh):
        seen |= fresh  # type: ignore[arg-type]  # no None in it
        return []
    repeated = []
    for row, one in zip(rows, ids, strict=True):
        if one is None:
            continue
        if one in seen:
            repeated.append(row)
        seen.add(one)
    return repeated

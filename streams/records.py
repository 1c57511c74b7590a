"""Raw records as a fetcher hands them on: one source, in order of offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One partition of one topic; `topic_id` is the cluster's id of the topic, so that a recreated one is another."""

    topic: str
    partition: int
    topic_id: str = ""

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Records:
    """A run of records of one source.

    `values`: the records' bytes, None for a null value. `offsets`: int64[n], ascending. `times_ms`: int64[n], the
    broker's times (0 where unknown).
    """

    source: Source
    values: Sequence[bytes | None]
    offsets: NDArray[np.int64]
    times_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    def part(self, rows: slice) -> Records:
        """Some of the records."""
        return Records(self.source, self.values[rows], self.offsets[rows], self.times_ms[rows])


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not be read, with the reason."""

    source: Source
    offset: int
    reason: str
    raw: bytes | None


class LossError(Exception):
    """Records that are needed are gone, or a topic is not the one that was read; the message says how to go on."""

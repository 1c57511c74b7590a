"""The seal frontier of one source: event time before which nothing can change any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.rule import PANE_MS
from streams.times import UNKNOWN

Ints = NDArray[np.int64]

CORROBORATION: Final = 20
"""Calls that must lie beyond a jump of event time before it moves the frontier."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How much disorder is allowed: `allowed_ms` within a source, `skew_ms` for clocks ahead of the broker's."""

    allowed_ms: int = 10_000
    skew_ms: int = 300_000


@dataclass(slots=True)
class Frontier:
    """The largest corroborated event time of a source, and the times that are ahead of it and not yet believed.

    `high_ms` is UNKNOWN before the first call. `high_broker_ms` is the broker's time when it was reached: an hour of
    silence is no jump, because the broker's clock has moved on by an hour too.
    """

    high_ms: int = UNKNOWN
    high_broker_ms: int = 0
    ahead_ms: list[int] = field(default_factory=list)

    def copy(self) -> Frontier:
        """A frontier that stands where this one does and moves on its own."""
        return Frontier(self.high_ms, self.high_broker_ms, list(self.ahead_ms))

    def sealed_ms(self, lateness: Lateness) -> int:
        """Panes that end at or before this time are sealed. UNKNOWN before the first call."""
        return UNKNOWN if self.high_ms == UNKNOWN else self.high_ms - lateness.allowed_ms

    def advance(self, at_ms: Ints, broker_ms: Ints, lateness: Lateness) -> Ints:
        """Take calls in order of offset; return for each the sealed time when its turn came, int64[n].

        The result does not depend on how the calls are cut into batches. `broker_ms` is 0 where unknown.
        """
        if len(at_ms) == 0:
            return at_ms
        if self.high_ms == UNKNOWN:
            self.high_ms, self.high_broker_ms = int(at_ms[0]), int(broker_ms[0])
        running = np.maximum.accumulate(np.concatenate(([self.high_ms], at_ms)))
        if (at_ms - running[:-1] > lateness.skew_ms).any():
            return self._one_by_one(at_ms, broker_ms, lateness)
        higher = running[1:] > running[:-1]
        if higher.any():
            self._rise(int(running[-1]), int(broker_ms[higher].max()), lateness)
        return running[1:] - lateness.allowed_ms

    def _one_by_one(self, at_ms: Ints, broker_ms: Ints, lateness: Lateness) -> Ints:
        sealed = np.empty(len(at_ms), np.int64)
        for index, (at, broker) in enumerate(zip(at_ms.tolist(), broker_ms.tolist(), strict=True)):
            passed = max(0, broker - self.high_broker_ms) if self.high_broker_ms else 0
            if at - self.high_ms > lateness.skew_ms + passed:
                self.ahead_ms.append(at)
                if len(self.ahead_ms) >= CORROBORATION:
                    self._rise(min(self.ahead_ms), broker, lateness)
            elif at > self.high_ms:
                self._rise(at, broker, lateness)
            sealed[index] = self.high_ms - lateness.allowed_ms
        return sealed

    def _rise(self, high_ms: int, broker_ms: int, lateness: Lateness) -> None:
        self.high_ms, self.high_broker_ms = high_ms, max(self.high_broker_ms, broker_ms)
        self.ahead_ms = [time for time in self.ahead_ms if time - high_ms > lateness.skew_ms]


def clamp(at_ms: Ints, broker_ms: Ints, lateness: Lateness) -> tuple[Ints, NDArray[np.bool_]]:
    """Times that lie beyond the broker's by more than the skew become the broker's; and which those are."""
    future = (broker_ms > 0) & (at_ms - broker_ms > lateness.skew_ms)
    return (np.where(future, broker_ms, at_ms) if future.any() else at_ms), future


def pane_start(at_ms: Ints, width_ms: int = PANE_MS) -> Ints:
    """Start of the pane that each time lies in, int64[n]."""
    return at_ms - at_ms % width_ms

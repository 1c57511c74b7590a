"""The first half of the oracle: panes computed anew from the calls, with plain Python and none of the engine.

Only the layout of histogram buckets is shared, through the package that owns it. Times are milliseconds, durations of
calls microseconds, money nano-dollars.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from hdrh.histogram import HdrHistogram

PANE = 1_000
SILENT = 30_000
CORROBORATION = 20
_LAYOUT = HdrHistogram(1, 3_600_000_000, 2)

Content = dict[str, Any]
"""What one series has in one pane, by field; a histogram is a dict of counts, an exemplar a value and an offset."""
Cell = tuple[str, int, tuple[str, ...], int]
"""View, source partition, series, pane start."""


@dataclass(frozen=True)
class OracleRule:
    """A rule as the simulation writes it, in plain numbers."""

    name: str
    view: str
    by: tuple[str, ...]
    measure: str
    window: int
    below: bool
    warning: float
    critical: float | None
    for_ms: int = 0
    keep: int = 0
    min_calls: int = 0


@dataclass(frozen=True)
class Epochs:
    """Which rules hold up to a boundary, and from it on (None: the first set for ever)."""

    first: tuple[OracleRule, ...]
    second: tuple[OracleRule, ...] = ()
    boundary: int | None = None

    def at(self, start: int) -> tuple[OracleRule, ...]:
        """The rules in force in a pane."""
        return self.first if self.boundary is None or start < self.boundary else self.second


@lru_cache(maxsize=100_000)
def bucket_of(value: int) -> int:
    """The bucket of a stored integer; what the layout does not reach lies in its last one."""
    _LAYOUT.reset()
    if not _LAYOUT.record_value(value):
        return int(_LAYOUT.counts_len) - 1
    return next(index for index in range(_LAYOUT.counts_len) if _LAYOUT.get_count_at_index(index))


@lru_cache(maxsize=100_000)
def highest_of(bucket: int) -> int:
    return int(_LAYOUT.get_highest_equivalent_value(_LAYOUT.get_value_from_index(bucket)))


# From calls to panes.


@dataclass
class _Call:
    offset: int
    at: int
    broker: int
    id: str | None
    feature: str
    user: str
    failed: bool
    latency: int | None
    spend: int | None
    counts: bool


def _call(offset: int, value: bytes | None, broker: int) -> _Call | None:
    try:
        event = json.loads((value or b"").decode())
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("model"), str):
        return None
    latency, cost = event.get("latency_ms"), event.get("cost_usd")
    return _Call(
        offset=offset,
        at=event["at"],
        broker=broker,
        id=event.get("id"),
        feature=event.get("feature", "<none>"),
        user=event.get("user", "<none>"),
        failed=event.get("status") == "error",
        latency=None if latency is None else round(Decimal(str(latency)) * 1_000),
        spend=None if cost is None else round(Decimal(str(cost)) * 1_000_000_000),
        counts=event.get("operation", "chat") in {"chat", "completion"},
    )


@dataclass
class Panes:
    """Every pane of every source, as it was after each call; and the spend of late calls."""

    history: dict[Cell, list[tuple[int, Content]]] = field(default_factory=dict)
    late: dict[tuple[str, int, int], tuple[tuple[str, ...], int, int, int]] = field(default_factory=dict)
    """By view, source and offset: series, pane start, nano-dollars."""
    high: dict[int, int] = field(default_factory=dict)
    fates: dict[str, int] = field(default_factory=dict)

    def content(self, cell: Cell, version: int) -> Content | None:
        """What a pane holds of the calls before an offset; None where there are none."""
        known = self.history.get(cell, [])
        position = bisect.bisect_right(known, version, key=lambda entry: entry[0])
        return known[position - 1][1] if position else None

    def _book(self, cell: Cell, offset: int, change: Iterable[tuple[str, Any]]) -> None:
        known = self.history.setdefault(cell, [])
        content = copied(known[-1][1]) if known else {}
        for name, value in change:
            if name.startswith("exemplar:"):
                if value is not None and (name not in content or value > content[name][0]):
                    content[name] = (value, offset)
            elif name.startswith("histogram:"):
                counts = content.setdefault(name, {})
                if value is not None:
                    counts[value] = counts.get(value, 0) + 1
            else:
                content[name] = content.get(name, 0) + value
        known.append((offset + 1, content))

    def _fate(self, name: str) -> None:
        self.fates[name] = self.fates.get(name, 0) + 1


def copied(content: Content) -> Content:
    return {name: dict(value) if isinstance(value, dict) else value for name, value in content.items()}


def _fields(rule: OracleRule, call: _Call) -> list[tuple[str, Any]]:
    """What a call adds to the fields of a rule's view."""
    answered = not call.failed and call.latency is not None
    match rule.measure:
        case "latency.p95":
            taken = bucket_of(call.latency) if answered and call.latency is not None else None
            return [
                ("count:latency:ok", int(answered)),
                ("count:one:any", 1),
                ("exemplar:latency:ok", call.latency if answered else None),
                ("histogram:latency:ok", taken),
            ]
        case "spend":
            return [
                ("count:one:any", 1),
                ("exemplar:spend:any", call.spend),
                ("sum:spend:any", call.spend or 0),
            ]
        case "error_rate":
            failed = [
                ("count:one:error", int(call.failed)),
                ("exemplar:one:error", 1 if call.failed else None),
            ]
            return [("count:one:any", 1), *failed]
        case _:
            return [("count:one:any", 1), ("exemplar:one:any", 1)]


def panes_of(
    sources: Mapping[int, Sequence[tuple[bytes | None, bytes | None, int]]],
    epochs: Epochs,
    lateness: int,
    skew: int,
) -> Panes:
    """The panes of all calls. `sources`: records by partition, each (key, value, append time)."""
    panes = Panes()
    for source, records in sources.items():
        _Fold(panes, source, epochs, lateness, skew).run(records)
    return panes


class _Fold:
    """The calls of one partition, one after the other."""

    def __init__(self, panes: Panes, source: int, epochs: Epochs, lateness: int, skew: int) -> None:
        self.panes, self.source, self.epochs = panes, source, epochs
        self.lateness, self.skew = lateness, skew
        self.high: int | None = None
        self.high_broker = 0
        self.ahead: list[int] = []
        self.seen: set[tuple[int, str]] = set()

    def run(self, records: Sequence[tuple[bytes | None, bytes | None, int]]) -> None:
        for offset, (_, value, broker) in enumerate(records):
            call = _call(offset, value, broker)
            if call is None:
                self.panes._fate("rejected")
            else:
                self._take(call)
        if self.high is not None:
            self.panes.high[self.source] = self.high

    def _take(self, call: _Call) -> None:
        clamped = call.at - call.broker > self.skew
        if clamped:
            call.at = call.broker
            self.panes._fate("clamped")
        self._advance(call.at, call.broker)
        assert self.high is not None
        start = call.at - call.at % PANE
        late = start + PANE <= self.high - self.lateness
        if clamped:
            self._own("clamped", call.offset)
        if late:
            self.panes._fate("late")
            self._own("late", call.offset)
            if call.spend is not None and call.counts:
                self._book_late(call, start)
            return
        if call.id is not None:
            if (start, call.id) in self.seen:
                self.panes._fate("repeated")
                return
            self.seen.add((start, call.id))
        self.panes._fate("counted")
        for rule in self.epochs.at(start):
            if rule.by and call.counts:
                series = tuple(getattr(call, name) for name in rule.by)
                self.panes._book((rule.view, self.source, series, start), call.offset, _fields(rule, call))

    def _advance(self, at: int, broker: int) -> None:
        if self.high is None:
            self.high, self.high_broker = at, broker
        elif at - self.high > self.skew + max(0, broker - self.high_broker):
            self.ahead.append(at)
            if len(self.ahead) >= CORROBORATION:
                self._rise(min(self.ahead), broker)
        elif at > self.high:
            self._rise(at, broker)

    def _rise(self, high: int, broker: int) -> None:
        self.high, self.high_broker = high, max(self.high_broker, broker)
        self.ahead = [at for at in self.ahead if at - high > self.skew]

    def _own(self, name: str, offset: int) -> None:
        """Count what went wrong in the pane of the largest event time so far."""
        assert self.high is not None
        start = self.high - self.high % PANE
        for rule in self.epochs.at(start):
            if rule.measure == name:
                self.panes._book((rule.view, self.source, (), start), offset, [(f"count:{name}:any", 1)])

    def _book_late(self, call: _Call, start: int) -> None:
        assert self.high is not None
        for rule in self.epochs.at(start):
            if rule.measure == "spend" and call.spend is not None:
                series = tuple(getattr(call, name) for name in rule.by)
                self.panes.late[rule.view, self.source, call.offset] = (
                    series,
                    start,
                    call.spend,
                    self.high - self.lateness,
                )


def expected_id(rule: str, series: Sequence[tuple[str, str]], at: int, state: str, severity: str) -> str:
    """The id of a transition: a hash of its rule, series, tick, new state and severity."""
    parts = [rule, *(part for pair in series for part in pair), str(at), state, severity]
    return _digest("".join(f"{len(part)}:{part}" for part in parts))


def expected_notification_id(transition: str, receiver: str) -> str:
    return _digest(f"{len(transition)}:{transition}{receiver}")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

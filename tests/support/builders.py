"""Builders of calls, records, rules and rule logs for tests of the engine's core."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from rules.labels import MODEL_CALLS, Matcher, Series
from rules.measures import Outcome, measure
from rules.rule import Direction, Levels, Rule, RuleSet, Threshold
from rules.view import View
from streams.chunk import Chunk
from streams.frontier import Lateness
from streams.ingest import Ingest, IngestConfig
from streams.position import Idle
from streams.price_book import PriceBook
from streams.pricing import Pricer
from streams.records import Records, Source
from streams.replaying import Replay
from streams.rule_log import Epoch, RuleLog
from streams.spend import BatchPricer

DAY = "2026-10-01"
SOURCE = Source("llm.calls", 0)
SECOND = 1_000
MINUTE = 60_000


def at(clock: str) -> int:
    """Epoch milliseconds of a time of the tests' day, such as 12:00:05 or 12:00:05.250."""
    since = datetime.fromisoformat(f"{DAY}T{clock}+00:00") - datetime.fromisoformat(
        "1970-01-01T00:00:00+00:00"
    )
    return since // timedelta(milliseconds=1)


def call(at: str | int | None = "12:00:05", model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    """A call event: `at` as a time of the tests' day, as epoch milliseconds, or absent."""
    event: dict[str, Any] = {"model": model}
    if at is not None:
        event["at"] = f"{DAY}T{at}Z" if isinstance(at, str) else at
    return event | fields


def raw(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def records(
    calls: Iterable[dict[str, Any] | bytes | None],
    first_offset: int = 0,
    source: Source = SOURCE,
    broker_times: Sequence[int] | None = None,
) -> Records:
    """Records of calls (events, or bytes and None as they are) at ascending offsets."""
    values = [raw(each) if isinstance(each, dict) else each for each in calls]
    times = [0] * len(values) if broker_times is None else broker_times
    offsets = np.arange(first_offset, first_offset + len(values), dtype=np.int64)
    return Records(source, values, offsets, np.array(times, np.int64))


def part(of: Records, start: int, end: int) -> Records:
    return Records(of.source, of.values[start:end], of.offsets[start:end], of.times_ms[start:end])


def parts(of: Records, cuts: Iterable[int]) -> list[Records]:
    """The records cut at these positions, empty pieces left out."""
    edges = sorted({0, len(of), *(cut for cut in cuts if 0 < cut < len(of))})
    return [part(of, start, end) for start, end in itertools.pairwise(edges)]


def rule(
    name: str = "Alert",
    measured: str = "calls",
    *,
    above: float | None = None,
    below: float | None = None,
    critical: float | None = None,
    window: int = MINUTE,
    by: tuple[str, ...] = ("feature",),
    where: Sequence[Matcher] | None = None,
    outcome: Outcome | None = None,
    **fields: Any,
) -> Rule:
    """A rule on one measure: `above` or `below` is the warning level, `critical` the other one."""
    direction = Direction.ABOVE if below is None else Direction.BELOW
    level = above if below is None else below
    of = measure(measured, outcome)
    if where is None:
        where = (Matcher("operation", MODEL_CALLS),) if of.source == "calls" else ()
    return Rule(
        group="tests",
        alert=name,
        measure=of,
        window_ms=window,
        threshold=Threshold(direction, Levels(level, critical)),
        where=tuple(where),
        by=by if of.source == "calls" else (),
        **({"runbook": "latency-high"} | fields),
    )


def rule_log(
    *rules: Rule, extra: tuple[View, ...] = (), later: Iterable[tuple[int, Sequence[Rule]]] = ()
) -> RuleLog:
    """A rules log: the rules from the beginning of time, then other rule sets from their event times on."""
    epochs = [Epoch(0, RuleSet(rules), extra)]
    epochs += [Epoch(from_ms, RuleSet(tuple(those)), extra) for from_ms, those in later]
    return RuleLog(epochs)


def view(*measures: str, by: tuple[str, ...] = ("feature",), where: tuple[Matcher, ...] = ()) -> View:
    """A view with every field of some measures."""
    return View(where, by, tuple(sorted({each for name in measures for each in measure(name).fields})))


@lru_cache
def no_prices() -> BatchPricer:
    """Only calls that state their cost are priced."""
    return BatchPricer(Pricer(PriceBook()))


def ingest(log: RuleLog, lateness: Lateness | None = None, **config: Any) -> Ingest:
    return Ingest(IngestConfig(lateness or Lateness(), **config), log, no_prices)


def replay(*rules: Rule, lateness: Lateness | None = None, log: RuleLog | None = None) -> Replay:
    return Replay(IngestConfig(lateness or Lateness()), log or rule_log(*rules), no_prices, SOURCE)


def cells(chunks: Iterable[Chunk]) -> dict[tuple[str, Series, int], dict[str, Any]]:
    """What panes hold after all chunks: by view, series and start the newest version's fields, written plainly."""
    newest: dict[tuple[str, Series, int], tuple[int, dict[str, Any]]] = {}
    for chunk in chunks:
        for block in chunk.blocks:
            for entry in range(len(block)):
                key = (block.view, block.series[block.row[entry]], int(block.start_ms[entry]))
                content: dict[str, Any] = {name: int(values[entry]) for name, values in block.columns.items()}
                for name, sparse in block.sparse.items():
                    mine = sparse.entry == entry
                    content[name] = dict(
                        zip(sparse.key[mine].tolist(), sparse.count[mine].tolist(), strict=True)
                    )
                for at_entry, name, exemplar in block.exemplars:
                    if at_entry == entry:
                        content[name] = (exemplar.offset, exemplar.at_ms, exemplar.value, dict(exemplar.call))
                if key not in newest or newest[key][0] <= chunk.version:
                    newest[key] = (chunk.version, content)
    return {key: content for key, (_, content) in newest.items()}


BUSY = Idle(caught_up=False, wall_ms=0, sources=1)

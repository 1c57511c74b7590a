"""Every measure of every series of a set of calls, over all of them or by tumbling window. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from rules.labels import MODEL_CALLS, Matcher, Series
from rules.measures import Measure, UnknownMeasureError, measure
from rules.reading import Bools, Readings, read
from rules.rule import RuleSet
from rules.view import FieldKind, View
from streams.call import Pricing
from streams.content import Rows, contents
from streams.frontier import Lateness
from streams.ignored import Ignored
from streams.ingest import Ingest, IngestConfig
from streams.position import Counts, Idle
from streams.records import Records, Rejected, Source
from streams.rule_log import Epoch, RuleLog
from streams.totals import ContentTotals

WHOLE_MS: Final = 1 << 60
"""A pane so wide that all of time lies in it."""
_NEVER_LATE: Final = Lateness(allowed_ms=1 << 60, skew_ms=1 << 60)
_MANY: Final = 1 << 40
_NAMES: Final = 32
"""Stages and scores that are found in the calls, at most."""

PERCENTILES: Final = ("p50", "p95", "p99")
_FAMILIES: Final = ("latency", "ttft", "output_tokens_per_second")
_FIXED: Final = (
    "calls",
    "errors",
    "error_rate",
    "truncation_rate",
    "refusal_rate",
    "cache_hit_rate",
    "unpriced",
    "unpriced_rate",
    "spend",
    "spend_per_call",
    "users",
    "sessions",
    "tokens.input",
    "tokens.output",
    "tokens.total",
    "tokens.cached_input",
    "tokens.input.avg",
    "tokens.output.avg",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One series in one window: each measure's value in its base unit, None where it is undefined."""

    series: Series
    start_ms: int | None
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """All rows in order of window and series, what was counted, the first rejected records, and unknown fields."""

    rows: tuple[Row, ...]
    counts: Counts
    rejected: tuple[Rejected, ...]
    ignored: Ignored


def names_in(records: Records | None) -> tuple[set[str], set[str]]:
    """Names of stages and scores in some calls that a measure can have, bounded; unreadable calls name none."""
    stages: set[str] = set()
    scores: set[str] = set()
    decoder = msgspec.json.Decoder(_Names)
    for value in records.values if records is not None else ():
        try:
            named = decoder.decode(value or b"null")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        stages |= set(named.stages_ms or ())
        scores |= set(named.scores or ())
    return _measured("stage", stages), _measured("score", scores)


def _measured(family: str, names: Iterable[str]) -> set[str]:
    def is_measure(name: str) -> bool:
        try:
            measure(f"{family}.{name}.avg")
        except UnknownMeasureError:
            return False
        return True

    return set(list(filter(is_measure, sorted(names)))[:_NAMES])


def measure_names(stages: Iterable[str] = (), scores: Iterable[str] = ()) -> tuple[str, ...]:
    """Every measure that `measure_calls` computes, by name."""
    families = [*_FAMILIES, *(f"stage.{name}" for name in sorted(stages))]
    if stages:
        families.append("stage.unaccounted")
    timed = tuple(f"{family}.{each}" for family in families for each in (*PERCENTILES, "avg", "max"))
    scored = tuple(f"score.{name}.{each}" for name in sorted(scores) for each in ("avg", "p5"))
    return (*_FIXED, *timed, *scored)


def measure_calls(
    batches: Iterable[Records],
    by: Sequence[str],
    price: Pricing,
    *,
    where: Sequence[Matcher] = (),
    window_ms: int | None = None,
    names: Sequence[str] | None = None,
) -> Measured:
    """Measure all calls, each id once; `window_ms` None is the whole input.

    Without a matcher on `operation`, and unless it is one of the dimensions, only chat and completion calls count, as
    in rules.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if names is None:
        names = measure_names(*names_in(first))
    measures = [measure(name) for name in names]
    fields = {each for one in measures for each in one.fields if each.kind is not FieldKind.EXEMPLAR}
    filters = tuple(where)
    if "operation" not in by and all(matcher.dimension != "operation" for matcher in filters):
        filters = (*filters, Matcher("operation", MODEL_CALLS))
    view = View(filters, tuple(by), tuple(sorted(fields)))
    config = IngestConfig(
        _NEVER_LATE, series_per_pane=_MANY, known_series=_MANY, pane_ms=window_ms or WHOLE_MS
    )
    ingest = Ingest(config, RuleLog([Epoch(0, RuleSet(()), (view,))]), lambda: price)
    rejected: list[Rejected] = []
    ignored = Ignored()
    source: Source | None = None
    while first is not None:
        if source is None:
            source = first.source
            ingest.assign(source, None)
        rejected += ingest.take(first)[: 20 - len(rejected)]
        ignored.look(first)
        first = next(iterator, None)
    rows: list[Row] = []
    if source is not None:
        for block in (b for chunk in ingest.flush(source, Idle(False, 0, 1)).chunks for b in chunk.blocks):
            known = Rows()
            for start, content in contents(view, known, block).items():
                totals = ContentTotals(known, content)
                present = content.rows.tolist()
                rows += _rows(measures, totals, present, start if window_ms else None, window_ms or 1000)
    rows.sort(key=lambda row: (row.start_ms or 0, row.series))
    return Measured(tuple(rows), ingest.counts, tuple(rejected), ignored)


def _rows(
    measures: Sequence[Measure], totals: ContentTotals, present: list[int], start_ms: int | None, span_ms: int
) -> list[Row]:
    readings = {one.name: read(one, totals, span_ms) for one in measures}
    known = {one.name: _is_known(one, readings, readings[one.name].defined) for one in measures}
    return [
        Row(
            totals.series[row],
            start_ms,
            {name: each.value[row].item() if known[name][row] else None for name, each in readings.items()},
        )
        for row in present
    ]


def _is_known(one: Measure, readings: Mapping[str, Readings], defined: Bools) -> Bools:
    """Whether a value stands for something: a sum over calls that do not say is unknown, not 0."""
    if one.name == "spend":
        return readings["spend_per_call"].defined if "spend_per_call" in readings else defined
    if one.numerator.kind is FieldKind.SUM:
        return defined & (readings[one.name].sample > 0)
    return defined


class _Names(msgspec.Struct):
    stages_ms: dict[str, object] | None = None
    scores: dict[str, object] | None = None

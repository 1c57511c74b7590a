"""The catalogue of measures: what each is computed from, its unit, and the sample it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from rules import quantities as unit
from rules.problem import did_you_mean
from rules.view import CALL_SOURCE, CALLS, ENGINE_SOURCE, Field, FieldKind, Selection

MICROSECONDS_PER_MS: Final = 1_000
SCALE: Final = {"duration": MICROSECONDS_PER_MS, "score": 1_000_000, "rate": 1_000}
"""Stored integers per base unit, by kind of column; 1 where absent."""

LARGEST_PERCENTILE: Final = (1 << 32) - 1
"""The largest stored integer that a histogram tells apart: larger values count as this one in percentiles."""


class Outcome(StrEnum):
    """Which calls a percentile, mean or maximum is over."""

    OK = "ok"
    ANY = "any"
    ERROR = "error"


class Formula(StrEnum):
    """How a measure follows from its fields."""

    TOTAL = "total"
    PER_SECOND = "per_second"
    PER_MINUTE = "per_minute"
    RATIO = "ratio"
    MEAN = "mean"
    PERCENTILE = "percentile"
    PEAK = "peak"
    DISTINCT = "distinct"


class UnknownMeasureError(ValueError):
    """No such measure; the message names the closest one."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: `formula` over `numerator` (and `denominator`), divided by `scale` into `unit`.

    `sample` counts the calls that `min_calls` is about; `exemplar` picks calls that show a breach.
    """

    name: str
    unit: unit.Unit
    formula: Formula
    numerator: Field
    sample: Field
    exemplar: Field
    denominator: Field | None = None
    percentile: int = 0
    scale: int = 1
    min_calls: int = 0
    source: str = CALL_SOURCE

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every field that a view must accumulate for this measure, in order of name."""
        wanted = {self.numerator, self.sample, self.exemplar, CALLS}
        if self.denominator is not None:
            wanted.add(self.denominator)
        if self.source == ENGINE_SOURCE:
            wanted = {self.numerator}
        return tuple(sorted(wanted))


_PERCENTILE: Final = re.compile(r"p([1-9][0-9]?)")
_STAGE: Final = re.compile(r"stage\.([A-Za-z0-9_-]{1,64})")
_SCORE: Final = re.compile(r"score\.([A-Za-z0-9_.-]{1,64})")
_TOKEN_COLUMNS: Final = ("input", "output", "total", "cached_input", "cache_write", "reasoning")
_CONTENT_COLUMNS: Final = ("system_chars", "input_chars", "context_chars", "output_chars")
_STATISTICS: Final = "p50, p90, p95, p99 (any pN from p1 to p99), avg, max"
_RATIO_MIN_CALLS: Final = 20


def _count(selection: Selection, column: str = "one") -> Field:
    return Field(FieldKind.COUNT, column, selection)


def _sum(column: str, selection: Selection = Selection.ANY) -> Field:
    return Field(FieldKind.SUM, column, selection)


def _exemplar(column: str, selection: Selection = Selection.ANY) -> Field:
    return Field(FieldKind.EXEMPLAR, column, selection)


def _total(name: str, base: unit.Unit, numerator: Field, exemplar: Field, sample: Field = CALLS) -> Measure:
    return Measure(name, base, Formula.TOTAL, numerator, sample, exemplar)


def _ratio(name: str, part: Field, whole: Field) -> Measure:
    shows = _exemplar("one", part.selection)
    return Measure(name, unit.RATIO, Formula.RATIO, part, whole, shows, whole, min_calls=_RATIO_MIN_CALLS)


_SPEND: Final = _sum("spend")
_DEAREST: Final = _exemplar("spend")
_FIXED: Final = {
    measure.name: measure
    for measure in (
        _total("calls", unit.CALLS, CALLS, _exemplar("one")),
        replace(
            _total("calls_per_second", unit.CALLS_PER_SECOND, CALLS, _exemplar("one")),
            formula=Formula.PER_SECOND,
        ),
        _total("errors", unit.CALLS, _count(Selection.ERROR), _exemplar("one", Selection.ERROR)),
        _ratio("error_rate", _count(Selection.ERROR), CALLS),
        _ratio("truncation_rate", _count(Selection.TRUNCATED), _count(Selection.FINISHED)),
        _ratio("refusal_rate", _count(Selection.REFUSED), _count(Selection.FINISHED)),
        _total("unpriced", unit.CALLS, _count(Selection.UNPRICED), _exemplar("one", Selection.UNPRICED)),
        _ratio("unpriced_rate", _count(Selection.UNPRICED), _count(Selection.PRICEABLE)),
        _total("spend", unit.NANODOLLARS, _SPEND, _DEAREST),
        Measure(
            "spend_per_call",
            unit.NANODOLLARS,
            Formula.MEAN,
            _SPEND,
            _count(Selection.ANY, "spend"),
            _DEAREST,
            _count(Selection.ANY, "spend"),
            min_calls=_RATIO_MIN_CALLS,
        ),
        Measure(
            "cache_hit_rate",
            unit.RATIO,
            Formula.RATIO,
            _sum("tokens.cached_input", Selection.CACHE_KNOWN),
            _count(Selection.CACHE_KNOWN),
            _exemplar("tokens.input", Selection.CACHE_KNOWN),
            _sum("tokens.input", Selection.CACHE_KNOWN),
            min_calls=_RATIO_MIN_CALLS,
        ),
        Measure(
            "users",
            unit.USERS,
            Formula.DISTINCT,
            Field(FieldKind.DISTINCT, "user", Selection.ANY),
            CALLS,
            _exemplar("one"),
        ),
        Measure(
            "sessions",
            unit.SESSIONS,
            Formula.DISTINCT,
            Field(FieldKind.DISTINCT, "session", Selection.ANY),
            CALLS,
            _exemplar("one"),
        ),
    )
}
_ENGINE: Final = {
    name: replace(
        _total(name, unit.CALLS, Field(FieldKind.COUNT, name, Selection.ANY), _exemplar("one")),
        source=ENGINE_SOURCE,
    )
    for name in ("rejected", "late", "clamped")
} | {
    "lag": Measure(
        "lag",
        unit.MILLISECONDS,
        Formula.PEAK,
        Field(FieldKind.PEAK, "lag", Selection.ANY),
        Field(FieldKind.PEAK, "lag", Selection.ANY),
        _exemplar("one"),
        source=ENGINE_SOURCE,
    )
}

EXAMPLES: Final = (
    *_FIXED,
    "latency.p95",
    "ttft.p95",
    "stage.queue.p95",
    "tokens.input",
    "tokens.output",
    "tokens.total",
    "tokens.cached_input",
    "tokens.input.per_minute",
    "tokens.input.avg",
    "tokens.output.p95",
    "output_tokens_per_second.p50",
    "content.input_chars.avg",
    "score.groundedness.avg",
    *_ENGINE,
)
"""Every measure by example, for documentation and for suggestions."""


def measure(name: str, outcome: Outcome | None = None) -> Measure:
    """The measure called `name`.

    `outcome` selects the calls of a percentile, mean or maximum over a duration, rate or score; None is the default
    of the measure: successful calls (a rate limit answered in a millisecond must not pull a percentile down).

    Raises:
        UnknownMeasureError: no such measure, or `outcome` given where a measure has its own selection.
    """
    fixed = _FIXED.get(name) or _ENGINE.get(name)
    found = fixed or _per_call(name, Selection(outcome or _default_outcome(name)))
    if found is None:
        family, _, statistic = name.rpartition(".")
        if family and _column(family) is not None:
            raise UnknownMeasureError(
                f'"{name}": "{statistic}" is no statistic of {family}; it has {_STATISTICS}'
            )
        raise UnknownMeasureError(f'unknown measure "{name}"{did_you_mean(name, EXAMPLES)}')
    if outcome is not None and (fixed or found.formula in (Formula.TOTAL, Formula.PER_MINUTE)):
        raise UnknownMeasureError(f'"{name}" counts its own selection of calls; outcome does not apply to it')
    return found


def _default_outcome(name: str) -> Outcome:
    # A failed call's tokens are paid for like any other's, so the mean over "calls with known tokens" includes them.
    return Outcome.ANY if name.startswith("tokens.") and name.endswith(".avg") else Outcome.OK


def _column(family: str) -> tuple[str, unit.Unit, int] | None:
    """Column name, base unit and scale of a family of per-call values."""
    if family in ("latency", "ttft") or _STAGE.fullmatch(family):
        return family, unit.MILLISECONDS, MICROSECONDS_PER_MS
    if family == "output_tokens_per_second":
        return family, unit.TOKENS_PER_SECOND, SCALE["rate"]
    if family.startswith("tokens.") and family.removeprefix("tokens.") in _TOKEN_COLUMNS:
        return family, unit.TOKENS, 1
    if family.startswith("content.") and family.removeprefix("content.") in _CONTENT_COLUMNS:
        return family, unit.CHARACTERS, 1
    if _SCORE.fullmatch(family):
        return family, unit.SCORE, SCALE["score"]
    return None


def _per_call(name: str, selection: Selection) -> Measure | None:
    family, _, statistic = name.rpartition(".")
    if name.startswith("tokens.") and (total := _column(name)) is not None:
        return _total(name, total[1], _sum(name), _exemplar(name), _count(Selection.ANY, name))
    column = _column(family)
    if column is None:
        return None
    field, base, scale = column
    if statistic == "per_minute" and family.startswith("tokens."):
        sums = _total(
            name, unit.TOKENS_PER_MINUTE, _sum(field), _exemplar(field), _count(Selection.ANY, field)
        )
        return replace(sums, formula=Formula.PER_MINUTE)
    known = _count(selection, field)
    shows = _exemplar(field, selection)
    if statistic == "avg":
        mean = Measure(name, base, Formula.MEAN, _sum(field, selection), known, shows, known)
        return replace(mean, scale=scale, min_calls=_RATIO_MIN_CALLS)
    if statistic == "max":
        return Measure(
            name, base, Formula.PEAK, Field(FieldKind.PEAK, field, selection), known, shows, scale=scale
        )
    if match := _PERCENTILE.fullmatch(statistic):
        rank = int(match[1])
        return Measure(
            name,
            base,
            Formula.PERCENTILE,
            Field(FieldKind.HISTOGRAM, field, selection),
            known,
            shows,
            percentile=rank,
            scale=scale,
            min_calls=percentile_min_calls(rank),
        )
    return None


def percentile_min_calls(rank: int) -> int:
    """The least sample for a percentile: 1 / (the share in its smaller tail), at least 20: P95 20, P99 100.

    With fewer calls the nearest rank of an upper percentile is the maximum, so one call decides it.
    """
    tail = min(rank, 100 - rank)
    return max(_RATIO_MIN_CALLS, -(-100 // tail))

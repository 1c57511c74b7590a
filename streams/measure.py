"""`tocsin measure`: every measure of recorded calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from rules.labels import DERIVED_DIMENSIONS, STANDARD_DIMENSIONS, Matcher, is_dimension
from rules.measures import measure
from rules.problem import InvalidFilesError, Problem, did_you_mean
from rules.quantities import format_quantity
from rules.visible import visible
from streams.alert_record import rfc3339
from streams.call_files import CallFile
from streams.durations import milliseconds_of
from streams.measuring import Measured, Row, measure_calls
from streams.price_file import read_price_book
from streams.pricing import PriceBook, Pricer
from streams.progress import with_progress
from streams.replay import counted, report_rejected
from streams.setup import wall_ms
from streams.spend import BatchPricer

_COLUMNS: Final = (
    ("calls", "calls"),
    ("errors", "errors"),
    ("error_rate", "error rate"),
    ("latency.p50", "P50"),
    ("latency.p95", "P95"),
    ("latency.p99", "P99"),
    ("ttft.p50", "ttft P50"),
    ("ttft.p95", "ttft P95"),
    ("ttft.p99", "ttft P99"),
    ("tokens.input", "tokens in"),
    ("tokens.output", "tokens out"),
    ("spend", "spend"),
)
_WIDE: Final = 250
"""Columns of a table that goes to a file or a pipe."""


def run_measure(
    by: str, calls: str, window: str | None, where: Sequence[str], prices: Path | None, *, as_json: bool
) -> None:
    """Print the table, or a JSON list.

    Raises:
        InvalidFilesError, CallFileError: what cannot be read.
    """
    dimensions = [name.strip() for name in by.split(",") if name.strip()]
    matchers, problems = _matchers(where)
    problems += [_unknown("--by", name) for name in dimensions if not is_dimension(name)]
    if problems:
        raise InvalidFilesError(problems)
    window_ms = None if window is None else milliseconds_of(window, "--window")
    if window_ms == 0:
        raise InvalidFilesError([Problem("--window", 0, 0, "a window must be longer than 0s")])
    book = PriceBook() if prices is None else read_price_book(prices)
    # Times do not matter over the whole input, so calls without one count as of now.
    file = CallFile(calls, default_ms=0 if window_ms else wall_ms())
    pricer = BatchPricer(Pricer(book))
    batches = with_progress(file, file.batches())
    measured = measure_calls(batches, dimensions, pricer, where=matchers, window_ms=window_ms)
    if as_json:
        click.echo(json.dumps([_object(row, dimensions, window_ms) for row in measured.rows], indent=1))
    else:
        _print_table(measured, dimensions)
    report_rejected(measured.rejected, 0)
    counts = measured.counts
    notes = [
        f"{number:,} {name}"
        for number, name in (
            (counts.rejected, "rejected"),
            (counts.duplicates, "duplicates"),
            (
                counts.accepted - sum(int(row.values["calls"] or 0) for row in measured.rows),
                "left out by the filter",
            ),
        )
        if number
    ]
    if notes:
        click.echo(", ".join([counted(counts.accepted, "call"), *notes]), err=True)
    if (ignored := measured.ignored.text()) is not None:
        click.echo(ignored, err=True)


def _matchers(where: Sequence[str]) -> tuple[list[Matcher], list[Problem]]:
    matchers, problems = [], []
    for text in where:
        name, equals, values = text.partition("=")
        if not equals or not values:
            problems.append(Problem("--where", 0, 0, f'"{text}" is not NAME=VALUE'))
        elif not is_dimension(name):
            problems.append(_unknown("--where", name))
        else:
            matchers.append(Matcher(name, tuple(values.split(","))))
    return matchers, problems


def _unknown(option: str, name: str) -> Problem:
    known = (*STANDARD_DIMENSIONS, *DERIVED_DIMENSIONS)
    return Problem(
        option, 0, 0, f'"{name}" is no dimension{did_you_mean(name, known)}; labels are labels.NAME'
    )


def _object(row: Row, dimensions: Sequence[str], window_ms: int | None) -> dict[str, Any]:
    """One row: the best known measures under short names, every other under its own."""
    values = {name: _rounded(value) for name, value in row.values.items()}
    result: dict[str, Any] = {"series": dict(zip(dimensions, row.series, strict=True))}
    if row.start_ms is not None and window_ms is not None:
        result["window"] = {"start": rfc3339(row.start_ms), "end": rfc3339(row.start_ms + window_ms)}
    for name in ("calls", "errors", "error_rate"):
        result[name] = values.pop(name)
    for family, key in (("latency", "latency_ms"), ("ttft", "ttft_ms")):
        result[key] = {
            statistic: values.pop(f"{family}.{statistic}")
            for statistic in ("p50", "p95", "p99", "avg", "max")
        }
    result["tokens"] = {
        name: values.pop(f"tokens.{name}") for name in ("input", "output", "total", "cached_input")
    }
    result["spend_nanodollars"] = values.pop("spend")
    result["spend_per_call_nanodollars"] = values.pop("spend_per_call")
    return result | values


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value


def _print_table(measured: Measured, dimensions: Sequence[str]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    table = Table(box=None, pad_edge=False, header_style="bold")
    windowed = any(row.start_ms is not None for row in measured.rows)
    for name in (*(["window"] if windowed else []), *dimensions):
        table.add_column(name, overflow="fold")
    for _, title in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in measured.rows:
        start = [rfc3339(row.start_ms)] if row.start_ms is not None else []
        series = [visible(value, 200) for value in row.series]
        table.add_row(*start, *series, *(_cell(name, row.values[name]) for name, _ in _COLUMNS))
    console.print(table, markup=False) if measured.rows else console.print("no calls", markup=False)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in ("calls", "errors", "tokens.input", "tokens.output"):
        return f"{value:,}"
    return format_quantity(value, measure(name).unit)

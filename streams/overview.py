"""The overview: a view that the worker keeps beside those of the rules, for the live table and for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rules.labels import MODEL_CALLS, Matcher
from rules.measures import measure
from rules.view import FieldKind, View

MEASURES: Final = (
    "calls",
    "errors",
    "error_rate",
    "latency.p50",
    "latency.p95",
    "latency.p99",
    "spend",
    "tokens.input",
    "tokens.output",
)


def overview_view(by: Sequence[str]) -> View:
    """The view of the overview by the given dimensions, over chat and completion calls, without exemplars."""
    fields = {
        field for name in MEASURES for field in measure(name).fields if field.kind is not FieldKind.EXEMPLAR
    }
    return View((Matcher("operation", MODEL_CALLS),), tuple(by), tuple(sorted(fields)))

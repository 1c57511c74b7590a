"""Needs: which fields of an event a set of views reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rules.labels import LABEL_PREFIX, STANDARD_DIMENSIONS
from rules.view import FieldKind, Selection, View
from streams.event import FIELDS


@dataclass(frozen=True, slots=True)
class Needs:
    """What a set of views reads of an event: fields, top-level label names."""

    fields: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()

    @classmethod
    def of(cls, views: Iterable[View]) -> Needs:
        """The needs of all views together."""
        fields: set[str] = set()
        labels: set[str] = set()
        for view in views:
            for dimension in (*view.by, *(matcher.dimension for matcher in view.where)):
                if dimension.startswith(LABEL_PREFIX):
                    labels.add(dimension.removeprefix(LABEL_PREFIX))
                    fields.add("labels")
                elif dimension in STANDARD_DIMENSIONS or dimension in ("finish_reason", "streaming"):
                    fields.add(dimension)
            for wanted in view.fields:
                fields |= _column_fields(wanted.column)
                if wanted.selection in (Selection.FINISHED, Selection.TRUNCATED, Selection.REFUSED):
                    fields.add("finish_reason")
                if wanted.selection in (Selection.UNPRICED, Selection.PRICEABLE):
                    fields |= {"provider", "cost_usd"}
                if wanted.kind is FieldKind.DISTINCT:
                    fields.add(wanted.column)
        return cls(frozenset(fields), frozenset(labels - set(FIELDS)))


def _column_fields(column: str) -> set[str]:
    if column in ("ttft", "output_tokens_per_second"):
        return {"ttft_ms", "latency_ms"}
    if column == "spend":
        return {"provider", "cost_usd"}
    for prefix, name in (("stage.", "stages_ms"), ("content.", "content"), ("score.", "scores")):
        if column.startswith(prefix):
            return {name}
    return set()

"""Dimensions of calls, series of them, and the matchers of `where`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

NONE: Final = "<none>"
"""The value of a dimension that a call does not carry. It is a value like any other, never dropped."""

OTHER: Final = "<other>"
"""The value under which series beyond a cap are gathered."""

STANDARD_DIMENSIONS: Final = (
    "operation",
    "feature",
    "model",
    "model_version",
    "provider",
    "user",
    "session",
    "prompt",
    "prompt_version",
    "environment",
)
DERIVED_DIMENSIONS: Final = ("status", "error.type", "error.code", "finish_reason", "streaming")
LABEL_PREFIX: Final = "labels."

MODEL_CALLS: Final = ("chat", "completion")
"""Operations that a rule sees unless its `where` names `operation`: embeddings would dilute a chat's percentiles."""

Series = tuple[str, ...]
"""One value per dimension of a view, in the order of its `by`."""


def is_dimension(name: str) -> bool:
    """Whether `name` can stand in `by` and `where`: a standard or derived dimension, or `labels.NAME`."""
    return (
        name in STANDARD_DIMENSIONS
        or name in DERIVED_DIMENSIONS
        or (name.startswith(LABEL_PREFIX) and len(name) > len(LABEL_PREFIX))
    )


@dataclass(frozen=True, slots=True)
class Matcher:
    """One line of `where`: the dimension's value is one of `any_of`."""

    dimension: str
    any_of: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Whether a call or alert with this value passes."""
        return value in self.any_of


def matches_all(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether labels pass every matcher; a label that is absent has the value `<none>`."""
    return all(matcher.matches(labels.get(matcher.dimension, NONE)) for matcher in matchers)

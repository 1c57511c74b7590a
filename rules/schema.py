"""The shape of a rule file: pydantic models of `version: 1` (scalars are source text), and where its rules stand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from rules.measures import Outcome
from rules.problem import Problem
from rules.rule import Severity
from rules.source import Data, Node, Path


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelsModel(_Strict):
    """`{warning: 2s, critical: 5s}`: a threshold for each severity, at least one."""

    warning: str | None = None
    critical: str | None = None


def _kind_of_level(value: Any) -> str:
    return "a level of each severity" if isinstance(value, dict | LevelsModel) else "a level"


def _kind_of_threshold(value: Any) -> str:
    return "levels by a dimension" if isinstance(value, dict) and "by" in value else _kind_of_level(value)


Level = Annotated[
    Annotated[str, Tag("a level")] | Annotated[LevelsModel, Tag("a level of each severity")],
    Discriminator(_kind_of_level),
]
"""A value with its unit, or one for each severity."""

ThresholdModel = Annotated[
    Annotated[str, Tag("a level")]
    | Annotated[LevelsModel, Tag("a level of each severity")]
    | Annotated[dict[str, Level], Tag("levels by a dimension")],
    Discriminator(_kind_of_threshold),
]
"""A level, or `{by: DIMENSION, VALUE: level, ..., default: level}`."""

Values = str | Annotated[list[str], Field(min_length=1)]
"""What `where` asks of one dimension: a value or one of a list."""


class RuleModel(_Strict):
    """One rule as it is written."""

    UNKNOWN_KEYS: ClassVar[dict[str, str]] = {
        "expr": "there is no query language; write measure:, window: and above: or below:, with where: and by:",
        "annotations": "write summary: for the text and runbook: for the page",
        "annotation": "write summary: for the text and runbook: for the page",
        "runbook_url": "write runbook: and the name of the page, such as latency-high",
        "description": "write summary:",
        "message": "write summary:",
        "threshold": "write above: or below:",
        "filter": "write where:, such as {environment: prod}",
        "group_by": "write by:, such as [feature, model]",
        "name": "write alert:",
        "record": "there are no recording rules; write alert:",
        "interval": "how often a rule is evaluated follows from its window; remove it",
    }
    MISSING_KEYS: ClassVar[dict[str, str]] = {
        "alert": "a rule starts with its name, such as alert: AnswersSlowly",
        "measure": "say what is measured, such as measure: latency.p95",
        "window": "say over how long it is measured, such as window: 5m",
        "runbook": "name the page that says what to do, such as runbook: latency-high",
    }

    alert: str
    measure: str
    window: str
    runbook: Annotated[str, Field(min_length=1)]
    where: dict[str, Values] = {}
    by: list[str] = []
    above: ThresholdModel | None = None
    below: ThresholdModel | None = None
    severity: Severity | None = None
    for_: str = Field("0s", alias="for")
    keep_firing_for: str = "0s"
    min_calls: str | None = None
    outcome: Outcome | None = None
    labels: dict[str, str] = {}
    summary: str | None = None


class GroupModel(_Strict):
    """Rules that belong together under a name."""

    UNKNOWN_KEYS: ClassVar[dict[str, str]] = {
        "interval": "how often a rule is evaluated follows from its window; remove it",
        "alert": "rules stand under rules:, each as an item that starts with - alert:",
    }

    name: str
    rules: Annotated[list[RuleModel], Field(min_length=1)]


class FileModel(_Strict):
    """A rule file."""

    UNKNOWN_KEYS: ClassVar[dict[str, str]] = {
        "rules": "rules stand in a group; write groups: with - name: and rules: in it",
        "alert": "rules stand in a group; write groups: with - name: and rules: in it",
    }
    MISSING_KEYS: ClassVar[dict[str, str]] = {
        "version": "write version: 1",
        "groups": "write groups: with - name: and rules: in it",
    }

    version: Literal["1"]
    groups: list[GroupModel]


def _items(data: Data, key: str) -> list[Any]:
    items = data.get(key) if isinstance(data, dict) else None
    return items if isinstance(items, list) else []


def rule_paths(node: Node) -> Iterator[Path]:
    """Where a mapping stands that should be a rule, in a file whose other parts may be wrong."""
    for number, group in enumerate(_items(node.data, "groups")):
        for index, rule in enumerate(_items(group, "rules")):
            if isinstance(rule, dict):
                yield ("groups", number, "rules", index)


def context_of(node: Node, path: Path) -> str:
    """`group chat, rule AnswersSlowly` for a path inside a rule; numbers from 1 stand in for names that are missing."""
    words = []
    if len(path) >= 2 and path[0] == "groups":
        words.append(f"group {_name(node.at(path[:2]), 'name', path[1])}")
        if len(path) >= 4 and path[2] == "rules":
            words.append(f"rule {_name(node.at(path[:4]), 'alert', path[3])}")
    return ", ".join(words)


def _name(data: Data, key: str, index: str | int) -> str:
    name = data.get(key) if isinstance(data, dict) else None
    return (
        name[:100] if isinstance(name, str) and name else str(index + 1 if isinstance(index, int) else index)
    )


def inside(node: Node, problems: Sequence[Problem]) -> list[Problem]:
    """The problems, each with the rule named that its place lies in, if it lies in one."""
    paths = list(rule_paths(node))
    starts = [node.position(path) for path in paths]
    named = []
    for problem in problems:
        index = bisect_right(starts, (problem.line, problem.column)) - 1
        # What stands to the left of the last rule's keys comes after that rule.
        lies_in = index >= 0 and problem.column >= starts[index][1]
        named.append(replace(problem, context=context_of(node, paths[index])) if lies_in else problem)
    return named

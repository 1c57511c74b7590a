"""From rule files to a rule set: every check that a file must pass, and all problems of all files at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rules.files import RuleFile, read_rule_files, read_what_can_be
from rules.labels import DERIVED_DIMENSIONS, MODEL_CALLS, STANDARD_DIMENSIONS, Matcher, is_dimension
from rules.measures import LARGEST_PERCENTILE, Formula, Measure, Outcome, UnknownMeasureError, measure
from rules.problem import InvalidFilesError, Problem, did_you_mean
from rules.quantities import (
    CALLS,
    DAY,
    SECOND,
    QuantityError,
    format_quantity,
    format_window,
    parse_duration,
    parse_quantity,
)
from rules.rule import Direction, Levels, Rule, RuleSet, Severity, Threshold, tier_ms
from rules.schema import FileModel, LevelsModel, RuleModel, context_of, inside, rule_paths
from rules.source import Node, empty_values, read_yaml, salvage, validate
from rules.source import Path as Place
from rules.template import VARIABLES, Summary, TemplateError, variable_name
from rules.view import ENGINE_SOURCE

__all__ = ["RuleFile", "load_rules", "nearest_exact_windows", "parse_rule_files", "read_rule_files"]

SHORTEST_WINDOW_MS: Final = 10 * SECOND
LONGEST_WINDOW_MS: Final = 30 * DAY
LARGEST_MIN_CALLS: Final = 1_000_000_000

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_NAME_RULE: Final = "write letters, digits and _, starting with a letter, at most 100"
_GROUP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}")
_DIMENSIONS: Final = (*STANDARD_DIMENSIONS, *DERIVED_DIMENSIONS)
_RESERVED_LABELS: Final = ("alert", "group", "severity")


def parse_rule_files(files: Sequence[RuleFile], runbooks: Collection[str] | None) -> RuleSet:
    """The rules of some files, in the order in which they are written.

    Args:
        runbooks: names of the pages that exist; None leaves the names unchecked.

    Raises:
        InvalidFilesError: every problem of every file.
    """
    rules, problems = _parse(files, runbooks)
    if problems:
        raise InvalidFilesError(problems)
    return RuleSet(tuple(rules))


def load_rules(paths: Sequence[str | Path], base: Path, runbooks: Collection[str] | None) -> RuleSet:
    """Read and parse rule files.

    Raises:
        InvalidFilesError: every problem, of the patterns and of the files that could be read.
    """
    files, problems = read_what_can_be(paths, base)
    rules, more = _parse(files, runbooks)
    if problems or more:
        raise InvalidFilesError([*problems, *more])
    return RuleSet(tuple(rules))


def _parse(files: Sequence[RuleFile], runbooks: Collection[str] | None) -> tuple[list[Rule], list[Problem]]:
    rules: list[Rule] = []
    problems: list[Problem] = []
    places: dict[tuple[str, str], str] = {}
    for file in files:
        node, found = read_yaml(file.name, file.text)
        if node is None:
            empty = Problem(file.name, 0, 0, "the file is empty: write version: 1 and groups:")
            problems += found or [empty]
            continue
        problems += inside(node, found)
        context = partial(context_of, node)
        problems += empty_values(node, file.name, context)
        problems += validate(node, FileModel, file.name, context)[1]
        for path in rule_paths(node):
            reader = _RuleReader(file.name, node, path, runbooks, places)
            rule = reader.rule()
            problems += reader.problems
            if rule is not None:
                rules.append(rule)
    return rules, problems


@dataclass
class _RuleReader:
    """Checks one rule of a file. `places` remembers where each rule of all files stands."""

    file: str
    node: Node
    path: Place
    runbooks: Collection[str] | None
    places: dict[tuple[str, str], str]
    problems: list[Problem] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def rule(self) -> Rule | None:
        """The rule; None when anything is wrong with it or with its shape."""
        data: Any = self.node.at(self.path)
        faulty = self.node.faulty
        sound = {key: value for key, value in data.items() if (*self.path, key) not in faulty}
        self.fields = salvage(sound, RuleModel)
        group, alert = self._names()
        by = self._by()
        found = self._measure(by)
        threshold = self._threshold(data, by, found)
        window_ms = self._window()
        where = self._where(found)
        min_calls = self._min_calls(found)
        for_ms, keep_firing_for_ms = (
            self._duration("for_", "for"),
            self._duration("keep_firing_for", "keep_firing_for"),
        )
        runbook = self._runbook()
        labels = self._labels(by)
        self._summary(by)
        if self.problems or group is None or alert is None or found is None:
            return None
        if threshold is None or window_ms is None or runbook is None:
            return None
        return Rule(
            group=group,
            alert=alert,
            measure=found,
            window_ms=window_ms,
            threshold=threshold,
            where=where,
            by=by,
            for_ms=for_ms or 0,
            keep_firing_for_ms=keep_firing_for_ms or 0,
            min_calls=min_calls,
            runbook=runbook,
            labels=labels,
            summary=self.fields.get("summary"),
        )

    def _report(self, cause: str, *path: str | int, key: bool = False) -> None:
        whole = (*self.path, *path)
        place = self.node.key_position(whole) if key else self.node.position(whole)
        self.problems.append(Problem(self.file, *place, cause, context_of(self.node, whole)))

    def _names(self) -> tuple[str | None, str | None]:
        named: Any = self.node.at(self.path[:2])
        group, alert = named.get("name"), self.fields.get("alert")
        if isinstance(group, str) and not _GROUP.fullmatch(group):
            allowed = "letters, digits, spaces and _ . -, at most 100"
            cause = f'the group name "{group[:100]}" is not allowed: write {allowed}'
            place = self.node.position((*self.path[:2], "name"))
            self.problems.append(Problem(self.file, *place, cause, f"group {group[:100]}"))
        if alert is None:
            return None, None
        if not _NAME.fullmatch(alert):
            self._report(f'the alert name "{alert[:100]}" is not allowed: {_NAME_RULE}', "alert")
        if not isinstance(group, str):
            return None, alert
        line, column = self.node.position((*self.path, "alert"))
        here = f"{self.file}:{line}:{column}"
        first = self.places.setdefault((group, alert), here)
        if first != here:
            self._report(f"the group has a rule {alert} already, at {first}: rename one of them", "alert")
        return group, alert

    def _by(self) -> tuple[str, ...]:
        names = self.fields.get("by", [])
        for index, name in enumerate(names):
            self._dimension(name, "by", index)
            if name in names[:index]:
                self._report(f'"{name}" stands twice in by', "by", index)
        return tuple(names)

    def _dimension(self, name: str, *path: str | int) -> None:
        if not is_dimension(name):
            hint = did_you_mean(name, _DIMENSIONS)
            label = f"; a label of the calls is written labels.{name}"
            self._report(f'unknown dimension "{name}"{hint}{label}', *path, key=True)

    def _measure(self, by: tuple[str, ...]) -> Measure | None:
        name, outcome = self.fields.get("measure"), self.fields.get("outcome")
        if name is None:
            return None
        try:
            found = measure(name)
        except UnknownMeasureError as error:
            self._report(str(error), "measure")
            return None
        if found.source == ENGINE_SOURCE:
            given = {"by": by, "where": self.fields.get("where"), "min_calls": "min_calls" in self.fields}
            for key in (key for key in given if given[key]):
                self._report(f"{name} is measured on the engine, not on calls: remove it", key, key=True)
        if outcome is not None:
            try:
                found = measure(name, Outcome(outcome))
            except UnknownMeasureError as error:
                self._report(str(error), "outcome")
        return found

    def _threshold(
        self, data: Mapping[str, Any], by: tuple[str, ...], found: Measure | None
    ) -> Threshold | None:
        given = [direction for direction in Direction if direction in data]
        if len(given) != 1:
            cause = "the rule has both above and below: keep one"
            cause = cause if given else "the rule has no threshold: write above: or below:"
            self._report(cause, *given[1:], key=True)
            return None
        key, severity = given[0], Severity(self.fields.get("severity") or Severity.WARNING)
        levels = self.fields.get(key)
        if levels is None:
            return None
        if isinstance(levels, dict):
            return self._threshold_by(key, levels, severity, by, found)
        default = self._levels(levels, severity, key, found, key)
        return Threshold(key, default)

    def _threshold_by(
        self,
        key: Direction,
        levels: dict[str, Any],
        severity: Severity,
        by: tuple[str, ...],
        found: Measure | None,
    ) -> Threshold:
        dimension = levels["by"]
        if not isinstance(dimension, str):
            self._report("by: names one dimension, such as feature", key, "by")
            dimension = None
        elif dimension not in by:
            self._report(
                f'the threshold depends on "{dimension}", which is not in by: add it there', key, "by"
            )
        if "default" not in levels:
            self._report("write default: as well, the threshold for every other value", key)
        of = {
            value: self._levels(level, severity, key, found, key, value)
            for value, level in sorted(levels.items())
            if value != "by"
        }
        default = of.pop("default", Levels())
        return Threshold(key, default, dimension, tuple(of.items()))

    def _levels(
        self, level: str | LevelsModel, severity: Severity, key: Direction, found: Measure | None, *path: str
    ) -> Levels:
        if isinstance(level, str):
            value = self._quantity(level, found, *path)
            return Levels(value, None) if severity is Severity.WARNING else Levels(None, value)
        if "severity" in self.fields:
            self._report("severity belongs to a single value: remove it here", "severity", key=True)
        written = level.model_dump(exclude_none=True)
        if not written:
            self._report("write warning: or critical: or both", *path)
        values = {name: self._quantity(text, found, *path, name) for name, text in written.items()}
        levels = Levels(values.get("warning"), values.get("critical"))
        above = key is Direction.ABOVE
        mildest, worst = (levels.warning, levels.critical) if above else (levels.critical, levels.warning)
        if mildest is not None and worst is not None and mildest > worst:
            side = "at most" if above else "at least"
            self._report(
                f"warning {level.warning} must be {side} critical {level.critical}", *path, "warning"
            )
        return levels

    def _quantity(self, text: str, found: Measure | None, *path: str) -> float | None:
        if found is not None:
            try:
                value = parse_quantity(text, found.unit)
            except QuantityError as error:
                self._report(f"{found.name}: {error}", *path)
                return None
            if found.formula is Formula.PERCENTILE and value * found.scale >= LARGEST_PERCENTILE:
                largest = format_quantity(LARGEST_PERCENTILE / found.scale, found.unit)
                cause = f"{text} is more than a percentile can say, which ends at {largest}: use avg or max"
                self._report(f"{found.name}: {cause}", *path)
                return None
            return value
        return None

    def _window(self) -> int | None:
        window_ms, written = self._duration("window", "window"), self.fields.get("window")
        if window_ms is None:
            return None
        if not SHORTEST_WINDOW_MS <= window_ms <= LONGEST_WINDOW_MS:
            self._report(f"the window {written} is out of range: write 10s to 30d", "window")
        elif window_ms % tier_ms(window_ms):
            nearest = " and ".join(format_window(each) for each in nearest_exact_windows(window_ms))
            cause = f"the window {written} cannot be computed exactly: the nearest that can are {nearest}"
            self._report(cause, "window")
        return window_ms

    def _duration(self, name: str, key: str) -> int | None:
        text = self.fields.get(name)
        if text is None:
            return None
        try:
            duration = parse_duration(text)
        except QuantityError as error:
            self._report(str(error), key)
            return None
        if duration > LONGEST_WINDOW_MS and key != "window":
            self._report(f"{text} is out of range: write at most 30d", key)
        return duration

    def _where(self, found: Measure | None) -> tuple[Matcher, ...]:
        where: dict[str, str | list[str]] = self.fields.get("where", {})
        matchers = {}
        for name, values in where.items():
            self._dimension(name, "where", name)
            any_of = {values} if isinstance(values, str) else set(values)
            matchers[name] = Matcher(name, tuple(sorted(any_of)))
        if "operation" not in where and found is not None and found.source != ENGINE_SOURCE:
            matchers["operation"] = Matcher("operation", MODEL_CALLS)
        return tuple(matchers[name] for name in sorted(matchers))

    def _min_calls(self, found: Measure | None) -> int:
        text = self.fields.get("min_calls")
        if text is None:
            return found.min_calls if found is not None else 0
        try:
            calls = parse_quantity(text, CALLS)
        except QuantityError as error:
            self._report(str(error), "min_calls")
            return 0
        if not isinstance(calls, int) or calls > LARGEST_MIN_CALLS:
            self._report(f"{text} is not a whole number from 0 to {LARGEST_MIN_CALLS:,}", "min_calls")
            return 0
        return calls

    def _runbook(self) -> str | None:
        name: str | None = self.fields.get("runbook")
        if name is not None and self.runbooks is not None and name not in self.runbooks:
            hint = did_you_mean(name, self.runbooks) or f"; add the page {name}.md"
            self._report(f'there is no runbook "{name}"{hint}', "runbook")
        return name

    def _labels(self, by: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        labels: dict[str, str] = self.fields.get("labels", {})
        for name, value in labels.items():
            if name in _RESERVED_LABELS:
                cause = "is set by the engine: choose another name"
            elif name in by:
                cause = "is a dimension of the series (by): choose another name"
            elif not _NAME.fullmatch(name):
                cause = f"is not allowed: {_NAME_RULE}"
            else:
                cause = ""
            if cause:
                self._report(f'the label "{name[:100]}" {cause}', "labels", name, key=True)
            if "{{" in value or "{%" in value:
                cause = "a label cannot hold a template: a value that changes would make a new alert at each tick;"
                self._report(f"{cause} write it in summary", "labels", name)
        return tuple(sorted(labels.items()))

    def _summary(self, by: tuple[str, ...]) -> None:
        text = self.fields.get("summary")
        if text is None:
            return
        try:
            variables = Summary.compile(text).variables
        except TemplateError as error:
            self._report(str(error), "summary")
            return
        known = [*VARIABLES, *map(variable_name, by)]
        for name in sorted(variables - set(known)):
            dimensions = [each for each in _DIMENSIONS if variable_name(each) == name]
            hint = f"; add {dimensions[0]} to by" if dimensions else did_you_mean(name, known)
            hint = hint or f"; there are {', '.join(known)}"
            self._report(f'unknown variable "{name}" in the summary{hint}', "summary")


def nearest_exact_windows(window_ms: int) -> tuple[int, int]:
    """The longest shorter and the shortest longer window, in whole seconds, that panes sum up to exactly."""
    below = window_ms // SECOND * SECOND
    while below % tier_ms(below):
        below -= SECOND
    above = window_ms // SECOND * SECOND + SECOND
    while above % tier_ms(above):
        above += SECOND
    return below, above

"""Summaries: a small, sandboxed part of Jinja2 that can neither loop nor grow its output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST_SOURCE: Final = 2_000
LONGEST_SUMMARY: Final = 500
"""Characters of a rendered summary; what is longer is cut and ends in an ellipsis."""
VARIABLES: Final = ("value", "threshold", "window", "calls", "severity", "alert", "measure")
"""What every summary can show; the dimensions of `by` come on top, under `variable_name`."""
FILTERS: Final = ("capitalize", "default", "lower", "title", "trim", "truncate", "upper")

_DEEPEST: Final = 20
_COMPARISONS: Final = ("eq", "ne", "in", "notin")
_ALLOWED: Final = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.Filter,
    nodes.Keyword,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.Test,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Concat,
)


class TemplateError(ValueError):
    """A summary that cannot be compiled or rendered; the message says why."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A compiled summary and the names of the variables in it."""

    source: str
    variables: frozenset[str]
    _template: jinja2.Template

    @classmethod
    def compile(cls, source: str) -> Summary:
        """Compile and try a summary: `{{ variable }}`, a few filters, `{% if %}`; all variables are texts.

        Raises:
            TemplateError: the source is too long, is no Jinja2, uses more than is allowed, or fails on sample values.
        """
        if len(source) > LONGEST_SOURCE:
            raise TemplateError(f"the summary is longer than {LONGEST_SOURCE:,} characters")
        try:
            tree = _ENVIRONMENT.parse(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the summary is not a template: {error.message}") from error
        except RecursionError as error:
            raise TemplateError("the summary is nested too deeply") from error
        _check(tree, 0)
        variables = frozenset(meta.find_undeclared_variables(tree))
        summary = cls(source, variables, _ENVIRONMENT.from_string(source))
        summary.render(dict.fromkeys(variables, "0"))
        return summary

    def render(self, values: Mapping[str, str]) -> str:
        """The summary in one line of at most 500 characters; `values` are by name of variable or of dimension.

        Raises:
            TemplateError: a variable has no value, or a filter does not accept its argument.
        """
        try:
            text = self._template.render({variable_name(name): value for name, value in values.items()})
        except Exception as error:  # whatever a template does, the alert must go out
            raise TemplateError(f"the summary cannot be rendered: {error}") from error
        return _one_line(text)


def variable_name(dimension: str) -> str:
    """The name of a dimension inside a summary: `error.type` is `error_type`."""
    return re.sub(r"\W", "_", dimension)


def default_summary(values: Mapping[str, str], direction: str, series: Iterable[str]) -> str:
    """The text for a rule without a summary or with one that fails, from the values of its variables.

    `latency.p95 of chat, gpt-4.1 is 6.1 s, above 5 s over 5m`.
    """
    named = ", ".join(series)
    of = f" of {named}" if named else ""
    measured = f"{values['measure']}{of} is {values['value']}"
    return _one_line(f"{measured}, {direction} {values['threshold']} over {values['window']}")


def _one_line(text: str) -> str:
    visible = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(visible.split())
    return line if len(line) <= LONGEST_SUMMARY else line[: LONGEST_SUMMARY - 1] + "…"


def _check(node: nodes.Node, depth: int) -> None:
    """Refuse what can loop, multiply or reach into objects: only what is named is allowed."""
    if depth > _DEEPEST:
        raise TemplateError("the summary is nested too deeply")
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        dotted = f"{node.node.name}.{node.attr}"
        raise TemplateError(
            f'in a summary the dimension "{dotted}" is written {{{{ {variable_name(dotted)} }}}}'
        )
    if not isinstance(node, _ALLOWED):
        word = type(node).__name__.lower()
        allowed = "{{ variable }}, filters and {% if %}"
        raise TemplateError(f'a summary cannot use "{word}": only {allowed} are allowed')
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise TemplateError(
            f'a summary cannot use the filter "{node.name}"; allowed are {", ".join(FILTERS)}'
        )
    if isinstance(node, nodes.Test) and node.name != "defined":
        raise TemplateError(f'a summary cannot use the test "{node.name}"; allowed is defined')
    if isinstance(node, nodes.Operand) and node.op not in _COMPARISONS:
        raise TemplateError(
            "a summary can compare with ==, != and in only: its variables are texts, not numbers"
        )
    for child in node.iter_child_nodes():
        _check(child, depth + 1)


_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, loader=None, keep_trailing_newline=False
)
_ENVIRONMENT.globals.clear()

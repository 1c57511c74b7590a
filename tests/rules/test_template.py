from __future__ import annotations

import pytest

from rules.template import LONGEST_SOURCE, Summary, TemplateError, default_summary, variable_name


def test_a_summary_shows_variables_and_knows_their_names() -> None:
    summary = Summary.compile("P95 of {{ feature }} is {{ value }} (budget {{ threshold }})")
    assert summary.variables == {"feature", "value", "threshold"}
    values = {"feature": "chat", "value": "6.1 s", "threshold": "5 s", "window": "5m"}
    assert summary.render(values) == "P95 of chat is 6.1 s (budget 5 s)"


def test_dots_and_dashes_of_dimensions_are_underscores_in_a_summary() -> None:
    assert variable_name("labels.my-team") == "labels_my_team"
    summary = Summary.compile("{{ error_type }} in {{ labels_my_team }}")
    assert summary.render({"error.type": "timeout", "labels.my-team": "a"}) == "timeout in a"


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ x | upper }} {{ x|default('-') }} {{ x|truncate(4, True, '', 0) }}", "ABCDE abcde abcd"),
        ("{% if severity == 'critical' %}page{% else %}look{% endif %}", "page"),
        ("{{ 'a' if x in ('abcde', 'b') else 'c' }}", None),
        ("{{ 'yes' if x is defined and not severity != 'critical' or x else 'no' }}", "yes"),
        ("{{ x ~ '/' ~ severity }}", "abcde/critical"),
        ("{# a comment #}one\n  line\tonly  ", "one line only"),
    ],
)
def test_filters_conditions_and_joins_are_allowed_and_lists_are_not(
    source: str, rendered: str | None
) -> None:
    if rendered is None:
        with pytest.raises(TemplateError, match="cannot use"):
            Summary.compile(source)
    else:
        assert Summary.compile(source).render({"x": "abcde", "severity": "critical"}) == rendered


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{{ value",
            "the summary is not a template: unexpected end of template, expected 'end of print statement'.",
        ),
        (
            "{% for x in value %}{% endfor %}",
            'a summary cannot use "for": only {{ variable }}, filters and {% if %}',
        ),
        ("{{ 'a' * 1000000000 }}", 'a summary cannot use "mul"'),
        ("{{ 9 ** 9999999 }}", 'a summary cannot use "pow"'),
        ("{{ range(9) }}", 'a summary cannot use "call"'),
        ("{{ value[0] }}", 'a summary cannot use "getitem"'),
        ("{{ value.__class__.__mro__ }}", 'a summary cannot use "getattr"'),
        ("{{ error.type }}", 'in a summary the dimension "error.type" is written {{ error_type }}'),
        ("{% include 'x' %}", 'a summary cannot use "include"'),
        (
            "{{ value | center(100000000) }}",
            'a summary cannot use the filter "center"; allowed are capitalize, ',
        ),
        ("{{ value is odd }}", 'a summary cannot use the test "odd"; allowed is defined'),
        ("{% if value > 5 %}x{% endif %}", "a summary can compare with ==, != and in only"),
        ("{{ value | truncate(1) }}", "the summary cannot be rendered: expected length >= 3, got 1"),
        ("{% if a %}" * 25 + "{% endif %}" * 25, "the summary is nested too deeply"),
        ("{{ " + "(" * 900 + "x" + ")" * 900 + " }}", "the summary is nested too deeply"),
        ("x" * (LONGEST_SOURCE + 1), "the summary is longer than 2,000 characters"),
    ],
)
def test_what_loops_grows_or_reaches_into_objects_is_refused_when_compiled(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Summary.compile(source)
    assert str(caught.value).startswith(message)


def test_a_variable_without_a_value_is_an_error_when_rendered() -> None:
    with pytest.raises(TemplateError, match="the summary cannot be rendered: 'model' is undefined"):
        Summary.compile("{{ model }}").render({"feature": "chat"})


def test_values_are_shown_as_they_are_in_one_line_without_control_characters() -> None:
    summary = Summary.compile("<{{ user }}>")
    assert summary.render({"user": "a\r\nb\x00c\u202e <&{{ value }}"}) == "<a b c <&{{ value }}>"


def test_a_long_summary_is_cut_at_500_characters() -> None:
    rendered = Summary.compile("{{ user }}").render({"user": "x" * 600})
    assert len(rendered) == 500
    assert rendered.endswith("x…")


def test_the_default_summary_names_the_measure_the_series_and_the_threshold() -> None:
    values = {"measure": "latency.p95", "value": "6.1 s", "threshold": "5 s", "window": "5m"}
    assert (
        default_summary(values, "above", ["chat", "a\nb"])
        == "latency.p95 of chat, a b is 6.1 s, above 5 s over 5m"
    )
    assert default_summary(values, "below", []) == "latency.p95 is 6.1 s, below 5 s over 5m"

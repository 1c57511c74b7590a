from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.labels import MODEL_CALLS, Matcher
from rules.loader import RuleFile, nearest_exact_windows, parse_rule_files
from rules.measures import Outcome, measure
from rules.problem import InvalidFilesError
from rules.quantities import DAY, HOUR, MINUTE, SECOND
from rules.rule import Direction, Levels, Rule, RuleSet, Severity, Threshold, tick_ms, tier_ms
from rules.template import VARIABLES
from rules.transition import State, Transition, transition_id

TWO_RULES = """\
version: 1
groups:
  - name: chat
    rules:
      - alert: AnswersSlowly
        where: {environment: prod, model: [gpt-4.1, gpt-4.1-mini]}
        by: [feature, model]
        measure: latency.p95
        window: 5m
        above: {warning: 2s, critical: 5s}
        for: 2m
        min_calls: 50
        runbook: latency-high
        labels: {team: growth}
        summary: "P95 of {{ feature }} on {{ model }} is {{ value }} (budget {{ threshold }})"
      - alert: LatencyBudget
        by: [feature]
        measure: latency.p95
        window: 10m
        above: {by: feature, chat: 2s, batch-summary: 30s, default: 10s}   # one rule, a budget per feature
        runbook: latency-high
"""


def load(text: str, runbooks: set[str] | None = None) -> RuleSet:
    return parse_rule_files([RuleFile("alerts.yaml", text)], runbooks)


def in_a_file(rule: str) -> str:
    head = "version: 1\ngroups:\n  - name: chat\n    rules:\n"
    first, *rest = textwrap.dedent(rule).strip().splitlines()
    return head + "\n".join([f"      - {first}", *(f"        {line}" for line in rest)]) + "\n"


def rule(*lines: str, without: str = "") -> Rule:
    """The rule of a file with the given lines in place of the usual ones of the same key."""
    return load(in_a_file(rule_text(*lines, without=without))).rules[0]


def rule_text(*lines: str, without: str = "") -> str:
    keys = {line.split(":")[0]: line for line in lines}
    usual = ["alert: A", "measure: latency.p95", "window: 5m", "above: 2s", "runbook: r"]
    base = {line.split(":")[0]: line for line in usual if line.split(":")[0] != without}
    return "\n".join((base | keys).values())


def complaints(text: str, runbooks: set[str] | None = None) -> list[str]:
    with pytest.raises(InvalidFilesError) as caught:
        load(text, runbooks)
    return [str(problem) for problem in caught.value.problems]


def test_the_documented_rules_are_read_into_base_units() -> None:
    rules = load(TWO_RULES, {"latency-high"}).rules
    assert rules[0] == Rule(
        group="chat",
        alert="AnswersSlowly",
        measure=measure("latency.p95"),
        window_ms=300_000,
        threshold=Threshold(Direction.ABOVE, Levels(2_000, 5_000)),
        where=(
            Matcher("environment", ("prod",)),
            Matcher("model", ("gpt-4.1", "gpt-4.1-mini")),
            Matcher("operation", MODEL_CALLS),
        ),
        by=("feature", "model"),
        for_ms=120_000,
        min_calls=50,
        runbook="latency-high",
        labels=(("team", "growth"),),
        summary="P95 of {{ feature }} on {{ model }} is {{ value }} (budget {{ threshold }})",
    )
    assert rules[1] == Rule(
        group="chat",
        alert="LatencyBudget",
        measure=measure("latency.p95"),
        window_ms=600_000,
        threshold=Threshold(
            Direction.ABOVE,
            Levels(10_000, None),
            "feature",
            (("batch-summary", Levels(30_000, None)), ("chat", Levels(2_000, None))),
        ),
        where=(Matcher("operation", MODEL_CALLS),),
        by=("feature",),
        min_calls=20,
        runbook="latency-high",
    )


def test_the_level_of_a_series_follows_from_its_value_of_the_dimension() -> None:
    budget = load(TWO_RULES).rules[1].threshold
    assert budget.levels(("feature",), ("chat",)) == Levels(2_000, None)
    assert budget.levels(("model", "feature"), ("m", "search")) == Levels(10_000, None)
    assert load(TWO_RULES).rules[0].threshold.levels(("feature",), ("chat",)) == Levels(2_000, 5_000)


def test_values_of_where_and_labels_stay_what_was_written() -> None:
    found = rule(
        "where: {prompt_version: [1.10, 017, 2024-10-01], user: on}", "labels: {build: 1.10, on: NO}"
    )
    assert found.where == (
        Matcher("operation", MODEL_CALLS),
        Matcher("prompt_version", ("017", "1.10", "2024-10-01")),
        Matcher("user", ("on",)),
    )
    assert found.labels == (("build", "1.10"), ("on", "NO"))


def test_a_where_that_names_the_operation_replaces_the_usual_ones() -> None:
    assert rule("where: {operation: embeddings}").where == (Matcher("operation", ("embeddings",)),)


def test_thresholds_below_with_a_severity_and_by_a_label_are_read() -> None:
    critical = rule("measure: calls", "below: 1", "severity: critical", "min_calls: 0", without="above")
    assert critical.threshold == Threshold(Direction.BELOW, Levels(None, 1))
    below = rule("measure: cache_hit_rate", "below: {warning: 40%, critical: 20%}", without="above")
    assert below.threshold.default == Levels(0.4, 0.2)
    by = rule("by: [labels.team]", "severity: critical", "above: {by: labels.team, a: 1s, default: 2s}")
    assert by.threshold == Threshold(
        Direction.ABOVE, Levels(None, 2_000), "labels.team", (("a", Levels(None, 1_000)),)
    )
    mixed = rule(
        "by: [feature]", "above: {by: feature, a: {critical: 9s}, default: {warning: 2s, critical: 5s}}"
    )
    assert mixed.threshold.of == (("a", Levels(None, 9_000)),)


def test_the_outcome_selects_the_calls_of_a_percentile() -> None:
    assert rule("outcome: any").measure == measure("latency.p95", Outcome.ANY)


def test_durations_and_the_least_sample_have_defaults_and_can_be_set() -> None:
    assert (rule().for_ms, rule().keep_firing_for_ms, rule().min_calls) == (0, 0, 20)
    found = rule("for: 90s", "keep_firing_for: 1h", "min_calls: 1.5k", "measure: latency.p99")
    assert (found.for_ms, found.keep_firing_for_ms, found.min_calls) == (90 * SECOND, HOUR, 1_500)
    assert rule("measure: latency.p99").min_calls == 100


def test_a_rule_on_the_engine_has_no_filter() -> None:
    found = rule("measure: lag", "above: 30s")
    assert (found.where, found.view.source) == ((), "engine")


def test_a_summary_can_show_every_variable_and_the_dimensions_of_by() -> None:
    names = [*VARIABLES, "error_type", "labels_team"]
    text = " ".join(f"{{{{ {name} }}}}" for name in names)
    assert rule("by: [error.type, labels.team]", f'summary: "{text}"').summary == text


@pytest.mark.parametrize("window", ["10s", "61s", "45m", "5h", "24h", "30d", "299m"])
def test_a_window_that_panes_sum_up_to_exactly_is_accepted(window: str) -> None:
    assert rule(f"window: {window}").window_ms > 0


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["above: 2s", "below: 1s"], "alerts.yaml:10:9: {}the rule has both above and below: keep one"),
        (["above:"], 'alerts.yaml:8:15: {}"above" has no value'),
        (
            ["above: 2%"],
            'alerts.yaml:8:16: {}latency.p95: "2%" is not a duration: write a number with ms, s, m, h, d or w,',
        ),
        (
            ["above: {warning: 5s, critical: 2s}"],
            "alerts.yaml:8:26: {}warning 5s must be at most critical 2s",
        ),
        (["above: {}"], "alerts.yaml:8:16: {}write warning: or critical: or both"),
        (["above: [2s]"], 'alerts.yaml:8:16: {}"above" must be text'),
        (["above: {warnig: 5s}"], 'alerts.yaml:8:17: {}unknown key "warnig" (did you mean "warning"?)'),
        (["above: {warning: 5}"], 'alerts.yaml:8:26: {}latency.p95: "5" is not a duration'),
        (
            ["above: {by: feature, default: 2s}"],
            'alerts.yaml:8:21: {}the threshold depends on "feature", which is not in by: add it there',
        ),
        (
            ["above: {by: {warning: 2s}, default: 2s}"],
            "alerts.yaml:8:21: {}by: names one dimension, such as feature",
        ),
        (
            ["by: [feature]", "above: {by: feature, chat: 2s}"],
            "alerts.yaml:8:16: {}write default: as well, the threshold for",
        ),
        (
            ["by: [feature]", "above: {by: feature, a: 2%, default: 1s}"],
            'alerts.yaml:8:33: {}latency.p95: "2%" is not a duration',
        ),
        (
            ["above: {warning: 2s}", "severity: critical"],
            "alerts.yaml:10:9: {}severity belongs to a single value: remove it here",
        ),
        (["severity: fatal"], 'alerts.yaml:10:19: {}"fatal" is not one of warning, critical'),
        (["measure: latency.p59x"], 'alerts.yaml:6:18: {}"latency.p59x": "p59x" is no statistic of latency'),
        (
            ["measure: eror_rate"],
            'alerts.yaml:6:18: {}unknown measure "eror_rate" (did you mean "error_rate"?)',
        ),
        (
            ["measure: calls", "above: 5", "outcome: ok"],
            'alerts.yaml:10:18: {}"calls" counts its own selection of calls;',
        ),
        (["outcome: good"], 'alerts.yaml:10:18: {}"good" is not one of ok, any, error'),
        (
            ["measure: late", "above: 5", "by: [user]"],
            "alerts.yaml:10:9: {}late is measured on the engine, not on calls: remove it",
        ),
        (
            ["measure: late", "above: 5", "where: {user: a}"],
            "alerts.yaml:10:9: {}late is measured on the engine, not on calls",
        ),
        (
            ["measure: late", "above: 5", "min_calls: 1"],
            "alerts.yaml:10:9: {}late is measured on the engine, not on calls",
        ),
        (["by: [feature, modle]"], 'alerts.yaml:10:23: {}unknown dimension "modle" (did you mean "model"?)'),
        (
            ["by: [squad]"],
            'alerts.yaml:10:14: {}unknown dimension "squad"; a label of the calls is written labels.squad',
        ),
        (["by: [feature, feature]"], 'alerts.yaml:10:23: {}"feature" stands twice in by'),
        (["by: feature"], 'alerts.yaml:10:13: {}"by" must be a list, such as [a, b]'),
        (
            ["where: {enviroment: prod}"],
            'alerts.yaml:10:17: {}unknown dimension "enviroment" (did you mean "environment"?)',
        ),
        (["where: {model: {a: b}}"], 'alerts.yaml:10:24: {}"model" must be text or a list, such as [a, b]'),
        (["where: {model: []}"], 'alerts.yaml:10:24: {}"model" must not be empty'),
        (["window: 1:30"], 'alerts.yaml:7:17: {}"1:30" is not a duration'),
        (["window: 9s"], "alerts.yaml:7:17: {}the window 9s is out of range: write 10s to 30d"),
        (["window: 0s"], "alerts.yaml:7:17: {}the window 0s is out of range: write 10s to 30d"),
        (["window: 31d"], "alerts.yaml:7:17: {}the window 31d is out of range: write 10s to 30d"),
        (
            ["window: 605s"],
            "alerts.yaml:7:17: {}the window 605s cannot be computed exactly: the nearest that can are 10m and 10m10s",
        ),
        (
            ["window: 301m"],
            "alerts.yaml:7:17: {}the window 301m cannot be computed exactly: the nearest that can are 5h and 5h5m",
        ),
        (
            ["above: 72m"],
            "alerts.yaml:8:16: {}latency.p95: 72m is more than a percentile can say, which ends at 1 h 11 m",
        ),
        (["for: 2"], 'alerts.yaml:10:14: {}"2" is not a duration'),
        (["keep_firing_for: 31d"], "alerts.yaml:10:26: {}31d is out of range: write at most 30d"),
        (["min_calls: few"], 'alerts.yaml:10:20: {}"few" is not a number of calls'),
        (["min_calls: 1.5"], "alerts.yaml:10:20: {}1.5 is not a whole number from 0 to 1,000,000,000"),
        (["min_calls: 9G"], "alerts.yaml:10:20: {}9G is not a whole number from 0 to 1,000,000,000"),
        (
            ["runbook: latency-hihg"],
            'alerts.yaml:9:18: {}there is no runbook "latency-hihg" (did you mean "latency-high"?)',
        ),
        (["runbook: xyz"], 'alerts.yaml:9:18: {}there is no runbook "xyz"; add the page xyz.md'),
        (['runbook: ""'], 'alerts.yaml:9:18: {}"runbook" must not be empty'),
        (
            ["labels: {severity: x}"],
            'alerts.yaml:10:18: {}the label "severity" is set by the engine: choose another name',
        ),
        (
            ["labels: {a-b: x}"],
            'alerts.yaml:10:18: {}the label "a-b" is not allowed: write letters, digits and _,',
        ),
        (
            ["labels: {user: x}", "by: [user]"],
            'alerts.yaml:10:18: {}the label "user" is a dimension of the series (by): choose another name',
        ),
        (
            ['labels: {now: "at {{ value }}"}'],
            "alerts.yaml:10:23: {}a label cannot hold a template: a value that changes would make a new alert",
        ),
        (['labels: {now: "{% if a %}"}'], "alerts.yaml:10:23: {}a label cannot hold a template"),
        (
            ['summary: "{{ value"'],
            "alerts.yaml:10:18: {}the summary is not a template: unexpected end of template",
        ),
        (
            ['summary: "{{ model }}"'],
            'alerts.yaml:10:18: {}unknown variable "model" in the summary; add model to by',
        ),
        (
            ['summary: "{{ valeu }}"'],
            'alerts.yaml:10:18: {}unknown variable "valeu" in the summary (did you mean "value"?)',
        ),
        (
            ['summary: "{{ qq }}"'],
            'alerts.yaml:10:18: {}unknown variable "qq" in the summary; there are value, threshold,',
        ),
        (
            ["expr: up == 0"],
            'alerts.yaml:10:9: {}unknown key "expr": there is no query language; write measure:, window:',
        ),
        (
            ["annotations: {a: b}"],
            'alerts.yaml:10:9: {}unknown key "annotations": write summary: for the text and runbook: for the',
        ),
        (["annotation: {a: b}"], 'alerts.yaml:10:9: {}unknown key "annotation": write summary:'),
        (
            ["runbook_url: x"],
            'alerts.yaml:10:9: {}unknown key "runbook_url": write runbook: and the name of the page',
        ),
        (["lables: {a: b}"], 'alerts.yaml:10:9: {}unknown key "lables" (did you mean "labels"?)'),
        (["for: 1m\nfor: 2m"], 'alerts.yaml:11:9: {}duplicate key "for": it already stands in line 10'),
        (
            ["above: {warning: $1,000}"],
            'alerts.yaml:8:29: {}"000" has no value; where a comma belongs to a value, quote',
        ),
        (["summary: {{ value }}"], 'alerts.yaml:10:18: {}a value cannot start with "{{{{": quote the value'),
        (["runbook: &x y"], "alerts.yaml:9:18: {}anchors are not supported"),
    ],
)
def test_a_fault_in_a_rule_is_refused_at_its_place_with_what_to_write(
    lines: list[str], complaint: str
) -> None:
    found = complaints(in_a_file(rule_text(*lines)), {"r", "latency-high"})
    assert len(found) == 1
    assert found[0].startswith(complaint.format("group chat, rule A: "))


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("measure", '"measure" is missing: say what is measured, such as measure: latency.p95'),
        ("window", '"window" is missing: say over how long it is measured, such as window: 5m'),
        (
            "runbook",
            '"runbook" is missing: name the page that says what to do, such as runbook: latency-high',
        ),
        ("above", "the rule has no threshold: write above: or below:"),
    ],
)
def test_a_missing_key_is_reported_where_the_rule_starts(key: str, complaint: str) -> None:
    assert complaints(in_a_file(rule_text(without=key))) == [
        f"alerts.yaml:5:9: group chat, rule A: {complaint}"
    ]


def test_a_warning_below_must_not_be_under_the_critical_level() -> None:
    text = in_a_file(rule_text("measure: calls", "below: {warning: 1, critical: 5}", without="above"))
    assert complaints(text) == ["alerts.yaml:9:26: group chat, rule A: warning 1 must be at least critical 5"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "alerts.yaml: the file is empty: write version: 1 and groups:"),
        ("a: @x\n", 'alerts.yaml:1:4: a value cannot start with "@": quote the value'),
        ("groups: []\n", 'alerts.yaml:1:1: "version" is missing: write version: 1'),
        ("version: 2\ngroups: []\n", 'alerts.yaml:1:10: "2" is not one of 1'),
        ("version: 1\n", 'alerts.yaml:1:1: "groups" is missing: write groups: with - name: and rules: in it'),
        (
            "version: 1\ngroups: []\ngrups: []\n",
            'alerts.yaml:3:1: unknown key "grups" (did you mean "groups"?)',
        ),
        (
            "version: 1\nversion: 1\ngroups: []\n",
            'alerts.yaml:2:1: duplicate key "version": it already stands in line 1',
        ),
        ("version: 1\ngroups: {chat: []}\n", 'alerts.yaml:2:9: "groups" must be a list, such as [a, b]'),
        ("version: 1\ngroups: [x]\n", "alerts.yaml:2:10: group 1: this must be a mapping of keys to values"),
        ("version: 1\ngroups:\n  - name: a\n", 'alerts.yaml:3:5: group a: "rules" is missing'),
        (
            "version: 1\ngroups:\n  - name: a\n    rules: []\n",
            'alerts.yaml:4:12: group a: "rules" must not be empty',
        ),
        (
            "version: 1\ngroups:\n  - name: a\n    rules: [x]\n",
            "alerts.yaml:4:13: group a, rule 1: this must be a mapping",
        ),
        ("version: 1\ngroups: {chat: }\n", 'alerts.yaml:2:10: "chat" has no value; where a comma belongs'),
        ("version: 1\ngroups:\n  chat:\n", 'alerts.yaml:3:8: group chat: "chat" has no value'),
    ],
)
def test_a_fault_in_the_frame_of_a_file_is_refused_at_its_place(text: str, complaint: str) -> None:
    assert any(found.startswith(complaint) for found in complaints(text))


def test_a_fault_after_the_last_rule_is_not_blamed_on_it() -> None:
    text = in_a_file(rule_text()) + "version: 1\n"
    assert complaints(text) == ['alerts.yaml:10:1: duplicate key "version": it already stands in line 1']


@pytest.mark.parametrize(
    ("group", "alert", "complaint"),
    [
        (
            "chat",
            "9lives",
            'alerts.yaml:5:16: group chat, rule 9lives: the alert name "9lives" is not allowed: write',
        ),
        ("chat", "a-b", 'alerts.yaml:5:16: group chat, rule a-b: the alert name "a-b" is not allowed'),
        ("chat", "[a]", 'alerts.yaml:5:16: group chat, rule 1: "alert" must be text'),
        (
            "a/b",
            "A",
            'alerts.yaml:3:11: group a/b: the group name "a/b" is not allowed: write letters, digits, spaces',
        ),
        ("[a]", "A", 'alerts.yaml:3:11: group 1: "name" must be text'),
    ],
)
def test_names_that_would_not_be_unique_or_readable_are_refused(
    group: str, alert: str, complaint: str
) -> None:
    text = in_a_file(rule_text(f"alert: {alert}")).replace("name: chat", f"name: {group}")
    found = complaints(text)
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_a_rule_that_stands_twice_is_refused_naming_both_places_even_across_files() -> None:
    text = in_a_file(rule_text())
    with pytest.raises(InvalidFilesError) as caught:
        parse_rule_files([RuleFile("a.yaml", text), RuleFile("b.yaml", text)], None)
    cause = "the group has a rule A already, at a.yaml:5:16: rename one of them"
    assert str(caught.value) == f"b.yaml:5:16: group chat, rule A: {cause}"


def test_the_same_alert_in_two_groups_is_two_rules() -> None:
    text = in_a_file(rule_text())
    files = [RuleFile("a.yaml", text), RuleFile("b.yaml", text.replace("chat", "search"))]
    assert [found.name for found in parse_rule_files(files, None).rules] == ["chat/A", "search/A"]


def test_all_problems_of_all_files_are_reported_at_once_in_order_of_place() -> None:
    first = in_a_file(
        rule_text("measure: latency.p95x", "window: 605s", "for: 1m\nfor: 2m", "lables: {a: b}")
    )
    second = in_a_file(rule_text("alert: B", "above: 2%", "by: [modle]", without="runbook")) + "broken: 1\n"
    with pytest.raises(InvalidFilesError) as caught:
        parse_rule_files([RuleFile("b.yaml", second), RuleFile("a.yaml", first)], None)
    assert [str(problem).split(" ")[0] for problem in caught.value.problems] == [
        "a.yaml:6:18:",
        "a.yaml:7:17:",
        "a.yaml:11:9:",
        "a.yaml:12:9:",
        "b.yaml:5:9:",
        "b.yaml:8:16:",
        "b.yaml:9:14:",
        "b.yaml:10:1:",
    ]


def test_a_file_with_the_same_meaning_has_the_same_hash() -> None:
    same = """\
    # a comment
    groups:
    - rules:
      - runbook: latency-high
        measure: "latency.p95"
        by: [feature, model]
        where: {model: [gpt-4.1-mini, gpt-4.1, gpt-4.1], environment: prod}
        labels: {team: growth}
        alert: AnswersSlowly
        above: {critical: 5000ms, warning: 2s}
        window: 300s
        for: 120s
        min_calls: 50
        summary: 'P95 of {{ feature }} on {{ model }} is {{ value }} (budget {{ threshold }})'
      - {alert: LatencyBudget, by: [feature], measure: latency.p95, window: 10m, runbook: latency-high,
         above: {default: 10s, by: feature, batch-summary: 30s, chat: 2s}}
      name: chat
    version: 1
    """
    original = load(TWO_RULES)
    assert load(textwrap.dedent(same)).hash == original.hash
    assert load(TWO_RULES.replace("critical: 5s", "critical: 6s")).hash != original.hash


def test_rules_that_need_the_same_of_the_calls_share_a_view() -> None:
    text = (
        in_a_file(rule_text())
        + "      - {alert: B, measure: latency.p95, window: 1h, above: 9s, runbook: r}\n"
    )
    found = load(text)
    assert len(found.rules) == 2
    assert len(found.views) == 1


@given(st.integers(10, 30 * 86_400))
def test_the_nearest_exact_windows_enclose_a_window_and_are_exact(seconds: int) -> None:
    below, above = nearest_exact_windows(seconds * SECOND + 1)
    assert below <= seconds * SECOND < above
    assert below % tier_ms(below) == above % tier_ms(above) == 0


@pytest.mark.parametrize(
    ("window_ms", "tick", "tier"),
    [
        (10 * SECOND, SECOND, SECOND),
        (5 * MINUTE, 5 * SECOND, SECOND),
        (10 * MINUTE, 10 * SECOND, 10 * SECOND),
        (45 * MINUTE, 40 * SECOND, 10 * SECOND),
        (5 * HOUR, MINUTE, 10 * SECOND),
        (6 * HOUR, 5 * MINUTE, 5 * MINUTE),
        (30 * DAY, 5 * MINUTE, 5 * MINUTE),
    ],
)
def test_a_tick_is_a_sixtieth_of_the_window_and_a_multiple_of_its_tier(
    window_ms: int, tick: int, tier: int
) -> None:
    assert (tick_ms(window_ms), tier_ms(window_ms)) == (tick, tier)
    assert rule(f"window: {window_ms}ms").tick_ms == tick


def test_a_transition_carries_what_routes_match_on_and_one_alert_keeps_its_id() -> None:
    series = (("feature", "chat"), ("model", "m"))
    transition = Transition(
        id=transition_id("chat/A", series, 1_000, State.FIRING, Severity.CRITICAL),
        at_ms=1_000,
        group="chat",
        alert="A",
        severity=Severity.CRITICAL,
        series=series,
        from_state=State.PENDING,
        to_state=State.FIRING,
        from_severity=None,
        measure="latency.p95",
        value=6_100,
        unit="ms",
        threshold=5_000,
        direction="above",
        window_start_ms=0,
        window_end_ms=1_000,
        calls=50,
        since_ms=1_000,
        episode_ms=1_000,
        labels=(("team", "growth"),),
        runbook="latency-high",
        summary="",
        reason="",
    )
    labels = {
        "team": "growth",
        "feature": "chat",
        "model": "m",
        "alert": "A",
        "group": "chat",
        "severity": "critical",
    }
    assert transition.matching_labels() == labels
    assert len(transition.alert_id) == len(transition.id) == 32
    assert transition.id != transition_id("chat/A", series, 2_000, State.FIRING, Severity.CRITICAL)
    assert transition.id != transition_id("chat/A", series, 1_000, State.FIRING, Severity.WARNING)

from __future__ import annotations

import pytest

from rules.labels import MODEL_CALLS, NONE, Matcher, is_dimension, matches_all
from rules.measures import EXAMPLES, Formula, Outcome, UnknownMeasureError, measure, percentile_min_calls
from rules.view import CALLS, ENGINE_SOURCE, Field, FieldKind, Selection, View


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_measure_of_that_name(name: str) -> None:
    assert measure(name).name == name


@pytest.mark.parametrize(
    ("name", "unit", "formula", "min_calls"),
    [
        ("calls", "calls", Formula.TOTAL, 0),
        ("calls_per_second", "calls/s", Formula.PER_SECOND, 0),
        ("error_rate", "ratio", Formula.RATIO, 20),
        ("spend", "nanodollars", Formula.TOTAL, 0),
        ("spend_per_call", "nanodollars", Formula.MEAN, 20),
        ("latency.p95", "ms", Formula.PERCENTILE, 20),
        ("latency.p99", "ms", Formula.PERCENTILE, 100),
        ("latency.p98", "ms", Formula.PERCENTILE, 50),
        ("latency.max", "ms", Formula.PEAK, 0),
        ("ttft.avg", "ms", Formula.MEAN, 20),
        ("stage.queue.p90", "ms", Formula.PERCENTILE, 20),
        ("tokens.input", "tokens", Formula.TOTAL, 0),
        ("tokens.input.per_minute", "tokens/min", Formula.PER_MINUTE, 0),
        ("tokens.input.avg", "tokens", Formula.MEAN, 20),
        ("output_tokens_per_second.p50", "tokens/s", Formula.PERCENTILE, 20),
        ("content.input_chars.p95", "characters", Formula.PERCENTILE, 20),
        ("score.groundedness.p5", "score", Formula.PERCENTILE, 20),
        ("score.a.b.avg", "score", Formula.MEAN, 20),
        ("users", "users", Formula.DISTINCT, 0),
        ("sessions", "sessions", Formula.DISTINCT, 0),
        ("lag", "ms", Formula.PEAK, 0),
    ],
)
def test_a_measure_has_its_unit_its_formula_and_its_least_sample(
    name: str, unit: str, formula: Formula, min_calls: int
) -> None:
    found = measure(name)
    assert (found.unit.name, found.formula, found.min_calls) == (unit, formula, min_calls)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("latency.p59x", '"latency.p59x": "p59x" is no statistic of latency; it has p50, p90, p95, p99'),
        ("latency.p100", '"latency.p100": "p100" is no statistic of latency'),
        ("latency.p0", '"latency.p0": "p0" is no statistic of latency'),
        ("latency.per_minute", '"latency.per_minute": "per_minute" is no statistic of latency'),
        ("tokens.input.median", '"tokens.input.median": "median" is no statistic of tokens.input'),
        ("latency", 'unknown measure "latency" (did you mean "latency.p95"?)'),
        ("eror_rate", 'unknown measure "eror_rate" (did you mean "error_rate"?)'),
        ("tokens.inputs", 'unknown measure "tokens.inputs" (did you mean "tokens.input"?)'),
        ("content.chars.avg", 'unknown measure "content.chars.avg"'),
        ("zzz", 'unknown measure "zzz"'),
    ],
)
def test_an_unknown_measure_is_refused_with_the_closest_or_its_statistics(name: str, message: str) -> None:
    with pytest.raises(UnknownMeasureError) as caught:
        measure(name)
    assert str(caught.value).startswith(message)


def test_percentiles_are_over_successful_calls_unless_the_outcome_says_otherwise() -> None:
    assert measure("latency.p95").numerator == Field(FieldKind.HISTOGRAM, "latency", Selection.OK)
    assert measure("latency.p95", Outcome.ANY).sample == Field(FieldKind.COUNT, "latency", Selection.ANY)
    assert measure("latency.p95", Outcome.ERROR).numerator.selection is Selection.ERROR


def test_the_mean_of_tokens_is_over_all_calls_with_known_tokens() -> None:
    assert measure("tokens.input.avg").denominator == Field(FieldKind.COUNT, "tokens.input", Selection.ANY)


@pytest.mark.parametrize(
    "name", ["calls", "error_rate", "spend", "tokens.input", "tokens.input.per_minute", "lag"]
)
def test_an_outcome_is_refused_where_the_measure_selects_its_own_calls(name: str) -> None:
    with pytest.raises(UnknownMeasureError, match="outcome does not apply"):
        measure(name, Outcome.ANY)


def test_the_least_sample_of_a_percentile_is_one_call_in_its_smaller_tail() -> None:
    assert [percentile_min_calls(rank) for rank in (1, 5, 50, 90, 95, 98, 99)] == [
        100,
        20,
        20,
        20,
        20,
        50,
        100,
    ]


def test_the_fields_of_a_measure_hold_what_a_pane_must_accumulate_for_it() -> None:
    found = measure("cache_hit_rate")
    assert set(found.fields) == {found.numerator, found.denominator, found.sample, found.exemplar, CALLS}
    assert list(found.fields) == sorted(found.fields)
    late = measure("late")
    assert (late.source, late.fields) == (ENGINE_SOURCE, (late.numerator,))


def test_a_dimension_is_standard_or_derived_or_a_named_label() -> None:
    assert all(map(is_dimension, ("feature", "error.type", "labels.team")))
    assert not any(map(is_dimension, ("labels.", "team", "alert", "")))


def test_a_matcher_takes_an_absent_label_for_its_own_value() -> None:
    matchers = (Matcher("operation", MODEL_CALLS), Matcher("user", (NONE,)))
    assert matches_all(matchers, {"operation": "chat"})
    assert not matches_all(matchers, {"operation": "chat", "user": "ann"})
    assert not matches_all(matchers, {"operation": "embeddings"})


def test_a_view_has_the_same_hash_whatever_the_order_of_its_filter_and_fields() -> None:
    one, two = Matcher("model", ("a", "b")), Matcher("user", ("x",))
    errors = Field(FieldKind.COUNT, "one", Selection.ERROR)
    view = View((one, two), ("feature",), (CALLS, errors))
    same = View((two, Matcher("model", ("b", "a"))), ("feature",), (errors, CALLS))
    assert view.hash == same.hash
    assert view.hash != View((one, two), ("model",), (CALLS, errors)).hash


def test_series_with_the_same_parent_values_lie_on_one_shard() -> None:
    view = View((), ("feature", "user"), (CALLS,), parent=("feature",))
    assert len({view.shard(("chat", f"user-{number}")) for number in range(50)}) == 1
    assert len({view.shard((f"feature-{number}", "ann")) for number in range(200)}) == 16

"""Prices: the meaning of usage and reported costs, equality with the library, and the user's price file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import genai_prices
import numpy as np
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelPrice, TieredPrices
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.problem import InvalidFilesError
from streams.price_book import PROVIDER_IDS
from streams.price_file import read_price_book, read_price_file
from streams.pricing import (
    CallColumns,
    Outcome,
    PriceBook,
    PriceEntry,
    Pricer,
    Rates,
    Spend,
    UnitPrice,
    Unpriced,
    inclusive_input,
)

LIBRARY = PriceBook()
NAN = float("nan")


def at(text: str = "2026-01-05T12:00:00") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def call(**fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "provider": "openai", "model": "gpt-4o", "at_ms": at(), "input": 1_000, "cached_input": -1,
        "cache_write": -1, "output": 100, "cost_usd": NAN,
    }  # fmt: skip
    assert fields.keys() <= known.keys()
    return known | fields


def columns(calls: Sequence[dict[str, Any]]) -> CallColumns:
    names = list(dict.fromkeys(one["provider"] for one in calls))
    models = list(dict.fromkeys(one["model"] for one in calls))

    def ints(key: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([one[key] for one in calls], np.int64)

    return CallColumns(
        provider=np.array([names.index(one["provider"]) for one in calls], np.int64),
        providers=names,
        model=np.array([models.index(one["model"]) for one in calls], np.int64),
        models=models,
        at_ms=ints("at_ms"),
        input=ints("input"),
        cached_input=ints("cached_input"),
        cache_write=ints("cache_write"),
        output=ints("output"),
        cost_usd=np.array([one["cost_usd"] for one in calls], np.float64),
    )


def spend(*calls: dict[str, Any], book: PriceBook = LIBRARY) -> Spend:
    return Pricer(book).spend(columns(calls))


def one(book: PriceBook = LIBRARY, /, **fields: Any) -> tuple[int, Outcome]:
    result = spend(call(**fields), book=book)
    return int(result.nanodollars[0]), Outcome(int(result.outcome[0]))


def price_file(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidFilesError) as caught:
        read_price_file(price_file(folder, text))
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


# --- equality with the library ----------------------------------------------------------------------------

TOKEN_KEYS = {"input_mtok", "output_mtok", "requests_kcount"}


def stored(price: ModelPrice) -> dict[str, Any]:
    return {key: value for key, value in vars(price).items() if value is not None}


def price_versions(model: Any) -> list[ModelPrice]:
    return [model.prices] if isinstance(model.prices, ModelPrice) else [one.prices for one in model.prices]


def is_priced_by_tokens(model: Any) -> bool:
    return all(not stored(price) or stored(price).keys() & TOKEN_KEYS for price in price_versions(model))


def starts_of(model: Any) -> list[int]:
    charges = [charge for price in price_versions(model) for charge in stored(price).values()]
    return sorted(
        {tier.start for charge in charges if isinstance(charge, TieredPrices) for tier in charge.tiers}
    )


def spellings(clause: Any) -> list[str]:
    clauses = getattr(clause, "or_", None)
    if clauses is not None:
        return [name for each in clauses for name in spellings(each)]
    return [clause.equals] if hasattr(clause, "equals") else []


# Every model of the library that is priced by tokens, under the first name that finds it at its provider.
MODELS = [
    (provider.id, name, model)
    for provider in providers
    for model in provider.models
    for name in [n for n in (model.id, *spellings(model.match)) if provider.find_model(n) is model][:1]
    if is_priced_by_tokens(model)
]
TIERED = [entry for entry in MODELS if starts_of(entry[2])]
TIMED = [
    entry
    for entry in MODELS
    if isinstance(entry[2].prices, list)
    and any(hasattr(price.constraint, "start_time") for price in entry[2].prices)
]
PER_REQUEST = [
    entry for entry in MODELS if any("requests_kcount" in stored(p) for p in price_versions(entry[2]))
]
CACHE = [entry for entry in MODELS if any("cache_write_mtok" in stored(p) for p in price_versions(entry[2]))]
FINE = [
    entry
    for entry in MODELS
    if any(
        isinstance(charge, Decimal) and Fraction(charge * 10**6).denominator != 1
        for price in price_versions(entry[2])
        for charge in stored(price).values()
    )
]


def library_nanodollars(one_call: dict[str, Any]) -> int:
    """The oracle: the library's own calculation, with usage that counts input inclusively."""
    cached, written = max(one_call["cached_input"], 0), max(one_call["cache_write"], 0)
    total = (
        one_call["input"] if cached + written <= one_call["input"] else one_call["input"] + cached + written
    )
    usage = genai_prices.Usage(
        input_tokens=total,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=one_call["output"],
    )
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=one_call["at_ms"])
    with localcontext() as context:
        context.prec = 80
        dollars = genai_prices.calc_price(
            usage, one_call["model"], provider_id=one_call["provider"], genai_request_timestamp=moment
        ).total_price
        return int((dollars * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


@st.composite
def real_calls(draw: st.DrawFn) -> dict[str, Any]:
    pool = draw(st.sampled_from([MODELS, TIERED, TIMED, PER_REQUEST, CACHE, FINE]))
    provider, model, info = draw(st.sampled_from(pool))
    edges = [edge + step for edge in starts_of(info) for step in (-1, 0, 1)]
    tokens = st.integers(0, 500_000) | st.integers(0, 40) | st.sampled_from([0, *edges])
    part = st.just(-1) | st.integers(0, 300_000) | st.integers(0, 40)
    return call(
        provider=provider,
        model=model,
        at_ms=draw(st.integers(at("2024-01-01T00:00:00"), at("2027-06-30T00:00:00"))),
        input=draw(tokens),
        cached_input=draw(part),
        cache_write=draw(part),
        output=draw(st.integers(0, 200_000) | st.integers(0, 40)),
    )


def test_the_sample_holds_every_kind_of_price() -> None:
    assert len(MODELS) > 2_000
    assert min(map(len, (TIERED, TIMED, PER_REQUEST, CACHE, FINE))) >= 3


@settings(max_examples=200, deadline=None)
@given(st.lists(real_calls(), min_size=1, max_size=12))
def test_a_batch_costs_what_the_library_calculates_for_each_call(calls: list[dict[str, Any]]) -> None:
    result = spend(*calls)
    assert result.nanodollars.tolist() == [library_nanodollars(each) for each in calls]
    assert set(result.outcome.tolist()) == {Outcome.FROM_TOKENS}


@settings(max_examples=50, deadline=None)
@given(st.lists(real_calls(), min_size=1, max_size=12), st.integers(1, 3))
def test_a_small_cache_and_earlier_batches_change_no_cost(
    calls: list[dict[str, Any]], cached_days: int
) -> None:
    pricer = Pricer(LIBRARY, cached_days=cached_days)
    halves = [pricer.spend(columns([each])).nanodollars[0] for each in calls]
    again = pricer.spend(columns(calls)).nanodollars.tolist()
    assert halves == again == spend(*calls).nanodollars.tolist()


@pytest.mark.parametrize(
    ("provider", "model", "info"), TIMED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_price_by_time_of_day_changes_at_its_minute(provider: str, model: str, info: Any) -> None:
    moments = {
        constraint.start_time if edge == "start" else constraint.end_time
        for constraint in (price.constraint for price in info.prices)
        if hasattr(constraint, "start_time")
        for edge in ("start", "end")
    }
    for day in ("2025-03-01", "2026-10-15"):
        for moment in moments:
            edge = at(f"{day}T{moment.isoformat()[:8]}")
            calls = [
                call(provider=provider, model=model, at_ms=edge + step, input=9_000, cached_input=2_000)
                for step in (-1, 0, 1)
            ]
            assert spend(*calls).nanodollars.tolist() == [library_nanodollars(each) for each in calls]


def test_the_scalar_and_the_array_form_agree_on_a_reported_day() -> None:
    price = LIBRARY.unit_price("anthropic", "claude-sonnet-4-5", at())
    assert isinstance(price, UnitPrice)
    counts = (900_000, 100_000, 50_000, 8_000)
    expected = one(provider="anthropic", model="claude-sonnet-4-5", input=counts[0], cached_input=counts[1],
                   cache_write=counts[2], output=counts[3])  # fmt: skip
    assert (price.cost(*counts), Outcome.FROM_TOKENS) == expected


def test_the_scalar_form_has_no_cost_for_unknown_usage() -> None:
    price = UnitPrice((Rates(1, 1, 1, 1),))
    assert price.cost(-1, 0, 0, 0) is None
    assert price.cost(0, 0, 0, -1) is None


def test_many_days_and_large_name_tables_take_the_sorted_path_to_the_same_costs() -> None:
    calls = [call(model=model, at_ms=at() + day * 86_400_000, input=day + 1)
             for day in range(40) for model in ("gpt-4o", "gpt-4.1", "o3")]  # fmt: skip
    base = columns(calls)
    padded = CallColumns(
        **{name: getattr(base, name) for name in CallColumns.__slots__ if name != "models"},
        models=[*base.models, *(f"never-called-{number}" for number in range(70_000))],
    )
    direct = Pricer(LIBRARY).spend(base).nanodollars.tolist()
    assert (
        Pricer(LIBRARY).spend(padded).nanodollars.tolist() == direct == list(map(library_nanodollars, calls))
    )


def test_narrow_code_columns_do_not_overflow_the_key() -> None:
    base = columns([call(model=f"m{number}") for number in range(200)] + [call(provider="azure")])
    narrow = CallColumns(
        **{name: getattr(base, name) for name in CallColumns.__slots__ if name not in ("provider", "model")},
        provider=base.provider.astype(np.uint8),
        model=base.model.astype(np.uint8),
    )
    assert Pricer(LIBRARY).spend(narrow).nanodollars.tolist() == [-1] * 200 + [3_500_000]


# --- the meaning of usage ---------------------------------------------------------------------------------


def test_unknown_tokens_leave_a_call_unpriced_and_never_cost_0() -> None:
    assert one(input=-1) == (-1, Outcome.UNKNOWN_USAGE)
    assert one(output=-1) == (-1, Outcome.UNKNOWN_USAGE)
    assert one(input=-1, output=-1) == (-1, Outcome.UNKNOWN_USAGE)


def test_0_tokens_that_are_known_cost_0() -> None:
    assert one(input=0, output=0) == (0, Outcome.FROM_TOKENS)


def test_unknown_cached_tokens_count_as_none() -> None:
    assert one(cached_input=-1, cache_write=-1) == one(cached_input=0, cache_write=0)


def test_an_embeddings_model_needs_no_output_tokens() -> None:
    assert one(model="text-embedding-3-small", output=-1) == (20_000, Outcome.FROM_TOKENS)
    assert one(model="text-embedding-3-small", input=-1) == (-1, Outcome.UNKNOWN_USAGE)


def test_inclusive_input_is_taken_as_it_is() -> None:
    counts = {"input": 130_213, "cached_input": 128_955, "cache_write": 1_253, "output": 0}
    assert (
        inclusive_input(*(np.array([counts[key]]) for key in ("input", "cached_input", "cache_write")))
        == 130_213
    )
    # $3, $0.30 and $3.75 per million: 5 fresh tokens, the read ones, the written ones.
    expected = 5 * 3_000 + 128_955 * 300 + 1_253 * 3_750
    assert one(provider="anthropic", model="claude-sonnet-4-5", **counts) == (expected, Outcome.FROM_TOKENS)


def test_exclusive_input_has_the_cached_tokens_added() -> None:
    counts = {"input": 3, "cached_input": 5_758, "cache_write": 6_174, "output": 0}
    assert (
        inclusive_input(*(np.array([counts[key]]) for key in ("input", "cached_input", "cache_write")))
        == 11_935
    )
    expected = 3 * 3_000 + 5_758 * 300 + 6_174 * 3_750
    assert one(provider="anthropic", model="claude-sonnet-4-5", **counts) == (expected, Outcome.FROM_TOKENS)


def test_inclusive_input_stays_unknown() -> None:
    unknown = inclusive_input(np.array([-1]), np.array([5]), np.array([-1]))
    assert unknown.tolist() == [-1]


def test_cached_tokens_are_not_billed_twice() -> None:
    # gpt-4o: $2.50, cached $1.25, output $10.
    expected = (262_960 - 257_955) * 2_500 + 257_955 * 1_250 + 1_744 * 10_000
    assert one(input=262_960, cached_input=257_955, output=1_744) == (expected, Outcome.FROM_TOKENS)


def test_reasoning_tokens_are_part_of_the_output_and_cost_once() -> None:
    # Of the 1,000 output tokens 900 are reasoning: the columns hold the 1,000 only.
    assert one(model="o3", input=0, output=1_000) == (1_000 * 8_000, Outcome.FROM_TOKENS)


def test_a_half_nanodollar_rounds_to_even() -> None:
    book = PriceBook([PriceEntry("m", None, None, Rates(500, 500, 500, 0))])
    costs = [one(book, model="m", input=tokens, output=0)[0] for tokens in (1, 2, 3, 4, 5)]
    assert costs == [0, 1, 2, 2, 2]


def test_absurd_token_counts_are_priced_exactly_or_not_at_all() -> None:
    assert one(input=10**15, output=0) == (10**15 * 2_500, Outcome.FROM_TOKENS)
    assert one(input=2**62, cached_input=2**62, cache_write=2**62) == (-1, Outcome.TOO_LARGE)
    mixed = spend(call(), call(input=10**15, output=0), call(model="unknown", input=2**62))
    assert mixed.nanodollars.tolist() == [3_500_000, 10**15 * 2_500, -1]


def test_a_price_finer_than_a_picodollar_is_rounded_only_in_the_sum() -> None:
    provider, model, _ = FINE[0]
    price = LIBRARY.unit_price(provider, model, at("2026-10-15T00:00:00"))
    assert isinstance(price, UnitPrice)
    assert price.scale > 12


def test_an_empty_batch_has_no_costs() -> None:
    empty = columns([])
    assert Pricer(LIBRARY).spend(empty).nanodollars.tolist() == []


# --- reported costs ---------------------------------------------------------------------------------------


def test_a_reported_cost_wins_over_the_tokens() -> None:
    assert one(cost_usd=0.0123) == (12_300_000, Outcome.REPORTED)
    assert one(cost_usd=0.0123, input=-1, output=-1) == (12_300_000, Outcome.REPORTED)
    assert one(cost_usd=0.0123, model="unknown") == (12_300_000, Outcome.REPORTED)


def test_a_reported_0_for_tokens_that_have_a_price_is_suspect_and_priced_from_the_tokens() -> None:
    assert one(cost_usd=0.0) == (3_500_000, Outcome.FROM_TOKENS_SUSPECT_ZERO)
    assert one(cost_usd=0.0, input=0, output=0) == (0, Outcome.FROM_TOKENS)
    assert spend(call(cost_usd=0.0), call(), call(cost_usd=0.0)).count(Outcome.FROM_TOKENS_SUSPECT_ZERO) == 2


def test_a_reported_0_without_known_tokens_is_not_a_cost_of_a_priced_model() -> None:
    assert one(cost_usd=0.0, output=-1) == (-1, Outcome.UNKNOWN_USAGE)


def test_a_free_model_costs_0_reported_or_not() -> None:
    free: dict[str, Any] = {"provider": "openrouter", "model": "openai/gpt-oss-20b:free"}
    assert one(**free) == (0, Outcome.FROM_TOKENS)
    assert one(**free, cost_usd=0.0) == (0, Outcome.REPORTED_ZERO)
    assert one(**free, cost_usd=0.0, input=-1) == (0, Outcome.REPORTED_ZERO)
    assert one(**free, input=-1) == (-1, Outcome.UNKNOWN_USAGE)


def test_a_reported_0_of_an_unknown_model_is_a_cost_that_nothing_checked() -> None:
    assert one(model="unknown", cost_usd=0.0) == (0, Outcome.REPORTED_ZERO_UNCHECKED)


@pytest.mark.parametrize("cost", [-1.0, float("inf"), float("-inf"), 1e300])
def test_a_reported_cost_that_no_call_can_have_is_not_believed(cost: float) -> None:
    assert one(cost_usd=cost) == (3_500_000, Outcome.FROM_TOKENS)


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "library_id"), sorted(PROVIDER_IDS.items()))
def test_a_mapped_provider_name_is_an_id_of_the_library(name: str, library_id: str) -> None:
    provider = next(provider for provider in providers if provider.id == library_id)
    model = next(m for p, m, _ in MODELS if p == provider.id)
    assert isinstance(LIBRARY.unit_price(name, model, at()), UnitPrice)
    assert isinstance(LIBRARY.unit_price(name.upper(), model, at()), UnitPrice)


@pytest.mark.parametrize(
    ("provider", "model", "library_id"),
    [
        ("x_ai", "grok-3", "x-ai"),
        ("azure.ai.openai", "gpt-4o", "azure"),
        ("aws.bedrock", "us.anthropic.claude-3-5-sonnet-20241022-v2:0", "aws"),
        ("gcp.vertex_ai", "gemini-2.5-flash", "google"),
        ("gcp.gemini", "gemini-2.5-flash", "google"),
        ("mistral_ai", "mistral-large-latest", "mistral"),
    ],
)
def test_the_names_of_the_conventions_find_their_provider(provider: str, model: str, library_id: str) -> None:
    price = LIBRARY.unit_price(provider, model, at())
    assert isinstance(price, UnitPrice)
    assert price.source.split()[0] == library_id
    assert price == LIBRARY.unit_price(library_id, model, at())


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        (None, "openai/gpt-4o"),
        (None, "ft:gpt-4o:acme::x"),
        (None, "gpt-4o-of-ours"),
        (None, "my-claude-3-haiku"),
        (None, "claude-3-haiku-self-hosted"),
        (None, "text-embedding-3-small"),
        (None, "llama-3"),
        ("my-openai-proxy", "gpt-4o"),
        ("not-azure", "gpt-4o"),
        ("litellm", "openai/gpt-4o"),
        ("", "gpt-4o"),
        ("openai", "gpt-4o-of-ours"),
        ("openai", ""),
        ("openai", "g" * 100_000),
        ("o" * 100_000, "gpt-4o"),
    ],
)
def test_an_unknown_name_is_unpriced_and_never_matched_by_a_part_of_it(
    provider: str | None, model: str
) -> None:
    price = LIBRARY.unit_price(provider, model, at())
    assert isinstance(price, Unpriced)
    assert len(price.reason) < 600
    assert one(provider=provider, model=model) == (-1, Outcome.UNKNOWN_PRICE)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("GPT-4o", "openai"),
        ("gpt-4o-2024-08-06", "openai"),
        ("claude-3-5-sonnet-20241022", "anthropic"),
        ("claude-3-5-haiku-latest", "anthropic"),
        ("gemini-2.5-flash", "google"),
        ("grok-3", "x-ai"),
    ],
)
def test_a_model_without_a_provider_has_the_price_of_the_one_that_spells_it_out(
    model: str, provider: str
) -> None:
    price = LIBRARY.unit_price(None, model, at())
    assert isinstance(price, UnitPrice)
    assert price == LIBRARY.unit_price(provider, model, at())


def test_a_model_that_is_not_priced_by_tokens_is_unpriced() -> None:
    assert one(model="whisper-1") == (-1, Outcome.UNKNOWN_PRICE)
    reason = LIBRARY.unit_price("openai", "whisper-1", at())
    assert isinstance(reason, Unpriced)
    assert "audio" in reason.reason


def test_times_beyond_the_calendar_are_priced_at_its_edge() -> None:
    for moment in (-(2**60), 0, 2**60):
        assert one(at_ms=moment)[1] == Outcome.FROM_TOKENS


def test_the_library_caches_nothing_of_the_names_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the snapshot's caches have no bound")

    monkeypatch.setattr(DataSnapshot, "find_provider_model", refuse)
    monkeypatch.setattr(DataSnapshot, "find_provider", refuse)
    assert one(model="unknown")[0] == -1
    assert one()[0] == 3_500_000


def test_the_cache_of_unit_prices_is_bounded() -> None:
    pricer = Pricer(LIBRARY, cached_days=10)
    for number in range(40):
        pricer.spend(columns([call(model=f"unknown-{number}")]))
    assert pricer.cached <= 11


# --- the price file ---------------------------------------------------------------------------------------

GPT_4O = """
version: 1
prices:
  - model: gpt-4o
    provider: azure
    input: $2.50
    output: $10.00
"""


def test_the_recorded_azure_hour_costs_what_it_must(tmp_path: Path) -> None:
    book = read_price_book(price_file(tmp_path, GPT_4O))
    inputs, outputs = [7_000_001, 361_868, 1, 15_000_000], [4_000_000, 88_664, 1, 0]
    assert (sum(inputs), sum(outputs)) == (22_361_870, 4_088_665)
    calls = [call(provider="azure", input=i, output=o) for i, o in zip(inputs, outputs, strict=True)]
    assert spend(*calls, book=book).nanodollars.sum() == 96_791_325_000


def test_the_users_price_wins_and_every_spelling_of_its_provider_finds_it(tmp_path: Path) -> None:
    book = read_price_book(price_file(tmp_path, GPT_4O.replace("$2.50", "$7").replace("$10.00", "0")))
    assert one(book, provider="azure") == (7_000_000, Outcome.FROM_TOKENS)
    assert one(book, provider="azure.ai.openai") == (7_000_000, Outcome.FROM_TOKENS)
    assert one(book, provider="openai") == (3_500_000, Outcome.FROM_TOKENS)
    assert one(book, provider=None) == (3_500_000, Outcome.FROM_TOKENS)


def test_a_price_without_provider_holds_for_any_and_yields_to_the_one_with(tmp_path: Path) -> None:
    text = """
version: 1
prices:
  - {model: house-model, input: $1, output: $0}
  - {model: house-model, provider: replicate, input: 2.00, output: 0}
"""
    book = read_price_book(price_file(tmp_path, text))
    costs = [one(book, model="house-model", provider=name)[0] for name in (None, "anything", "replicate")]
    assert costs == [1_000_000, 1_000_000, 2_000_000]
    assert one(book, model="house-model-2", provider=None) == (-1, Outcome.UNKNOWN_PRICE)


def test_the_latest_price_that_has_started_holds(tmp_path: Path) -> None:
    text = """
version: 1
prices:
  - {model: gpt-4o, from: 2026-03-01, input: $3, output: 0}
  - {model: gpt-4o, from: 2026-01-01, input: $1, output: 0}
  - {model: gpt-4o, from: 2026-02-01, input: $2, output: 0}
"""
    book = read_price_book(price_file(tmp_path, text))
    moments = [
        "2025-12-31T23:59:59.999",
        "2026-01-01T00:00:00",
        "2026-01-31T23:59:59.999",
        "2026-02-01T00:00:00",
        "2026-03-01T00:00:00",
    ]
    result = spend(*(call(at_ms=at(moment)) for moment in moments), book=book)
    assert result.nanodollars.tolist() == [3_500_000, 1_000_000, 1_000_000, 2_000_000, 3_000_000]


def test_cache_prices_default_to_the_input_price_and_requests_to_none(tmp_path: Path) -> None:
    text = """
version: 1
prices:
  - {model: plain, input: $2, output: $4}
  - {model: full, from: 2026-01-01, input: $2, cached_input: $0.5, cache_write: "$2.5", output: $4,
     per_request: $0.01}
"""
    plain, full = read_price_file(price_file(tmp_path, text))
    assert plain == PriceEntry("plain", None, None, Rates(2_000_000, 2_000_000, 2_000_000, 4_000_000), 0)
    assert full.rates == Rates(2_000_000, 500_000, 2_500_000, 4_000_000)
    assert (full.per_request, full.start) == (10**10, date(2026, 1, 1))
    counts = {"provider": None, "input": 100, "cached_input": 30, "cache_write": 20, "output": 10}
    book = PriceBook([plain, full])
    assert one(book, model="plain", **counts)[0] == 100 * 2_000 + 10 * 4_000
    assert (
        one(book, model="full", **counts)[0] == 50 * 2_000 + 30 * 500 + 20 * 2_500 + 10 * 4_000 + 10_000_000
    )


def test_scalars_are_their_source_text(tmp_path: Path) -> None:
    text = "version: 1\nprices:\n  - {model: 1.10, provider: on, input: 0.1, output: 017}\n"
    (entry,) = read_price_file(price_file(tmp_path, text))
    assert (entry.model, entry.provider, entry.rates.input, entry.rates.output) == (
        "1.10",
        "on",
        100_000,
        17_000_000,
    )


def test_every_problem_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = """\
version: 2
price: []
prices:
  - model: a
    input: 2,50
    ouput: $1
    output: $0.0000001
    from: 2026-02-30
  - model: b
    input: $1
    input: $2
    output: -1
  - just text
  - model: ""
    input: 1e3
    output: [1]
    per_request: $200000
  - {model: c, provider: azure, input: 1, output: 1}
  - {model: c, provider: azure.ai.openai, input: 2, output: 1}
"""
    assert problems(tmp_path, text) == [
        'prices.yaml:1:10: version "2" is not known: write `version: 1`',
        'prices.yaml:2:1: unknown key "price" (did you mean "prices"?)',
        'prices.yaml:5:12: `input`: "2,50" is not an amount: write dollars, such as $2.50',
        'prices.yaml:6:5: unknown key "ouput" (did you mean "output"?)',
        'prices.yaml:7:13: `output`: "$0.0000001" has more than 6 decimal places',
        'prices.yaml:8:11: `from`: "2026-02-30" is not a day: write it as 2026-01-31',
        'prices.yaml:11:5: the key "input" is there twice',
        'prices.yaml:12:13: `output`: "-1" is not an amount: write dollars, such as $2.50',
        "prices.yaml:13:5: not a price: expected keys such as `model:`",
        "prices.yaml:14:12: `model` must have 1 to 256 characters",
        'prices.yaml:15:12: `input`: "1e3" is not an amount: write dollars, such as $2.50',
        "prices.yaml:16:13: `output` must be a single value",
        'prices.yaml:17:18: `per_request`: "$200000" is more than $100,000: tokens are priced by the million',
        (
            "prices.yaml:19:5: a second price for model c, provider azure.ai.openai, from always: "
            "the first is on line 18"
        ),
    ]


def test_what_is_missing_is_told_where_the_entry_begins(tmp_path: Path) -> None:
    assert problems(tmp_path, "version: 1\nprices:\n  - provider: azure\n") == [
        "prices.yaml:3:5: `input` is missing",
        "prices.yaml:3:5: `model` is missing",
        "prices.yaml:3:5: `output` is missing: write `output: $0` for a model without a price of output",
    ]
    assert problems(tmp_path, "prices: 3\n") == [
        "prices.yaml:1:1: `version` is missing: write `version: 1` and a list of `prices`",
        "prices.yaml:1:9: `prices` is not a list: write entries that begin with `- model:`",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "prices.yaml: empty"),
        ("[1]", "prices.yaml:1:1: not a price file"),
        ("version: 1\nprices: [", "prices.yaml:2:10: not YAML"),
        ("version: 1\n\tprices: []", "prices.yaml:2:1: not YAML"),
        ("--- 1\n--- 2\n", "prices.yaml:2:1: not YAML"),
        ("a: \x01", "prices.yaml: not YAML"),
        ("[" * 1_500, "prices.yaml: not a price file: nested too deeply"),
        ("version: 1\nprices: &a [*a]", "prices.yaml:2:9: not a price"),
        ("version: 1\nprices: []\n<<: {a: 1}", 'prices.yaml:3:1: unknown key "<<"'),
        ("version: 1\nprices: []\n? [a]\n: 1", "prices.yaml:3:3: a key must be a word"),
    ],
)
def test_a_file_that_is_no_price_file_is_refused_with_the_place(
    tmp_path: Path, text: str, place: str
) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(place)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_bytes(b"version: 1\nab\xff")
    for path, cause in (
        (tmp_path / "prices.yaml", ":2:3: not UTF-8 text"),
        (tmp_path / "absent.yaml", ": cannot be read: No such file or directory"),
    ):
        with pytest.raises(InvalidFilesError) as caught:
            read_price_file(path)
        assert str(caught.value) == f"{path}{cause}"
    (tmp_path / "prices.yaml").write_bytes(b"#" * 4_000_001)
    with pytest.raises(InvalidFilesError, match="larger than"):
        read_price_file(tmp_path / "prices.yaml")


def test_the_version_changes_with_the_prices_and_not_with_their_layout(tmp_path: Path) -> None:
    spaced = "# ours\nversion: 1\nprices:\n- output: 10\n  input: 2.5\n  provider: Azure\n  model: gpt-4o\n"
    same = [read_price_book(price_file(tmp_path, text)).version for text in (GPT_4O, spaced)]
    other = read_price_book(price_file(tmp_path, GPT_4O.replace("2.50", "2.51"))).version
    assert same[0] == same[1]
    assert len({*same, other, LIBRARY.version}) == 3


def test_the_order_of_entries_does_not_matter() -> None:
    entries = [
        PriceEntry("m", provider, start, Rates(rate, rate, rate, rate))
        for rate, (provider, start) in enumerate(
            [(None, None), (None, date(2026, 1, 1)), ("azure", None), ("azure", date(2026, 1, 3))]
        )
    ]
    books = [PriceBook(entries), PriceBook(reversed(entries))]
    for first, second in combinations(books, 2):
        assert first.version == second.version
        for name in (None, "azure", "openai"):
            assert first.unit_price(name, "m", at()) == second.unit_price(name, "m", at())

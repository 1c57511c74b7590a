"""Which unit price is in force for a provider, a model and an instant: the user's, else the library's."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from importlib.metadata import version as installed_version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

DAY_MS: Final = 86_400_000
PICO: Final = 12
"""Decimal places of a dollar in a pico-dollar, the scale of nearly every unit price."""
_NANO: Final = 9
_LONGEST_NAME: Final = 256  # characters; no provider or model in the library comes near
_EPOCH: Final = date(1970, 1, 1)
_LAST_DAY: Final = (date(9999, 12, 31) - _EPOCH).days

PROVIDER_IDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # OpenTelemetry GenAI `gen_ai.provider.name` and the older `gen_ai.system`
        "aws.bedrock": "aws",
        "aws_bedrock": "aws",
        "az.ai.openai": "azure",
        "azure.ai.openai": "azure",  # the library alone resolves this to openai
        "azure.ai.inference": "azure",
        "az.ai.inference": "azure",
        "gcp.gemini": "google",
        "gcp.gen_ai": "google",
        "gcp.vertex_ai": "google",
        "mistral_ai": "mistral",
        "moonshot_ai": "moonshotai",
        "vertex_ai": "google",
        "x_ai": "x-ai",
        "xai": "x-ai",
        # LiteLLM `custom_llm_provider`
        "azure_ai": "azure",
        "azure_text": "azure",
        "bedrock": "aws",
        "bedrock_converse": "aws",
        "cohere_chat": "cohere",
        "fireworks_ai": "fireworks",
        "gemini": "google",
        "moonshot": "moonshotai",
        "text-completion-openai": "openai",
        "together_ai": "together",
        "voyage": "voyageai",
        # Vercel AI SDK `ai.model.provider`
        "amazon-bedrock": "aws",
        "anthropic.messages": "anthropic",
        "azure.chat": "azure",
        "azure.responses": "azure",
        "azure-openai.chat": "azure",
        "azure-openai.responses": "azure",
        "cohere.chat": "cohere",
        "deepseek.chat": "deepseek",
        "google.generative-ai": "google",
        "google.vertex.chat": "google",
        "groq.chat": "groq",
        "mistral.chat": "mistral",
        "openai.chat": "openai",
        "openai.completion": "openai",
        "openai.embedding": "openai",
        "openai.responses": "openai",
        "togetherai.chat": "together",
        "vertex.anthropic.messages": "google",
        "xai.chat": "x-ai",
        "xai.responses": "x-ai",
        # OpenInference `llm.provider` and `llm.system`
        "azure_openai": "azure",
        "mistralai": "mistral",
        "togetherai": "together",
        "vertexai": "google",
    }
)
"""Names that instrumentations give to providers, and the library's id. Everything else must be an id of the
library: the library's own matching looks for parts of a name, so that `azure.ai.openai` would be priced as
`openai`."""


def provider_id(provider: str) -> str:
    """The library's id of a provider's name, or the name itself in lower case."""
    name = provider.strip().lower()
    return PROVIDER_IDS.get(name, name)


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices per token, in integer units of 10^-scale dollars (the scale is the unit price's)."""

    input: int
    cached_input: int
    cache_write: int
    output: int


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """A price in force.

    `bands[k]` holds for a call whose input tokens (cached ones included) are above exactly `k` of `starts`:
    crossing a start prices every token of the call at the higher band. `per_request` is in the same units as
    the rates. `scale` is 12, pico-dollars, unless a price of the library is finer than a pico-dollar per
    token: then it is as many decimal places as that price needs, so that nothing is rounded before the sum.
    """

    bands: tuple[Rates, ...]
    starts: tuple[int, ...] = ()
    per_request: int = 0
    scale: int = PICO
    source: str = "price file"

    @property
    def is_free(self) -> bool:
        """True when no usage can cost anything."""
        return self.per_request == 0 and all(rates == _FREE for rates in self.bands)

    @property
    def needs_output(self) -> bool:
        """False for a model without a price of output, such as an embeddings model."""
        return any(rates.output for rates in self.bands)

    def cost(self, input_tokens: int, cached_input: int, cache_write: int, output: int) -> int | None:
        """Nano-dollars of one call, rounded half to even; None when the usage does not say. -1 is unknown.

        The readable form of what `Pricer` does to arrays, and its fallback where int64 is too small.
        """
        if input_tokens < 0 or (output < 0 and self.needs_output):
            return None
        cached, written = max(cached_input, 0), max(cache_write, 0)
        total = input_tokens if cached + written <= input_tokens else input_tokens + cached + written
        rates = self.bands[bisect_left(self.starts, total)]
        exact = (
            (total - cached - written) * rates.input
            + cached * rates.cached_input
            + written * rates.cache_write
            + max(output, 0) * rates.output
            + self.per_request
        )
        unit = int(10 ** (self.scale - _NANO))
        nano, rest = divmod(exact, unit)
        return nano + (2 * rest > unit or (2 * rest == unit and nano % 2 == 1))


_FREE: Final = Rates(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Unpriced:
    """No price is known; `reason` says why, for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One price of a user's file, in pico-dollars. `provider` None: any; `start` None: always."""

    model: str
    provider: str | None
    start: date | None
    rates: Rates
    per_request: int = 0


class PriceBook:
    """All prices that can be in force: immutable configuration.

    The library is the snapshot inside the installed `genai-prices`; nothing is fetched, ever. A user's entry
    wins over it: the one for the provider before the one for any provider, and of these the latest that has
    started.

    `version` is a hash of the user's entries (not of their layout or order) and of the library's version.
    """

    __slots__ = ("_entries", "version")

    def __init__(self, entries: Iterable[PriceEntry] = ()) -> None:
        by_name: dict[tuple[str, str | None], list[PriceEntry]] = {}
        for entry in entries:
            owner = None if entry.provider is None else provider_id(entry.provider)
            by_name.setdefault((entry.model, owner), []).append(entry)
        for found in by_name.values():
            found.sort(key=lambda entry: entry.start or date.min)
        self._entries: Final = MappingProxyType({name: tuple(found) for name, found in by_name.items()})
        lines = sorted(
            repr((*name, str(entry.start), *astuple(entry.rates), entry.per_request))
            for name, found in by_name.items()
            for entry in found
        )
        library = installed_version("genai-prices")
        self.version: Final = hashlib.sha256(
            "\n".join([f"genai-prices {library}", *lines]).encode()
        ).hexdigest()

    def unit_price(self, provider: str | None, model: str, at_ms: int) -> UnitPrice | Unpriced:
        """The price in force at an instant (milliseconds since the epoch, UTC)."""
        day, moment = divmod(at_ms, DAY_MS)
        found: UnitPrice | Unpriced = Unpriced("no price")
        for start, price in self.day_prices(provider, model, day):
            if moment >= start:
                found = price
        return found

    def day_prices(
        self, provider: str | None, model: str, day: int
    ) -> tuple[tuple[int, UnitPrice | Unpriced], ...]:
        """The prices of a UTC day (days since the epoch), in order: each with the ms of the day from which it
        holds.

        The first holds from 0. There are several only where the library prices the model by time of day.
        """
        if not model or max(len(model), len(provider or "")) > _LONGEST_NAME:
            return ((0, Unpriced(f"a name must have 1 to {_LONGEST_NAME} characters")),)
        on = _EPOCH + timedelta(days=min(max(day, 0), _LAST_DAY))
        owner = None if provider is None else provider_id(provider)
        owners: list[str | None] = [owner, None] if owner is not None else [None]
        for candidate in owners:
            for entry in reversed(self._entries.get((model, candidate), ())):
                if entry.start is None or entry.start <= on:
                    return ((0, UnitPrice((entry.rates,), per_request=entry.per_request)),)
        try:
            found = _home_model(model) if owner is None else _provider_model(owner, model)
            if isinstance(found, Unpriced):
                return ((0, found),)
            return tuple(_library_day(*found, on))
        except (ValueError, LookupError, RecursionError) as error:
            return ((0, Unpriced(f"the price library refused the model: {type(error).__name__}")),)


@cache
def _providers() -> Mapping[str, Provider]:
    # Imported on first use: it is 1.6 MB of source. The bundled list itself, not `get_snapshot()`: that one
    # can be replaced by the library's auto-update, and its look-up caches grow with every name asked for.
    from genai_prices.data import providers  # noqa: PLC0415

    return MappingProxyType({provider.id: provider for provider in providers})


def _provider_model(owner: str, model: str) -> tuple[str, ModelInfo] | Unpriced:
    provider = _providers().get(owner)
    if provider is None:
        return Unpriced(f"unknown provider {owner!r}")
    found = provider.find_model(model, all_providers=list(_providers().values()))
    return Unpriced(f"{owner} has no model {model!r}") if found is None else (owner, found)


_DATED: Final = re.compile(r"[-@](?:20\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])|latest)$")


def _home_model(model: str) -> tuple[str, ModelInfo] | Unpriced:
    """A model named without its provider: only when one provider claims the name and spells it out.

    Spelled out: the name, with or without a date or `-latest` at its end, is a literal of the library, not a
    part of it.
    """
    name = model.lower()
    claims = [p for p in _providers().values() if p.model_match is not None and p.model_match.is_match(name)]
    if len(claims) != 1:
        return Unpriced(f"no provider, and {len(claims)} providers claim the model {model!r}")
    found = claims[0].find_model(name)
    if found is None or not (_literals(found.match) & {name, _DATED.sub("", name)}):
        return Unpriced(f"no provider, and {claims[0].id} has no model of exactly the name {model!r}")
    return claims[0].id, found


def _literals(clause: Any) -> set[str]:
    if (clauses := getattr(clause, "or_", None)) is not None:
        return {literal for each in clauses for literal in _literals(each)}
    literal = getattr(clause, "equals", None) or getattr(clause, "starts_with", None)
    return {literal.lower()} if literal else set()


def _library_day(owner: str, model: ModelInfo, on: date) -> Iterator[tuple[int, UnitPrice | Unpriced]]:
    midnight = datetime.combine(on, time(), UTC)
    for start in sorted({0, *_times_of_day(model)}):
        price = model.get_prices(midnight + timedelta(milliseconds=start))
        yield start, _unit_price(f"{owner} {model.id}", price)


def _times_of_day(model: ModelInfo) -> Iterator[int]:
    """Milliseconds of the UTC day at which a price by time of day begins or ends."""
    if not isinstance(model.prices, list):
        return
    for conditional in model.prices:
        for name in ("start_time", "end_time"):
            moment: time | None = getattr(conditional.constraint, name, None)
            if moment is None:
                continue
            # The library reads a time without a zone as UTC.
            stamp = datetime.combine(_EPOCH, moment, moment.tzinfo or UTC).astimezone(UTC)
            micros = ((stamp.hour * 60 + stamp.minute) * 60 + stamp.second) * 1_000_000 + stamp.microsecond
            if (milliseconds := -(-micros // 1000)) < DAY_MS:
                yield milliseconds


def _unit_price(source: str, price: ModelPrice) -> UnitPrice | Unpriced:
    """The library's price in integers.

    Input that is read from or written to a cache costs as other input where the library has no price of its
    own for it, as in its `calc_price`.
    """
    stored = {key: value for key, value in vars(price).items() if value is not None}
    if stored and not stored.keys() & {"input_mtok", "output_mtok", "requests_kcount"}:
        return Unpriced(f"{source} is not priced by tokens but by {', '.join(sorted(stored))}")
    keys = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")
    default = stored.get("input_mtok", Decimal(0))
    charges = [stored.get(key, default if key != "output_mtok" else Decimal(0)) for key in keys]
    starts = sorted({tier.start for charge in charges for tier in getattr(charge, "tiers", ())})
    table = [[_at_tier(charge, start) for charge in charges] for start in (-1, *starts)]
    request = _at_tier(stored.get("requests_kcount", Decimal(0)), -1)
    scale = max(PICO, _places(request) + 3, *(_places(amount) + 6 for row in table for amount in row))
    bands = tuple(Rates(*(_scaled(amount, scale - 6) for amount in row)) for row in table)
    return UnitPrice(bands, tuple(starts), _scaled(request, scale - 3), scale, source)


def _at_tier(charge: Decimal | TieredPrices, start: int) -> Decimal:
    """The price just above a tier's start; -1 is below every tier."""
    if isinstance(charge, Decimal):
        return charge
    below = [tier.price for tier in charge.tiers if tier.start <= start]
    return below[-1] if below else charge.base


def _places(amount: Decimal) -> int:
    """Decimal places that an amount needs, without trailing zeros."""
    exponent = amount.normalize().as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError("not a number")
    return max(0, -exponent)


def _scaled(amount: Decimal, places: int) -> int:
    """An amount as an integer number of units of 10^-places; `places` is at least what it needs."""
    numerator, denominator = amount.as_integer_ratio()
    return int(numerator * 10**places // denominator)

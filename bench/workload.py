"""The bench's input: calls as producers write them, and the rules that they are counted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np

from rules.files import RuleFile
from rules.loader import parse_rule_files
from rules.rule import RuleSet
from rules.view import CALLS, Field, FieldKind, Selection, View
from streams.call import Pricing
from streams.ingest import IngestConfig
from streams.pricing import PriceBook, Pricer
from streams.records import Records, Source
from streams.rule_log import Epoch, RuleLog
from streams.spend import BatchPricer

PARTITIONS = 6
CALLS_PER_SECOND = 5_000
"""Calls per second of event time, over all partitions, unless a step asks for another rate."""
DISORDER_MS = 300
USERS = 20_000
FEATURES = [f"feature-{number:02d}" for number in range(20)]
MODELS = [
    ("gpt-4.1", "openai"),
    ("gpt-4.1-mini", "openai"),
    ("gpt-4o-mini", "openai"),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-3-5-haiku-latest", "anthropic"),
    ("gemini-2.5-flash", "google"),
    ("mistral-large-latest", "mistral"),
    ("llama-3.3-70b-versatile", "groq"),
]
RULES = """
version: 1
groups:
  - name: bench
    rules:
      - {alert: Slow, by: [feature], measure: latency.p95, window: 5m, above: 60s, runbook: latency-high}
      - {alert: FirstToken, by: [feature, model], measure: ttft.p95, window: 5m, above: 30s, runbook: latency-high}
      - {alert: Errors, by: [provider], measure: error_rate, window: 5m, above: "90%", runbook: error-rate-high}
      - {alert: Spend, by: [user], measure: spend, window: 5m, above: $500, runbook: spend-spike}
      - alert: SlowInProduction
        where: {environment: prod}
        by: [feature]
        measure: latency.p95
        window: 5m
        above: 60s
        runbook: latency-high
"""
"""Five rules, five views: two over latency, one each over time to first token, errors and spend."""


def rule_set() -> RuleSet:
    """The rules of the bench."""
    return parse_rule_files([RuleFile("bench.yaml", RULES)], None)


def heavy_views() -> tuple[View, ...]:
    """The same five combinations of dimensions, each with every field that the five rules need."""
    fields = (
        CALLS,
        Field(FieldKind.COUNT, "one", Selection.ERROR),
        Field(FieldKind.COUNT, "latency", Selection.OK),
        Field(FieldKind.COUNT, "ttft", Selection.OK),
        Field(FieldKind.SUM, "spend", Selection.ANY),
        Field(FieldKind.HISTOGRAM, "latency", Selection.OK),
        Field(FieldKind.HISTOGRAM, "ttft", Selection.OK),
        Field(FieldKind.EXEMPLAR, "latency", Selection.OK),
        Field(FieldKind.EXEMPLAR, "spend", Selection.ANY),
    )
    return tuple(View(view.where, view.by, tuple(sorted(fields))) for view in rule_set().views)


def rule_log(*, heavy: bool = False) -> RuleLog:
    """The rules in force, or only the heavy views."""
    return RuleLog([Epoch(0, RuleSet(()), heavy_views()) if heavy else Epoch(0, rule_set())])


def pricing() -> Callable[[], Pricing]:
    """Pricers over the shipped prices."""
    book = PriceBook()
    return lambda: BatchPricer(Pricer(book))


def config() -> IngestConfig:
    """The defaults."""
    return IngestConfig()


def calls(count: int, start_ms: int, rate: int = CALLS_PER_SECOND, seed: int = 7) -> Iterator[bytes]:
    """Calls in order of arrival: one half as a Python client writes them, one half as a compact encoder does.

    The first has blanks after separators and times in microseconds with the offset +00:00, the second neither and
    times in milliseconds with Z. Event time advances by 1 s in `rate` calls, up to 300 ms out of order.
    """
    random = np.random.default_rng(seed)
    block = 20_000
    weights = np.cumsum(1 / np.arange(11, 11 + USERS) ** 0.9)
    for first in range(0, count, block):
        size = min(block, count - first)
        at = start_ms + (np.arange(first, first + size) * 1000) // rate
        at = at - random.integers(0, DISORDER_MS, size)
        latency = random.lognormal(7.2, 0.8, size)
        columns = zip(
            range(first, first + size),
            at.tolist(),
            random.integers(0, 1000, size).tolist(),
            random.integers(0, len(FEATURES), size).tolist(),
            random.integers(0, len(MODELS), size).tolist(),
            np.searchsorted(weights, random.random(size) * weights[-1]).tolist(),
            np.round(latency, 1).tolist(),
            np.round(latency * random.uniform(0.1, 0.5, size), 1).tolist(),
            random.integers(50, 8_000, size).tolist(),
            random.integers(1, 900, size).tolist(),
            random.random(size).tolist(),
            strict=True,
        )
        for number, at_ms, us, feature, model, user, took, first_token, tokens, answer, chance in columns:
            name, provider = MODELS[model]
            moment = datetime.fromtimestamp(at_ms / 1000, UTC)
            if number % 2:
                at_text = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}{us:03d}+00:00"
            else:
                at_text = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"
            outcome = (
                f'"status": "ok", "finish_reason": "{"stop" if chance < 0.95 else "length"}"'
                if chance < 0.99
                else '"status": "error", "error": {"type": "rate_limit_error", "code": "429"}'
            )
            text = (
                f'{{"id": "call-{number:016x}-{us:03d}", "at": "{at_text}", "operation": "chat", '
                f'"feature": "{FEATURES[feature]}", "model": "{name}", "provider": "{provider}", '
                f'"user": "user-{user:05d}", "session": "session-{user:05d}-{number % 7}", '
                f'"prompt": "{FEATURES[feature]}-answer", "prompt_version": "v12", '
                f'"environment": "{"prod" if chance * 100 % 1 < 0.9 else "staging"}", {outcome}, '
                f'"latency_ms": {took}, "ttft_ms": {first_token}, "tokens": {{"input": {tokens}, '
                f'"cached_input": {tokens // 3}, "output": {answer}}}, "max_tokens": 1024, "streaming": true, '
                f'"trace": "{number * 0x9E3779B97F4A7C15 % (1 << 128):032x}", "span": "{number:016x}", '
                f'"content": {{"system_chars": 1200, "input_chars": {tokens * 4}, "output_chars": {answer * 4}}}, '
                f'"parameters": {{"temperature": 0.7}}, "labels": {{"team": "growth"}}}}'
            )
            if number % 2 == 0:
                text = text.replace(": ", ":").replace(", ", ",")
            yield text.encode()


def records(values: list[bytes], partition: int, first_offset: int, broker_ms: int) -> Records:
    """Calls as the loop hands them to the stage."""
    offsets = np.arange(first_offset, first_offset + len(values), dtype=np.int64)
    return Records(
        Source("bench.calls", partition, "bench"), values, offsets, np.full(len(values), broker_ms, np.int64)
    )


def batches(count: int, size: int, start_ms: int, rate: int = CALLS_PER_SECOND) -> list[Records]:
    """The calls cut as a consumer that has to catch up gets them: a whole batch of one partition at a time."""
    partitions: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for number, value in enumerate(calls(count, start_ms, rate)):
        partitions[number % PARTITIONS].append(value)
    broker_ms = start_ms + count * 1000 // rate
    return [
        records(mine[first : first + size], partition, first, broker_ms)
        for first in range(0, count // PARTITIONS + 1, size)
        for partition, mine in enumerate(partitions)
        if mine[first : first + size]
    ]

"""Simulated LLM traffic: realistic calls of a product with several features, from a seed, with scripted incidents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.incidents import DEMO, Incident, Kind, Script

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Timed = tuple[int, dict[str, Any]]

BLOCK_MS: Final = 1_000
"""Calls are drawn second by second, each second from a generator of its own: so any cut of time gives the same."""
USERS: Final = 3_000


@dataclass(frozen=True, slots=True)
class Model:
    """A model: how soon it starts to answer, how fast it goes on, and what it is called in answers."""

    name: str
    provider: str
    version: str
    first_token_ms: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of the product, and the calls it makes. Token counts are lognormal: median and sigma."""

    name: str
    per_second: float
    models: tuple[tuple[str, float], ...]
    input_median: float
    output_median: float
    max_tokens: int
    prompt: str
    prompt_version: str
    output_sigma: float = 0.5
    operation: str = "chat"
    cached_share: float = 0.0
    retrieval_ms: float = 0.0
    streaming: bool = True
    temperature: float = 0.2


_MODELS: Final = {
    model.name: model
    for model in (
        Model("gpt-4.1", "openai", "gpt-4.1-2025-04-14", 450, 85),
        Model("gpt-4.1-mini", "openai", "gpt-4.1-mini-2025-04-14", 320, 130),
        Model("claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5-20250929", 800, 75),
        Model("claude-haiku-4-5", "anthropic", "claude-haiku-4-5-20251001", 420, 150),
        Model("claude-opus-4-1", "anthropic", "claude-opus-4-1-20250805", 1_500, 50),
        Model("gemini-2.5-flash", "google", "gemini-2.5-flash", 300, 200),
        Model("text-embedding-3-small", "openai", "text-embedding-3-small", 80, 0),
    )
}

FEATURES: Final = (
    Feature(
        "chat",
        28,
        (("gpt-4.1", 0.7), ("gemini-2.5-flash", 0.2), ("claude-sonnet-4-5", 0.1)),
        input_median=1_400,
        output_median=180,
        max_tokens=2_048,
        prompt="assistant",
        prompt_version="v18",
        cached_share=0.4,
        temperature=0.7,
    ),
    Feature(
        "search-answers",
        20,
        (("gpt-4.1-mini", 0.6), ("gemini-2.5-flash", 0.4)),
        input_median=2_600,
        output_median=195,
        max_tokens=1_024,
        prompt="answer-from-passages",
        prompt_version="v7",
        cached_share=0.2,
        retrieval_ms=110,
    ),
    Feature(
        "summaries",
        12,
        (("claude-haiku-4-5", 0.6), ("gpt-4.1-mini", 0.4)),
        input_median=3_200,
        output_median=240,
        max_tokens=2_048,
        prompt="summary",
        prompt_version="v12",
        streaming=False,
    ),
    Feature(
        "code-completion",
        22,
        (("gpt-4.1-mini", 0.7), ("gemini-2.5-flash", 0.3)),
        input_median=900,
        output_median=40,
        max_tokens=512,
        prompt="fill-in",
        prompt_version="v41",
        cached_share=0.3,
        temperature=0.0,
    ),
    Feature(
        "batch-summary",
        2.5,
        (("claude-sonnet-4-5", 1.0),),
        input_median=14_000,
        output_median=2_000,
        max_tokens=8_192,
        prompt="long-summary",
        prompt_version="v3",
        output_sigma=0.25,
        streaming=False,
    ),
    Feature(
        "playground",
        1.0,
        (("gpt-4.1-mini", 0.8), ("claude-haiku-4-5", 0.2)),
        input_median=500,
        output_median=250,
        max_tokens=4_096,
        prompt="",
        prompt_version="",
        temperature=1.0,
    ),
    Feature(
        "embeddings",
        12,
        (("text-embedding-3-small", 1.0),),
        input_median=350,
        output_median=0,
        max_tokens=0,
        prompt="",
        prompt_version="",
        operation="embeddings",
        streaming=False,
    ),
)
"""What the product does, about 100 calls a second."""

_LOOP: Final = Feature(
    "playground",
    4,
    (("claude-opus-4-1", 1.0),),
    input_median=30_000,
    output_median=1_200,
    max_tokens=4_096,
    prompt="",
    prompt_version="",
    output_sigma=0.3,
    temperature=1.0,
)
"""What the user of a spend spike adds."""

_OUTAGE_SHARE: Final = 0.6
_TIMEOUT_SHARE: Final = 0.2
_TIMEOUT_MS: Final = 30_000.0
_SLOWER: Final = 4.0
_GROWTH: Final = 3.0
_LOW_MAX_TOKENS: Final = 256
_STAGING_SHARE: Final = 0.05
_PREFILL_TOKENS_PER_MS: Final = 20.0

_Failure = tuple[float, str, str, str]
_USUAL_FAILURES: Final[tuple[_Failure, ...]] = (
    (0.0010, "rate_limit_error", "429", "Too many requests, retry after 1 s"),
    (0.0012, "server_error", "500", "The server had an error while processing the request"),
    (0.0008, "timeout", "", "No answer within 30 s"),
)
"""Share, type, code and message of failures on a good day: 0.3 % together."""
_OUTAGE_FAILURES: Final[tuple[_Failure, ...]] = (
    (_OUTAGE_SHARE * (1 - _TIMEOUT_SHARE), "service_unavailable", "503", "The service is unavailable"),
    (_OUTAGE_SHARE * _TIMEOUT_SHARE, "timeout", "", "No answer within 30 s"),
)


class Traffic:
    """The calls of a seed from a start time on. Time is event time, in epoch milliseconds.

    Args:
        seed: the same seed gives the same calls.
        start_ms: where the script of incidents begins; there are no calls before it.
        script: what goes wrong, and when.
        rate: factor on the number of calls; 1 is about 100 a second.
    """

    def __init__(self, seed: int, start_ms: int, script: Script = DEMO, rate: float = 1.0) -> None:
        self.start_ms = start_ms
        self.script = script
        self._seed = seed
        self._rate = rate
        # Zipf-Mandelbrot: few heavy users and a long tail, the heaviest with about 1 % of the calls.
        weights = 1 / np.arange(11, 11 + USERS) ** 0.9
        self._users = np.cumsum(weights / weights.sum())
        self._kept: tuple[int, list[Timed]] = (-1, [])

    def calls(self, from_ms: int, to_ms: int) -> list[Timed]:
        """Calls that end in [from_ms, to_ms), in order of their end: (end in ms, event as docs/events.md has it)."""
        first = max(0, (from_ms - self.start_ms) // BLOCK_MS)
        last = (to_ms - self.start_ms - 1) // BLOCK_MS
        found = []
        for number in range(first, last + 1):
            found += [call for call in self._block(number) if from_ms <= call[0] < to_ms]
        return found

    def incident(self, at_ms: int) -> Incident | None:
        """The incident that plays at a time, or None."""
        return None if at_ms < self.start_ms else self.script.at(at_ms - self.start_ms)

    def _block(self, number: int) -> list[Timed]:
        """One second of calls; the last one is kept, because callers ask for it piece by piece."""
        if self._kept[0] != number:
            incident = self.script.at(number * BLOCK_MS)
            random = np.random.default_rng([self._seed, number])
            calls: list[Timed] = []
            for feature in FEATURES:
                calls += self._draw(random, feature, number, incident, user=None)
            if incident is not None and incident.kind is Kind.SPEND_SPIKE:
                calls += self._draw(random, _LOOP, number, incident, user=incident.target)
            calls.sort(key=lambda call: (call[0], call[1]["id"]))
            self._kept = (number, calls)
        return self._kept[1]

    def _draw(
        self,
        random: np.random.Generator,
        feature: Feature,
        number: int,
        incident: Incident | None,
        *,
        user: str | None,
    ) -> list[Timed]:
        """One second of one feature."""
        count = int(random.poisson(feature.per_second * self._rate))
        names = [name for name, _ in feature.models]
        shares = np.cumsum([share for _, share in feature.models])
        chosen = [_MODELS[names[i]] for i in np.searchsorted(shares, random.random(count)).tolist()]
        prompt_version, max_tokens, growth = feature.prompt_version, feature.max_tokens, 1.0
        if incident is not None and incident.target == feature.name:
            if incident.kind is Kind.PROMPT_GROWTH:
                prompt_version, growth = f"v{int(prompt_version[1:]) + 1}", _GROWTH
            elif incident.kind is Kind.TRUNCATION_WAVE:
                max_tokens = _LOW_MAX_TOKENS
        at = self.start_ms + number * BLOCK_MS + np.sort(random.integers(0, BLOCK_MS, count))
        users = np.searchsorted(self._users, random.random(count)) + 1
        tokens_in = (
            np.rint(growth * _lognormal(random, feature.input_median, 0.45, count)).astype(np.int64) + 1
        )
        wanted = np.rint(_lognormal(random, feature.output_median, feature.output_sigma, count))
        tokens_out = np.minimum(wanted, max_tokens).astype(np.int64)
        cached = np.where(random.random(count) < 0.8, feature.cached_share, 0.0)
        tokens_cached = np.rint(cached * np.minimum(tokens_in, feature.input_median)).astype(np.int64)
        stages, ttft = _durations(random, chosen, tokens_in, tokens_out, feature, incident)
        unaccounted = random.uniform(1, 6, count)
        latency = sum(stages.values(), unaccounted)
        failures = [
            _failure(incident, model.provider, share)
            for model, share in zip(chosen, random.random(count).tolist(), strict=True)
        ]
        staging = (random.random(count) < _STAGING_SHARE).tolist()
        refused = random.random(count).tolist()
        ids = random.bytes(32 * count).hex()
        moments = np.datetime_as_string(at.astype("datetime64[ms]")).tolist()
        columns = {
            "at": at.tolist(),
            "user": users.tolist(),
            "in": tokens_in.tolist(),
            "out": tokens_out.tolist(),
            "cached": tokens_cached.tolist(),
            "cut": (wanted >= max_tokens).tolist(),
            "ttft": np.round(ttft, 1).tolist(),
            "latency": np.round(latency, 1).tolist(),
        }
        rounded = {name: np.round(values, 1).tolist() for name, values in stages.items()}
        calls: list[Timed] = []
        for i, model in enumerate(chosen):
            hexes = ids[64 * i : 64 * (i + 1)]
            who = user or f"user-{columns['user'][i]:04d}"
            event: dict[str, Any] = {
                "id": f"call-{hexes[:16]}",
                "at": f"{moments[i]}Z",
                "operation": feature.operation,
                "feature": feature.name,
                "model": model.name,
                "provider": model.provider,
                "user": who,
                "session": f"{who}-{columns['at'][i] // 300_000 % 1_000:03d}",
                "environment": "staging" if staging[i] and user is None else "prod",
                "latency_ms": columns["latency"][i],
                "trace": hexes[16:48],
                "span": hexes[48:],
                "request": f"req_{hexes[:12]}",
                "streaming": feature.streaming,
                "retries": 0,
            }
            if feature.prompt:
                event["prompt"], event["prompt_version"] = feature.prompt, prompt_version
            if feature.operation == "chat":
                event["max_tokens"] = max_tokens
                event["parameters"] = {"temperature": feature.temperature}
            failure = failures[i]
            if failure is not None:
                _fail(event, failure, columns["latency"][i])
            else:
                event["status"] = "ok"
                event["model_version"] = model.version
                event["stages_ms"] = {name: values[i] for name, values in rounded.items()}
                event["tokens"] = {
                    "input": columns["in"][i],
                    "cached_input": columns["cached"][i],
                    "output": columns["out"][i],
                }
                event["content"] = {
                    "input_chars": 4 * columns["in"][i],
                    "output_chars": 4 * columns["out"][i],
                }
                if feature.operation == "chat":
                    event["finish_reason"] = _finish(columns["cut"][i], refused[i])
                if feature.streaming:
                    event["ttft_ms"] = columns["ttft"][i]
            calls.append((columns["at"][i], event))
        return calls


def _lognormal(random: np.random.Generator, median: float, sigma: float, count: int) -> Floats:
    """float64[count] with this median; all 0 where the median is 0."""
    return median * np.exp(sigma * random.standard_normal(count))


def _durations(
    random: np.random.Generator,
    models: list[Model],
    tokens_in: Ints,
    tokens_out: Ints,
    feature: Feature,
    incident: Incident | None,
) -> tuple[dict[str, Floats], Floats]:
    """Milliseconds of each stage by name, and until the first token, float64[n] each."""
    count = len(models)
    first = np.array([model.first_token_ms for model in models], np.float64)
    speed = np.array([model.tokens_per_second or np.inf for model in models], np.float64)
    prefill = first * _lognormal(random, 1, 0.25, count) + tokens_in / _PREFILL_TOKENS_PER_MS
    inference = prefill + 1_000 * tokens_out / (speed * _lognormal(random, 1, 0.2, count))
    stages = {
        "network": _lognormal(random, 25, 0.4, count),
        "queue": _lognormal(random, 30, 0.7, count),
        "inference": inference,
        "post_processing": _lognormal(random, 4, 0.4, count),
    }
    if feature.retrieval_ms:
        stages["retrieval"] = _lognormal(random, feature.retrieval_ms, 0.4, count)
    if incident is not None and incident.kind is Kind.LATENCY_SPIKE:
        slow = np.array([model.name == incident.target for model in models], bool)
        stages["queue"] = stages["queue"] + slow * (_SLOWER - 1) * inference
    before = stages["network"] + stages["queue"] + stages.get("retrieval", 0.0)
    return stages, before + prefill


def _failure(incident: Incident | None, provider: str, share: float) -> _Failure | None:
    """How the call at this place in [0, 1) fails, or None."""
    failing = _USUAL_FAILURES
    if incident is not None and incident.kind is Kind.PROVIDER_OUTAGE and incident.target == provider:
        failing = _OUTAGE_FAILURES
    for failure in failing:
        if share < failure[0]:
            return failure
        share -= failure[0]
    return None


def _fail(event: dict[str, Any], failure: _Failure, latency_ms: float) -> None:
    """Make an event a failed call; what it would have taken varies the failure's own latency."""
    _, kind, code, message = failure
    event["status"] = "error"
    event["error"] = {"type": kind, "message": message} | ({"code": code} if code else {})
    if kind == "timeout":
        event["latency_ms"], event["retries"] = _TIMEOUT_MS, 1
    elif kind == "rate_limit_error":
        # Refused at the door. Such calls must not pull a percentile down.
        event["latency_ms"] = round(1 + latency_ms % 7, 1)
    else:
        event["latency_ms"], event["retries"] = round(60 + latency_ms % 300, 1), 2


def _finish(cut: bool, share: float) -> str:
    if cut:
        return "length"
    return "content_filter" if share < 0.001 else "tool_calls" if share < 0.04 else "stop"

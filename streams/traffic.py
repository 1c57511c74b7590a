"""Simulated LLM traffic: realistic calls of a product with several features, from a seed, with scripted incidents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.incidents import DEMO, Incident, Kind, Script
from streams.traffic_features import FEATURES, LOOP, MODELS, Feature, Model

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Timed = tuple[int, dict[str, Any]]

BLOCK_MS: Final = 1_000
"""Calls are drawn second by second, each second from a generator of its own: so any cut of time gives the same."""
USERS: Final = 3_000

_OUTAGE_SHARE: Final = 0.6
_TIMEOUT_SHARE: Final = 0.2
_TIMEOUT_MS: Final = 30_000.0
_SLOWER: Final = 4.0
_GROWTH: Final = 3.0
_LOW_MAX_TOKENS: Final = 256
_STAGING_SHARE: Final = 0.05
_PREFILL_TOKENS_PER_MS: Final = 20.0
_SESSION_MS: Final = 300_000
_SPELLINGS: Final = {
    "anthropic": {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
    },
    "google": {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"},
}

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
                calls += self._draw(random, LOOP, number, incident, user=incident.target)
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
        chosen = [MODELS[names[i]] for i in np.searchsorted(shares, random.random(count)).tolist()]
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
        latency = sum(stages.values(), random.uniform(1, 6, count))
        places = random.random(count).tolist()
        drawn = _Drawn(
            feature=feature,
            prompt_version=prompt_version,
            max_tokens=max_tokens,
            at=at.tolist(),
            moment=np.datetime_as_string(at.astype("datetime64[ms]")).tolist(),
            user=[user] * count if user else [f"user-{number:04d}" for number in users.tolist()],
            staging=(random.random(count) < (0 if user else _STAGING_SHARE)).tolist(),
            input=tokens_in.tolist(),
            cached=tokens_cached.tolist(),
            output=tokens_out.tolist(),
            cut=(wanted >= max_tokens).tolist(),
            latency=np.round(latency, 1).tolist(),
            ttft=np.round(ttft, 1).tolist(),
            stages={name: np.round(values, 1).tolist() for name, values in stages.items()},
            finish=random.random(count).tolist(),
            hexes=random.bytes(32 * count).hex(),
        )
        return [
            (drawn.at[i], _event(drawn, i, model, _failure(incident, model.provider, places[i])))
            for i, model in enumerate(chosen)
        ]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One second of one feature as columns, one entry a call. `hexes`: 64 characters a call."""

    feature: Feature
    prompt_version: str
    max_tokens: int
    at: list[int]
    moment: list[str]
    user: list[str]
    staging: list[bool]
    input: list[int]
    cached: list[int]
    output: list[int]
    cut: list[bool]
    latency: list[float]
    ttft: list[float]
    stages: dict[str, list[float]]
    finish: list[float]
    hexes: str


def _event(drawn: _Drawn, i: int, model: Model, failure: _Failure | None) -> dict[str, Any]:
    """Call `i` as an event."""
    feature, user = drawn.feature, drawn.user[i]
    hexes = drawn.hexes[64 * i : 64 * (i + 1)]
    event: dict[str, Any] = {
        "id": f"call-{hexes[:16]}",
        "at": f"{drawn.moment[i]}Z",
        "operation": feature.operation,
        "feature": feature.name,
        "model": model.name,
        "provider": model.provider,
        "user": user,
        "session": f"{user}-{drawn.at[i] // _SESSION_MS % 1_000:03d}",
        "environment": "staging" if drawn.staging[i] else "prod",
        "latency_ms": drawn.latency[i],
        "trace": hexes[16:48],
        "span": hexes[48:],
        "request": f"req_{hexes[:12]}",
        "streaming": feature.streaming,
        "retries": 0,
    }
    if feature.prompt:
        event["prompt"], event["prompt_version"] = feature.prompt, drawn.prompt_version
    if feature.operation == "chat":
        event["max_tokens"] = drawn.max_tokens
        event["parameters"] = {"temperature": feature.temperature}
    if failure is not None:
        _fail(event, failure, drawn.latency[i])
        return event
    event["status"] = "ok"
    event["model_version"] = model.version
    event["stages_ms"] = {name: values[i] for name, values in drawn.stages.items()}
    event["tokens"] = {
        "input": drawn.input[i],
        "cached_input": drawn.cached[i],
        "output": drawn.output[i],
    }
    event["content"] = {"input_chars": 4 * drawn.input[i], "output_chars": 4 * drawn.output[i]}
    if feature.operation == "chat":
        event["finish_reason"] = _finish(model.provider, drawn.cut[i], drawn.finish[i])
    if feature.streaming:
        event["ttft_ms"] = drawn.ttft[i]
    return event


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


def _finish(provider: str, cut: bool, share: float) -> str:
    """The finish reason in the provider's own spelling."""
    usual = "content_filter" if share < 0.001 else "tool_calls" if share < 0.04 else "stop"
    reason = "length" if cut else usual
    return _SPELLINGS.get(provider, {}).get(reason, reason)

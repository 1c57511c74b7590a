"""The calls, rules and settings of a simulated run; everything follows from the seed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rules.files import RuleFile
from rules.loader import parse_rule_files
from rules.rule import RuleSet
from streams.rule_log import Epoch, RuleLog
from streams.settings import Settings

PARTITIONS = 3
LATENESS_MS = 4_000
SKEW_MS = 8_000
FLUSH_MS = 4_500
SNAPSHOT_MS = 4_000
CALLS_TOPIC, PANES_TOPIC, ALERTS_TOPIC = "llm.calls", "llm.panes", "llm.alerts"
NOTIFICATIONS_TOPIC, SNAPSHOTS_TOPIC, REJECTED_TOPIC = (
    "llm.notifications",
    "llm.snapshots",
    "llm.calls.rejected",
)
BEGIN_MS = 1_790_000_000_000

RULES = {
    "Slow": "by: [feature], measure: latency.p95, window: 20s, above: {warning: 1s, critical: 4s}, for: 2s, "
    'keep_firing_for: 3s, min_calls: "8"',
    "Slower": "by: [feature], measure: latency.p95, window: 20s, above: {warning: 500ms, critical: 2s}, for: 2s, "
    'keep_firing_for: 3s, min_calls: "8"',
    "Spending": 'by: [user], measure: spend, window: 30s, above: {warning: "$0.06", critical: "$0.15"}, '
    "keep_firing_for: 5s",
    "Quiet": 'by: [feature], measure: calls, window: 10s, below: {warning: "10"}, for: 3s',
    "Failing": 'by: [feature], measure: error_rate, window: 15s, above: {warning: "25%", critical: "60%"}, '
    'min_calls: "6"',
    "Late": 'measure: late, window: 10s, above: {warning: "1"}',
    "Clamped": 'measure: clamped, window: 10s, above: {warning: "0"}',
}
"""Rules by name; `Slower` is what `Slow` becomes when it is changed."""


@lru_cache
def rule_set(names: tuple[str, ...]) -> RuleSet:
    lines = ["version: 1", "groups:", "  - name: sim", "    rules:"]
    lines += [
        f"      - {{alert: {'Slow' if name == 'Slower' else name}, {RULES[name]}, runbook: page}}"
        for name in names
    ]
    return parse_rule_files([RuleFile("sim.yaml", "\n".join(lines))], None)


@lru_cache
def settings() -> Settings:
    return Settings.model_validate(
        {
            "calls": {"topics": [CALLS_TOPIC], "lateness": f"{LATENESS_MS}ms", "skew": f"{SKEW_MS}ms"},
            "flush": f"{FLUSH_MS}ms",
            "snapshot": f"{SNAPSHOT_MS}ms",
            "overview": [],
            "receivers": {"inbox": {"console": {}}, "pager": {"console": {}}},
            "routes": [{"where": {"severity": "critical"}, "to": ["pager", "inbox"]}, {"to": ["inbox"]}],
        }
    )


@dataclass
class Traffic:
    """What arrives and when: arrival time, partition and value, in order of arrival."""

    arrivals: list[tuple[int, int, bytes]] = field(default_factory=list)
    until_ms: int = 0
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    switch_ms: int | None = None
    boundary_ms: int | None = None

    @property
    def shards(self) -> tuple[int, ...]:
        """Shards that any series of any rule lies on; the others are not dealt out."""
        rules = (rule for names in (self.first, self.second) if names for rule in rule_set(names).rules)
        return tuple(sorted({rule.view.shard(()) for rule in rules}))

    def rule_log(self, *, changed: bool) -> RuleLog:
        """The rules log before or after the change: a second set that holds from the boundary on."""
        epochs = [Epoch(0, rule_set(self.first))]
        if changed and self.boundary_ms is not None:
            epochs.append(Epoch(self.boundary_ms, rule_set(self.second)))
        return RuleLog(epochs)


@dataclass(frozen=True)
class Disorder:
    """How unruly the producers of a run are; shares of the calls."""

    late: float
    late_is_priced: bool
    jumps: float
    fast_ms: int
    backfill: bool


def traffic(rng: random.Random) -> Traffic:
    """The calls of a run, and when its rules change."""
    span = rng.randint(26_000, 38_000)
    disorder = Disorder(
        late=rng.choice((0.0, 0.02, 0.04)),
        late_is_priced=rng.random() < 0.5,
        jumps=rng.choice((0.0, 0.0, 0.0, 0.004)),
        fast_ms=rng.choice((0, 0, 0, 2_500, 2_500, 4_500)),
        backfill=rng.random() < 0.15,
    )
    made = Traffic(until_ms=BEGIN_MS + span + LATENESS_MS + 8_000)
    mood = _moods(rng, span)
    # Calls come in bursts: a pane costs the engine the same with one call in it as with twenty.
    bursts = [second * 1_000 for second in range(span // 1_000) if rng.random() < 0.28] or [0]
    for number in range(rng.randint(490, 530)):
        _add_call(made, rng, number, rng.choice(bursts) + rng.randrange(1_000), mood, disorder)
    if disorder.backfill:
        for number in range(8):
            event = _event(rng, f"old-{number}", BEGIN_MS - 30_000 + number * 300, {}, rng.choice("abc"))
            made.arrivals.append((BEGIN_MS + number, 0, _raw(event)))
    for partition in range(PARTITIONS):
        for number in range(3):
            at = made.until_ms + number
            event = _event(rng, f"end-{partition}-{number}", at, {}, "a")
            made.arrivals.append((at, partition, _raw(event)))
    made.arrivals.sort()
    two = rng.choice((("Slow", "Spending"), ("Slow", "Quiet"), ("Spending", "Quiet")))
    made.first = (*two, "Late")
    if rng.random() < 0.6:
        made.switch_ms = BEGIN_MS + rng.randint(500, span // 4)
        kept = rng.choice(two)
        made.second = ("Slower" if kept == "Slow" else kept, "Failing", "Clamped")
        made.boundary_ms = (made.switch_ms + SKEW_MS + rng.randint(4_000, 7_000)) // 1_000 * 1_000
    return made


_Moods = list[dict[str, str]]


def _moods(rng: random.Random, span: int) -> _Moods:
    """What is wrong with each feature, by stretch of ten seconds."""
    kinds = ("well", "well", "well", "slow", "slower", "failing", "down", "silent", "busy")
    return [{feature: rng.choice(kinds) for feature in "abc"} for _ in range(span // 10_000 + 1)]


_DELAYS = (0, 5, 40, 200)
_LONG_DELAYS = (500, 900, 900, LATENESS_MS - 800)
_LATENCIES = {
    "well": (0.0, 120, 180, 240.5, 333.333, 410, 650),
    "slow": (900, 1_004, 1_015.6, 1_300, 1_900, 2_400),
    "slower": (3_900, 4_100, 5_200, 8_000, 40_000, 4_000_000),
}


def _event(rng: random.Random, name: str, at: int, mood: dict[str, str], feature: str) -> dict[str, Any]:
    kind = mood.get(feature, "well")
    event: dict[str, Any] = {
        "id": name,
        "at": at,
        "model": rng.choice(("m-small", "m-large")),
        "provider": "sim",
        "feature": feature,
        "user": f"u{rng.randint(1, 4)}",
        "latency_ms": rng.choice(_LATENCIES.get(kind, _LATENCIES["well"])),
    }
    failing = {"failing": 0.4, "down": 0.8}.get(kind, 0.03)
    if rng.random() < failing:
        event["status"] = "error"
    if rng.random() < 0.9:
        event["cost_usd"] = rng.randint(1, 40) / 10_000
    if rng.random() < 0.04:
        event["operation"] = "embeddings"
    if rng.random() < 0.05:
        del event[rng.choice(("feature", "user", "latency_ms"))]
    return event


def _raw(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _add_call(
    made: Traffic, rng: random.Random, number: int, since: int, mood: _Moods, disorder: Disorder
) -> None:
    of_stretch = mood[since // 10_000]
    feature = rng.choice("aabbc")
    if of_stretch[feature] == "silent":
        feature = rng.choice("abc")
        if of_stretch[feature] == "silent":
            feature = "d"
    at, partition = BEGIN_MS + since, rng.randrange(PARTITIONS)
    arrival = at + (rng.choice(_DELAYS) if rng.random() < 0.9 else rng.choice(_LONG_DELAYS))
    event = _event(rng, f"call-{number}", at, of_stretch, feature)
    chance = rng.random()
    if chance < disorder.late:
        arrival = min(at + LATENESS_MS + rng.randint(1_500, 12_000), made.until_ms - 1)
        if not disorder.late_is_priced:
            event.pop("cost_usd", None)
    elif chance < disorder.late + disorder.jumps:
        event["at"] = arrival + rng.randint(5_000, SKEW_MS - 1_000)
    elif 0.5 < chance < 0.506:
        event["at"] = arrival + SKEW_MS + rng.randint(2_000, 3_600_000)
    elif event.get("user") == "u3":
        event["at"] = at + disorder.fast_ms
    raw = _raw(event)
    if 0.6 < chance < 0.61:
        raw = rng.choice((b"{", b"", b'{"model": 1}', b"\xff", raw[: len(raw) // 2]))
    made.arrivals.append((arrival, partition, raw))
    if 0.7 < chance < 0.74:
        again = arrival + rng.choice((0, 1, 500, LATENESS_MS - 900))
        made.arrivals.append((again, partition if rng.random() < 0.9 else 0, raw))

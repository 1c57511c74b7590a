"""The calls of a chaos run and its rules, as the engine reads them and as the oracle has them.

The event time runs 20 s ahead of the clock, within the skew: longer than calls are held up while brokers are away. So
no clock can ever stand in for data, and the calls alone say which transitions there must be, whatever is killed.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

from simulation_oracle import OracleRule

from rules.files import RuleFile
from rules.loader import parse_rule_files

PARTITIONS = 3
LATENESS_MS = 4_000
SKEW_MS = 300_000
AHEAD_MS = 20_000
FEATURES = ("chat", "search", "summary", "other")
STRETCH_MS = 22_000

_RULES = {
    "Slow": "by: [feature], measure: latency.p95, window: 20s, above: {warning: 1s, critical: 4s}, for: 2s, "
    'keep_firing_for: 3s, min_calls: "8"',
    "Spending": 'by: [user], measure: spend, window: 30s, above: {warning: "$SMALL", critical: "$LARGE"}, '
    "keep_firing_for: 5s",
    "Quiet": 'by: [feature], measure: calls, window: 10s, below: {warning: "10"}, for: 3s',
    "Failing": 'by: [feature], measure: error_rate, window: 15s, above: {warning: "25%", critical: "60%"}, '
    'min_calls: "6"',
    "Late": 'measure: late, window: 10s, above: {warning: "2"}',
    "Clamped": 'measure: clamped, window: 10s, above: {warning: "0"}',
}


def _spend_levels(rate: int) -> tuple[int, int]:
    """Warning and critical of spend by user in 30 s, in nano-dollars: a busy user passes them, others do not."""
    usual = rate * 30 * 2_000_000 // 9
    return usual * 14 // 10, usual * 22 // 10


def rule_text(rate: int) -> str:
    """The rule file for this many calls per second."""
    small, large = (f"${level / 1_000_000_000:.4f}" for level in _spend_levels(rate))
    lines = ["version: 1", "groups:", "  - name: chaos", "    rules:"]
    for name, rule in _RULES.items():
        written = rule.replace("$SMALL", small).replace("$LARGE", large)
        lines.append(f"      - {{alert: {name}, {written}, runbook: latency-high, summary: test}}")
    return "\n".join(lines) + "\n"


def oracle_rules(rate: int) -> tuple[OracleRule, ...]:
    """The same rules in the oracle's words; of the engine only the names of the views are asked for."""
    loaded = parse_rule_files([RuleFile("chaos.yaml", rule_text(rate))], None)
    views = {rule.alert: rule.view.hash for rule in loaded.rules}
    small, large = (
        round(float(f"{level / 1_000_000_000:.4f}") * 1_000_000_000) for level in _spend_levels(rate)
    )
    slow = {"for_ms": 2_000, "keep": 3_000, "min_calls": 8}
    own = (
        OracleRule("Slow", "", ("feature",), "latency.p95", 20_000, False, 1_000, 4_000, **slow),
        OracleRule("Spending", "", ("user",), "spend", 30_000, False, small, large, keep=5_000),
        OracleRule("Quiet", "", ("feature",), "calls", 10_000, True, 10, None, for_ms=3_000),
        OracleRule("Failing", "", ("feature",), "error_rate", 15_000, False, 0.25, 0.6, min_calls=6),
        OracleRule("Late", "", (), "late", 10_000, False, 2, None),
        OracleRule("Clamped", "", (), "clamped", 10_000, False, 0, None),
    )
    return tuple(replace(rule, name=f"chaos/{rule.name}", view=views[rule.name]) for rule in own)


_LATENCIES = {
    "well": (120, 180, 240.5, 333.333, 410, 650),
    "slow": (900, 1_004, 1_300, 1_900, 2_400),
    "slower": (3_900, 4_100, 5_200, 8_000, 40_000),
}
_KINDS = ("well", "well", "well", "slow", "slower", "failing", "down", "silent")


@dataclass
class Traffic:
    """Calls by the clock: what arrives in a slice of time. Everything but the times follows from the seed."""

    rng: random.Random
    rate: int
    made: int = 0
    _moods: dict[int, dict[str, str]] = field(default_factory=dict)
    _busy: dict[int, str] = field(default_factory=dict)
    _again: list[tuple[int, int, bytes]] = field(default_factory=list)

    def arrivals(self, now_ms: int, until_ms: int) -> list[tuple[int, bytes]]:
        """Partition and value of every call that arrives between two times of the clock, in order."""
        count = max(0, (until_ms - now_ms) * self.rate // 1_000)
        found = [self._call(now_ms + number * (until_ms - now_ms) // count) for number in range(count)]
        due = [each for each in self._again if each[0] <= until_ms]
        self._again = [each for each in self._again if each[0] > until_ms]
        return found + [(partition, value) for _, partition, value in due]

    def last(self, now_ms: int) -> list[tuple[int, bytes]]:
        """Calls that seal whatever is open."""
        at = now_ms + AHEAD_MS + LATENESS_MS + 3_000
        return [
            (partition, _raw(self._event(f"end-{partition}-{number}", at + number, "well", "other")))
            for partition in range(PARTITIONS)
            for number in range(3)
        ]

    def _call(self, clock_ms: int) -> tuple[int, bytes]:
        rng = self.rng
        self.made += 1
        stretch = clock_ms // STRETCH_MS
        if stretch not in self._moods:
            self._moods[stretch] = {feature: rng.choice(_KINDS) for feature in FEATURES[:2]}
            self._busy[stretch] = f"user-{rng.randint(1, 8)}"
        moods = self._moods[stretch]
        feature = rng.choice(FEATURES)
        if moods.get(feature) == "silent":
            feature = "other"
        at = clock_ms + AHEAD_MS - (rng.randrange(300) if rng.random() < 0.95 else rng.randrange(3_000))
        event = self._event(f"call-{self.made}", at, moods.get(feature, "well"), feature)
        if rng.random() < 0.15:
            event["user"] = self._busy[stretch]
        partition, chance = rng.randrange(PARTITIONS), rng.random()
        if chance < 0.003:
            event["at"] = at - LATENESS_MS - rng.randint(1_500, 9_000)
        elif chance < 0.0035:
            event["at"] = clock_ms + SKEW_MS + 3_600_000
        raw = _raw(event)
        if 0.5 < chance < 0.504:
            raw = rng.choice((b"{", b"", b'{"model": 1}', b"\xff", raw[: len(raw) // 2]))
        elif 0.6 < chance < 0.63:
            self._again.append((clock_ms + rng.choice((0, 500, 2_500)), partition, raw))
        return partition, raw

    def _event(self, name: str, at: int, kind: str, feature: str) -> dict[str, Any]:
        rng = self.rng
        event: dict[str, Any] = {
            "id": name,
            "at": at,
            "model": rng.choice(("m-small", "m-large")),
            "provider": "chaos",
            "feature": feature,
            "user": f"user-{rng.randint(1, 8)}",
            "latency_ms": rng.choice(_LATENCIES.get(kind, _LATENCIES["well"])),
        }
        if rng.random() < {"failing": 0.4, "down": 0.8}.get(kind, 0.03):
            event["status"] = "error"
        if rng.random() < 0.95:
            event["cost_usd"] = rng.randint(1, 40) / 10_000
        if rng.random() < 0.03:
            event["operation"] = "embeddings"
        if rng.random() < 0.03:
            del event[rng.choice(("feature", "user", "latency_ms"))]
        return event


def _raw(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()

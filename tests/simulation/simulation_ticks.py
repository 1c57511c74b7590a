"""The second half of the oracle: alerts and transitions from panes, every rule at every second of event time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulation_oracle import PANE, SILENT, Content, Epochs, OracleRule, Panes, bucket_of, highest_of


@dataclass(frozen=True, order=True)
class Seen:
    """What is compared of a transition."""

    at: int
    rule: str
    series: tuple[str, ...]
    before: str
    after: str
    severity: str
    before_severity: str | None
    value: float
    calls: int
    since: int
    episode: int
    reason: str


@dataclass
class _Spell:
    since: int | None = None
    last: int | None = None
    firing: bool = False


@dataclass
class OracleAlert:
    """One series of one rule that is pending or firing."""

    state: str
    severity: str
    episode: int
    spells: dict[str, _Spell]


class Ticks:
    """Evaluates every rule at every second of event time; nothing is skipped."""

    def __init__(self, epochs: Epochs) -> None:
        self.cells: dict[str, dict[int, dict[tuple[str, ...], Content]]] = {}
        self.booked: dict[str, dict[int, dict[tuple[str, ...], Content]]] = {}
        self.alerts: dict[str, dict[tuple[str, ...], OracleAlert]] = {}
        self.found: list[Seen] = []
        self._epochs = epochs
        self._next: int | None = None
        self._before: dict[str, set[tuple[str, ...]]] = {}
        self._waiting: list[tuple[int, str, int, tuple[str, ...], int]] = []
        self._entered = False

    def put(self, view: str, start: int, series: tuple[str, ...], content: list[Content]) -> None:
        """The contents of a pane from all sources, added up once for every tick that sees it."""
        total: Content = {}
        for each in content:
            _add(total, each)
        self.cells.setdefault(view, {}).setdefault(start, {})[series] = total

    def late(self, seen: int, view: str, start: int, series: tuple[str, ...], spend: int) -> None:
        """Spend of a late call, for ticks after its source had sealed that far."""
        self._waiting.append((seen, view, start, series, spend))

    def _book_late(self, tick: int) -> None:
        for each in [each for each in self._waiting if each[0] < tick]:
            self._waiting.remove(each)
            _, view, start, series, spend = each
            booked = self.booked.setdefault(view, {}).setdefault(start, {}).setdefault(series, {})
            _add(booked, {"sum:spend:any": spend})

    def advance(self, watermark: int) -> None:
        """Evaluate every tick up to the watermark."""
        starts = [min(of_view) for of_view in self.cells.values() if of_view]
        if self._next is None:
            if not starts or min(starts) + PANE > watermark:
                return
            self._next = min(starts) + PANE
        boundary = self._epochs.boundary
        while self._next <= watermark:
            tick = self._next
            self._book_late(tick)
            rules = self._epochs.first if boundary is None or tick <= boundary else self._epochs.second
            for rule in rules:
                self._evaluate(rule, tick)
            if tick == boundary:
                self._enter(tick)
            self._next = tick + PANE

    def _enter(self, tick: int) -> None:
        second = {rule.name: rule for rule in self._epochs.second}
        for rule in self._epochs.first:
            if second.get(rule.name) == rule:
                continue
            reason = "rule changed" if rule.name in second else "rule removed"
            for series, alert in sorted(self.alerts.pop(rule.name, {}).items()):
                if alert.state == "firing":
                    severities = ("firing", "resolved", alert.severity, alert.severity)
                    since = (alert.episode, alert.episode)
                    self.found.append(Seen(tick, rule.name, series, *severities, 0, 0, *since, reason))

    def _totals(self, rule: OracleRule, tick: int) -> dict[tuple[str, ...], Content]:
        totals: dict[tuple[str, ...], Content] = {}
        for panes in (self.cells, self.booked):
            of_view = panes.get(rule.view, {})
            for start in range(tick - rule.window, tick, PANE):
                for series, content in of_view.get(start, {}).items():
                    _add(totals.setdefault(series, {}), content)
        return totals

    def _evaluate(self, rule: OracleRule, tick: int) -> None:
        totals = self._totals(rule, tick)
        live = {series for series, total in totals.items() if any(_plain(total))}
        alerts = self.alerts.setdefault(rule.name, {})
        before, self._before[rule.name] = self._before.get(rule.name, set()), live
        for series in sorted(live | before | set(alerts)):
            value, calls, decided, compared = _read(rule, totals.get(series, {}))
            breaches = {}
            for severity, level in (("warning", rule.warning), ("critical", rule.critical)):
                breaches[severity] = None
                if decided and level is not None:
                    limit = bucket_of(round(level * 1_000)) if rule.measure == "latency.p95" else level
                    breaches[severity] = compared < limit if rule.below else compared > limit
            self._step(rule, series, alerts, breaches, tick, (value, calls))

    def _step(
        self,
        rule: OracleRule,
        series: tuple[str, ...],
        alerts: dict[tuple[str, ...], OracleAlert],
        breaches: dict[str, bool | None],
        tick: int,
        reading: tuple[float, int],
    ) -> None:
        alert = alerts.get(series)
        spells = alert.spells if alert is not None else {"warning": _Spell(), "critical": _Spell()}
        for severity, spell in spells.items():
            _advance(spell, breaches[severity], tick, rule)
        was = "inactive" if alert is None else alert.state
        firing = [severity for severity in ("critical", "warning") if spells[severity].firing]
        held = [severity for severity in ("critical", "warning") if spells[severity].since is not None]
        if firing:
            state, severity = "firing", firing[0]
        elif was == "firing":
            assert alert is not None
            state, severity = "resolved", alert.severity
        elif held:
            state, severity = "pending", held[0]
        elif alert is not None:
            state, severity = "inactive", alert.severity
        else:
            return
        episode = tick if alert is None else alert.episode
        since = min((spell.since for spell in spells.values() if spell.since is not None), default=episode)
        if state == "resolved":
            since = episode
        earlier = None if alert is None else alert.severity
        if state != was or (state == "firing" and severity != earlier):
            undecided = breaches["warning"] is None and breaches["critical"] is None
            reason = _reason(was, state, severity, undecided)
            self.found.append(
                Seen(tick, rule.name, series, was, state, severity, earlier, *reading, since, episode, reason)
            )
        if state in {"resolved", "inactive"}:
            alerts.pop(series, None)
        else:
            alerts[series] = OracleAlert(state, severity, episode, spells)


def _add(total: Content, content: Content) -> None:
    """Add a content to a total. Exemplars, which are pairs, have no part in it."""
    for name, value in content.items():
        if type(value) is int:
            total[name] = total.get(name, 0) + value
        elif type(value) is dict:
            counts = total.setdefault(name, {})
            for bucket, number in value.items():
                counts[bucket] = counts.get(bucket, 0) + number


def _plain(total: Content) -> Iterator[int]:
    return (value for name, value in total.items() if name.startswith(("count:", "sum:")))


def _reason(was: str, state: str, severity: str, undecided: bool) -> str:
    if state == "resolved":
        return "recovered"
    if state == "inactive":
        return "too few calls to decide whether it goes on" if undecided else "recovered before it fired"
    if state == "pending":
        return "breached, waiting for its duration"
    if was == "firing":
        return "escalated" if severity == "critical" else "eased"
    return "breached"


def _advance(spell: _Spell, breached: bool | None, tick: int, rule: OracleRule) -> None:
    gap = 0 if spell.last is None else tick - spell.last
    if not spell.firing and gap > rule.window:
        spell.since = spell.last = None
    if breached:
        spell.since = tick if spell.since is None else spell.since
        spell.last = tick
        spell.firing = spell.firing or tick - spell.since >= rule.for_ms
    elif breached is not None and not (spell.firing and gap < rule.keep):
        spell.since, spell.last, spell.firing = None, None, False


def _read(rule: OracleRule, total: Content) -> tuple[float, int, bool, float]:
    """Value, calls, whether it can be decided, and what is compared with the level."""
    calls = total.get("count:one:any", 0)
    match rule.measure:
        case "latency.p95":
            calls = total.get("count:latency:ok", 0)
            bucket, value = _percentile(total.get("histogram:latency:ok", {}), calls)
            return round(value / 1_000, 6), calls, 0 < calls >= rule.min_calls, bucket
        case "error_rate":
            rate = total.get("count:one:error", 0) / calls if calls else 0.0
            return round(rate, 6), calls, 0 < calls >= rule.min_calls, rate
        case "spend":
            value = total.get("sum:spend:any", 0)
        case "calls":
            value = calls
        case own:
            value = calls = total.get(f"count:{own}:any", 0)
    return value, calls, calls >= rule.min_calls, value


def _percentile(counts: Mapping[int, int], calls: int) -> tuple[int, int]:
    wanted, seen = max(1, math.ceil(95 * calls / 100)), 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted:
            return bucket, highest_of(bucket)
    return -1, 0


def transitions_of_calls(panes: Panes, epochs: Epochs, lateness: int) -> Ticks:
    """The transitions of final panes, up to the time that every source has sealed."""
    ticks = Ticks(epochs)
    merged: dict[tuple[str, int, tuple[str, ...]], list[Content]] = {}
    for (view, _, series, start), history in panes.history.items():
        merged.setdefault((view, start, series), []).append(history[-1][1])
    for (view, start, series), contents in merged.items():
        ticks.put(view, start, series, contents)
    for (view, _, _), (series, start, spend, seen) in panes.late.items():
        ticks.late(seen, view, start, series, spend)
    ticks.advance(min(panes.high.values()) - lateness)
    return ticks


@dataclass
class _Source:
    version: int = -1
    sealed: int | None = None
    watermark: int | None = None
    wall: int = 0
    sources: int = 1
    late: int = -1
    newest: dict[tuple[str, int, tuple[str, ...]], tuple[int, Content]] = field(default_factory=dict)


class PanesFold:
    """One shard of the panes log, record by record: the same log gives the same transitions."""

    def __init__(self, epochs: Epochs) -> None:
        self.ticks = Ticks(epochs)
        self.watermark: int | None = None
        self.silenced = False
        self._sources: dict[int, _Source] = {}
        both = {rule.view for rule in epochs.first}
        self._begins = {
            rule.view: epochs.boundary for rule in epochs.second if rule.view not in both and epochs.boundary
        }
        self._views = both | {rule.view for rule in epochs.second}

    def take(self, chunk: Any) -> None:
        """A record of the log, as `simulation_records.read_chunk` reads it."""
        source = self._sources.setdefault(chunk.source, _Source())
        for view, series, start, content in chunk.entries:
            if view not in self._views or start < (self._begins.get(view) or 0):
                continue
            key = (view, start, series)
            known = source.newest.get(key, (-1, {}))
            if (source.sealed is None or start + PANE > source.sealed) and chunk.version > known[0]:
                source.newest[key] = (chunk.version, content)
                self._put(key)
        last = source.late
        for view, series, start, offset, spend, seen in chunk.late:
            if offset > last:
                self.ticks.late(seen, view, start, series, spend)
                source.late = max(source.late, offset)
        if chunk.seal is None or chunk.version < source.version:
            return
        source.version = chunk.version
        source.sealed = chunk.seal["frontier_ms"]
        # A worker that was stopped for a while publishes an old clock: neither goes back.
        source.wall = max(source.wall, chunk.seal["wall_ms"])
        reported = chunk.seal["watermark_ms"]
        source.watermark = reported if source.watermark is None else max(source.watermark, reported)
        source.sources = chunk.seal["sources"]
        self._advance()

    def _put(self, key: tuple[str, int, tuple[str, ...]]) -> None:
        contents = [source.newest[key][1] for source in self._sources.values() if key in source.newest]
        self.ticks.put(*key, contents)

    def _advance(self) -> None:
        reported = [source for source in self._sources.values() if source.watermark is not None]
        newest = max(source.wall for source in reported)
        heard = [source for source in reported if source.wall >= newest - SILENT]
        self.silenced = self.silenced or len(heard) < len(reported)
        if len(reported) < max(source.sources for source in heard):
            return
        least = min(source.watermark for source in heard if source.watermark is not None)
        self.watermark = least if self.watermark is None else max(self.watermark, least)
        self.ticks.advance(self.watermark)

"""Comparing what a chaos run left in Kafka and at the fake Slack with the oracle of the simulation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chaos_calls import LATENESS_MS, PARTITIONS, SKEW_MS
from simulation_check import Report, _check_panes, _compare
from simulation_oracle import PANE, Epochs, OracleRule, Panes, expected_id, expected_notification_id, panes_of
from simulation_records import ChunkRead, read_alert, read_chunk
from simulation_ticks import PanesFold, Seen, transitions_of_calls

Log = Sequence[tuple[bytes | None, bytes | None, int]]
"""The records of a partition in order: key, value, time."""
ENGINES_OWN = "tocsin"
SENDING = "sending"
"""The outcome of a notification that is about to be attempted."""


@dataclass(frozen=True)
class Told:
    """A message that the fake Slack accepted."""

    receiver: str
    notification: str
    at_ms: int


@dataclass
class Found:
    """Everything that is compared."""

    calls: Mapping[int, Log]
    panes: Mapping[int, Log]
    alerts: Log
    notifications: Log
    inbox: Sequence[Told]
    published: Mapping[int, Sequence[bytes]]
    routes: Mapping[str, Sequence[str]]
    """By severity, who is told."""
    around: Callable[[float], str] = lambda _: ""
    """What had been done last at some time (seconds since the epoch)."""
    struck: Callable[[float, float], bool] = lambda _from, _to: False
    """Whether anything was struck between two such times."""


@dataclass
class Verdict:
    """What was compared, and what differs."""

    report: Report
    spend_nanodollars: int = 0
    histogram_entries: int = 0
    repeats: Counter[str] = field(default_factory=Counter)
    delays_ms: list[int] = field(default_factory=list)


class Expected:
    """What the calls say there must be."""

    def __init__(self, rules: tuple[OracleRule, ...], calls: Mapping[int, Log]) -> None:
        self.epochs = Epochs(rules)
        self.panes: Panes = panes_of(calls, self.epochs, LATENESS_MS, SKEW_MS)
        self.by_calls = transitions_of_calls(self.panes, self.epochs, LATENESS_MS)
        self.chunks: dict[int, list[ChunkRead]] = {}
        self.folds: dict[int, PanesFold] = {}

    def take(self, panes: Mapping[int, Log]) -> None:
        """And what the panes say, as they lie in Kafka."""
        self.chunks = {
            shard: [read_chunk(value or b"") for _, value, _ in log] for shard, log in panes.items()
        }
        self.folds = {}
        for shard, chunks in self.chunks.items():
            self.folds[shard] = fold = PanesFold(self.epochs)
            for chunk in chunks:
                fold.take(chunk)

    @property
    def sealed_ms(self) -> int:
        """How far every source has sealed, by the calls."""
        return min(self.panes.high.values()) - LATENESS_MS

    @property
    def sealed_panes(self) -> Panes:
        """The panes that every source has sealed: others need not be published yet."""
        history = {
            cell: of_cell for cell, of_cell in self.panes.history.items() if cell[3] + PANE <= self.sealed_ms
        }
        return replace(self.panes, history=history)

    @property
    def is_complete(self) -> bool:
        """Whether the panes log has everything that the calls give."""
        sealed = [fold.watermark for fold in self.folds.values()]
        return bool(sealed) and all(at is not None and at >= self.sealed_ms for at in sealed)

    @property
    def transitions(self) -> list[Seen]:
        return sorted(seen for fold in self.folds.values() for seen in fold.ticks.found)


def check(expected: Expected, found: Found) -> Verdict:
    """Every promise."""
    report = Report()
    verdict = Verdict(report)
    _check_log(report, found)
    for name, number in expected.panes.fates.items():
        report.count(f"calls {name}", number)
    _check_panes(report, expected.chunks.values(), expected.sealed_panes, expected.epochs)
    _sum_up(verdict, expected)
    alerts = _check_alerts(verdict, expected, found)
    _check_notifications(verdict, found, alerts)
    return verdict


def _check_log(report: Report, found: Found) -> None:
    for partition in range(PARTITIONS):
        values = [value for _, value, _ in found.calls.get(partition, ())]
        published = list(found.published.get(partition, ()))
        report.count("calls on the log", len(values))
        if values != published:
            report.problems.append(
                f"calls of partition {partition}: {len(published)} were published, the log has {len(values)}, or others"
            )


def _sum_up(verdict: Verdict, expected: Expected) -> None:
    """Money and histogram entries of the final panes, as found and as the calls give them."""
    newest: dict[Any, tuple[int, dict[str, Any]]] = {}
    late: dict[Any, int] = {}
    for chunk in (chunk for chunks in expected.chunks.values() for chunk in chunks):
        for view, series, start, content in chunk.entries:
            cell = (view, chunk.source, series, start)
            if chunk.version > newest.get(cell, (-1, {}))[0]:
                newest[cell] = chunk.version, content
        for view, _, _, offset, spend, *_ in chunk.late:
            late[view, chunk.source, offset] = spend
    contents = [content for _, content in newest.values()]
    spend = sum(content.get("sum:spend:any", 0) for content in contents) + sum(late.values())
    entries = sum(sum(content.get("histogram:latency:ok", {}).values()) for content in contents)
    true = [history[-1][1] for history in expected.panes.history.values()]
    true_spend = sum(content.get("sum:spend:any", 0) for content in true)
    true_spend += sum(booked[2] for booked in expected.panes.late.values())
    true_entries = sum(sum(content.get("histogram:latency:ok", {}).values()) for content in true)
    verdict.report.equal("spend in nano-dollars", spend, true_spend)
    verdict.report.equal("entries of the histograms", entries, true_entries)
    verdict.report.equal("panes", len([cell for cell in newest if cell in expected.panes.history]), len(true))
    verdict.spend_nanodollars, verdict.histogram_entries = spend, entries


def _check_alerts(
    verdict: Verdict, expected: Expected, found: Found
) -> list[tuple[str, Seen, dict[str, Any]]]:
    report = verdict.report
    first: dict[str, bytes | None] = {}
    alerts: list[tuple[str, Seen, dict[str, Any]]] = []
    for _, value, published_ms in found.alerts:
        name, seen, record = read_alert(value or b"")
        if name in first:
            verdict.repeats["transitions on the alerts log"] += 1
            report.equal(f"repeated transition {name}", value, first[name])
            continue
        first[name] = value
        if record["group"] == ENGINES_OWN:
            report.count("built-in transitions", 1)
            alerts.append((name, seen, record))
            continue
        alerts.append((name, seen, record))
        verdict.delays_ms.append(published_ms - seen.at)
        own = expected_id(seen.rule, list(record["series"].items()), seen.at, seen.after, seen.severity)
        report.equal(f"id of {seen}", name, own)
    ours = [seen for _, seen, record in alerts if record["group"] != ENGINES_OWN]
    report.count("transitions", len(ours))
    _compare(report, "by the panes log", sorted(ours), expected.transitions)
    if any(fold.silenced for fold in expected.folds.values()):
        report.count("not compared with the calls alone: a source was silent for 30 s", 1)
    else:
        report.count("transitions by the calls alone", len(expected.by_calls.found))
        _compare(report, "by the calls", sorted(ours), sorted(expected.by_calls.found))
        report.equal("watermarks", {fold.watermark for fold in expected.folds.values()}, {expected.sealed_ms})
    return alerts


def _check_notifications(
    verdict: Verdict, found: Found, alerts: list[tuple[str, Seen, dict[str, Any]]]
) -> None:
    """Each transition is settled, nobody was told twice, and what was told last is how it stands."""
    report = verdict.report
    log: dict[str, list[dict[str, Any]]] = {}
    for _, value, _ in found.notifications:
        record = json.loads(value or b"{}")
        if record:
            log.setdefault(record["id"], []).append(record)
    settled = {
        record["transition"] for records in log.values() for record in records if record["outcome"] != SENDING
    }
    of_alerts = {name: (seen, record) for name, seen, record in alerts}
    report.equal("transitions without a word in the notification log", len(of_alerts.keys() - settled), 0)
    meant = {
        expected_notification_id(name, receiver): (name, receiver)
        for name in of_alerts
        for receiver in {each for receivers in found.routes.values() for each in receivers}
    }
    times = Counter(told.notification for told in found.inbox)
    report.count("messages at Slack", len(times))
    for told in found.inbox:
        if told.notification not in meant:
            report.problems.append(f"a message about no transition: {told}")
    for name, number in times.items():
        if number > 1:
            _check_repeat(verdict, found, name, meant.get(name), log.get(name, []))
        if not any(record["outcome"] == "sent" for record in log.get(name, [])):
            report.problems.append(f"at Slack, and not logged as sent: {name}, {log.get(name)}")
    for name, records in log.items():
        outcomes = Counter(record["outcome"] for record in records)
        if outcomes["sent"] and name not in times:
            report.problems.append(f"logged as sent, and Slack has nothing: {records[0]}")
        if outcomes["refused"] or outcomes["given up"]:
            report.problems.append(f"not delivered: {records[0]}")
    _check_last_words(report, found, of_alerts, meant)


def _check_repeat(
    verdict: Verdict,
    found: Found,
    name: str,
    about: tuple[str, str] | None,
    log: Sequence[Mapping[str, Any]],
) -> None:
    """A message is there twice only where a process was killed between Slack's answer and the log, and says so."""
    moments = [told.at_ms / 1_000 for told in found.inbox if told.notification == name]
    is_marked = any(record["outcome"] == "sent" and record["possibly_repeated"] for record in log)
    if is_marked and found.struck(moments[0], moments[-1]):
        verdict.repeats[
            "messages at Slack, marked as possibly repeated, their notifier struck before it logged"
        ] += len(moments) - 1
        return
    told_at = "; ".join(f"{moment:.3f}: {found.around(moment)}" for moment in moments)
    verdict.report.problems.append(f"{len(moments)} messages of notification {name} {about}: {told_at}")


def _check_last_words(
    report: Report,
    found: Found,
    of_alerts: Mapping[str, tuple[Seen, dict[str, Any]]],
    meant: Mapping[str, tuple[str, str]],
) -> None:
    last: dict[str, Seen] = {}
    for seen, record in of_alerts.values():
        if "firing" in {seen.after, seen.before}:
            key = f"{seen.rule} {sorted(record['series'].items())}"
            last[key] = max(last.get(key, seen), seen, key=lambda each: (each.at, each.after == "resolved"))
    told: dict[tuple[str, str], Seen] = {}
    for each in found.inbox:
        if each.notification not in meant:
            continue
        name, receiver = meant[each.notification]
        seen, record = of_alerts[name]
        key = f"{seen.rule} {sorted(record['series'].items())}"
        told[key, receiver] = seen
    for key, seen in last.items():
        for receiver in found.routes[seen.severity]:
            heard = told.get((key, receiver))
            report.count("last words", 1)
            if seen.after == "resolved":
                if heard is not None and heard.after != "resolved":
                    report.problems.append(f"{receiver} was not told of the end of {seen}")
            elif heard is None or (heard.after, heard.severity, heard.episode) != (
                "firing",
                seen.severity,
                seen.episode,
            ):
                report.problems.append(f"{receiver} was last told {heard}, and it stands at {seen}")

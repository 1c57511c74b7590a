"""Comparing what a simulated run left behind with the oracle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import simulation_traffic as sim
from simulation_loop import Sent
from simulation_oracle import Epochs, OracleRule, Panes, expected_id, expected_notification_id, panes_of
from simulation_records import ChunkRead, read_alert, read_chunk
from simulation_ticks import PanesFold, Seen, Ticks, transitions_of_calls
from simulation_world import World

_SLOW = {"for_ms": 2_000, "keep": 3_000, "min_calls": 8}
_RULES = {
    "Slow": OracleRule("sim/Slow", "", ("feature",), "latency.p95", 20_000, False, 1_000, 4_000, **_SLOW),
    "Slower": OracleRule("sim/Slow", "", ("feature",), "latency.p95", 20_000, False, 500, 2_000, **_SLOW),
    "Spending": OracleRule(
        "sim/Spending", "", ("user",), "spend", 30_000, False, 60_000_000, 150_000_000, keep=5_000
    ),
    "Quiet": OracleRule("sim/Quiet", "", ("feature",), "calls", 10_000, True, 10, None, for_ms=3_000),
    "Failing": OracleRule(
        "sim/Failing", "", ("feature",), "error_rate", 15_000, False, 0.25, 0.6, min_calls=6
    ),
    "Late": OracleRule("sim/Late", "", (), "late", 10_000, False, 1, None),
    "Clamped": OracleRule("sim/Clamped", "", (), "clamped", 10_000, False, 0, None),
}
"""The rules of the simulation as the oracle has them; the hash of a view is only a name, and is asked for."""


@lru_cache
def _oracle_rule(name: str) -> OracleRule:
    return replace(_RULES[name], view=sim.rule_set((name,)).rules[0].view.hash)


@dataclass
class Report:
    """What was compared, and what did not agree."""

    problems: list[str] = field(default_factory=list)
    compared: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int) -> None:
        self.compared[what] = self.compared.get(what, 0) + number

    def equal(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self.problems.append(f"{what}: found {found!r}, expected {expected!r}")


def check(world: World) -> Report:
    """Every promise, on the logs of a run that has ended."""
    report = Report(problems=list(world.problems))
    traffic = world.traffic
    epochs = Epochs(
        tuple(map(_oracle_rule, traffic.first)), tuple(map(_oracle_rule, traffic.second)), traffic.boundary_ms
    )
    broker = world.broker
    sources = {number: broker.log((sim.CALLS_TOPIC, number)) for number in range(sim.PARTITIONS)}
    report.count("calls", sum(map(len, sources.values())))
    panes = panes_of(sources, epochs, sim.LATENESS_MS, sim.SKEW_MS)
    for name, number in panes.fates.items():
        report.count(f"calls {name}", number)
    chunks = {
        place[1]: [read_chunk(value or b"") for _, value, _ in log]
        for place, log in broker.topic(sim.PANES_TOPIC)
        if place[1] in traffic.shards
    }
    _check_panes(report, chunks.values(), panes, epochs)
    folds = {shard: _fold(log, epochs) for shard, log in chunks.items()}
    alerts = _check_alerts(report, world, folds)
    if world.busy and not any(fold.silenced for fold in folds.values()):
        _check_against_calls(report, panes, epochs, alerts, folds)
    _check_states(report, world, folds)
    _check_notifications(report, world, alerts)
    return report


def _fold(log: list[ChunkRead], epochs: Epochs) -> PanesFold:
    fold = PanesFold(epochs)
    for chunk in log:
        fold.take(chunk)
    return fold


def _check_panes(report: Report, logs: Iterable[list[ChunkRead]], panes: Panes, epochs: Epochs) -> None:
    """Each version of each pane is what the calls before it give, and the last one is what all of them give."""
    newest: dict[Any, int] = {}
    booked: dict[Any, Any] = {}
    for chunk in (chunk for log in logs for chunk in log):
        for view, series, start, content in chunk.entries:
            own = [rule for rule in epochs.at(start) if rule.view == view]
            if not own:
                if not any(name.split(":")[1] in {"late", "clamped"} for name in content):
                    report.problems.append(f"a pane at {start} of view {view}, which is not in force")
                continue
            cell = (view, chunk.source, series, start)
            expected = panes.content(cell, chunk.version)
            if expected is None and not any(content.values()):
                continue  # the engine's own counters: a pane in which another of them has counted
            report.count("panes", 1)
            report.equal(f"pane {cell} at version {chunk.version}", content, expected)
            newest[cell] = max(newest.get(cell, -1), chunk.version)
        for view, series, start, offset, spend, seen in chunk.late:
            key = (view, chunk.source, offset)
            report.equal(
                f"late spend {key}",
                (series, start, spend, seen),
                booked.setdefault(key, (series, start, spend, seen)),
            )
    for cell, history in panes.history.items():
        if panes.content(cell, newest.get(cell, -1)) is not history[-1][1]:
            report.problems.append(
                f"pane {cell}: the last version is {newest.get(cell)}, calls to {history[-1][0]}"
            )
    report.equal("late spend", booked, panes.late)
    report.count("late bookings", len(booked))


def _check_alerts(
    report: Report, world: World, folds: dict[int, PanesFold]
) -> list[tuple[str, Seen, dict[str, Any]]]:
    """The same panes log, the same transitions, to the id; repeated ones say the same. In order of first sight."""
    first: dict[str, bytes | None] = {}
    alerts = []
    for _, value, _ in world.broker.log((sim.ALERTS_TOPIC, 0)):
        name, seen, record = read_alert(value or b"")
        if name not in first:
            first[name] = value
            alerts.append((name, seen, record))
            named = list(record["series"].items())
            own = expected_id(seen.rule, named, seen.at, seen.after, seen.severity)
            report.equal(f"id of {seen}", name, own)
        else:
            report.count("repeated alerts", 1)
            report.equal(f"repeated transition {name}", value, first[name])
    found = sorted(seen for _, seen, _ in alerts)
    expected = sorted(seen for fold in folds.values() for seen in fold.ticks.found)
    report.count("transitions", len(found))
    _compare(report, "by the panes log", found, expected)
    last: dict[tuple[str, tuple[str, ...]], int] = {}
    for _, seen, _ in alerts:
        key = (seen.rule, seen.series)
        if seen.at < last.get(key, 0):
            report.problems.append(f"out of order on the alerts log: {seen}")
        last[key] = seen.at
    return alerts


def _compare(report: Report, how: str, found: list[Seen], expected: list[Seen]) -> None:
    if found != expected:
        missing = [seen for seen in expected if seen not in found]
        extra = [seen for seen in found if seen not in expected]
        report.problems.append(
            f"transitions {how}: {len(missing)} missing, such as {missing[:3]}, and {len(extra)} not expected, such as "
            f"{extra[:3]}"
        )


def _check_against_calls(
    report: Report,
    panes: Panes,
    epochs: Epochs,
    alerts: list[tuple[str, Seen, dict[str, Any]]],
    folds: dict[int, PanesFold],
) -> None:
    """Where no clock stood in for data, the calls alone say which transitions there are."""
    ticks: Ticks = transitions_of_calls(panes, epochs, sim.LATENESS_MS)
    found = sorted(seen for _, seen, _ in alerts)
    expected = sorted(ticks.found)
    report.count("transitions by the calls", len(expected))
    _compare(report, "by the calls", found, expected)
    least = min(panes.high.values()) - sim.LATENESS_MS
    report.equal("watermarks", {fold.watermark for fold in folds.values()}, {least})


def _check_states(report: Report, world: World, folds: dict[int, PanesFold]) -> None:
    """Every alert that is not inactive stands where the oracle has it; each shard is owned once."""
    owned = [shard for worker in world.workers for shard in worker.loops["evaluate"].stage.shards.values()]
    report.equal("shards", sorted(each.shard for each in owned), sorted(world.traffic.shards))
    found = {
        (rule.name, series): (str(alert.state), str(alert.severity), alert.episode_ms)
        for shard in owned
        for rule, state in shard.active()
        for series, alert in state.alerts.items()
    }
    expected = {
        (name, series): (alert.state, alert.severity, alert.episode)
        for fold in folds.values()
        for name, alerts in fold.ticks.alerts.items()
        for series, alert in alerts.items()
    }
    report.count("alert states", len(expected))
    report.equal("alerts", found, expected)


_RECEIVERS = {"critical": ("pager", "inbox"), "warning": ("inbox",)}


def _check_notifications(
    report: Report, world: World, alerts: list[tuple[str, Seen, dict[str, Any]]]
) -> None:
    """Everything that notifies was delivered or has its reason in the log; nobody was told twice without a cause."""
    log: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for offset, value in enumerate(world.broker.values((sim.NOTIFICATIONS_TOPIC, 0))):
        record = json.loads(value or b"")
        log.setdefault(record["id"], []).append((offset, record))
    sent: dict[str, list[Any]] = {}
    for each in world.inbox:
        notification = each.notification
        sent.setdefault(notification.id, []).append(each)
        report.equal(
            "notification id",
            notification.id,
            expected_notification_id(notification.transition.id, notification.receiver),
        )
    known = {name for name, _, _ in alerts}
    settled = {record["transition"] for entries in log.values() for _, record in entries}
    report.equal("transitions in the log", settled, known)
    for name, entries in log.items():
        outcomes = {record["outcome"] for _, record in entries}
        if "sent" in outcomes and name not in sent:
            report.problems.append(f"logged as sent, and nobody has it: {entries[0][1]}")
    for name, deliveries in sent.items():
        _check_announced(report, deliveries, log.get(name, []))
        _check_repeats(report, deliveries, log.get(name, []))
    report.count("messages", len(sent))
    _check_writers(report, world, log)
    _check_compacted(report, world, log)
    report.problems += _last_words(report, alerts, world.inbox)


_Logged = list[tuple[int, dict[str, Any]]]
"""Records of one notification, each with its offset."""
_ENDS = {"sent", "refused", "given up"}


def _check_announced(report: Report, deliveries: list[Sent], logged: _Logged) -> None:
    """Before a message was on its way its announcement was in the log."""
    announced = {offset for offset, record in logged if record["outcome"] == "sending"}
    for each in deliveries:
        if each.announced not in announced:
            report.problems.append(f"sent, and not announced in the log: {each}")


def _check_compacted(report: Report, world: World, log: dict[str, _Logged]) -> None:
    """Compaction forgets nothing of what was sent."""
    live = world.broker.live((sim.NOTIFICATIONS_TOPIC, 0)).values()
    kept = {(record["id"], record["outcome"]) for record in map(json.loads, live)}
    for name, entries in log.items():
        for _, record in entries:
            if (name, record["outcome"]) not in kept:
                report.problems.append(f"forgotten once the log is compacted: {record}")


def _check_writers(report: Report, world: World, log: dict[str, _Logged]) -> None:
    """One who has read how it ended writes nothing more about it, and nobody writes anything twice but as a retry."""
    for entries in log.values():
        ended = [offset for offset, record in entries if record["outcome"] in _ENDS]
        for offset, record in entries:
            writer = world.log_writers[offset]
            if ended and writer[2][0] > ended[0]:
                report.problems.append(f"logged again although the log had its end: {record}")
            for earlier, before in entries:
                if earlier >= offset or before["outcome"] != record["outcome"]:
                    continue
                if record["outcome"] == "logged" and writer[2][0] > earlier:
                    report.problems.append(f"logged again although the log had it: {record}")
                if world.log_writers[earlier] == writer and before != record:
                    report.problems.append(f"one notifier settled it twice: {before} and {record}")


def _check_repeats(report: Report, deliveries: list[Sent], logged: _Logged) -> None:
    """A message is repeated under its own id, by one who marks it, and only while the log has not got its end.

    Without a mark only by one who was stopped between its last check and the attempt.
    """
    ended = min((offset for offset, record in logged if record["outcome"] in _ENDS), default=None)
    for number, later in enumerate(deliveries[1:], 1):
        report.count("messages repeated", 1)
        if ended is not None and later.read[0] > ended:
            report.problems.append(f"sent again although the log had its end: {later}")
        if later.notification.possibly_repeated:
            continue
        if later.owned and any(each.owned or each.announced < later.read[0] for each in deliveries[:number]):
            report.problems.append(f"sent again without a mark: {later}")
        report.count("limit: repeated by one stopped between check and attempt", 1)


def _last_words(
    report: Report, alerts: list[tuple[str, Seen, dict[str, Any]]], inbox: list[Sent]
) -> Iterator[str]:
    """Receivers to whom the newest that they were told of an alert is not how it stands."""
    last: dict[str, tuple[str, Seen]] = {}
    for _, seen, record in alerts:
        if "firing" in {seen.after, seen.before}:
            last[f"{seen.rule} {sorted(record['series'].items())}"] = (seen.after, seen)
            report.count("transitions that notify", 1)
    told: dict[tuple[str, str], list[Any]] = {}
    for each in inbox:
        now = each.notification.transition
        key = f"{now.group}/{now.alert} {sorted(dict(now.series).items())}"
        told.setdefault((key, each.notification.receiver), []).append(now)
    for name, (state, seen) in last.items():
        for receiver in ("pager", "inbox"):
            newest = max(
                told.get((name, receiver), []),
                key=lambda each: (each.at_ms, str(each.to_state) == "resolved"),
                default=None,
            )
            if newest is None:
                if state == "firing" and receiver in _RECEIVERS[seen.severity]:
                    yield f"{receiver} was never told of {seen}"
            elif state == "resolved":
                if str(newest.to_state) != "resolved":
                    yield f"{receiver} was not told of the end of {seen}"
            elif (newest.at_ms, str(newest.to_state)) != (seen.at, "firing") and (
                receiver in _RECEIVERS[seen.severity]
            ):
                same = (str(newest.to_state), str(newest.severity), newest.episode_ms)
                if same != ("firing", seen.severity, seen.episode):
                    yield f"{receiver} was last told otherwise than {seen}"

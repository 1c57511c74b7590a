"""Alerts about Tocsin itself that come from no pane: a silent source, failing notifications, rules that do not load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from notifiers.routing import Route, receivers_for
from rules.labels import Matcher
from rules.quantities import MINUTE, SECOND, format_duration
from rules.rule import Direction, Severity
from rules.transition import State, Transition, transition_id
from streams.chunk import Seal
from streams.evaluate import SILENT_MS
from streams.notify import NotificationRecord
from streams.records import Source

GROUP: Final = "tocsin"
SOURCE_SILENT: Final = "SourceSilent"
NOTIFICATIONS_FAILING: Final = "NotificationsFailing"
RULES_NOT_LOADED: Final = "RulesNotLoaded"
WAITING_MS: Final = 2 * MINUTE
"""A notification that has waited for its receiver for this long counts as failing."""
FRESH_MS: Final = MINUTE
"""Seals whose newest is older say nothing about now."""
_LONGEST: Final = 300


@dataclass(frozen=True, slots=True)
class _Kind:
    """`keep_ms`: for how long the condition must be gone before the alert resolves, so that it does not flap."""

    severity: Severity
    runbook: str
    measure: str
    unit: str
    threshold: float
    keep_ms: int


ALERTS: Final[Mapping[str, _Kind]] = {
    SOURCE_SILENT: _Kind(Severity.WARNING, "source-silent", "silence", "ms", SILENT_MS, keep_ms=30 * SECOND),
    NOTIFICATIONS_FAILING: _Kind(
        Severity.CRITICAL,
        "notifications-failing",
        "failing notifications",
        "notifications",
        0,
        keep_ms=MINUTE,
    ),
    RULES_NOT_LOADED: _Kind(
        Severity.CRITICAL, "rules-not-loaded", "rule sets not loaded", "rule sets", 0, keep_ms=0
    ),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now. `subject` names what; `since_ms` is when it began (epoch ms)."""

    alert: str
    subject: tuple[str, str]
    since_ms: int
    value: float
    summary: str


@dataclass(slots=True)
class _Firing:
    """An alert that fires: its episode, and since when its condition is gone."""

    episode_ms: int
    summary: str
    gone_ms: int | None = None


class BuiltinAlerts:
    """Makes transitions of conditions. What fires is learned from the alerts topic, so a restart repeats nothing."""

    def __init__(self) -> None:
        self._firing: dict[tuple[str, tuple[str, str]], _Firing] = {}
        self._ended_ms: dict[tuple[str, tuple[str, str]], int] = {}

    def learn(self, transition: Transition) -> None:
        """Take a transition of the alerts topic in; others than these alerts' are ignored."""
        if transition.group != GROUP or transition.alert not in ALERTS or len(transition.series) != 1:
            return
        key = transition.alert, transition.series[0]
        if transition.to_state is State.FIRING:
            if transition.episode_ms >= self._ended_ms.get(key, -1):
                self._firing.setdefault(key, _Firing(transition.episode_ms, transition.summary))
        elif transition.to_state is State.RESOLVED:
            standing = self._firing.get(key)
            if standing is not None and standing.episode_ms <= transition.episode_ms:
                del self._firing[key]
            self._ended_ms[key] = max(self._ended_ms.get(key, -1), transition.at_ms)

    def step(self, conditions: Mapping[str, Iterable[Condition] | None], now_ms: int) -> list[Transition]:
        """Transitions that became due. None in place of an alert's conditions: nothing is known of it now."""
        transitions = []
        for alert, found in conditions.items():
            if found is None:
                continue
            present = {(alert, condition.subject): condition for condition in found}
            for key, condition in sorted(present.items()):
                standing = self._firing.get(key)
                if standing is not None:
                    standing.gone_ms = None
                    continue
                # Later than the end of the episode before, or its id would be that episode's.
                episode_ms = max(min(condition.since_ms, now_ms), self._ended_ms.get(key, -1) + 1)
                self._firing[key] = _Firing(episode_ms, condition.summary)
                transitions.append(_transition(condition, State.FIRING, episode_ms, now_ms))
            for key in sorted(self._firing.keys() - present.keys()):
                if key[0] == alert and self._is_over(key, now_ms):
                    gone = self._firing.pop(key)
                    self._ended_ms[key] = now_ms
                    condition = Condition(alert, key[1], gone.episode_ms, 0, gone.summary)
                    transitions.append(_transition(condition, State.RESOLVED, gone.episode_ms, now_ms))
        return transitions

    def _is_over(self, key: tuple[str, tuple[str, str]], now_ms: int) -> bool:
        standing = self._firing[key]
        if standing.gone_ms is None:
            standing.gone_ms = now_ms
        return now_ms - standing.gone_ms >= ALERTS[key[0]].keep_ms


class Deliveries:
    """Receivers whose last notification did not arrive: a fold over the notification log."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, int, str]] = {}

    def take(self, record: NotificationRecord) -> None:
        """Take a record of the log in."""
        if record.outcome == "sent":
            self._failed.pop(record.receiver, None)
        elif record.outcome in {"refused", "given up"}:
            since_ms, count, _ = self._failed.get(record.receiver, (record.at_ms, 0, ""))
            self._failed[record.receiver] = since_ms, count + 1, f"{record.outcome}: {record.detail}"

    def conditions(self, receivers: Iterable[str], queues: Mapping[str, int], now_ms: int) -> list[Condition]:
        """The receivers that fail now; `queues` is the age of each one's oldest waiting notification, in ms."""
        found = []
        for receiver in sorted(set(receivers)):
            subject = "receiver", receiver
            waited_ms = queues.get(receiver, 0)
            if receiver in self._failed:
                since_ms, count, detail = self._failed[receiver]
                summary = f"Notifications do not reach {receiver} ({detail[:_LONGEST]})"
                found.append(Condition(NOTIFICATIONS_FAILING, subject, since_ms, count, summary))
            elif waited_ms > WAITING_MS:
                summary = f"A notification has waited for {receiver} for {format_duration(waited_ms)}"
                found.append(Condition(NOTIFICATIONS_FAILING, subject, now_ms - waited_ms, 1, summary))
        return found


def silent_sources(
    seals: Mapping[Source, Seal], topics: Sequence[str], now_ms: int
) -> list[Condition] | None:
    """Sources of these topics that report nothing any more, by the wall times of the other sources' seals.

    None while the seals are those of another time: nothing has been read yet, or it is being read again.
    """
    current: dict[str, int] = {}
    for source, seal in seals.items():
        if source.topic in topics:
            # Of a topic that was created again, the source that reported last is the one there is.
            current[str(source)] = max(current.get(str(source), 0), seal.wall_ms)
    newest = max(current.values(), default=0)
    if newest < now_ms - FRESH_MS:
        return None
    return [
        Condition(
            SOURCE_SILENT,
            ("source", name),
            wall_ms,
            newest - wall_ms,
            f"{name} reports nothing since {format_duration(newest - wall_ms)}: no worker reads it",
        )
        for name, wall_ms in sorted(current.items())
        if wall_ms < newest - SILENT_MS
    ]


def unloaded_rules(topic: str, problems: Sequence[str], now_ms: int) -> list[Condition]:
    """The rules log has rule sets that should hold and cannot be read."""
    if not problems:
        return []
    summary = f"{topic}: {problems[-1][:_LONGEST]}"
    return [Condition(RULES_NOT_LOADED, ("topic", topic), now_ms, len(problems), summary)]


def unloaded_files(problems: Sequence[str], now_ms: int) -> list[Condition]:
    """Rule files or a price file that a worker was told to read again are not valid."""
    if not problems:
        return []
    summary = f"files that were read again are not valid: {problems[0][:_LONGEST]}"
    return [Condition(RULES_NOT_LOADED, ("files", "rules and prices"), now_ms, len(problems), summary)]


def with_other_receivers(routes: Sequence[Route], receivers: Iterable[str]) -> tuple[Route, ...]:
    """The routes, with one for each receiver before them: that it fails is told to others.

    The others are those that the routes name for this alert, or else every other receiver. Where there is no other,
    the routes stand as they are.
    """
    names = tuple(dict.fromkeys(receivers))
    first = []
    for name in names:
        labels = {
            "group": GROUP,
            "alert": NOTIFICATIONS_FAILING,
            "receiver": name,
            "severity": str(ALERTS[NOTIFICATIONS_FAILING].severity),
        }
        told = [each for each in receivers_for(routes, labels) if each != name]
        others = told or [each for each in names if each != name]
        if others:
            where = tuple(Matcher(label, (labels[label],)) for label in ("group", "alert", "receiver"))
            first.append(Route(where, tuple(others)))
    return (*first, *routes)


def _transition(condition: Condition, to: State, episode_ms: int, now_ms: int) -> Transition:
    kind = ALERTS[condition.alert]
    series = (condition.subject,)
    return Transition(
        # From alert, subject and the episode's start: whoever makes it again makes the same.
        id=transition_id(f"{GROUP}/{condition.alert}", series, episode_ms, to, kind.severity),
        at_ms=now_ms,
        group=GROUP,
        alert=condition.alert,
        severity=kind.severity,
        series=series,
        from_state=State.INACTIVE if to is State.FIRING else State.FIRING,
        to_state=to,
        from_severity=None if to is State.FIRING else kind.severity,
        measure=kind.measure,
        value=condition.value,
        unit=kind.unit,
        threshold=kind.threshold,
        direction=str(Direction.ABOVE),
        window_start_ms=episode_ms,
        window_end_ms=max(now_ms, episode_ms),
        calls=0,
        since_ms=episode_ms,
        episode_ms=episode_ms,
        labels=(),
        runbook=kind.runbook,
        summary=condition.summary,
        reason="breached" if to is State.FIRING else "cleared",
    )

"""Decisions: which transitions are sent to whom, under which id, and for which named reason.

Each receiver has a standing per alert: what it was last told. Standings are a fold over the notification log, so a
restarted notifier knows what it said. Everything here is a pure function of transition, routes and standings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from notifiers.routing import Route, receivers_for
from rules.rule import Severity
from rules.transition import State, Transition

NO_RECEIVER: Final = ""
"""Receiver of a notification that goes to nobody: it stands in the log so that its reason can be read there."""


class Reason(StrEnum):
    """Why something is sent, or why it is not."""

    FIRST = "first"
    ESCALATED = "escalated"
    EASED = "eased"
    RESOLVED = "resolved"
    PENDING = "not notified: pending"
    NEVER_FIRED = "not notified: never fired"
    UNCHANGED = "not notified: nothing changed"
    NO_ROUTE = "not notified: no route matches"
    SUPERSEDED = "not notified: superseded by a later state"
    OVER = "not notified: began and ended before it could be sent"

    @property
    def notifies(self) -> bool:
        """Whether a message is sent for this reason."""
        return self in _NOTIFYING


_NOTIFYING: Final = frozenset({Reason.FIRST, Reason.ESCALATED, Reason.EASED, Reason.RESOLVED})
_RANK: Final = {Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class Notification:
    """One transition for one receiver, with the reason why it is sent or not.

    `possibly_repeated`: an earlier attempt at it may have arrived.
    """

    id: str
    receiver: str
    transition: Transition
    reason: Reason
    possibly_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a receiver was last told of an alert that fires: its severity and its episode.

    Not `certain`: an attempt was made, and nobody knows whether it arrived.
    """

    severity: Severity
    episode_ms: int
    certain: bool = True


Standings = Mapping[tuple[str, str], Standing]
"""By (alert id, receiver). Absent: never told, or told that it is resolved."""


@dataclass(frozen=True, slots=True)
class NetState:
    """What is left to say after downtime, and what is only logged, each with its reason."""

    to_send: tuple[Notification, ...]
    to_log: tuple[Notification, ...]


def notification_id(transition_id: str, receiver: str) -> str:
    """BLAKE2b over transition and receiver, 32 hex digits: a repeat of the same message has the same id."""
    text = f"{len(transition_id)}:{transition_id}{receiver}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def decide(transition: Transition) -> Reason:
    """Whether a transition notifies, judged by itself.

    ========================  ============================
    from → to                 reason
    ========================  ============================
    anything → pending        not notified: pending
    pending → inactive        not notified: never fired
    not firing → firing       first
    firing → firing, worse    escalated
    firing → firing, milder   eased
    firing → firing, same     not notified: nothing changed
    firing → anything else    resolved
    ========================  ============================
    """
    was_firing = transition.from_state is State.FIRING
    if transition.to_state is State.FIRING:
        if not was_firing:
            return Reason.FIRST
        before = transition.severity if transition.from_severity is None else transition.from_severity
        return _change(before, transition.severity)
    if was_firing or transition.to_state is State.RESOLVED:
        return Reason.RESOLVED
    return Reason.PENDING if transition.to_state is State.PENDING else Reason.NEVER_FIRED


def notifications_for(
    transition: Transition, routes: Iterable[Route], standings: Standings
) -> tuple[Notification, ...]:
    """One notification per receiver, or a single one without a receiver that says why nobody is told.

    A change of an alert that fires also goes to those who were told of it before, whatever the routes say now:
    severity is a label, so an alert that eased or resolved may match another route than the one that paged somebody,
    and whoever was paged must hear the end.
    """
    reason = decide(transition)
    if not reason.notifies:
        return (_notification(transition, NO_RECEIVER, reason),)
    receivers = receivers_for(routes, transition.matching_labels())
    if reason is not Reason.FIRST:
        told = sorted(name for alert, name in standings if alert == transition.alert_id)
        receivers = tuple(dict.fromkeys((*receivers, *told)))
    if not receivers:
        return (_notification(transition, NO_RECEIVER, Reason.NO_ROUTE),)
    return tuple(_notification(transition, receiver, reason) for receiver in receivers)


def standing_after(notification: Notification) -> Standing | None:
    """What the receiver knows once this was sent; None when it knows of no alert that fires."""
    if notification.reason is Reason.RESOLVED:
        return None
    return Standing(notification.transition.severity, notification.transition.episode_ms)


def net_state(
    transitions: Iterable[Transition],
    routes: Iterable[Route],
    standings: Standings,
    settled: Callable[[Notification], bool] = lambda _: False,
) -> NetState:
    """What to send of transitions not notified yet: per alert and receiver only the latest state.

    ==================  ===============  ==============================================
    receiver was told   state is now     what happens
    ==================  ===============  ==============================================
    nothing             firing           the latest is sent, as first
    nothing             resolved         logged only: nobody knew, nothing is left to do
    firing              firing, worse    the latest is sent, as escalated
    firing              firing, milder   the latest is sent, as eased
    firing              firing, same     logged only: what the receiver knows is true
    firing, episode 1   firing again     the latest is sent, as first (a new episode)
    firing              resolved         the latest is sent, as resolved
    perhaps firing      firing           the latest is sent, with the reason of its own
    perhaps firing      resolved         the latest is sent, as resolved
    ==================  ===============  ==============================================

    Everything before the latest is logged as superseded. `transitions` are in order of the log; so are the results.
    `settled` says of which notifications the standings know already: they are neither sent nor logged.
    """
    routes = tuple(routes)
    # Who would have been told, had each been sent in its time: decides who hears of the changes after it.
    assumed = dict(standings)
    unsent: list[Notification] = []
    for transition in transitions:
        for notification in notifications_for(transition, routes, assumed):
            if settled(notification):
                continue
            unsent.append(notification)
            if notification.reason.notifies:
                key = transition.alert_id, notification.receiver
                standing = standing_after(notification)
                assumed.pop(key, None)
                if standing is not None:
                    assumed[key] = standing
    return _latest_only(unsent, standings)


def _latest_only(unsent: Sequence[Notification], standings: Standings) -> NetState:
    latest: dict[tuple[str, str], int] = {}
    for index, notification in enumerate(unsent):
        if notification.reason.notifies:
            latest[notification.transition.alert_id, notification.receiver] = index
    to_send: list[Notification] = []
    to_log: list[Notification] = []
    for index, notification in enumerate(unsent):
        key = notification.transition.alert_id, notification.receiver
        if not notification.reason.notifies:
            to_log.append(notification)
        elif latest[key] != index:
            to_log.append(replace(notification, reason=Reason.SUPERSEDED))
        else:
            reason = _net_reason(notification, standings.get(key))
            (to_send if reason.notifies else to_log).append(replace(notification, reason=reason))
    return NetState(tuple(to_send), tuple(to_log))


def _net_reason(notification: Notification, told: Standing | None) -> Reason:
    if notification.reason is Reason.RESOLVED:
        return Reason.OVER if told is None else Reason.RESOLVED
    if told is None or told.episode_ms != notification.transition.episode_ms:
        return Reason.FIRST
    return _change(told.severity, notification.transition.severity) if told.certain else notification.reason


def _change(before: Severity, after: Severity) -> Reason:
    if _RANK[after] == _RANK[before]:
        return Reason.UNCHANGED
    return Reason.ESCALATED if _RANK[after] > _RANK[before] else Reason.EASED


def _notification(transition: Transition, receiver: str, reason: Reason) -> Notification:
    return Notification(notification_id(transition.id, receiver), receiver, transition, reason)

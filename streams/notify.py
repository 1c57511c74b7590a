"""Notify, the third stage: transitions in; what to send to whom, and the notification log, out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from notifiers.notification import Notification, Standing, net_state, notifications_for, standing_after
from notifiers.routing import Route
from rules.rule import Severity
from rules.transition import State, Transition
from streams.recent import Recent

FORMAT: Final = 1

ShortText = Annotated[str, msgspec.Meta(max_length=200)]
"""What is remembered for long; ours are shorter."""


class NotificationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the notification log, keyed by the notification's id: what became of it.

    `outcome`: `sent`, `refused`, `given up`, or `logged` where nothing was to be sent; `reason` is the decision's.
    """

    format: int = FORMAT
    id: ShortText
    transition: str
    alert_id: ShortText
    alert: str
    receiver: ShortText
    reason: str
    outcome: str
    detail: str = ""
    state: State
    severity: Severity
    episode_ms: int
    at_ms: int
    possibly_repeated: bool = False


def encode(record: NotificationRecord) -> bytes:
    """The record's value, JSON."""
    return msgspec.json.encode(record)


def decode(value: bytes) -> NotificationRecord:
    """The record of a value. Raises msgspec.MsgspecError when it is none."""
    try:
        return msgspec.json.decode(value, type=NotificationRecord)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"not JSON text: {error}") from error


class Notify:
    """Decides what to send. Its state is a fold over the notification log and what is under way."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)
        self._standings: dict[tuple[str, str], Standing] = {}
        self._settled = Recent()
        self._seen = Recent()
        self._waiting: list[Transition] | None = []
        self._last: dict[tuple[str, str], str] = {}

    def learn(self, record: NotificationRecord) -> None:
        """Take a record of the log in: its transition is settled for its receiver."""
        self._settled.add(record.id)
        key = record.alert_id, record.receiver
        self._last[key] = record.transition
        if record.outcome == "sent":
            if record.state is State.FIRING:
                self._standings[key] = Standing(record.severity, record.episode_ms)
            else:
                self._standings.pop(key, None)

    def take(self, transition: Transition) -> tuple[tuple[Notification, ...], tuple[Notification, ...]]:
        """What to send now, and what is only logged. A transition seen before gives nothing.

        Until `caught_up`, transitions wait: of what happened during a downtime only the outcome is sent.
        """
        if transition.id in self._seen:
            return (), ()
        self._seen.add(transition.id)
        if self._waiting is not None:
            self._waiting.append(transition)
            return (), ()
        decided = self._unsettled(notifications_for(transition, self._routes, self._standings))
        to_send = tuple(each for each in decided if each.reason.notifies)
        for each in to_send:
            self._expect(each)
        return to_send, tuple(each for each in decided if not each.reason.notifies)

    def caught_up(self) -> tuple[tuple[Notification, ...], tuple[Notification, ...]]:
        """The log has been read to its end: what is left to send of what waited, and what is only logged."""
        waiting, self._waiting = self._waiting or [], None
        place = {transition.id: number for number, transition in enumerate(waiting)}
        last = {key: place.get(transition, -1) for key, transition in self._last.items()}
        self._last.clear()

        def is_settled(each: Notification) -> bool:
            # Also what came before the last that this receiver was told: it may be the first it was told.
            key = each.transition.alert_id, each.receiver
            return each.id in self._settled or place[each.transition.id] < last.get(key, -1)

        net = net_state(waiting, self._routes, self._standings, is_settled)
        for each in net.to_send:
            self._expect(each)
        return net.to_send, net.to_log

    def hold(self, transition: Transition) -> bool:
        """Have transitions wait again until `caught_up`, from this one on; False where it has been seen before."""
        if transition.id in self._seen:
            return False
        self._waiting = [] if self._waiting is None else self._waiting
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether `caught_up` has not been said yet."""
        return self._waiting is not None

    def _unsettled(self, notifications: Sequence[Notification]) -> tuple[Notification, ...]:
        return tuple(each for each in notifications if each.id not in self._settled)

    def _expect(self, notification: Notification) -> None:
        """Decide later transitions as if this one had arrived: receivers are told in order."""
        key = notification.transition.alert_id, notification.receiver
        standing = standing_after(notification)
        if standing is None:
            self._standings.pop(key, None)
        else:
            self._standings[key] = standing

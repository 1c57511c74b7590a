"""Notify, the third stage: transitions in; what to send to whom, and the notification log, out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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


SENDING: Final = "sending"
SENT: Final = "sent"
REFUSED: Final = "refused"
GIVEN_UP: Final = "given up"
LOGGED: Final = "logged"


class NotificationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the notification log: what becomes of a notification.

    `outcome`: `sending` before the first attempt, then `sent`, `refused` or `given up`; `logged` where nothing was to
    be sent. `reason` is the decision's. `possibly_repeated`: it was sent, and perhaps had been before;
    `possibly_delivered`: it was refused or given up, and perhaps arrived all the same.
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
    possibly_delivered: bool = False

    @property
    def key(self) -> bytes:
        """Key in the log: of each outcome its own, so that compaction lets none of them hide another."""
        return f"{self.id}/{self.outcome}".encode()


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
    """Decides what to send. Its state is a fold over the notification log and what is under way.

    The fold does not depend on the order of the log's records: what a worker that was stopped adds to it late changes
    nothing that is known already.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)
        self._standings: dict[tuple[str, str], Standing] = {}
        self._ended = Recent()
        self._logged = Recent()
        self._seen = Recent()
        self._waiting: list[Transition] | None = []
        self._records: dict[tuple[str, str], list[NotificationRecord]] = {}
        self._uncertain: set[str] = set()

    def learn(self, record: NotificationRecord) -> None:
        """Take a record of the log in.

        What was sent, refused or given up is settled. What was about to be sent is not: it may have arrived or not.
        What was only logged is decided again, for whoever logged it may have known less than the log does.
        """
        if record.outcome == LOGGED:
            self._logged.add(record.id)
            return
        if record.outcome == SENDING:
            if record.id in self._ended:
                return
            self._uncertain.add(record.id)
        else:
            self._ended.add(record.id)
            self._uncertain.discard(record.id)
        self._records.setdefault((record.alert_id, record.receiver), []).append(record)

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
        decided = notifications_for(transition, self._routes, self._standings)
        to_send = tuple(each for each in decided if each.reason.notifies and each.id not in self._ended)
        for each in to_send:
            self._expect(each)
        return to_send, self._unlogged(each for each in decided if not each.reason.notifies)

    def caught_up(self) -> tuple[tuple[Notification, ...], tuple[Notification, ...]]:
        """The log has been read to its end: what is left to send of what waited, and what is only logged."""
        waiting, self._waiting = self._waiting or [], None
        # Of one alert in order of time, also where a worker that was stopped has published old ones again.
        waiting.sort(key=lambda each: (each.at_ms, each.to_state is not State.FIRING))
        place = {transition.id: number for number, transition in enumerate(waiting)}
        last = self._fold(place)

        def is_settled(each: Notification) -> bool:
            # Also what came before the last that this receiver was told: it may be the first it was told.
            key = each.transition.alert_id, each.receiver
            return each.id in self._ended or place[each.transition.id] < last.get(key, -1)

        net = net_state(waiting, self._routes, self._standings, is_settled)
        to_send = tuple(replace(each, possibly_repeated=each.id in self._uncertain) for each in net.to_send)
        self._uncertain.clear()
        for each in to_send:
            self._expect(each)
        return to_send, self._unlogged(net.to_log)

    def _fold(self, place: Mapping[str, int]) -> dict[tuple[str, str], int]:
        """Standings from the records of the log; by alert and receiver the place of the last that was settled."""
        last: dict[tuple[str, str], int] = {}
        for key, records in self._records.items():
            records.sort(key=lambda record: place.get(record.transition, -1))
            for record in records:
                if record.outcome == SENDING and record.id in self._ended:
                    continue
                standing = Standing(record.severity, record.episode_ms, certain=record.outcome == SENT)
                if record.outcome != SENDING:
                    last[key] = place.get(record.transition, -1)
                if record.outcome == SENT and record.state is not State.FIRING:
                    self._standings.pop(key, None)
                elif record.state is State.FIRING and (
                    record.outcome in {SENT, SENDING} or record.possibly_delivered
                ):
                    self._standings[key] = standing
        self._records.clear()
        return last

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

    def _unlogged(self, notifications: Iterable[Notification]) -> tuple[Notification, ...]:
        return tuple(
            each for each in notifications if each.id not in self._logged and each.id not in self._ended
        )

    def _expect(self, notification: Notification) -> None:
        """Decide later transitions as if this one had arrived: receivers are told in order."""
        key = notification.transition.alert_id, notification.receiver
        standing = standing_after(notification)
        if standing is None:
            self._standings.pop(key, None)
        else:
            self._standings[key] = standing

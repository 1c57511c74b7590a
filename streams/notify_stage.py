"""Notify as the loop drives it: alerts in, deliveries and the notification log out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from notifiers.delivery import Delivered, GaveUp, Result
from notifiers.notification import Notification
from notifiers.routing import Route
from rules.quantities import MINUTE, SECOND
from streams import alert_record, notify
from streams.alert_record import AlertRecordError
from streams.builtin import BuiltinAlerts, Condition, Deliveries
from streams.loop import Clock, Effects, Outgoing, Start
from streams.notify import NotificationRecord, Notify
from streams.records import Records, Source
from streams.settings import Settings

_log: Final = logging.getLogger(__name__)

HISTORY_MS: Final = 10 * MINUTE
"""A transition that was published this long after its tick tells of the past: evaluate makes up for a downtime."""
QUIET_MS: Final = 10 * SECOND
LONGEST_MS: Final = 2 * MINUTE
"""What tells of the past waits until no more of it has come for `QUIET_MS`; then only the outcome is sent."""


class NotifyStage:
    """Transitions in; what is to be delivered, and the log of it, out. The log is read before the alerts are.

    Whoever notifies also makes the built-in alerts: there is one at a time, and it knows which of them fire.
    `conditions` says by alert what is wrong at a time (epoch ms); None where nothing is known of it.
    """

    name = "notify"
    batch = 500

    def __init__(
        self,
        settings: Settings,
        routes: Sequence[Route],
        conditions: Callable[[int], Mapping[str, Iterable[Condition] | None]] = lambda _: {},
    ) -> None:
        self.topics: Sequence[str] = [settings.topics.alerts]
        self.flush_ms = settings.flush
        self.unreadable = 0
        self._log_topic = settings.topics.notifications
        self._alerts_topic = settings.topics.alerts
        self._routes = routes
        self._notify = Notify(routes)
        self.deliveries = Deliveries()
        self._conditions = conditions
        self._builtin = BuiltinAlerts()
        self._is_history = False
        self._quiet_from_ms = self._longest_ms = 0

    def read_log(self, values: Iterable[bytes | None]) -> None:
        """Start anew from the notification log."""
        self._notify = Notify(self._routes)
        self.deliveries = Deliveries()
        self._builtin = BuiltinAlerts()
        for value in values:
            try:
                record = notify.decode(value or b"")
            except msgspec.MsgspecError as error:
                self.unreadable += 1
                _log.error("a record of %s cannot be read: %s: passed over", self._log_topic, error)
                continue
            self._notify.learn(record)
            self.deliveries.take(record)

    def assign(self, source: Source, start: Start) -> int | None:
        """Read every alert that is kept: the log says what is settled."""
        del source, start
        return None

    def revoke(self, source: Source) -> None:
        """Another worker notifies now: nothing is decided any more before the log has been read again."""
        del source
        self._notify = Notify(self._routes)

    def take(self, records: Records) -> Effects:
        """Decide about transitions."""
        deliver: list[Notification] = []
        logged: list[Notification] = []
        columns = records.offsets.tolist(), records.times_ms.tolist(), records.values
        for offset, published_ms, value in zip(*columns, strict=True):
            try:
                transition = alert_record.decode(value or b"")
            except AlertRecordError as error:
                self.unreadable += 1
                _log.error("%s, offset %d: %s: passed over", records.source, offset, error)
                continue
            self._builtin.learn(transition)
            if published_ms - transition.at_ms > HISTORY_MS and self._notify.hold(transition):
                self._is_history = True
            to_send, to_log = self._notify.take(transition)
            deliver += to_send
            logged += to_log
        return Effects([self._logged(each) for each in logged], deliver=deliver)

    def flush(self, clock: Clock) -> Effects:
        """Once everything that is kept has been read, say what is left to say; from then on, built-in alerts."""
        if self._notify.is_waiting:
            if not clock.caught_up or self._holds(clock.wall_ms):
                return Effects()
            deliver, logged = self._notify.caught_up()
            return Effects([self._logged(each) for each in logged], deliver=deliver)
        made = self._builtin.step(self._conditions(clock.wall_ms), clock.wall_ms)
        return Effects(
            [Outgoing(self._alerts_topic, alert_record.encode(each), each.id.encode(), 0) for each in made]
        )

    def _holds(self, now_ms: int) -> bool:
        """Whether more of the past may come."""
        if self._is_history:
            self._is_history = False
            self._quiet_from_ms = now_ms + QUIET_MS
            self._longest_ms = self._longest_ms or now_ms + LONGEST_MS
        if now_ms < min(self._quiet_from_ms, self._longest_ms):
            return True
        self._longest_ms = 0
        return False

    def announced(self, notification: Notification, at_ms: int) -> Outgoing:
        """The log's record of a delivery that is about to be attempted.

        Whoever notifies next finds it, and knows that the notification may have arrived where nothing tells its end.
        """
        return self._outgoing(self._record(notification, notify.SENDING, "", at_ms))

    def settled(self, notification: Notification, result: Result, at_ms: int) -> Outgoing:
        """The log's record of a delivery that ended, which also tells whether the receiver fails."""
        if isinstance(result, Delivered):
            sent = self._record(notification, notify.SENT, result.receipt, at_ms)
            record = msgspec.structs.replace(sent, possibly_repeated=result.possibly_repeated)
        else:
            outcome = notify.GIVEN_UP if isinstance(result, GaveUp) else notify.REFUSED
            failed = self._record(notification, outcome, result.reason, at_ms)
            record = msgspec.structs.replace(failed, possibly_delivered=result.possibly_delivered)
        self.deliveries.take(record)
        return self._outgoing(record)

    def _logged(self, notification: Notification) -> Outgoing:
        return self._outgoing(self._record(notification, notify.LOGGED, "", notification.transition.at_ms))

    @staticmethod
    def _record(notification: Notification, outcome: str, detail: str, at_ms: int) -> NotificationRecord:
        transition = notification.transition
        return NotificationRecord(
            id=notification.id,
            transition=transition.id,
            alert_id=transition.alert_id,
            alert=transition.alert,
            receiver=notification.receiver,
            reason=notification.reason,
            outcome=outcome,
            detail=detail,
            state=transition.to_state,
            severity=transition.severity,
            episode_ms=transition.episode_ms,
            at_ms=at_ms,
        )

    def _outgoing(self, record: NotificationRecord) -> Outgoing:
        return Outgoing(self._log_topic, notify.encode(record), record.key, 0)

"""Notify as the loop drives it: what is sent while evaluate makes up for a downtime, and the built-in alerts."""

from collections.abc import Iterable

import numpy as np
import pytest
from transitions import AT, MINUTE, transition

from notifiers.delivery import Delivered, GaveUp, Refused
from notifiers.notification import Notification, Reason
from notifiers.routing import Route
from rules.transition import State, Transition
from streams import alert_record, notify
from streams.builtin import NOTIFICATIONS_FAILING, Condition
from streams.loop import Clock, Effects
from streams.notify_stage import HISTORY_MS, LONGEST_MS, QUIET_MS, NotifyStage
from streams.records import Records, Source
from streams.settings import Settings

SOURCE = Source("llm.alerts", 0)
HOUR = 60 * MINUTE


class Notifier:
    """A stage that has read its log, and the offset of the next alert."""

    def __init__(self, stage: NotifyStage | None = None) -> None:
        self.stage = stage or NotifyStage(Settings(), [Route((), ("oncall",))])
        self.stage.read_log([])
        self.offset = 0
        assert self.flush(AT) == []

    def take(self, published: int, *alerts: Transition) -> list[Notification]:
        offsets = np.arange(self.offset, self.offset + len(alerts), dtype=np.int64)
        self.offset += len(alerts)
        values = [alert_record.encode(each) for each in alerts]
        records = Records(SOURCE, values, offsets, np.full(len(alerts), published, np.int64))
        return list(self.stage.take(records).deliver)

    def flush(self, at: int) -> list[Notification]:
        return list(self.stage.flush(Clock(at, frozenset({SOURCE}), 1)).deliver)


def episode(start: int, *, ends: bool = True) -> Iterable[Transition]:
    yield transition(State.FIRING, at=start, episode_ms=start)
    if ends:
        yield transition(State.RESOLVED, at=start + MINUTE, episode_ms=start)


def told(notifications: list[Notification]) -> list[tuple[State, Reason]]:
    return [(each.transition.to_state, each.reason) for each in notifications]


def test_twelve_hours_that_are_made_up_for_are_told_as_their_outcome() -> None:
    notifier = Notifier()
    now = AT + 12 * HOUR
    for number in range(60):
        assert notifier.take(now + number * 100, *episode(AT + number * 5 * MINUTE)) == []
        assert notifier.flush(now + number * 100) == []
    assert notifier.take(now + 6_000, *episode(now - 11 * MINUTE, ends=False)) == []
    assert notifier.flush(now + 6_000) == []
    assert notifier.flush(now + 5_999 + QUIET_MS) == []
    assert told(notifier.flush(now + 6_000 + QUIET_MS)) == [(State.FIRING, Reason.FIRST)]
    later = transition(State.RESOLVED, at=now + MINUTE, episode_ms=now - 11 * MINUTE)
    assert told(notifier.take(now + MINUTE, later)) == [(State.RESOLVED, Reason.RESOLVED)]


def test_what_is_new_keeps_its_place_behind_what_is_told_of_the_past() -> None:
    notifier = Notifier()
    notifier.take(AT + HOUR, *episode(AT, ends=False))
    assert notifier.take(AT + HOUR, transition(State.RESOLVED, at=AT + HOUR, episode_ms=AT)) == []
    notifier.flush(AT + HOUR)
    assert notifier.flush(AT + HOUR + QUIET_MS) == []


def test_a_past_that_does_not_end_does_not_hold_alerts_back_for_ever() -> None:
    notifier = Notifier()
    sent: list[Notification] = []
    first = AT + HOUR
    for seconds in range(LONGEST_MS // 1_000 + 1):
        now = first + seconds * 1_000
        other = (("feature", f"feature-{seconds}"),)
        notifier.take(now, transition(State.FIRING, at=now - HISTORY_MS - 1, series=other))
        sent += notifier.flush(now)
    assert len(sent) == LONGEST_MS // 1_000 + 1


def test_a_late_alert_within_ten_minutes_is_sent_at_once() -> None:
    notifier = Notifier()
    assert told(notifier.take(AT + HISTORY_MS, *episode(AT, ends=False))) == [(State.FIRING, Reason.FIRST)]


def test_what_is_made_again_of_what_was_told_holds_nothing_back() -> None:
    notifier = Notifier()
    [first] = episode(AT, ends=False)
    notifier.take(AT, first)
    assert notifier.take(AT + HOUR, first) == []
    other = transition(State.FIRING, at=AT + HOUR, series=(("feature", "search"),))
    assert len(notifier.take(AT + HOUR, other)) == 1


def test_a_refused_notification_makes_an_alert_that_ends_after_one_that_arrived() -> None:
    stage = NotifyStage(
        Settings(),
        [Route((), ("oncall",))],
        lambda now: {NOTIFICATIONS_FAILING: stage.deliveries.conditions(["oncall"], {}, now)},
    )
    notifier = Notifier(stage)
    [sent] = notifier.take(AT, *episode(AT, ends=False))
    record = stage.settled(sent, Refused("channel_not_found"), AT + 5)
    assert notify.decode(record.value or b"").outcome == "refused"

    def made(at: int) -> list[Transition]:
        effects = stage.flush(Clock(at, frozenset({SOURCE}), 1))
        return [alert_record.decode(each.value or b"") for each in effects.publish]

    [fired] = made(AT + 1_000)
    assert (fired.alert, fired.to_state, fired.episode_ms) == (
        NOTIFICATIONS_FAILING,
        State.FIRING,
        AT + 5,
    )
    assert made(AT + 2_000) == []
    stage.settled(sent, Delivered("C1/1"), AT + 3_000)
    assert made(AT + 4_000) == []
    [resolved] = made(AT + 4_000 + MINUTE)
    assert (resolved.to_state, resolved.episode_ms) == (State.RESOLVED, AT + 5)


def test_a_restarted_notifier_knows_from_its_log_who_fails_and_from_the_alerts_what_it_said() -> None:
    def new() -> NotifyStage:
        stage = NotifyStage(
            Settings(),
            [Route((), ("oncall",))],
            lambda now: {NOTIFICATIONS_FAILING: stage.deliveries.conditions(["oncall"], {}, now)},
        )
        return stage

    before = new()
    notifier = Notifier(before)
    [sent] = notifier.take(AT, *episode(AT, ends=False))
    refused = before.settled(sent, Refused("channel_not_found"), AT + 5)
    [fired] = before.flush(Clock(AT + 1_000, frozenset({SOURCE}), 1)).publish

    for kept, expected in (([fired.value], 0), ([], 1)):
        after = new()
        after.read_log([refused.value])
        if kept:
            times = np.array([AT + 1_000], np.int64)
            after.take(Records(SOURCE, kept, np.array([1], np.int64), times))
        after.flush(Clock(AT + 2_000, frozenset({SOURCE}), 1))
        again = after.flush(Clock(AT + 2_500, frozenset({SOURCE}), 1)).publish
        assert [each.key for each in again] == [fired.key] * expected


def test_a_delivery_is_announced_and_ends_under_two_keys_of_the_same_notification() -> None:
    notifier = Notifier()
    [sent] = notifier.take(AT, *episode(AT, ends=False))
    announced = notifier.stage.announced(sent, AT + 1)
    ended = notifier.stage.settled(sent, Delivered("C1/1"), AT + 2)
    outcomes = [notify.decode(each.value or b"") for each in (announced, ended)]
    assert [(each.id, each.outcome) for each in outcomes] == [(sent.id, "sending"), (sent.id, "sent")]
    assert announced.key != ended.key


@pytest.mark.parametrize(
    "result",
    [Refused("is_archived", possibly_delivered=True), GaveUp("status 500", 9, possibly_delivered=True)],
)
def test_a_failure_after_a_lost_answer_is_logged_as_one(result: Refused | GaveUp) -> None:
    notifier = Notifier()
    [sent] = notifier.take(AT, *episode(AT, ends=False))
    assert notify.decode(notifier.stage.settled(sent, result, AT).value or b"").possibly_delivered


def test_a_notifier_whose_partition_is_gone_says_nothing_more() -> None:
    made = [Condition(NOTIFICATIONS_FAILING, ("receiver", "oncall"), AT, 1, "fails")]
    stage = NotifyStage(Settings(), [Route((), ("oncall",))], lambda _: {NOTIFICATIONS_FAILING: made})
    notifier = Notifier(stage)
    stage.revoke(SOURCE)
    assert stage.flush(Clock(AT + MINUTE, frozenset(), 1)) == Effects()
    assert notifier.take(AT, *episode(AT, ends=False)) == []

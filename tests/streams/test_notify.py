"""Notify: what is sent to whom, and that the notification log makes a restart say nothing twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transitions import AT, MINUTE, transition

from notifiers.notification import Notification, Reason
from notifiers.routing import Route
from rules.labels import Matcher
from rules.rule import Severity
from rules.transition import State, Transition
from streams import notify
from streams.notify import NotificationRecord, Notify

EVERYTHING = (Route(where=(), to=("team",)),)
BY_SEVERITY = (
    Route(where=(Matcher("severity", ("critical",)),), to=("oncall",)),
    Route(where=(), to=("team",)),
)


def record(of: Notification, outcome: str = "sent") -> NotificationRecord:
    """What the log says of a notification, by the fields of the transition alone."""
    return NotificationRecord(
        id=of.id,
        transition=of.transition.id,
        alert_id=of.transition.alert_id,
        alert=of.transition.alert,
        receiver=of.receiver,
        reason=of.reason,
        outcome=outcome,
        state=of.transition.to_state,
        severity=of.transition.severity,
        episode_ms=of.transition.episode_ms,
        at_ms=of.transition.at_ms,
    )


class Run:
    """A notifier at work: what arrives is logged as sent, in order; a restart keeps the log and nothing else."""

    def __init__(self, routes: Sequence[Route] = EVERYTHING) -> None:
        self.routes = routes
        self.log: list[NotificationRecord] = []
        self.told: list[tuple[str, str]] = []
        self.sent: list[Notification] = []
        self.notify = Notify(routes)
        self._done(self.notify.caught_up())

    def take(self, *transitions: Transition, outcome: str = "sent") -> None:
        for each in transitions:
            self._done(self.notify.take(each), outcome)

    def restart(self, alerts: Iterable[Transition], routes: Sequence[Route] | None = None) -> None:
        """Read the log, then every alert that is kept, then go on."""
        self.notify = Notify(self.routes if routes is None else routes)
        for known in self.log:
            self.notify.learn(notify.decode(notify.encode(known)))
        for each in alerts:
            assert self.notify.take(each) == ((), ())
        assert self.notify.is_waiting
        self._done(self.notify.caught_up())
        assert not self.notify.is_waiting

    def _done(
        self, decided: tuple[tuple[Notification, ...], tuple[Notification, ...]], outcome: str = "sent"
    ) -> None:
        to_send, to_log = decided
        self.told += [(each.receiver, str(each.reason)) for each in to_send]
        self.sent += to_send
        self.log += [record(each, outcome) for each in to_send] + [record(each, "logged") for each in to_log]


def fires(minute: int = 0, severity: Severity = Severity.CRITICAL) -> Transition:
    return transition(State.FIRING, severity, at=AT + minute * MINUTE, episode_ms=AT)


def escalates(minute: int, before: Severity, after: Severity) -> Transition:
    return transition(
        State.FIRING,
        after,
        at=AT + minute * MINUTE,
        from_state=State.FIRING,
        from_severity=before,
        episode_ms=AT,
    )


def resolves(minute: int, severity: Severity = Severity.CRITICAL) -> Transition:
    return transition(State.RESOLVED, severity, at=AT + minute * MINUTE, episode_ms=AT)


def test_a_firing_alert_and_its_end_are_sent_once_each() -> None:
    run = Run()
    run.take(fires(), fires(), resolves(5), resolves(5))
    assert run.told == [("team", "first"), ("team", "resolved")]


def test_what_is_not_sent_is_logged_with_the_reason() -> None:
    run = Run(())
    run.take(transition(State.PENDING, from_state=State.INACTIVE), fires())
    assert run.told == []
    assert [(each.outcome, each.reason) for each in run.log] == [
        ("logged", Reason.PENDING),
        ("logged", Reason.NO_ROUTE),
    ]


def test_a_restart_says_nothing_again_and_goes_on_from_there() -> None:
    run = Run()
    run.take(fires())
    for _ in range(3):
        run.restart([fires()])
    run.take(resolves(5))
    run.restart([fires(), resolves(5)])
    assert run.told == [("team", "first"), ("team", "resolved")]


def test_what_was_decided_but_not_logged_is_sent_after_the_restart() -> None:
    run = Run()
    run.notify.take(fires())
    run.restart([fires()])
    assert run.told == [("team", "first")]


def test_after_a_downtime_only_the_outcome_is_sent_and_the_rest_is_logged() -> None:
    run = Run()
    run.take(fires(0, Severity.WARNING))
    during = [
        escalates(1, Severity.WARNING, Severity.CRITICAL),
        escalates(2, Severity.CRITICAL, Severity.WARNING),
        escalates(3, Severity.WARNING, Severity.CRITICAL),
    ]
    run.restart([fires(0, Severity.WARNING), *during])
    assert run.told == [("team", "first"), ("team", "escalated")]
    assert [each.reason for each in run.log if each.outcome == "logged"] == [Reason.SUPERSEDED] * 2
    run.restart([fires(0, Severity.WARNING), *during])
    assert len(run.told) == 2


def test_what_began_and_ended_during_a_downtime_is_logged_only() -> None:
    run = Run()
    run.restart([fires(), resolves(5)])
    assert run.told == []
    assert {each.reason for each in run.log} == {Reason.SUPERSEDED, Reason.OVER}


def test_an_alert_that_eases_into_another_route_still_ends_for_those_who_were_paged() -> None:
    run = Run(BY_SEVERITY)
    eased = escalates(1, Severity.CRITICAL, Severity.WARNING)
    run.take(fires())
    run.restart([fires()])
    run.take(eased)
    run.restart([fires(), eased])
    run.take(resolves(5, Severity.WARNING))
    assert [each for each in run.told if each[0] == "oncall"] == [
        ("oncall", "first"),
        ("oncall", "eased"),
        ("oncall", "resolved"),
    ]
    assert ("team", "resolved") in run.told


def test_a_new_receiver_is_told_of_what_fires_and_of_nothing_older() -> None:
    run = Run()
    run.take(fires(), resolves(5))
    again = transition(State.FIRING, at=AT + 9 * MINUTE, episode_ms=AT + 9 * MINUTE)
    run.take(again)
    told_before = len(run.told)
    run.restart([fires(), resolves(5), again], (Route(where=(), to=("team", "new")),))
    assert run.told[told_before:] == [("new", "first")]


@pytest.mark.parametrize("outcome", ["refused", "given up"])
def test_what_was_refused_or_given_up_is_not_tried_again_and_changes_no_standing(outcome: str) -> None:
    run = Run()
    run.take(fires(), outcome=outcome)
    run.restart([fires()])
    assert run.told == [("team", "first")]
    run.restart([fires(), resolves(5)])
    assert len(run.told) == 1, "nobody was told that it fires, so nobody needs to hear that it ended"


def test_what_may_have_arrived_is_sent_again_under_its_own_id_and_marked() -> None:
    run = Run()
    [first] = run.notify.take(fires())[0]
    run.log.append(record(first, "sending"))
    run.restart([fires()])
    assert run.told == [("team", "first")]
    assert [(each.id, each.possibly_repeated) for each in run.sent] == [(first.id, True)]


def test_whoever_may_have_been_told_hears_the_end() -> None:
    run = Run()
    run.log += [record(each, "sending") for each in run.notify.take(fires())[0]]
    run.restart([fires(), resolves(5)])
    assert run.told == [("team", "resolved")]
    assert not run.sent[0].possibly_repeated
    run.restart([fires(), resolves(5)])
    assert len(run.told) == 1


@pytest.mark.parametrize(("possibly_delivered", "told"), [(True, [("team", "resolved")]), (False, [])])
@pytest.mark.parametrize("outcome", ["refused", "given up"])
def test_of_what_failed_the_end_is_told_only_where_it_may_have_arrived(
    outcome: str, possibly_delivered: bool, told: list[tuple[str, str]]
) -> None:
    run = Run()
    for each in run.notify.take(fires())[0]:
        failed = msgspec.structs.replace(record(each, outcome), possibly_delivered=possibly_delivered)
        run.log += [record(each, "sending"), failed]
    run.restart([fires()])
    assert run.told == []
    run.restart([fires(), resolves(5)])
    assert run.told == told


def test_an_end_that_may_have_arrived_is_sent_again_also_where_the_beginning_may_not_have() -> None:
    run = Run()
    for change in (fires(), resolves(5)):
        run.log += [record(each, "sending") for each in run.notify.take(change)[0]]
    run.restart([fires(), resolves(5)])
    assert run.told == [("team", "resolved")]
    assert run.sent[0].possibly_repeated


def test_a_change_after_what_may_have_arrived_keeps_its_own_reason() -> None:
    run = Run()
    run.take(fires(0, Severity.WARNING))
    worse = escalates(1, Severity.WARNING, Severity.CRITICAL)
    run.log += [record(each, "sending") for each in run.notify.take(worse)[0]]
    eased = escalates(2, Severity.CRITICAL, Severity.WARNING)
    run.restart([fires(0, Severity.WARNING), worse, eased])
    assert run.told == [("team", "first"), ("team", "eased")]


def test_what_a_stopped_worker_logged_without_knowing_what_was_sent_withholds_no_end() -> None:
    run = Run()
    run.take(fires())
    [end] = run.notify.take(resolves(5))[0]
    run.log.append(record(end, "logged"))
    run.restart([fires(), resolves(5)])
    assert run.told == [("team", "first"), ("team", "resolved")]


def test_what_is_logged_already_is_not_logged_again() -> None:
    run = Run()
    run.restart([fires(), resolves(5)])
    logged = list(run.log)
    for _ in range(3):
        run.restart([fires(), resolves(5)])
    assert run.log == logged


def test_each_outcome_of_a_notification_has_a_key_of_its_own() -> None:
    [first] = Run().notify.take(fires())[0]
    outcomes = ("logged", "sending", "sent", "refused", "given up")
    assert len({record(first, outcome).key for outcome in outcomes}) == len(outcomes)


def test_alerts_that_come_again_behind_later_ones_are_taken_in_order_of_time() -> None:
    run = Run()
    run.restart([resolves(5), fires()])
    assert run.told == []


def test_records_of_the_log_that_cannot_be_read_are_an_error() -> None:
    for value in (b"", b"{}", b"null", b"\xff", b"[" * 100_000):
        with pytest.raises(msgspec.MsgspecError):
            notify.decode(value)


def episode(start: int, severities: list[Severity]) -> list[Transition]:
    """A firing alert that changes its severity now and then, and resolves."""
    changes = [fires(start, severities[0])]
    for number, (before, after) in enumerate(pairwise(severities), 1):
        changes.append(escalates(start + number, before, after))
    changes.append(resolves(start + len(severities), severities[-1]))
    return changes


@given(
    st.lists(st.lists(st.sampled_from(Severity), min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.integers(0, 30), max_size=4),
)
def test_restarts_while_up_to_date_change_nothing_of_what_is_told(
    severities: list[list[Severity]], restarts: list[int]
) -> None:
    alerts = [change for number, each in enumerate(severities) for change in episode(10 * number, each)]
    steady, restarted = Run(BY_SEVERITY), Run(BY_SEVERITY)
    for number, change in enumerate(alerts):
        steady.take(change)
        restarted.take(change)
        if number in restarts:
            restarted.restart(alerts[: number + 1])
    assert restarted.told == steady.told
    assert restarted.log == steady.log


@given(
    st.lists(st.lists(st.sampled_from(Severity), min_size=1, max_size=3), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_what_the_log_says_does_not_depend_on_the_order_of_its_records(
    severities: list[list[Severity]], random: Random
) -> None:
    alerts = [change for number, each in enumerate(severities) for change in episode(10 * number, each)]
    run = Run(BY_SEVERITY)
    run.take(*alerts)
    log = [record for sent in run.log for record in (msgspec.structs.replace(sent, outcome="sending"), sent)]
    log = [each for each in log if random.random() < 0.9]
    told = []
    for _ in range(3):
        one = Notify(BY_SEVERITY)
        for each in log:
            one.learn(each)
        for change in alerts:
            one.take(change)
        told.append(one.caught_up())
        random.shuffle(log)
    assert told[0] == told[1] == told[2]

import pytest
from transitions import AT, MINUTE, transition

from notifiers.notification import (
    NO_RECEIVER,
    Reason,
    Standing,
    decide,
    net_state,
    notification_id,
    notifications_for,
    standing_after,
)
from notifiers.routing import Route
from rules.labels import Matcher
from rules.rule import Severity
from rules.transition import State

WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
EVERYBODY = (Route((), ("team",)),)
BY_SEVERITY = (Route((Matcher("severity", ("critical",)),), ("oncall",)), Route((), ("team",)))

first = transition(severity=WARNING, at=AT)
escalated = transition(severity=CRITICAL, at=AT + MINUTE, from_state=State.FIRING, from_severity=WARNING)
eased = transition(severity=WARNING, at=AT + 2 * MINUTE, from_state=State.FIRING, from_severity=CRITICAL)
resolved = transition(State.RESOLVED, WARNING, at=AT + 3 * MINUTE, from_severity=WARNING)
again = transition(severity=WARNING, at=AT + 4 * MINUTE, episode_ms=AT + 4 * MINUTE)
ALERT = first.alert_id
TOLD_WARNING = {(ALERT, "team"): Standing(WARNING, first.episode_ms)}
TOLD_CRITICAL = {(ALERT, "team"): Standing(CRITICAL, first.episode_ms)}


@pytest.mark.parametrize(
    ("before", "after", "severities", "reason"),
    [
        (State.INACTIVE, State.PENDING, (None, WARNING), Reason.PENDING),
        (State.PENDING, State.INACTIVE, (WARNING, WARNING), Reason.NEVER_FIRED),
        (State.PENDING, State.FIRING, (WARNING, WARNING), Reason.FIRST),
        (State.INACTIVE, State.FIRING, (None, CRITICAL), Reason.FIRST),
        (State.RESOLVED, State.FIRING, (None, CRITICAL), Reason.FIRST),
        (State.FIRING, State.FIRING, (WARNING, CRITICAL), Reason.ESCALATED),
        (State.FIRING, State.FIRING, (CRITICAL, WARNING), Reason.EASED),
        (State.FIRING, State.FIRING, (WARNING, WARNING), Reason.UNCHANGED),
        (State.FIRING, State.FIRING, (None, WARNING), Reason.UNCHANGED),
        (State.FIRING, State.RESOLVED, (WARNING, WARNING), Reason.RESOLVED),
        (State.FIRING, State.INACTIVE, (WARNING, WARNING), Reason.RESOLVED),
    ],
)
def test_each_change_of_state_has_one_named_reason(before, after, severities, reason):
    change = transition(after, severities[1], from_state=before, from_severity=severities[0])
    assert decide(change) is reason


def test_only_four_reasons_send_a_message():
    assert {str(reason) for reason in Reason if reason.notifies} == {
        "first",
        "escalated",
        "eased",
        "resolved",
    }
    assert all(str(reason).startswith("not notified: ") for reason in Reason if not reason.notifies)


def test_the_id_depends_on_transition_and_receiver_only_and_has_32_hex_digits():
    assert notification_id(first.id, "team") == notification_id(first.id, "team")
    assert notification_id(first.id, "team") != notification_id(first.id, "oncall")
    assert notification_id("ab", "c") != notification_id("a", "bc")
    assert len(bytes.fromhex(notification_id(first.id, "team"))) == 16


def test_b29_a_firing_alert_asserted_a_thousand_times_has_one_notification_id():
    ids = {one.id for _ in range(1_000) for one in notifications_for(first, EVERYBODY, {})}
    assert len(ids) == 1


def test_each_receiver_of_the_route_gets_a_notification_of_its_own():
    sent = notifications_for(first, (Route((), ("team", "here")),), {})
    assert [(one.receiver, one.reason) for one in sent] == [("team", Reason.FIRST), ("here", Reason.FIRST)]
    assert sent[0].id != sent[1].id


def test_what_is_not_sent_stands_in_the_log_with_its_reason():
    pending = transition(State.PENDING, from_state=State.INACTIVE)
    assert [(one.receiver, one.reason) for one in notifications_for(pending, EVERYBODY, {})] == [
        (NO_RECEIVER, Reason.PENDING)
    ]


def test_an_alert_that_no_route_takes_is_logged_with_that_reason():
    assert [one.reason for one in notifications_for(first, (), {})] == [Reason.NO_ROUTE]


def test_who_was_paged_hears_the_end_although_the_milder_severity_goes_elsewhere():
    told = {(ALERT, "oncall"): Standing(CRITICAL, first.episode_ms)}
    sent = notifications_for(eased, BY_SEVERITY, told)
    assert [(one.receiver, one.reason) for one in sent] == [("team", Reason.EASED), ("oncall", Reason.EASED)]
    assert {one.receiver for one in notifications_for(resolved, BY_SEVERITY, told)} == {"team", "oncall"}


def test_a_new_episode_goes_only_where_the_routes_say():
    told = {(ALERT, "oncall"): Standing(CRITICAL, first.episode_ms)}
    assert [one.receiver for one in notifications_for(again, BY_SEVERITY, told)] == ["team"]


def test_a_standing_is_the_severity_and_episode_last_told_and_ends_with_the_resolve():
    assert standing_after(notifications_for(escalated, EVERYBODY, {})[0]) == Standing(
        CRITICAL, first.episode_ms
    )
    assert standing_after(notifications_for(resolved, EVERYBODY, {})[0]) is None


@pytest.mark.parametrize(
    ("told", "missed", "sent"),
    [
        ({}, [first], [(first, Reason.FIRST)]),
        ({}, [first, escalated], [(escalated, Reason.FIRST)]),
        ({}, [first, resolved], []),
        ({}, [first, escalated, eased, resolved], []),
        ({}, [first, resolved, again], [(again, Reason.FIRST)]),
        (TOLD_WARNING, [escalated], [(escalated, Reason.ESCALATED)]),
        (TOLD_WARNING, [escalated, eased], []),
        (TOLD_WARNING, [escalated, eased, resolved], [(resolved, Reason.RESOLVED)]),
        (TOLD_WARNING, [resolved, again], [(again, Reason.FIRST)]),
        (TOLD_CRITICAL, [eased], [(eased, Reason.EASED)]),
        (TOLD_CRITICAL, [resolved], [(resolved, Reason.RESOLVED)]),
        ({}, [], []),
    ],
)
def test_after_downtime_each_receiver_is_told_the_latest_state_it_does_not_know(told, missed, sent):
    net = net_state(missed, EVERYBODY, told)
    assert [(one.transition, one.reason) for one in net.to_send] == sent
    assert len(net.to_send) + len(net.to_log) == len(missed)
    assert all(not one.reason.notifies for one in net.to_log)


def test_after_downtime_what_was_passed_over_is_logged_with_its_reason():
    net = net_state([first, escalated, resolved], EVERYBODY, {})
    assert [one.reason for one in net.to_log] == [Reason.SUPERSEDED, Reason.SUPERSEDED, Reason.OVER]


def test_after_downtime_a_receiver_of_the_milder_severity_is_not_told_of_a_state_that_is_past():
    net = net_state([first, escalated], BY_SEVERITY, {})
    assert [(one.receiver, one.transition.severity) for one in net.to_send] == [
        ("oncall", CRITICAL),
        ("team", CRITICAL),
    ]
    assert net_state([first, escalated, resolved], BY_SEVERITY, {}).to_send == ()


def test_after_downtime_alerts_do_not_supersede_one_another():
    other = transition(severity=WARNING, at=AT, series=(("feature", "search"),))
    net = net_state([first, other, resolved], EVERYBODY, {})
    assert [one.transition for one in net.to_send] == [other]


def test_a_notification_sent_late_has_the_id_it_would_have_had_in_time():
    in_time = notifications_for(escalated, EVERYBODY, TOLD_WARNING)[0]
    assert net_state([escalated], EVERYBODY, TOLD_WARNING).to_send[0].id == in_time.id

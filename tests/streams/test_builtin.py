"""Alerts about Tocsin itself: when they fire and resolve, under which ids, and to whom they go."""

from dataclasses import replace

import pytest

from notifiers.notification import Reason
from notifiers.routing import Route, receivers_for
from rules.labels import Matcher
from rules.rule import Severity
from rules.transition import State, Transition
from streams import alert_record
from streams.builtin import (
    ALERTS,
    NOTIFICATIONS_FAILING,
    RULES_NOT_LOADED,
    SOURCE_SILENT,
    BuiltinAlerts,
    Condition,
    Deliveries,
    silent_sources,
    unloaded_rules,
    with_other_receivers,
)
from streams.chunk import Seal
from streams.notify import NotificationRecord, Notify
from streams.records import Source

NOW = 1_790_000_000_000
KEEP = ALERTS[SOURCE_SILENT].keep_ms


def silent(partition: int = 0, since: int = NOW - 40_000) -> Condition:
    return Condition(SOURCE_SILENT, ("source", f"llm.calls/{partition}"), since, 40_000, "silent")


def step(alerts: BuiltinAlerts, at: int, *conditions: Condition) -> list[Transition]:
    return alerts.step({SOURCE_SILENT: conditions}, at)


def record(outcome: str, receiver: str = "oncall", at: int = NOW, detail: str = "") -> NotificationRecord:
    return NotificationRecord(
        id=f"{outcome}-{at}",
        transition="t",
        alert_id="a",
        alert="Slow",
        receiver=receiver,
        reason=Reason.FIRST,
        outcome=outcome,
        detail=detail,
        state=State.FIRING,
        severity=Severity.WARNING,
        episode_ms=at,
        at_ms=at,
    )


def seal(wall: int) -> Seal:
    return Seal(wall, wall, wall, 2, caught_up=True, lag_ms=0)


def test_a_condition_fires_once_and_resolves_when_it_has_been_gone_long_enough() -> None:
    alerts = BuiltinAlerts()
    (fired,) = step(alerts, NOW, silent())
    assert step(alerts, NOW + 500, silent()) == []
    assert step(alerts, NOW + 1_000) == []
    assert step(alerts, NOW + 999 + KEEP) == []
    (resolved,) = step(alerts, NOW + 1_000 + KEEP)
    assert (fired.from_state, fired.to_state) == (State.INACTIVE, State.FIRING)
    assert (resolved.from_state, resolved.to_state) == (State.FIRING, State.RESOLVED)
    assert fired.episode_ms == resolved.episode_ms == NOW - 40_000
    assert fired.alert_id == resolved.alert_id
    assert fired.id != resolved.id


def test_a_condition_that_comes_and_goes_does_not_flap() -> None:
    alerts = BuiltinAlerts()
    made = []
    for second in range(120):
        made += step(alerts, NOW + second * 1_000, *([silent()] if second % 20 < 10 else []))
    assert [each.to_state for each in made] == [State.FIRING]


def test_an_alert_of_which_nothing_is_known_stays_as_it_is() -> None:
    alerts = BuiltinAlerts()
    step(alerts, NOW, silent())
    assert alerts.step({SOURCE_SILENT: None}, NOW + 10 * KEEP) == []
    assert step(alerts, NOW + 11 * KEEP, silent()) == []


def test_ids_follow_from_alert_subject_and_start_of_the_episode() -> None:
    (first,) = step(BuiltinAlerts(), NOW, silent())
    (again,) = step(BuiltinAlerts(), NOW + 7_000, replace(silent(), value=47_000, summary="other words"))
    (other,) = step(BuiltinAlerts(), NOW, silent(1))
    (later,) = step(BuiltinAlerts(), NOW, silent(since=NOW - 39_999))
    assert first.id == again.id
    assert len({first.id, other.id, later.id}) == 3


def test_what_the_alerts_topic_says_is_not_said_again_after_a_restart() -> None:
    before = BuiltinAlerts()
    (fired,) = step(before, NOW, silent())
    after = BuiltinAlerts()
    after.learn(alert_record.decode(alert_record.encode(fired)))
    assert step(after, NOW + 5_000, silent(since=NOW - 1_000)) == []
    step(after, NOW + 6_000)
    (resolved,) = step(after, NOW + 6_000 + KEEP)
    assert resolved.episode_ms == fired.episode_ms
    assert step(after, NOW + 20_000 + KEEP) == []


def test_its_own_transition_read_back_late_does_not_bring_an_ended_alert_to_life() -> None:
    alerts = BuiltinAlerts()
    (fired,) = step(alerts, NOW, silent())
    step(alerts, NOW + 1)
    (resolved,) = step(alerts, NOW + 1 + KEEP)
    for each in (fired, resolved):
        alerts.learn(each)
    assert step(alerts, NOW + 2 + 3 * KEEP) == []


def test_the_next_episode_has_another_id_even_with_the_same_beginning() -> None:
    alerts = BuiltinAlerts()
    (first,) = step(alerts, NOW, silent())
    step(alerts, NOW + 1)
    step(alerts, NOW + 1 + KEEP)
    (second,) = step(alerts, NOW + 2 + KEEP, silent())
    assert second.id != first.id
    assert second.episode_ms > NOW


def test_transitions_of_rules_are_not_taken_for_built_in_ones() -> None:
    alerts = BuiltinAlerts()
    (fired,) = step(BuiltinAlerts(), NOW, silent())
    alerts.learn(replace(fired, group="mine"))
    assert len(step(alerts, NOW, silent())) == 1


def test_notify_sends_a_transition_that_is_made_twice_once() -> None:
    notify = Notify([Route((), ("here",))])
    notify.caught_up()
    sent = [notify.take(step(BuiltinAlerts(), NOW + delay, silent())[0])[0] for delay in (0, 3_000)]
    assert [len(each) for each in sent] == [1, 0]


# Sources


def test_a_source_that_reports_nothing_for_30_s_by_the_others_clocks_is_named() -> None:
    seals = {Source("llm.calls", 0): seal(NOW), Source("llm.calls", 1): seal(NOW - 30_001)}
    (found,) = silent_sources(seals, ["llm.calls"], NOW + 500) or []
    assert found.subject == ("source", "llm.calls/1")
    assert found.since_ms == NOW - 30_001
    assert "llm.calls/1" in found.summary


def test_a_source_that_is_30_s_behind_is_not_silent_yet() -> None:
    seals = {Source("llm.calls", 0): seal(NOW), Source("llm.calls", 1): seal(NOW - 30_000)}
    assert silent_sources(seals, ["llm.calls"], NOW) == []


def test_nothing_is_known_of_sources_while_old_seals_are_read_again() -> None:
    seals = {Source("llm.calls", 0): seal(NOW - 90_000), Source("llm.calls", 1): seal(NOW - 190_000)}
    assert silent_sources(seals, ["llm.calls"], NOW) is None
    assert silent_sources({}, ["llm.calls"], NOW) is None


def test_sources_of_topics_that_are_gone_or_were_created_again_are_not_silent() -> None:
    seals = {
        Source("llm.calls", 0, "new"): seal(NOW),
        Source("llm.calls", 0, "old"): seal(NOW - 90_000),
        Source("former", 0): seal(NOW - 90_000),
    }
    assert silent_sources(seals, ["llm.calls"], NOW) == []


# Deliveries


@pytest.mark.parametrize("outcome", ["refused", "given up"])
def test_a_receiver_fails_from_its_first_failure_until_something_arrives(outcome: str) -> None:
    deliveries = Deliveries()
    deliveries.take(record(outcome, at=NOW, detail="channel_not_found"))
    deliveries.take(record(outcome, at=NOW + 1_000, detail="is_archived"))
    (found,) = deliveries.conditions(["oncall", "here"], {}, NOW + 2_000)
    assert (found.subject, found.since_ms, found.value) == (("receiver", "oncall"), NOW, 2)
    assert "is_archived" in found.summary
    deliveries.take(record("logged", at=NOW + 3_000))
    assert deliveries.conditions(["oncall"], {}, NOW + 3_000)
    deliveries.take(record("sent", at=NOW + 4_000))
    assert deliveries.conditions(["oncall"], {}, NOW + 4_000) == []


def test_a_notification_that_waits_for_minutes_is_failing_and_one_that_waits_for_seconds_is_not() -> None:
    assert Deliveries().conditions(["oncall"], {"oncall": 120_000}, NOW) == []
    (found,) = Deliveries().conditions(["oncall"], {"oncall": 120_001}, NOW)
    assert found.since_ms == NOW - 120_001


def test_a_receiver_that_was_removed_does_not_fail() -> None:
    deliveries = Deliveries()
    deliveries.take(record("refused", "gone"))
    assert deliveries.conditions(["here"], {}, NOW) == []


def failing(receiver: str) -> dict[str, str]:
    deliveries = Deliveries()
    deliveries.take(record("refused", receiver))
    found = {NOTIFICATIONS_FAILING: deliveries.conditions([receiver], {}, NOW)}
    (transition,) = BuiltinAlerts().step(found, NOW)
    return transition.matching_labels()


def test_that_a_receiver_fails_is_told_to_the_others() -> None:
    critical = Route((Matcher("severity", ("critical",)),), ("oncall",))
    everything = Route((), ("oncall", "team"))
    receivers = ["oncall", "team", "here"]
    for routes, receiver, told in (
        ([everything], "oncall", ("team",)),
        ([everything], "here", ("oncall", "team")),
        ([critical, everything], "oncall", ("team", "here")),
        ([critical, everything], "team", ("oncall",)),
        ([], "team", ("oncall", "here")),
    ):
        assert receivers_for(with_other_receivers(routes, receivers), failing(receiver)) == told


def test_where_there_is_one_receiver_only_it_is_told_itself() -> None:
    routes = [Route((), ("oncall",))]
    assert receivers_for(with_other_receivers(routes, ["oncall"]), failing("oncall")) == ("oncall",)


def test_other_alerts_take_the_routes_as_they_are() -> None:
    routes = with_other_receivers([Route((), ("oncall",))], ["oncall", "here"])
    assert receivers_for(routes, {"alert": "Slow", "group": "chat", "receiver": "oncall"}) == ("oncall",)


# Rules


def test_rule_sets_that_do_not_load_fire_one_alert_with_the_reason() -> None:
    (found,) = unloaded_rules("llm.rules", ["older", "rule set 1f cannot be loaded: line 3"], NOW)
    (fired,) = BuiltinAlerts().step({RULES_NOT_LOADED: [found]}, NOW)
    assert fired.severity is Severity.CRITICAL
    assert fired.value == 2
    assert "line 3" in fired.summary
    assert unloaded_rules("llm.rules", [], NOW) == []

"""Faults of alert states and messages that other systems shipped, each shown not to be there.

Docstrings name the product and what it did. `docs/public-faults.md` lists them with faults of windows and recovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from builders import MINUTE, SECOND, at, call, rule, rule_log
from cluster import ALERTS, CALLS, PANES, SNAPSHOTS, Cluster, Worker

from rules.rule import Rule
from streams.rule_log import Known, RuleLog

NOON = at("12:00:00")
WINDOW = 10 * SECOND
SLOW = rule("Slow", "latency.max", above=1_000, window=WINDOW, for_ms=30 * SECOND)


def calls(seconds: range, latency_ms: int = 5_000, **fields: Any) -> list[dict[str, Any]]:
    """Ten calls a second of one feature."""
    return [
        call(NOON + second * SECOND + number * 100, latency_ms=latency_ms, **({"feature": "chat"} | fields))
        for second in seconds
        for number in range(10)
    ]


def told(cluster: Cluster) -> list[tuple[int, str]]:
    """When, in seconds from noon, and what the receiver was told."""
    return [((each.transition.at_ms - NOON) // SECOND, str(each.reason)) for each in cluster.inbox]


def live(worker: Worker, *calls: dict[str, Any]) -> Worker:
    """Calls as they arrive: a turn of the worker after each second of them."""
    seconds = sorted({each["at"] // SECOND for each in calls})
    for second in seconds:
        worker.cluster.publish([each for each in calls if each["at"] // SECOND == second])
        worker.turn((second + 1) * SECOND)
    return worker


def test_b12_a_kill_ten_seconds_before_for_ends_changes_neither_the_time_nor_the_id() -> None:
    """Prometheus, Kapacitor, Mimir: after a restart the `for` duration began anew, and the alert came late."""
    steady, killed = Cluster.of(SLOW), Cluster.of(SLOW)
    live(steady.worker().take_over(), *calls(range(50)))
    # The alert is pending from second 1 on and fires at 31. Ticks are four seconds behind the calls.
    worker = live(killed.worker().take_over(), *calls(range(25)))
    assert [str(each.to_state) for each in killed.transitions] == ["pending"]
    del worker
    live(killed.worker().take_over(), *calls(range(25, 50)))
    assert killed.transitions == steady.transitions
    assert told(killed) == told(steady) == [(31, "first")]


def test_b12_a_kill_while_firing_repeats_no_message_and_loses_no_end() -> None:
    """Prometheus, Kapacitor, Mimir: after a restart a firing alert was sent again, or its end never came."""
    cluster = Cluster.of(SLOW)
    live(cluster.worker().take_over(), *calls(range(40)))
    assert told(cluster) == [(31, "first")]
    live(cluster.worker().take_over(), *calls(range(40, 45)))
    assert told(cluster) == [(31, "first")]
    live(cluster.worker().take_over(), *calls(range(45, 70), latency_ms=10))
    assert told(cluster) == [(31, "first"), (55, "resolved")]


def test_b12_an_alert_that_ends_while_no_worker_is_there_still_ends() -> None:
    """Mimir: an alert whose condition ended during a restart stayed firing for its receivers."""
    cluster = Cluster.of(SLOW)
    live(cluster.worker().take_over(), *calls(range(40)))
    cluster.publish(calls(range(40, 70), latency_ms=10))
    cluster.worker().take_over().turn(NOON + 75 * SECOND)
    assert told(cluster) == [(31, "first"), (50, "resolved")]


def test_b13_a_restart_within_keep_firing_for_does_not_end_the_alert() -> None:
    """Prometheus: `keep_firing_for` was forgotten at a restart, so the alert resolved at once."""
    kept = rule("Kept", "latency.max", above=1_000, window=WINDOW, keep_firing_for_ms=30 * SECOND)
    steady, restarted = Cluster.of(kept), Cluster.of(kept)
    quiet = calls(range(10, 60), latency_ms=10)
    live(steady.worker().take_over(), *calls(range(10)), *quiet)
    live(restarted.worker().take_over(), *calls(range(10)), *quiet[:150])
    worker = live(restarted.worker().take_over(), *quiet[150:200])
    assert [alert.state for _, state in active(worker) for alert in state.alerts.values()] == ["firing"]
    assert told(restarted) == [(1, "first")]
    live(restarted.worker().take_over(), *quiet[200:])
    assert restarted.transitions == steady.transitions
    # The last second that breaches leaves the window at 20, and the last tick that breached was 19.
    assert told(restarted) == told(steady) == [(1, "first"), (49, "resolved")]


def active(worker: Worker) -> list[Any]:
    return [each for shard in worker.evaluate.shards.values() for each in shard.active()]


@pytest.mark.parametrize("reached", ["the alerts topic", "the notifier's hands", "the log, announced"])
def test_b14_a_kill_between_the_state_and_the_message_does_not_lose_the_message(reached: str) -> None:
    """Grafana: the state was stored before the message was sent, so after a crash between them nobody was told."""
    cluster = Cluster.of(rule("Fails", "errors", above=0, window=WINDOW))
    evaluating, notifying = cluster.worker(), cluster.worker().take_over((ALERTS, 0))
    evaluating.take_over(*(place for place in evaluating.all_places if place != (ALERTS, 0)))
    notifying.turn(NOON)  # it has read what there was, so it speaks at once
    cluster.publish(calls(range(10), status="error"))
    evaluating.turn(NOON + 11 * SECOND)
    assert [str(each.to_state) for each in cluster.transitions] == ["firing"]
    if reached != "the alerts topic":
        notifying.read(ALERTS)
        assert len(notifying.waiting) == 1
    if reached == "the log, announced":
        notifying.publish([notifying.notify.announced(each, NOON) for each in notifying.waiting])
    assert cluster.inbox == []
    for seconds in (12, 14):
        again = cluster.worker().take_over()
        again.turn(NOON + seconds * SECOND)
        again.turn(NOON + (seconds + 1) * SECOND)
        assert told(cluster) == [(1, "first")]
    assert cluster.inbox[0].possibly_repeated is (reached == "the log, announced")


TWENTY = [f"feature-{number:02}" for number in range(20)]


def twenty_fire(cluster: Cluster) -> Worker:
    worker = cluster.worker().take_over()
    for second in range(20):
        cluster.publish([call(NOON + second * SECOND, feature=each, latency_ms=5_000) for each in TWENTY])
        worker.turn(NOON + (second + 1) * SECOND)
    assert sorted(cluster.told) == [("Slow", "first")] * 20
    return worker


def go_on(worker: Worker, rules: RuleLog, seconds: range = range(20, 60)) -> None:
    """Seconds in which they go on firing; what holds is known anew in each."""
    for second in seconds:
        for stage in (worker.ingest, worker.evaluate):
            stage.know(Known(rules, read_ms=NOON + second * SECOND))
        worker.cluster.publish(
            [call(NOON + second * SECOND, feature=each, latency_ms=5_000) for each in TWENTY]
        )
        worker.turn(NOON + (second + 1) * SECOND)


IMMEDIATE = rule("Slow", "latency.max", above=1_000, window=WINDOW)


def log(*later: tuple[int, Sequence[Rule]]) -> RuleLog:
    return rule_log(IMMEDIATE, later=later)


def test_b16_a_reload_of_the_same_rules_beside_others_sends_nothing_for_twenty_alerts_that_fire() -> None:
    """Alertmanager: a reload of the configuration sent every firing alert again."""
    new = rule("New", "errors", above=0, window=WINDOW)
    boundary = NOON + 40 * SECOND
    cluster = Cluster(log())
    worker = twenty_fire(cluster)
    changed = log((boundary, [IMMEDIATE, new]))
    go_on(worker, changed)
    assert worker.evaluate.shards[cluster.shards[0]].watermark_ms > boundary + WINDOW
    assert len(cluster.inbox) == 20


def test_b16_a_restart_with_twenty_alerts_that_fire_sends_nothing() -> None:
    """Alertmanager: the same, for a restart: its memory of what was sent did not outlive it."""
    cluster = Cluster(log())
    twenty_fire(cluster)
    for start in (20, 30, 40):
        go_on(cluster.worker().take_over(), cluster.rules, range(start, start + 10))
    assert len(cluster.inbox) == 20


def test_b17_a_tick_that_is_evaluated_late_or_left_out_ends_no_alert() -> None:
    """Prometheus: an evaluation that was skipped made the alert's series stale, and the alert resolved."""
    cluster = Cluster.of(IMMEDIATE)
    worker = live(cluster.worker().take_over(), *calls(range(20)))
    # Nothing is evaluated for 20 s, then all of it at once; and no call at all for eight more.
    cluster.publish(calls(range(20, 40)))
    worker.turn(NOON + 40 * SECOND)
    live(worker, *calls(range(48, 60)))
    assert told(cluster) == [(1, "first")]


def test_b21_three_workers_that_take_turns_at_everything_send_one_message() -> None:
    """Alertmanager, LiteLLM: each of several replicas sent its own message for the same breach."""
    cluster = Cluster.of(IMMEDIATE, partitions=3)
    workers = [cluster.worker() for _ in range(3)]
    everything = workers[0].all_places
    for second in range(60):
        if second % 5 == 0:
            for worker in workers:
                worker.give_up()
            for number, place in enumerate(everything):
                workers[(number + second // 5) % 3].take_over(place)
        for partition in range(3):
            slow = 5_000 if 10 <= second < 30 else 10
            cluster.publish([call(NOON + second * SECOND, feature="chat", latency_ms=slow)], partition)
        for worker in workers:
            worker.turn(NOON + (second + 1) * SECOND)
    assert told(cluster) == [(11, "first"), (40, "resolved")]


def test_b21_a_worker_that_no_longer_notifies_says_nothing_of_what_it_reads() -> None:
    """Alertmanager, LiteLLM: the same, where a replica does not know that another has taken over."""
    cluster = Cluster.of(IMMEDIATE)
    old, new = cluster.worker().take_over(), cluster.worker()
    old.turn(NOON)
    cluster.publish(calls(range(10)))
    old.now_ms = NOON + 10 * SECOND
    old.read(CALLS)
    old.flush(CALLS)
    old.read(PANES)
    old.give_up((ALERTS, 0))
    new.take_over((ALERTS, 0))
    new.turn(NOON + 11 * SECOND)
    old.turn(NOON + 12 * SECOND)
    assert told(cluster) == [(1, "first")]


def test_b3_a_restart_with_full_windows_is_silent() -> None:
    """Grafana: after a restart windows were empty, so alerts resolved or fired until they had filled."""
    few = rule("Few", "calls", below=50, window=WINDOW, for_ms=WINDOW)
    fails = rule("Fails", "error_rate", above=0.5, window=WINDOW, min_calls=5)
    cluster = Cluster.of(IMMEDIATE, few, fails)
    live(cluster.worker().take_over(), *calls(range(30)))
    before = list(cluster.told)
    assert before == [("Slow", "first")]
    for start in range(30, 60, 3):
        live(cluster.worker().take_over(), *calls(range(start, start + 3)))
    assert cluster.told == before


def test_b3_a_shard_that_has_lost_its_snapshots_and_its_panes_ends_nothing_that_fires() -> None:
    """Grafana: the same, where windows are truly empty: what fires is not resolved by what is not known."""
    fails = rule("Fails", "error_rate", above=0.5, window=WINDOW, min_calls=50)
    cluster = Cluster.of(fails)
    live(cluster.worker().take_over(), *calls(range(30), status="error"))
    assert told(cluster) == [(5, "first")]
    (shard,) = cluster.shards
    cluster.logs[SNAPSHOTS, shard].clear()
    worker = cluster.worker().take_over((CALLS, 0), (ALERTS, 0))
    worker.take_over((PANES, shard), log_start=len(cluster.logs[PANES, shard]))
    assert not active(worker)
    live(worker, *calls(range(30, 33), status="error"))
    assert told(cluster) == [(5, "first")]
    live(worker, *calls(range(33, 60), status="error"))
    assert {reason for _, reason in told(cluster)} == {"first"}


def test_b49_twelve_hours_without_a_worker_are_evaluated_and_told_as_what_is_so_now() -> None:
    """ElastAlert: after a downtime it ran every query of the past, and sent an alert for each."""
    hours = 12 * 3_600
    cluster = Cluster.of(rule("Slow", "latency.max", above=1_000, window=30 * MINUTE))
    live(cluster.worker().take_over(), *calls(range(5), latency_ms=10))
    # Eleven incidents of a minute, an hour apart, and one that goes on.
    for start in range(3_600, hours - 3_000, 3_600):
        cluster.publish(calls(range(start, start + 60, 5)))
        cluster.publish(calls(range(start + 80, start + 90, 5), latency_ms=10))
    cluster.publish(calls(range(hours - 60, hours, 5)))
    worker = cluster.worker().take_over()
    now = NOON + hours * SECOND
    for turn in range(0, 40, 2):
        worker.turn(now + turn * SECOND)
    assert len(cluster.transitions) == 2 * 11 + 1
    assert worker.evaluate.shards[cluster.shards[0]].watermark_ms >= now - 10 * SECOND
    assert told(cluster) == [(hours - 30, "first")]

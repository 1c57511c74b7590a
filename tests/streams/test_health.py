"""What counts as stuck, what is only waiting, and when a worker is ready."""

from dataclasses import replace
from typing import Any

import pytest

from streams.health import (
    CAUGHT_UP_MS,
    DELIVERING,
    WAITING_FOR_BROKER,
    WAITING_FOR_RULES,
    Limits,
    Place,
    Progress,
    Reading,
    Remedy,
    Restarts,
    WorkerState,
    assess,
    follow,
    unready,
)
from streams.settings import Settings
from streams.times import UNKNOWN
from streams.watchdog import StuckError, Watchdog

NOW = 1_790_000_000_000
LIMITS = Limits()
SECOND = 1_000


def reading(name: str = "ingest", **changes: Any) -> Reading:
    fields: dict[str, Any] = {"turns": 1, "joined": True, "places": {"t/0": Place(5, 5, 1)}, "owns_all": True}
    return Reading(**({"name": name, "doing": "fetching"} | fields | changes))


def after(seconds: int, *, turns: bool = True, answers: bool = True, **changes: Any) -> Progress:
    """A stage's progress after so many seconds, each of them looked at."""
    place = changes.pop("place", lambda second: Place(5, 5, second))
    progress: Progress | None = None
    for second in range(seconds + 1):
        now = place(second)
        if not answers:
            now = replace(now, answered=0)
        shown = reading(turns=second if turns else 0, places={"t/0": now}, **changes)
        progress = follow(progress, shown, SECOND)
    assert progress is not None
    return progress


def state(*stages: Progress, **changes: Any) -> WorkerState:
    fields: dict[str, Any] = {"rules_agreed": True, "starting_ms": 0, "broker": ""}
    return WorkerState(**(fields | {"stages": stages} | changes))


def found(*stages: Progress, **changes: Any) -> list[tuple[str, Remedy]]:
    return [(each.part, each.remedy) for each in assess(state(*stages, **changes), LIMITS, NOW)]


STUCK = [("ingest", Remedy.RESTART)]


def test_a_stage_with_nothing_to_read_and_fresh_answers_is_well_for_ever() -> None:
    assert found(after(1_000)) == []


def test_a_stage_that_stands_still_with_something_to_read_is_stuck_after_the_limit() -> None:
    """Faust: the same, where records are there and are not read."""

    def place(second: int) -> Place:
        return Place(5, 9, second)

    assert found(after(60, place=place)) == []
    assert found(after(61, place=place)) == STUCK
    (finding,) = assess(state(after(61, place=place)), LIMITS, NOW)
    assert "t/0" in finding.reason
    assert "4 left to read" in finding.reason


def test_a_stage_that_moves_slowly_is_not_stuck() -> None:
    assert found(after(500, place=lambda second: Place(second // 50, 9_999, second))) == []


def test_s13_a_consumer_whose_fetches_are_not_answered_any_more_is_stuck_although_nothing_seems_left() -> (
    None
):
    """Faust: the consumer stopped silently, and the worker looked well for days."""
    assert found(after(60, answers=False)) == []
    assert found(after(61, answers=False)) == STUCK


def test_a_consumer_that_was_never_answered_is_stuck() -> None:
    assert found(after(61, place=lambda _: Place(None, None, None))) == STUCK


def test_a_loop_that_does_not_turn_is_stuck_and_says_in_what() -> None:
    (finding,) = assess(state(after(61, turns=False, doing="publishing")), LIMITS, NOW)
    assert finding.remedy is Remedy.RESTART
    assert finding.reason.startswith("publishing for 1 m")


def test_a_loop_that_waits_for_a_receiver_is_not_started_again() -> None:
    assert found(after(600, turns=False, doing=DELIVERING)) == [("ingest", Remedy.WAIT)]


def test_a_stage_without_partitions_is_stuck_unless_the_group_gave_it_none() -> None:
    assert found(after(61, joined=False)) == STUCK
    standby = follow(after(1), reading(turns=9, places={}), 600 * SECOND)
    assert found(standby) == []


def test_commits_that_fail_for_longer_than_the_limit_are_a_finding_and_one_that_succeeds_ends_it() -> None:
    progress = after(61, failed_commits=3)
    assert found(progress) == STUCK
    assert found(follow(progress, reading(turns=99, places={"t/0": Place(5, 5, 99)}), SECOND)) == []


@pytest.mark.parametrize("doing", [WAITING_FOR_BROKER, WAITING_FOR_RULES])
def test_a_stage_that_waits_for_others_does_not_age(doing: str) -> None:
    assert found(after(600, turns=False, answers=False, joined=False, doing=doing)) == []


def test_a_broker_that_is_away_is_the_only_finding_and_no_reason_to_start_anything_again() -> None:
    """Faust: a broker that restarted left the worker running without effect."""
    stuck = after(61, turns=False)
    assert found(stuck, broker="no broker answers") == [("broker", Remedy.WAIT)]


def test_topics_and_rules_that_are_not_ready_after_the_limit_are_stuck() -> None:
    assert found(rules_agreed=False, starting_ms=60_000) == []
    assert found(rules_agreed=False, starting_ms=60_001) == [("rules", Remedy.RESTART)]


def test_a_partition_that_comes_back_starts_anew() -> None:
    progress = after(59, place=lambda second: Place(5, 9, second))
    progress = follow(progress, reading(turns=100, places={}), SECOND)
    progress = follow(progress, reading(turns=101, places={"t/0": Place(5, 9, 101)}), 59 * SECOND)
    assert found(progress) == []


# Evaluation


def evaluation(age: int, stands: int, **changes: Any) -> list[tuple[str, Remedy]]:
    stages = (after(5, **changes), after(5, name="evaluate", **changes))
    known = {"watermarks_ms": [NOW - age, UNKNOWN, NOW], "watermark_stands_ms": stands}
    return found(*stages, **known)


def test_a_watermark_that_stands_far_behind_the_clock_while_all_is_read_is_stuck() -> None:
    assert evaluation(130_000, 120_001) == []
    assert evaluation(130_001, 120_001) == [("evaluate", Remedy.RESTART)]


def test_a_watermark_that_moves_is_late_and_not_stuck() -> None:
    assert evaluation(130_001, 0) == [("evaluate", Remedy.WAIT)]


def test_a_watermark_that_another_workers_source_holds_back_is_not_ours_to_cure() -> None:
    assert evaluation(130_001, 500_000, owns_all=False) == [("evaluate", Remedy.WAIT)]


def test_an_old_watermark_is_no_matter_while_something_is_left_to_read() -> None:
    assert evaluation(9_000_000, 0, place=lambda second: Place(second, 99, second)) == []


def test_without_any_call_there_is_no_watermark_to_be_old() -> None:
    stages = (after(5), after(5, name="evaluate"))
    assert found(*stages, watermarks_ms=[UNKNOWN] * 16, watermark_stands_ms=10**9) == []


def test_a_notification_that_waits_too_long_is_named_with_its_receiver() -> None:
    (finding,) = assess(state(queues={"oncall": 300_001, "here": 300_000}), LIMITS, NOW)
    assert (finding.part, finding.remedy) == ("notify", Remedy.WAIT)
    assert "oncall" in finding.reason


def test_what_needs_a_restart_stands_before_what_only_waits() -> None:
    stuck = after(61, turns=False)
    assert found(stuck, queues={"oncall": 999_999}) == [*STUCK, ("notify", Remedy.WAIT)]


# Readiness


def test_a_worker_is_ready_once_rules_partitions_and_evaluation_are_there() -> None:
    stages = (after(1), after(1, name="evaluate"), after(1, name="notify"))
    assert unready(state(*stages), []) == []
    assert unready(state(*stages, rules_agreed=False), []) == ["rules: not agreed on yet"]
    waiting = after(1, name="notify", doing=WAITING_FOR_BROKER)
    assert unready(state(stages[0], stages[1], waiting), []) == ["notify: waiting for a broker"]
    unjoined = after(1, joined=False)
    assert unready(state(unjoined), []) == ["ingest: no partitions assigned yet"]
    behind = after(1, name="evaluate", place=lambda second: Place(1, 9, second))
    assert unready(state(behind), []) == ["evaluate: 1 of 1 shards are not caught up"]


def test_every_finding_makes_a_worker_unready() -> None:
    now = state(broker="no broker answers")
    assert unready(now, assess(now, LIMITS, NOW)) == ["broker: no broker answers"]


def test_a_shard_that_reached_its_end_not_long_ago_is_caught_up_under_load() -> None:
    def busy(second: int) -> Place:
        return Place(second * 10, second * 10 + (3 if second else 0), second)

    most = CAUGHT_UP_MS // SECOND
    assert after(most, name="evaluate", place=busy).is_caught_up
    assert not after(most + 1, name="evaluate", place=busy).is_caught_up


# Restarts and the watchdog


def test_s13_restarts_are_bounded_with_growing_pauses_and_allowed_again_later() -> None:
    """Faust: what is retried is retried a few times, not for ever."""
    restarts = Restarts()
    assert [restarts.allow(NOW + number) for number in range(6)] == [1_000, 2_000, 4_000, 8_000, 16_000, None]
    assert restarts.allow(NOW + Restarts.WITHIN_MS + 10) == 1_000


class Part:
    """A stage that shows what it is told to, and can be started again so many times."""

    def __init__(self, restarts: int) -> None:
        self.shown = reading()
        self.left = restarts
        self.reasons: list[str] = []

    def reading(self) -> Reading:
        return self.shown

    def restart(self, reason: str) -> bool:
        self.left -= 1
        self.reasons.append(reason)
        return self.left >= 0


class Facts:
    def rules_agreed(self) -> bool:
        return True

    def watermarks_ms(self) -> list[int]:
        return []

    def queues(self) -> dict[str, int]:
        return {}


def watchdog(part: Part) -> Watchdog:
    async def ask() -> str:
        return ""

    return Watchdog(Settings(), {"ingest": part}, Facts(), ask, lambda: NOW, lambda: 0)


def look_for(dog: Watchdog, seconds: int) -> None:
    for _ in range(seconds):
        dog.look(SECOND, "")


def test_s13_the_watchdog_starts_a_stuck_part_again_and_ends_the_worker_when_that_is_no_help() -> None:
    """Faust: and then the worker ends with the reason, for its supervisor."""
    part = Part(restarts=2)
    dog = watchdog(part)
    look_for(dog, 62)
    assert len(part.reasons) == 1
    look_for(dog, 62)
    assert len(part.reasons) == 2
    with pytest.raises(
        StuckError, match="ingest is stuck and starting it again is no help: fetching for 1 m"
    ):
        look_for(dog, 62)
    assert len(part.reasons) == 3


def test_while_no_broker_answers_nothing_ages_and_nothing_is_started_again() -> None:
    part = Part(restarts=0)
    dog = watchdog(part)
    for _ in range(1_000):
        dog.look(SECOND, "no broker answers")
    assert dog.unready()[0] == "broker: no broker answers"
    for _ in range(60):
        dog.look(SECOND, "")
    assert part.reasons == []
    assert dog.unready() == []

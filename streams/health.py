"""Health: how far each stage of the worker is, and what is wrong where it does not go on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from rules.quantities import MINUTE, SECOND, format_duration
from streams.times import UNKNOWN

CAUGHT_UP_MS: Final = 30 * SECOND
"""A source that had nothing left to read this long ago counts as caught up: under load something is always left."""
DELIVERING: Final = "delivering"
WAITING_FOR_BROKER: Final = "waiting for a broker"
WAITING_FOR_RULES: Final = "waiting for the rules"
_PATIENT: Final = (WAITING_FOR_BROKER, WAITING_FOR_RULES)


class Remedy(StrEnum):
    """What is to be done about a finding."""

    WAIT = "wait"
    """Nothing that a restart could do: somebody else is away or slow."""
    RESTART = "restart"
    """The part is stuck: start it again."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that keeps a part from working."""

    part: str
    reason: str
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class Limits:
    """How long, in milliseconds, is too long.

    `stall`: no progress although there is something to read, no turn of the loop, no answered fetch, no partitions.
    `evaluation`: the watermark behind the clock, beyond the lateness. `commit`: no successful commit.
    `notification`: a notification that waits.
    """

    stall_ms: int = MINUTE
    evaluation_ms: int = 2 * MINUTE
    commit_ms: int = MINUTE
    notification_ms: int = 5 * MINUTE
    lateness_ms: int = 10 * SECOND


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage is in one partition.

    `end` is the last stable offset, and `answered` changes with each answered fetch; both None before the first one.
    """

    position: int | None
    end: int | None
    answered: int | None

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left to read."""
        return self.position is not None and self.end is not None and self.position >= self.end


@dataclass(frozen=True, slots=True)
class Reading:
    """What a stage shows at one moment. `turns` counts the turns of its loop, `failed_commits` those in a row."""

    name: str
    doing: str
    turns: int = 0
    joined: bool = False
    places: Mapping[str, Place] = field(default_factory=dict)
    failed_commits: int = 0
    owns_all: bool = False
    """Whether every partition of its topics is its own."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One partition over time, in milliseconds: without an answer, without a step forward, since the end was reached.

    `behind_ms` is None where the end was never reached since the assignment.
    """

    place: Place
    unanswered_ms: int = 0
    stands_ms: int = 0
    behind_ms: int | None = None

    @property
    def is_caught_up(self) -> bool:
        """Whether the end was reached not long ago."""
        return self.behind_ms is not None and self.behind_ms <= CAUGHT_UP_MS


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage over time. Ages are in milliseconds of time that was watched: a process that was stopped ages nothing."""

    reading: Reading
    turn_ms: int = 0
    unjoined_ms: int = 0
    uncommitted_ms: int = 0
    standings: Mapping[str, Standing] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.reading.name

    @property
    def is_caught_up(self) -> bool:
        """Whether it has its partitions, and every one of them is caught up."""
        return self.reading.joined and all(each.is_caught_up for each in self.standings.values())

    @property
    def stillness_ms(self) -> int:
        """The longest time without an answer or a turn: from a few seconds on, it is worth asking the broker."""
        return max([self.turn_ms, *(each.unanswered_ms for each in self.standings.values())])


@dataclass(frozen=True, slots=True)
class WorkerState:
    """Everything that an assessment needs. `broker` says why none answers, and is empty while one does.

    `watermarks_ms` are those of the shards here, UNKNOWN for those without one; `watermark_ms` is how long the least of
    them has not moved. `queues` is the age of each receiver's oldest waiting notification, in ms.
    """

    rules_agreed: bool
    starting_ms: int
    broker: str
    stages: Sequence[Progress]
    watermarks_ms: Sequence[int] = ()
    watermark_stands_ms: int = 0
    queues: Mapping[str, int] = field(default_factory=dict)


def follow(before: Progress | None, reading: Reading, elapsed_ms: int) -> Progress:
    """A stage's progress `elapsed_ms` after `before`. Give 0 for time that proves nothing: no broker answered."""
    if before is None or before.reading.doing in _PATIENT:
        return Progress(reading, standings={name: _first(place) for name, place in reading.places.items()})
    patient = reading.doing in _PATIENT
    turned = reading.turns != before.reading.turns or patient
    return Progress(
        reading,
        turn_ms=0 if turned else before.turn_ms + elapsed_ms,
        unjoined_ms=0 if reading.joined or patient else before.unjoined_ms + elapsed_ms,
        uncommitted_ms=before.uncommitted_ms + elapsed_ms if reading.failed_commits else 0,
        standings={
            name: _next(before.standings.get(name), place, elapsed_ms)
            for name, place in reading.places.items()
        },
    )


def assess(state: WorkerState, limits: Limits, now_ms: int) -> list[Finding]:
    """What is wrong, the worst first; empty while every part goes on. `now_ms` is the clock's time."""
    if state.broker:
        return [Finding("broker", state.broker, Remedy.WAIT)]
    if not state.rules_agreed:
        if state.starting_ms <= limits.stall_ms:
            return []
        reason = f"topics and rules were not ready after {format_duration(state.starting_ms)}"
        return [Finding("rules", reason, Remedy.RESTART)]
    findings = [finding for stage in state.stages for finding in _of_stage(stage, limits)]
    findings += _of_evaluation(state, limits, now_ms)
    findings += [
        Finding(
            "notify",
            f"a notification has waited for {receiver} for {format_duration(age_ms)}",
            Remedy.WAIT,
        )
        for receiver, age_ms in sorted(state.queues.items())
        if age_ms > limits.notification_ms
    ]
    return sorted(findings, key=lambda finding: finding.remedy is Remedy.WAIT)


def unready(state: WorkerState, findings: Iterable[Finding]) -> list[str]:
    """Why the worker is not ready to alert; empty once it is."""
    reasons = [f"{finding.part}: {finding.reason}" for finding in findings]
    if not state.rules_agreed:
        return [*reasons, "rules: not agreed on yet"]
    for stage in state.stages:
        if stage.reading.doing in _PATIENT:
            reasons.append(f"{stage.name}: {stage.reading.doing}")
        elif not stage.reading.joined:
            reasons.append(f"{stage.name}: no partitions assigned yet")
        elif stage.name == "evaluate" and not stage.is_caught_up:
            left = sum(not each.is_caught_up for each in stage.standings.values())
            reasons.append(f"evaluate: {left} of {len(stage.standings)} shards are not caught up")
    return reasons


def _first(place: Place) -> Standing:
    return Standing(place, behind_ms=0 if place.is_at_end else None)


def _next(before: Standing | None, place: Place, elapsed_ms: int) -> Standing:
    if before is None:
        return _first(place)
    answered = place.answered is not None and place.answered != before.place.answered
    moved = place.is_at_end or place.position != before.place.position
    behind = None if before.behind_ms is None else before.behind_ms + elapsed_ms
    return Standing(
        place,
        unanswered_ms=0 if answered else before.unanswered_ms + elapsed_ms,
        stands_ms=0 if moved else before.stands_ms + elapsed_ms,
        behind_ms=0 if place.is_at_end else behind,
    )


def _of_stage(stage: Progress, limits: Limits) -> list[Finding]:
    doing = stage.reading.doing
    if stage.turn_ms > limits.stall_ms:
        # Whoever waits for a receiver is not stuck: what waits is kept, and a restart would wait as well.
        remedy = Remedy.WAIT if doing == DELIVERING else Remedy.RESTART
        return [Finding(stage.name, f"{doing} for {format_duration(stage.turn_ms)}", remedy)]
    if stage.unjoined_ms > limits.stall_ms:
        reason = f"no partitions assigned for {format_duration(stage.unjoined_ms)}"
        return [Finding(stage.name, reason, Remedy.RESTART)]
    findings = []
    for source, standing in sorted(stage.standings.items()):
        if standing.stands_ms > limits.stall_ms:
            left = (standing.place.end or 0) - (standing.place.position or 0)
            reason = f"{source} stands still for {format_duration(standing.stands_ms)}, {left:,} left to read"
            findings.append(Finding(stage.name, reason, Remedy.RESTART))
        elif standing.unanswered_ms > limits.stall_ms:
            reason = f"no answered fetch of {source} for {format_duration(standing.unanswered_ms)}"
            findings.append(Finding(stage.name, reason, Remedy.RESTART))
    if stage.uncommitted_ms > limits.commit_ms:
        reason = f"no successful commit for {format_duration(stage.uncommitted_ms)}"
        findings.append(Finding(stage.name, reason, Remedy.RESTART))
    return findings[:3]


def _of_evaluation(state: WorkerState, limits: Limits, now_ms: int) -> list[Finding]:
    """The watermark against the clock, while everything that this worker reads has been read."""
    known = [watermark for watermark in state.watermarks_ms if watermark != UNKNOWN]
    readers = [stage for stage in state.stages if stage.name in {"ingest", "evaluate"}]
    if not known or not all(stage.is_caught_up for stage in readers):
        return []
    age_ms = now_ms - min(known) - limits.lateness_ms
    if age_ms <= limits.evaluation_ms:
        return []
    # A watermark that moves is late and not stuck; one that another worker's source holds back is not our matter.
    ours = all(stage.reading.owns_all for stage in readers)
    stuck = ours and state.watermark_stands_ms > limits.evaluation_ms
    reason = f"what was evaluated last is {format_duration(age_ms + limits.lateness_ms)} old"
    return [Finding("evaluate", reason, Remedy.RESTART if stuck else Remedy.WAIT)]


class Restarts:
    """Bounds how often a part is started again: a few times with growing pauses, and then no more."""

    MOST: Final = 5
    WITHIN_MS: Final = 10 * MINUTE
    LONGEST_PAUSE_MS: Final = 30 * SECOND

    def __init__(self) -> None:
        self._at_ms: list[int] = []

    def allow(self, now_ms: int) -> int | None:
        """How long to wait before one more restart, in ms; None where there were too many of late."""
        self._at_ms = [at_ms for at_ms in self._at_ms if at_ms > now_ms - self.WITHIN_MS]
        if len(self._at_ms) >= self.MOST:
            return None
        self._at_ms.append(now_ms)
        return min(SECOND << (len(self._at_ms) - 1), self.LONGEST_PAUSE_MS)

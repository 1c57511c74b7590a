"""A running worker hears of new rules and prices: what panes hold does not depend on when. What is unknown waits."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from builders import BUSY, SECOND, SOURCE, at, call, cells, no_prices, part, records, rule
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.rule import RuleSet
from streams import chunk
from streams.builtin import RULES_NOT_LOADED, unloaded_files
from streams.call import Reader
from streams.chunk import Chunk
from streams.epoch_prices import pricing_by
from streams.following import Following
from streams.frontier import Lateness
from streams.ingest import Ingest, IngestConfig
from streams.loop import Clock, Start
from streams.needs import Needs
from streams.position import Idle, Position
from streams.price_book import PriceBook, PriceEntry, Rates
from streams.records import Records
from streams.rule_log import DELAY_MS, HOP_MS, LEAD_MS, Epoch, Known, RuleLog
from streams.settings import load_settings
from streams.stages import PILE_UP_MS, EvaluateStage, IngestStage, read_position

NOON = at("12:00:00")
LATENESS = Lateness(allowed_ms=3_000, skew_ms=60_000)
PUBLISHED = NOON + 5 * SECOND
BOUNDARY = PUBLISHED + LEAD_MS
ENGINE = [rule(name.title(), name, above=0) for name in ("rejected", "late", "clamped")]
KEPT = rule("Kept", "spend", above=0)
REMOVED = rule("Removed", "calls", above=0, by=("model",))
ADDED = rule("Added", "latency.p95", above=0, by=("model", "feature"))


def prices(dollars_per_million: int) -> PriceBook:
    rates = Rates(*[dollars_per_million * 10**6] * 4)
    return PriceBook([PriceEntry("gpt-4o", None, None, rates)])


FIRST = Epoch(0, RuleSet((KEPT, REMOVED, ENGINE[0])), (), prices(1))
SECOND_SET = Epoch(BOUNDARY, RuleSet((KEPT, ADDED, *ENGINE[1:])), (), prices(3))
BEFORE, AFTER = RuleLog([FIRST]), RuleLog([FIRST, SECOND_SET])


@dataclass
class Traffic:
    """Calls of one source, and the wall time at which each is taken. The producer's clock is ahead by some seconds."""

    calls: Records
    wall_ms: list[int]


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    fast = draw(st.sampled_from([0, 0, 4_000, 9_000, 25_000, 50_000]))
    events: list[dict[str, Any] | bytes] = []
    walls, now = [], NOON
    for number in range(draw(st.integers(5, 40))):
        now += draw(st.sampled_from([0, 100, 900, 2_500]))
        walls.append(now)
        behind = draw(st.sampled_from([0, 50, 1_500, 2_900, 2_900, 9_000]))
        event = call(now + fast - behind, id=f"id-{number // draw(st.sampled_from([1, 1, 1, 2]))}")
        event |= {"feature": draw(st.sampled_from("ab")), "latency_ms": draw(st.integers(0, 900))}
        event |= {"tokens": {"input": draw(st.integers(0, 50)), "output": 1}}
        events.append(b"{" if draw(st.integers(0, 9)) == 0 else event)
    return Traffic(records(events, 7, broker_times=walls), walls)


@dataclass
class Life:
    """A source that is read until the end; its worker hears of the second version at some moment, and may crash."""

    traffic: Traffic
    hears_ms: int
    chunks: list[Chunk] = field(default_factory=list)
    again: int = 0

    def __post_init__(self) -> None:
        self.position: Position | None = None
        self._start(NOON)

    def live(self, cuts: list[int], crashes: list[int]) -> None:
        edges = sorted({*(cut for cut in cuts if cut < len(self.traffic.calls)), len(self.traffic.calls)})
        for edge in edges:
            self._go_to(edge)
            if edge in crashes:
                self._start(self.traffic.wall_ms[edge - 1])
        self.hears_ms = min(self.hears_ms, self.traffic.wall_ms[-1] + 90 * SECOND)
        self._go_to(len(self.traffic.calls), self.traffic.wall_ms[-1] + 90 * SECOND)
        self.flush()

    def flush(self) -> None:
        flush = self.stage.flush(SOURCE, BUSY)
        self.chunks += flush.chunks
        self.position = flush.position

    def _go_to(self, end: int, wall_ms: int | None = None) -> None:
        self._know(self.traffic.wall_ms[end - 1] if wall_ms is None else wall_ms)
        if end > self.next:
            self.stage.take(part(self.traffic.calls, self.next, end))
            self.next = end
            self.flush()

    def _start(self, wall_ms: int) -> None:
        known = self._known(wall_ms)
        self.stage = Ingest(IngestConfig(LATENESS), known.log, no_prices)
        self.stage.known_until_ms = known.until_ms
        self.stage.assign(SOURCE, self.position)
        self.next = 0 if self.position is None else self.position.first - 7

    def _known(self, wall_ms: int) -> Known:
        """Before it has heard of the version, a worker has not read the log since that was published."""
        heard = wall_ms >= self.hears_ms
        return Known(AFTER if heard else BEFORE, wall_ms if heard else min(wall_ms, PUBLISHED))

    def _know(self, wall_ms: int) -> None:
        known = self._known(wall_ms)
        self.stage.known_until_ms = known.until_ms
        if known.log is not self.stage.log:
            for each in self.stage.switch(known.log):
                assert each.sealed_panes == 0
                self.again += 1
                self.next = self.stage.read_again(each.source) - 7


def told_at_once(traffic: Traffic) -> dict[Any, dict[str, Any]]:
    """What panes hold where both versions were known from the start and nothing had to wait."""
    stage = Ingest(IngestConfig(LATENESS), AFTER, no_prices)
    stage.assign(SOURCE, None)
    stage.take(traffic.calls)
    return cells(stage.flush(SOURCE, BUSY).chunks)


moments = st.integers(PUBLISHED, PUBLISHED + 60 * SECOND)
places = st.lists(st.integers(1, 40), max_size=8)


@given(traffic(), moments, places, places)
@settings(max_examples=60)
def test_whenever_a_source_hears_of_a_version_its_panes_hold_what_they_would_have_held(
    made: Traffic, hears_ms: int, cuts: list[int], crashes: list[int]
) -> None:
    life = Life(made, hears_ms)
    life.live(cuts, crashes)
    expected = told_at_once(made)
    found = cells(life.chunks)
    assert {key: content for key, content in found.items() if content != expected.get(key)} == {}
    assert found.keys() == expected.keys()


@given(traffic(), moments, places)
@settings(max_examples=20)
def test_nothing_is_published_or_sealed_that_a_version_unheard_of_may_concern(
    made: Traffic, hears_ms: int, cuts: list[int]
) -> None:
    life = Life(made, max(hears_ms, made.wall_ms[-1] + 1))
    for edge in sorted({*(cut for cut in cuts if cut < len(made.calls)), len(made.calls)}):
        life._go_to(edge)
    life.chunks += life.stage.flush(SOURCE, Idle(True, made.wall_ms[-1] + 100 * SECOND, 1)).chunks
    until_ms = PUBLISHED + LEAD_MS - DELAY_MS - HOP_MS
    for each in life.chunks:
        assert all((block.start_ms + SECOND <= until_ms).all() for block in each.blocks)
        if each.seal is not None:
            assert max(each.seal.frontier_ms, each.seal.watermark_ms) <= until_ms


def test_open_panes_of_a_fast_producer_are_read_again_and_priced_anew() -> None:
    ahead = [
        call(NOON + second * SECOND, feature="a", tokens={"input": 10, "output": 0}) for second in range(30)
    ]
    made = Traffic(records(ahead, 7), [NOON + 4 * SECOND] * 30)
    life = Life(made, PUBLISHED + SECOND)
    life.live([30], [])
    assert life.again == 1
    spent = {
        (start - NOON) // SECOND: content["sum:spend:any"]
        for (view, _, start), content in cells(life.chunks).items()
        if view == KEPT.view.hash
    }
    assert spent == {second: 10_000 if second < 15 else 30_000 for second in range(30)}


def test_a_call_is_priced_by_the_version_in_force_at_its_pane_and_by_ones_own_where_the_log_does_not_say() -> (
    None
):
    events = [call(NOON + ms, tokens={"input": 10, "output": 0}) for ms in (0, 14_999, 15_000, 40_000)]
    unnamed = RuleLog([Epoch(0, FIRST.rules), SECOND_SET])
    for log, expected in ((AFTER, [10_000, 10_000, 30_000, 30_000]), (unnamed, [-1, -1, 30_000, 30_000])):
        reader = Reader(
            Needs.of(log.all_views()), pricing_by(log, lambda: lambda batch: np.full(len(batch), -1))
        )
        assert reader.read(records(events))[0].column("spend").tolist() == expected


def test_where_two_logs_differ_is_said_by_what_panes_hold() -> None:
    assert AFTER.changed_from_ms(BEFORE) == BEFORE.changed_from_ms(AFTER) == BOUNDARY
    assert AFTER.changed_from_ms(RuleLog([FIRST, SECOND_SET])) is None
    louder = RuleSet((rule("Kept", "spend", above=9), REMOVED, ENGINE[0]))
    assert RuleLog([FIRST, Epoch(BOUNDARY, louder, (), FIRST.prices)]).changed_from_ms(BEFORE) is None
    dearer = RuleLog([FIRST, Epoch(BOUNDARY, FIRST.rules, (), prices(2))])
    assert dearer.changed_from_ms(BEFORE) == BOUNDARY


# --- the stages


def ingest_stage(folder: Path) -> IngestStage:
    path = folder / "tocsin.yaml"
    path.write_text("{}")
    made = IngestStage(load_settings(path), IngestConfig(LATENESS), BEFORE, no_prices)
    made.assign(SOURCE, Start())
    return made


def test_a_position_says_what_was_sealed_where_the_rules_log_held_it_back(tmp_path: Path) -> None:
    made = ingest_stage(tmp_path)
    made.know(Known(BEFORE, NOON))
    made.take(records([call(NOON), call(NOON + 30 * SECOND)]))
    (committed,) = made.flush(Clock(NOON, frozenset(), 1)).commit.values()
    known = read_position(committed)
    assert known is not None
    assert (known[0].first, known[0].sealed_ms) == (0, Known(BEFORE, NOON).until_ms)
    made.know(Known(BEFORE, NOON + 60 * SECOND))
    (committed,) = made.flush(Clock(NOON, frozenset(), 1)).commit.values()
    known = read_position(committed)
    assert known is not None
    assert known[0].sealed_ms is None


def test_panes_that_were_sealed_before_a_version_was_heard_of_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = ingest_stage(tmp_path)
    made.know(Known(BEFORE, BOUNDARY + 60 * SECOND))
    made.take(records([call(BOUNDARY), call(BOUNDARY + 13 * SECOND)]))
    made.flush(Clock(NOON, frozenset(), 1))
    with caplog.at_level(logging.ERROR):
        assert made.know(Known(AFTER, BOUNDARY + 60 * SECOND)) == {SOURCE: 0}
    assert "10 seconds of event time were sealed before it was known" in caplog.text
    assert made.know(Known(AFTER, BOUNDARY + 61 * SECOND)) == {}


def test_a_source_whose_log_no_longer_has_its_open_panes_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = ingest_stage(tmp_path)
    made.take(records([call(BOUNDARY)], 5))
    assert made.know(Known(AFTER, NOON)) == {SOURCE: 5}
    with caplog.at_level(logging.ERROR):
        assert made.read_again(SOURCE, 6) is None
    assert "the log starts at 6 and not at 5" in caplog.text
    assert made.read_again(SOURCE, 5) == 5


def test_calls_are_not_taken_while_the_rules_log_was_last_read_long_ago(tmp_path: Path) -> None:
    made = ingest_stage(tmp_path)
    some = records([call(NOON)])
    assert not made.must_wait(some, NOON)
    made.know(Known(BEFORE, NOON))
    assert not made.must_wait(some, NOON + PILE_UP_MS)
    assert made.must_wait(some, NOON + PILE_UP_MS + 1)


def test_chunks_wait_until_the_rules_log_was_read_about_as_late_as_they_were_published(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text("{}")
    made = EvaluateStage(load_settings(path), BEFORE)
    chunks = records([b""], broker_times=[NOON])
    assert not made.must_wait(chunks, NOON)
    made.know(Known(BEFORE, NOON - HOP_MS))
    assert not made.must_wait(chunks, NOON + 60 * SECOND)
    made.know(Known(BEFORE, NOON - HOP_MS - 1))
    assert made.must_wait(chunks, NOON + 60 * SECOND)
    # The clock of another worker is an hour fast: that must not stop this one.
    fast = records([b""], broker_times=[NOON + 3_600_000])
    made.know(Known(BEFORE, NOON))
    assert not made.must_wait(fast, NOON + HOP_MS)


def test_ticks_that_passed_before_a_version_was_heard_of_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text("{}")
    made = EvaluateStage(load_settings(path), BEFORE)
    shard = KEPT.view.shard(("a",))
    source = type(SOURCE)("llm.panes", shard)
    made.assign(source, Start())
    stage = Ingest(IngestConfig(LATENESS), BEFORE, no_prices)
    stage.assign(SOURCE, None)
    stage.take(records([call(BOUNDARY, feature="a"), call(BOUNDARY + 8 * SECOND, feature="a")]))
    values = [chunk.encode(each) for each in stage.flush(SOURCE, BUSY).chunks if each.shard == shard]
    made.take(records(values, source=source))
    with caplog.at_level(logging.ERROR):
        made.know(Known(AFTER, NOON))
    assert "5.0 seconds of event time were evaluated before it was known" in caplog.text


class Consumer:
    """What `Following` asks of a consumer."""

    def __init__(self) -> None:
        self.sought: dict[TopicPartition, int] = {}

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought[partition] = offset


async def test_only_sources_that_were_overtaken_are_sought(tmp_path: Path) -> None:
    made = ingest_stage(tmp_path)
    other = type(SOURCE)("llm.calls", 1)
    made.assign(other, Start())
    made.take(records([call(NOON), call(BOUNDARY)], 5))
    made.take(records([call(NOON), call(BOUNDARY - 1)], 5, other))
    known = Known(BEFORE, NOON)
    following = Following(made, lambda: known)
    partitions = {TopicPartition("llm.calls", 0): SOURCE, TopicPartition("llm.calls", 1): other}
    consumer = Consumer()
    assert await following.catch_up(consumer, partitions) == set()
    known = Known(AFTER, NOON)
    assert await following.catch_up(consumer, partitions) == {TopicPartition("llm.calls", 0)}
    assert consumer.sought == {TopicPartition("llm.calls", 0): 5}
    assert await following.catch_up(consumer, partitions) == set()


def test_files_that_were_read_again_and_are_not_valid_fire_the_alert_of_rules_that_do_not_load() -> None:
    assert unloaded_files([], NOON) == []
    (found,) = unloaded_files(["alerts.yaml:3:5: no runbook", "another"], NOON)
    assert (found.alert, found.value) == (RULES_NOT_LOADED, 2)
    assert "alerts.yaml:3:5" in found.summary

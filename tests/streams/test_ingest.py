from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from builders import BUSY, MINUTE, SOURCE, at, call, cells, ingest, parts, records, rule, rule_log, view
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.labels import NONE, OTHER, Matcher
from rules.view import SHARDS
from streams.chunk import Chunk
from streams.frontier import Lateness
from streams.ingest import Ingest
from streams.position import Idle, Position
from streams.records import Records, Source
from streams.rule_log import RuleLog
from streams.times import UNKNOWN

NOON = at("12:00:00")
LATENESS = Lateness(allowed_ms=3_000, skew_ms=60_000)
WATCHED = view("calls", "latency.p95", "latency.max", "spend_per_call", "users")
BY_USER = view("calls", "spend", by=("user",), where=(Matcher("feature", ("a", NONE)),))
ENGINE = [rule(name.title(), name, above=0) for name in ("rejected", "late", "clamped")]
LOG = rule_log(*ENGINE, extra=(WATCHED, BY_USER))
CALLS = "count:one:any"


@st.composite
def logs(draw: st.DrawFn, *, timed: bool | None = None) -> Records:
    """A source's records: calls more or less late, future-dated, repeated and broken, with broker's times or none."""
    timed = draw(st.booleans()) if timed is None else timed
    events: list[dict[str, Any] | bytes] = []
    times, now = [], NOON
    for number in range(draw(st.integers(1, 40))):
        now += draw(st.sampled_from([0, 10, 400, 2_500, 200_000]))
        times.append(now if timed else 0)
        kind = draw(st.sampled_from(["call", "call", "call", "call", "late", "future", "again", "broken"]))
        if kind == "broken":
            events.append(b"{")
        elif kind == "again" and (calls := [each for each in events if isinstance(each, dict)]):
            events.append(draw(st.sampled_from(calls)))
        else:
            behind = draw(st.integers(0, 12_000)) if kind == "late" else draw(st.integers(0, 2_900))
            ahead = draw(st.sampled_from([30_000, 600_000, 10**9])) if kind == "future" else 0
            event = call(now - behind + ahead, id=f"id-{number}", latency_ms=draw(st.integers(0, 900)))
            event |= {
                "feature": draw(st.sampled_from(["a", "b", "c", None])),
                "user": draw(st.sampled_from(["x", "y"])),
            }
            if draw(st.booleans()):
                event["cost_usd"] = draw(st.integers(0, 5))
            events.append(event)
    return records(events, 7, broker_times=times)


cuts = st.lists(st.integers(1, 39), max_size=6)


class Run:
    """One life of a source: records taken, chunks published, positions committed after each flush."""

    def __init__(self, log: RuleLog = LOG, position: Position | None = None, **config: Any) -> None:
        self.stage: Ingest = ingest(log, LATENESS, **config)
        self.first = self.stage.assign(SOURCE, position)
        self.chunks: list[Chunk] = []
        self.positions: list[tuple[int, Position]] = []
        self.rejected: list[int] = []

    def take(self, some: Records) -> None:
        self.rejected += [each.offset for each in self.stage.take(some)]

    def flush(self, idle: Idle = BUSY) -> Position:
        flush = self.stage.flush(SOURCE, idle)
        self.chunks += flush.chunks
        self.positions.append((len(self.chunks), flush.position))
        return flush.position


def whole(log: Records, cuts: Iterable[int] = (), rules: RuleLog = LOG, **config: Any) -> Run:
    """The log in these parts, with a flush after each."""
    run = Run(rules, **config)
    for some in parts(log, cuts):
        run.take(some)
        run.flush()
    return run


def spend(chunks: Iterable[Chunk]) -> dict[tuple[str, tuple[str, ...], int, int], int]:
    """Late bookings as the receiver applies them: of a source's offsets only those above the last applied."""
    applied: dict[int, int] = {}
    found = {}
    for chunk in chunks:
        for late in chunk.late:
            for row, start, offset, amount in zip(
                late.row.tolist(),
                late.start_ms.tolist(),
                late.offset.tolist(),
                late.spend.tolist(),
                strict=True,
            ):
                if offset > applied.get(chunk.shard, -1):
                    found[late.view, late.series[row], start, offset] = amount
        last = [int(late.offset.max()) for late in chunk.late]
        applied[chunk.shard] = max([applied.get(chunk.shard, -1), *last])
    return found


def same(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """Equality with the differences alone: a diff of all panes, at every step of a search, takes minutes."""
    different = {key: (found.get(key), expected.get(key)) for key in found.keys() | expected.keys()}
    different = {key: pair for key, pair in different.items() if pair[0] != pair[1]}
    assert not different


def without_offsets(content: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {
        key: {name: value for name, value in fields.items() if not name.startswith("exemplar")}
        for key, fields in content.items()
    }


@given(logs(), cuts, cuts)
@settings(max_examples=30)
def test_what_panes_hold_does_not_depend_on_batches_and_flushes(
    log: Records, cuts: list[int], others: list[int]
) -> None:
    one, other = whole(log, cuts), whole(log, others)
    same(cells(one.chunks), cells(other.chunks))
    assert spend(one.chunks) == spend(other.chunks)
    assert one.stage.counts == other.stage.counts
    assert one.rejected == other.rejected
    assert one.chunks[-1].seal is not None
    assert other.chunks[-1].seal is not None
    assert one.chunks[-1].seal.frontier_ms == other.chunks[-1].seal.frontier_ms


@given(logs(), cuts)
@settings(max_examples=25)
def test_a_version_of_a_pane_is_the_pane_after_the_records_before_that_offset(
    log: Records, cuts: list[int]
) -> None:
    for end in {cut for cut in cuts if 0 < cut <= len(log)} | {len(log)}:
        until = Records(log.source, log.values[:end], log.offsets[:end], log.times_ms[:end])
        run = whole(log, [end])
        flushed = [chunk for chunk in run.chunks if chunk.version == 7 + end]
        same(cells(flushed), cells(whole(until).chunks))


@given(logs(), cuts, cuts, st.data())
@settings(max_examples=50)
def test_a_restart_from_any_committed_position_publishes_what_no_restart_would(
    log: Records, cuts: list[int], others: list[int], data: st.DataObject
) -> None:
    expected = whole(log, cuts)
    published, position = data.draw(st.sampled_from(expected.positions))
    lost = data.draw(
        st.integers(published, len(expected.chunks))
    )  # published before the crash, but not committed
    again = Run(position=position)
    assert again.first == position.first <= position.next
    start = position.first - 7
    rest = Records(log.source, log.values[start:], log.offsets[start:], log.times_ms[start:])
    for some in parts(rest, others):
        again.take(some)
        again.flush()
    together = expected.chunks[:lost] + again.chunks
    same(cells(together), cells(expected.chunks))
    assert spend(together) == spend(expected.chunks)
    assert again.rejected == [each for each in expected.rejected if each >= position.next]
    if len(rest):
        for ours, theirs in ((again.positions[-1][1], expected.positions[-1][1]),):
            assert (ours.next, ours.high_ms, ours.high_broker_ms, ours.ahead_ms) == (
                theirs.next, theirs.high_ms, theirs.high_broker_ms, theirs.ahead_ms
            )  # fmt: skip


@given(logs(), cuts, st.data())
@settings(max_examples=20)
def test_a_second_restart_while_panes_are_still_being_rebuilt_loses_nothing(
    log: Records, cuts: list[int], data: st.DataObject
) -> None:
    expected = whole(log, cuts)
    published, position = data.draw(st.sampled_from(expected.positions))
    together = expected.chunks[:published]
    for _ in range(2):
        again = Run(position=position)
        start = position.first - 7
        end = data.draw(st.integers(start, len(log)))
        if end > start:
            again.take(
                Records(log.source, log.values[start:end], log.offsets[start:end], log.times_ms[start:end])
            )
        position = again.flush()
        together += again.chunks
    last = Run(position=position)
    start = position.first - 7
    if start < len(log):
        last.take(Records(log.source, log.values[start:], log.offsets[start:], log.times_ms[start:]))
    last.flush()
    same(cells(together + last.chunks), cells(expected.chunks))
    assert spend(together + last.chunks) == spend(expected.chunks)


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 3_000)), min_size=1, max_size=40),
    st.sampled_from("ab"),
)
def test_disorder_within_the_allowed_lateness_changes_no_pane(
    delays: list[tuple[int, int]], feature: str
) -> None:
    ordered = sorted(
        (call(NOON + each, feature=feature, latency_ms=each) for each, _ in delays),
        key=lambda event: event["at"],
    )
    shuffled = [call(NOON + each, feature=feature, latency_ms=each) for each, _ in sorted(delays, key=sum)]
    one, other = whole(records(ordered), range(0, 40, 3)), whole(records(shuffled), range(0, 40, 7))
    assert without_offsets(cells(one.chunks)) == without_offsets(cells(other.chunks))
    assert other.stage.counts.late == 0


@given(logs(), cuts)
@settings(max_examples=20)
def test_forgetting_values_and_series_changes_no_pane(log: Records, cuts: list[int]) -> None:
    same(cells(whole(log, cuts, known_series=1).chunks), cells(whole(log, cuts).chunks))


@given(logs(), st.integers(1, 3))
@settings(max_examples=20)
def test_the_series_cap_loses_nothing_from_the_totals(log: Records, cap: int) -> None:
    def totals(run: Run) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        for (of, _, start), fields in cells(run.chunks).items():
            if of == WATCHED.hash:
                for name, value in fields.items():
                    if name.startswith(("count", "sum")):
                        found[start, name] = found.get((start, name), 0) + value
        return found

    capped = whole(log, series_per_pane=cap)
    assert totals(capped) == totals(whole(log))
    for start in {start for of, _, start in cells(capped.chunks) if of == WATCHED.hash}:
        series = {series[0] for of, series, at in cells(capped.chunks) if (of, at) == (WATCHED.hash, start)}
        assert len(series - {OTHER}) <= cap


def test_repeated_ids_count_once_in_a_pane_and_calls_without_id_are_not_deduplicated() -> None:
    run = Run()
    run.take(
        records([call(NOON, id="one"), call(NOON, id="two"), call(NOON, id="one"), call(NOON), call(NOON)])
    )
    run.take(records([call(NOON, id="one"), call(NOON + 1_000, id="one")], 5))
    run.flush()
    counts = {
        start - NOON: fields[CALLS]
        for (of, _, start), fields in cells(run.chunks).items()
        if of == WATCHED.hash
    }
    assert counts == {0: 4, 1_000: 1}
    assert (run.stage.counts.accepted, run.stage.counts.duplicates) == (5, 2)


def test_late_calls_are_counted_and_their_spend_is_booked_to_their_pane_under_their_offset() -> None:
    run = Run()
    run.take(records([call(NOON, cost_usd=1), call(NOON + 60_000, cost_usd=1)]))
    run.flush()
    late = [
        call(NOON, feature="a", user="x", cost_usd=2),
        call(NOON, feature="b", user="y"),
        call(NOON + 500, feature="b", user="z", cost_usd=3),
    ]
    run.take(records(late, 2))
    run.flush()
    assert run.stage.counts.late == 3
    assert spend(run.chunks) == {
        (WATCHED.hash, ("a",), NOON, 2): 2_000_000_000,
        (WATCHED.hash, ("b",), NOON, 4): 3_000_000_000,
        (BY_USER.hash, ("x",), NOON, 2): 2_000_000_000,
    }
    assert engine(run) == {("late", NOON + 60_000): 3}


def engine(run: Run) -> dict[tuple[str, int], int]:
    names = {each.view.hash: each.measure.name for each in ENGINE}
    found = {}
    for (of, _, start), fields in cells(run.chunks).items():
        if of in names and fields[f"count:{names[of]}:any"]:
            found[names[of], start] = fields[f"count:{names[of]}:any"]
    return found


def test_rejected_late_and_clamped_calls_are_booked_where_event_time_stood() -> None:
    run = Run()
    noon = [NOON] * 6
    run.take(
        records([b"{", None, call(NOON), b"{", call(NOON + 10**9), call(NOON + 2_500)], broker_times=noon)
    )
    run.take(records([call(NOON - 60_000), b"{"], 6, broker_times=[NOON + 3_000] * 2))
    run.flush()
    assert run.rejected == [0, 1, 3, 7]
    assert engine(run) == {
        ("rejected", NOON): 3,
        ("clamped", NOON): 1,
        ("late", NOON + 2_000): 1,
        ("rejected", NOON + 2_000): 1,
    }


def test_a_source_whose_calls_are_all_rejected_books_them_with_its_first_call() -> None:
    run = Run()
    run.take(records([b"{"] * 3))
    run.flush()
    assert engine(run) == {}
    run.take(records([call(NOON)], 3))
    run.flush()
    assert engine(run) == {("rejected", NOON): 3}


def test_every_shard_gets_a_last_chunk_with_the_same_seal_even_when_nothing_happened() -> None:
    run = Run()
    run.take(records([call(NOON), call(NOON + 10_000)], broker_times=[NOON, NOON + 10_000]))
    run.flush(Idle(caught_up=False, wall_ms=NOON + 40_000, sources=4))
    last = {chunk.shard: chunk for chunk in run.chunks}
    assert set(last) == set(range(SHARDS))
    seals = {chunk.seal for chunk in last.values()}
    assert len(seals) == 1
    (seal,) = seals
    assert seal is not None
    assert (seal.frontier_ms, seal.watermark_ms, seal.wall_ms, seal.sources) == (
        NOON + 7_000,
        NOON + 7_000,
        NOON + 40_000,
        4,
    )
    assert seal.lag_ms == 30_000
    assert all(chunk.seal is None for chunk in run.chunks if chunk is not last[chunk.shard])


def test_the_clock_stands_in_for_data_only_where_the_source_is_caught_up_and_never_goes_back() -> None:
    run = Run()
    run.take(records([call(NOON)]))

    def watermark(*, caught_up: bool, wall_ms: int) -> int:
        run.flush(Idle(caught_up=caught_up, wall_ms=wall_ms, sources=1))
        seal = run.chunks[-1].seal
        assert seal is not None
        assert seal.frontier_ms == NOON - 3_000
        assert seal.lag_ms == 0
        return seal.watermark_ms

    assert watermark(caught_up=False, wall_ms=NOON + 99_000) == NOON - 3_000
    assert watermark(caught_up=True, wall_ms=NOON + 50_000) == NOON + 47_000
    assert watermark(caught_up=True, wall_ms=NOON + 20_000) == NOON + 47_000
    assert watermark(caught_up=False, wall_ms=NOON + 99_000) == NOON + 47_000


def test_a_source_without_calls_reports_no_watermark_until_it_is_caught_up() -> None:
    run = Run()
    run.flush()
    assert run.chunks[-1].seal is not None
    assert run.chunks[-1].seal.watermark_ms == UNKNOWN
    run.take(records([]))
    run.flush(Idle(caught_up=True, wall_ms=NOON, sources=1))
    assert run.chunks[-1].seal.watermark_ms == NOON - 3_000


def test_a_changed_rule_set_holds_for_panes_from_its_boundary_on_whenever_it_became_known() -> None:
    before, after = rule("Before", "calls", above=0), rule("After", "errors", above=0, by=("model",))
    boundary = NOON + 5_000
    changed = rule_log(before, later=[(boundary, [after])])
    calls = records([call(NOON + each * 1_000) for each in range(10)])
    told_before = whole(calls, [3], changed)
    told_later = Run(rule_log(before))
    for number, some in enumerate(parts(calls, [3])):
        told_later.take(some)
        told_later.flush()
        if number == 0:
            told_later.stage.switch(changed)
    found = cells(told_before.chunks)
    assert cells(told_later.chunks) == found
    assert {start for of, _, start in found if of == before.view.hash} == {
        NOON + each * 1_000 for each in range(5)
    }
    assert {start for of, _, start in found if of == after.view.hash} == {
        NOON + each * 1_000 for each in range(5, 10)
    }


def test_late_spend_of_a_view_that_no_rule_needs_any_more_does_not_stop_the_flush() -> None:
    spending, other = rule("Spend", "spend", above=0), rule("Other", "calls", above=0)
    run = Run(rule_log(spending))
    run.take(records([call(NOON + 60_000), call(NOON, cost_usd=1)]))
    run.stage.switch(rule_log(other))
    run.flush()
    assert len(spend(run.chunks)) == 1


def test_a_view_whose_groups_must_be_seen_whole_is_cut_by_their_shards_late_spend_too() -> None:
    grouped = replace(view("calls", "spend", by=("feature", "user")), parent=("feature",))
    run = Run(rule_log(extra=(grouped,)))
    features = [f"f{number}" for number in range(20)]
    run.take(records([call(NOON, feature=each, user=user) for each in features for user in "xy"]))
    run.take(
        records(
            [call(NOON + MINUTE), *(call(NOON, feature=each, user="x", cost_usd=1) for each in features)], 40
        )
    )
    run.flush()
    for chunk in run.chunks:
        series = [each for block in chunk.blocks for each in block.series]
        series += [each for late in chunk.late for each in late.series]
        assert {grouped.shard(each) for each in series} <= {chunk.shard}
    assert {series for _, series, _ in cells(run.chunks)} >= {
        (each, user) for each in features for user in "xy"
    }
    assert {series for _, series, _, _ in spend(run.chunks)} == {(each, "x") for each in features}
    assert len({chunk.shard for chunk in run.chunks if chunk.blocks}) > 4


def test_sources_are_apart_and_a_revoked_one_is_forgotten() -> None:
    stage, second = ingest(LOG, LATENESS), Source("llm.calls", 1)
    for source in (SOURCE, second):
        stage.assign(source, None)
    stage.take(records([call(NOON)], source=SOURCE))
    stage.take(records([call(NOON), call(NOON + MINUTE)], source=second))
    assert stage.sources == [SOURCE, second]
    assert stage.last_call_ms(SOURCE) == NOON
    assert stage.last_call_ms(second) == NOON + MINUTE
    chunks = stage.flush(second, BUSY).chunks
    assert {chunk.source for chunk in chunks} == {second}
    stage.revoke(second)
    assert stage.sources == [SOURCE]
    with pytest.raises(KeyError):
        stage.flush(second, BUSY)


def test_memory_follows_what_is_open() -> None:
    run = Run()
    for number in range(50):
        run.take(records([call(NOON + number * 1_000, id=f"i{number}", user=f"u{number}")], number))
        run.flush()
    state = run.stage._sources[SOURCE]
    assert len(state.first) == len(state.ids) == 4
    assert state.late == {}
    assert all(len(panes.open_starts) <= 4 for panes in state.panes.values())

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from builders import MINUTE, SECOND, at, call, ingest, records, rule, rule_log
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.labels import Series
from rules.rule import Rule
from rules.view import CALLS, Field, FieldKind, Selection
from streams.chunk import Chunk
from streams.content import Rows, best_exemplars, contents, merge
from streams.evaluate import Evaluate
from streams.frontier import Lateness
from streams.position import Idle
from streams.records import Source
from streams.windows import ViewWindows, Window

NOON = at("12:00:00")
LATENESS = Lateness(allowed_ms=3_000, skew_ms=10**9)
ERRORS = Field(FieldKind.COUNT, "one", Selection.ERROR)
SPEND = Field(FieldKind.SUM, "spend", Selection.ANY)
PRICED = Field(FieldKind.COUNT, "spend", Selection.ANY)
SLOW = Field(FieldKind.HISTOGRAM, "latency", Selection.OK)
USERS = Field(FieldKind.DISTINCT, "user", Selection.ANY)
PEAK = Field(FieldKind.PEAK, "latency", Selection.OK)
SHOWN = Field(FieldKind.EXEMPLAR, "latency", Selection.OK)
MEASURES = ("error_rate", "spend_per_call", "latency.p95", "latency.max", "users")
SPANS = (10 * SECOND, MINUTE, 5 * MINUTE, 10 * MINUTE, 20 * MINUTE)


def watching(*spans: int) -> list[Rule]:
    """Rules that never fire, of every measure and window."""
    return [rule(f"{name}-{span}", name, above=1e15, window=span) for name in MEASURES for span in spans]


@dataclass
class Sources:
    """Ingest of some sources before one Evaluate per view, and the calls of each as a naive list."""

    rules: list[Rule]
    sources: int = 1
    chunks: list[Chunk] = field(default_factory=list)

    def __post_init__(self) -> None:
        log = rule_log(*self.rules)
        self.stage = ingest(log, LATENESS)
        self.names = [Source("llm.calls", number) for number in range(self.sources)]
        for name in self.names:
            self.stage.assign(name, None)
        self.shards = {
            shard: Evaluate(shard, log) for shard in {each.view.shard(("",)) for each in self.rules}
        }
        self.counted: list[
            tuple[str, dict[str, Any], bool, int]
        ] = []  # source, call, whether only its spend counts, and how far its source was sealed then
        self.high = dict.fromkeys(self.names, 0)
        self.offset = dict.fromkeys(self.names, 0)

    def feed(self, source: int, calls: list[dict[str, Any]]) -> None:
        """Take calls of one source, and flush it."""
        name = self.names[source]
        for event in calls:
            self.high[name] = max(self.high[name], event["at"])
            late = event["at"] // 1_000 * 1_000 + 1_000 <= self.high[name] - LATENESS.allowed_ms
            self.counted.append((str(name), event, late, self.high[name] - LATENESS.allowed_ms))
        self.stage.take(records(calls, self.offset[name], name))
        self.offset[name] += len(calls)
        self.publish(self.stage.flush(name, Idle(caught_up=False, wall_ms=0, sources=self.sources)).chunks)

    def publish(self, chunks: tuple[Chunk, ...]) -> None:
        for chunk in chunks:
            if chunk.shard in self.shards:
                self.chunks.append(chunk)
                self.shards[chunk.shard].take(chunk)

    def windows(self) -> list[tuple[Rule, Window]]:
        return [
            (each, window)
            for each in self.rules
            if (
                window := self.shards[each.view.shard(("",))]._views[each.view.hash].windows[each.window_ms]
            ).end_ms
        ]


def naive(sources: Sources, window: Window) -> dict[Series, list[tuple[str, dict[str, Any], bool]]]:
    """The calls of each series that lie in the window by their times."""
    assert window.end_ms is not None
    watermark = next(iter(sources.shards.values())).watermark_ms
    found: dict[Series, list[tuple[str, dict[str, Any], bool]]] = {}
    for name, event, late, sealed in sources.counted:
        if late and sealed >= watermark:
            continue  # ticks after that see it
        if window.end_ms - window.span_ms <= event["at"] // 1_000 * 1_000 < window.end_ms:
            found.setdefault((event["feature"],), []).append((name, event, late))
    return found


def check(sources: Sources) -> None:
    """Every total of every window equals its recomputation from the calls."""
    package = HdrHistogram(1, 3_600_000_000, 2)
    for each, window in sources.windows():
        calls, wanted = naive(sources, window), each.view.fields
        totals = {
            one: window.total(one).tolist()
            for one in wanted
            if one.kind in (FieldKind.COUNT, FieldKind.SUM, FieldKind.PEAK)
        }
        for row, series in enumerate(window.series):
            mine = calls.get(series, [])
            counted = [(name, event) for name, event, late in mine if not late]
            ok = [(name, event) for name, event in counted if event["status"] == "ok"]
            latencies = sorted(event["latency_ms"] * 1_000 for _, event in ok)
            assert totals[CALLS][row] == len(counted)
            if ERRORS in wanted:
                assert totals[ERRORS][row] == len(counted) - len(ok)
            if SPEND in wanted:
                priced = [event["cost_usd"] for _, event, _ in mine if "cost_usd" in event]
                assert totals[SPEND][row] == sum(priced) * 10**9
                assert totals[PRICED][row] == len(priced)
            if PEAK in wanted:
                assert totals[PEAK][row] == max(latencies, default=0)
            if SLOW in wanted:
                for rank in (50, 95):
                    exact = latencies[max(0, -(-len(latencies) * rank // 100) - 1)] if latencies else 0
                    assert window.percentile(SLOW, rank)[row] == package.get_highest_equivalent_value(exact)
                largest: dict[tuple[str, int], int] = {}
                for name, event in ok:
                    pane = (name, event["at"] // 1_000)
                    largest[pane] = max(largest.get(pane, 0), event["latency_ms"] * 1_000)
                shown = [one.value for one in window.exemplars(row, SHOWN, 5)]
                assert shown == sorted(largest.values(), reverse=True)[:5]
            if USERS in wanted:
                assert window.distinct(USERS)[row] == pytest.approx(
                    len({event["user"] for _, event in counted}), abs=0.2
                )


events = st.builds(
    lambda feature, user, status, latency, cost: (
        {"feature": feature, "user": user, "status": status, "latency_ms": latency} | cost
    ),
    st.sampled_from("abc"), st.sampled_from(["ana", "ben", "cem"]), st.sampled_from(["ok", "ok", "error"]),
    st.integers(1, 5_000), st.sampled_from([{}, {"cost_usd": 1}, {"cost_usd": 3}]),
)  # fmt: skip


@st.composite
def flushes(draw: st.DrawFn, sources: int) -> list[tuple[int, list[dict[str, Any]]]]:
    """Flushes of several sources: each its own calls around a time that moves on, some late."""
    now, found = NOON, []
    for _ in range(draw(st.integers(1, 10))):
        now += draw(st.sampled_from([0, 300, 1_000, 7_000, 65_000, 900_000]))
        calls = [
            call(now - draw(st.integers(0, 2_900) | st.just(30_000)), **draw(events))
            for _ in range(draw(st.integers(0, 6)))
        ]
        found.append((draw(st.integers(0, sources - 1)), calls))
    return found


@given(st.integers(1, 3).flatmap(lambda count: st.tuples(st.just(count), flushes(count))))
@settings(max_examples=12)
def test_running_totals_equal_their_recomputation_after_every_flush(
    drawn: tuple[int, list[tuple[int, list[dict[str, Any]]]]],
) -> None:
    count, flushed = drawn
    sources = Sources(watching(*SPANS), count)
    for source, calls in flushed:
        sources.feed(source, calls)
        check(sources)


@given(flushes(2), st.data())
@settings(max_examples=12)
def test_repeated_and_older_chunks_change_nothing(
    flushed: list[tuple[int, list[dict[str, Any]]]], data: st.DataObject
) -> None:
    sources = Sources(watching(10 * SECOND, 10 * MINUTE), 2)
    for source, calls in flushed:
        sources.feed(source, calls)
        again = data.draw(st.lists(st.sampled_from(sources.chunks), max_size=3))
        before = {shard: (each.watermark_ms, each.seals) for shard, each in sources.shards.items()}
        for chunk in again:
            assert sources.shards[chunk.shard].take(chunk) == []
        assert {shard: (each.watermark_ms, each.seals) for shard, each in sources.shards.items()} == before
        check(sources)


def test_panes_before_every_window_are_dropped_and_the_sums_stay_right() -> None:
    sources = Sources(watching(10 * SECOND, MINUTE), 1)
    for second in range(0, 200, 2):
        sources.feed(
            0, [call(NOON + second * 1_000, feature="a", user="ana", status="ok", latency_ms=second + 1)]
        )
    check(sources)
    for _, window in sources.windows():
        (panes,) = window.store.tiers.values()
        assert len(panes) <= 32 + 3


def test_windows_of_several_tiers_share_panes_of_their_width() -> None:
    windows = ViewWindows(watching(MINUTE)[0].view)
    spans = (10 * SECOND, MINUTE, 10 * MINUTE, 20 * MINUTE, 24 * 60 * MINUTE)
    assert [windows.window(span).tier_ms for span in spans] == [
        1_000, 1_000, 10_000, 10_000, 300_000
    ]  # fmt: skip
    assert windows.window(MINUTE) is windows.window(MINUTE)
    assert sorted(windows.tiers) == [1_000, 10_000, 300_000]


def test_a_block_of_nothing_has_no_panes() -> None:
    sources = Sources(watching(MINUTE)[:1])
    sources.feed(0, [call(NOON, feature="a", user="ana", status="ok", latency_ms=1)])
    (block,) = (block for chunk in sources.chunks for block in chunk.blocks)
    watched = sources.rules[0].view
    assert contents(watched, Rows(), block.select(np.zeros(0, np.int64))) == {}
    (content,) = contents(watched, Rows(), block).values()
    assert merge([content]) is content


def test_a_window_before_its_first_tick_holds_nothing() -> None:
    window = ViewWindows(watching(MINUTE)[3].view).window(MINUTE)
    assert window.total(CALLS).tolist() == []
    assert window.exemplars(0, SHOWN, 5) == ()
    window.restore(None)
    assert window.end_ms is None


@given(flushes(1))
@settings(max_examples=12)
def test_totals_counted_anew_from_the_panes_equal_the_running_ones(
    flushed: list[tuple[int, list[dict[str, Any]]]],
) -> None:
    sources = Sources(watching(10 * SECOND, 10 * MINUTE))
    for source, calls in flushed:
        sources.feed(source, calls)
    for _, window in sources.windows():
        window.restore(window.end_ms)
    check(sources)


def test_series_without_calls_can_be_forgotten_without_a_change_to_the_others() -> None:
    sources = Sources(watching(10 * SECOND))
    for number in range(30):
        sources.feed(
            0,
            [
                call(
                    NOON + number * 1_000,
                    feature=f"f{number}",
                    user="ana",
                    status="ok",
                    latency_ms=number + 1,
                )
            ],
        )
    for shard in sources.shards.values():
        for windows in shard._views.values():
            if not windows.rows.series:
                continue
            kept = windows.live_rows()
            assert 0 < len(kept) < len(windows.rows.series)
            new_of = windows.renumber(kept)
            assert windows.rows.series == [(f"f{row}",) for row in kept.tolist()]
            assert (new_of >= 0).sum() == len(kept)
            assert windows.rows.find(("f0",)) is None
            assert windows.rows.find(windows.rows.series[0]) == 0
        shard._sources.clear()
    for each, window in sources.windows():
        expected = naive(sources, window)
        assert {window.series[row]: n for row, n in enumerate(window.total(CALLS).tolist()) if n} == {
            s: len(c) for s, c in expected.items()
        }
        if SLOW in each.view.fields:
            assert np.count_nonzero(window.percentile(SLOW, 95)) == len(expected)
        live = {window.series[row] for row in np.flatnonzero(window.live()).tolist()}
        assert set(expected) <= live


def test_only_series_with_something_in_the_window_or_in_the_one_before_take_part() -> None:
    sources = Sources(watching(10 * SECOND)[2:3])
    sources.feed(0, [call(NOON, feature="a", user="ana", status="ok", latency_ms=1)])
    sources.feed(0, [call(NOON + 5_000, feature="b", user="ana", status="ok", latency_ms=1)])
    ((_, window),) = sources.windows()
    assert window.end_ms == NOON + 2_000
    assert [window.series[row] for row in np.flatnonzero(window.live())] == [("a",)]
    assert window.series == [("a",), ("b",)]
    for end, expected in (
        (6, ["a", "b"]),
        (10, ["a", "b"]),
        (11, ["a", "b"]),
        (12, ["b"]),
        (16, ["b"]),
        (17, []),
    ):
        window.advance(NOON + end * 1_000)
        assert [window.series[row][0] for row in np.flatnonzero(window.live())] == expected


def test_a_tier_that_no_window_used_before_begins_at_the_boundary() -> None:
    windows = ViewWindows(watching(MINUTE)[0].view)
    for span in (MINUTE, 10 * MINUTE):
        windows.window(span)
    sources = Sources(watching(MINUTE)[:1])
    sources.feed(
        0,
        [call(NOON + each * 10_000, feature="a", user="ana", status="ok", latency_ms=1) for each in range(6)],
    )
    for start, pane in sources.windows()[0][1].store.tiers[1_000].items():
        windows.rows.number([("a",)])
        windows.apply(start, pane.content())
    windows.seed(10_000, NOON + 90_000, pane.content())
    windows.begin([10 * MINUTE], used_before=[1_000], from_ms=NOON + 30_000)
    assert list(windows.windows) == [10 * MINUTE]
    assert {width: sorted(at - NOON for at in panes) for width, panes in windows.tiers.items()} == {
        10_000: [30_000, 40_000, 50_000, 90_000]
    }


def test_of_each_pane_of_a_source_the_largest_exemplar_is_shown_once() -> None:
    sources = Sources(watching(10 * SECOND)[2:3])
    sources.feed(0, [call(NOON, feature="a", user="ana", status="ok", latency_ms=5)])
    sources.feed(
        0,
        [
            call(NOON, feature="a", user="ana", status="ok", latency_ms=9),
            call(NOON + 9_000, feature="z", user="", status="ok", latency_ms=1),
        ],
    )
    ((_, window),) = sources.windows()
    shown = window.exemplars(0, SHOWN, 5)
    assert [each.value for each in shown] == [9_000]
    assert best_exemplars([*shown, *shown], 5) == shown

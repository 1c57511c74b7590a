"""The demo's screen: panes merged as they come, and drawn as text."""

import io
from collections.abc import Sequence

import msgspec
import numpy as np
from rich.console import Console

from rules.rule import RuleSet, Severity
from rules.transition import State, Transition
from streams.alerts_seen import AlertsSeen, FiringAlert
from streams.chunk import Chunk
from streams.frontier import Lateness
from streams.incidents import DEMO
from streams.ingest import Ingest, IngestConfig
from streams.live_overview import KEPT_MS, LiveOverview, OverviewRow
from streams.live_table import Playing, screen
from streams.overview import overview_view
from streams.position import Idle
from streams.records import Records, Source
from streams.rule_log import Epoch, RuleLog

START_MS = 1_800_000_000_000
VIEW = overview_view(("feature",))


def call(at_ms: int, feature: str, latency_ms: float = 100.0, *, failed: bool = False) -> bytes:
    event = {
        "model": "gpt-4.1",
        "at": START_MS + at_ms,
        "feature": feature,
        "latency_ms": latency_ms,
        "status": "error" if failed else "ok",
        "cost_usd": 0.01,
    }
    return msgspec.json.encode(event)


class Publisher:
    """Ingest over one partition, with the overview's view alone; its chunks are as they would be published."""

    def __init__(self, partition: int = 0) -> None:
        self.source = Source("llm.calls", partition)
        log = RuleLog([Epoch(0, RuleSet(()), (VIEW,))])
        reported = lambda batch: np.array([10_000_000] * len(batch), np.int64)  # noqa: E731
        self.ingest = Ingest(IngestConfig(Lateness(2_000)), log, lambda: reported)
        self.ingest.assign(self.source, None)
        self.offset = 0

    def flush(self, calls: Sequence[bytes]) -> tuple[Chunk, ...]:
        offsets = np.arange(self.offset, self.offset + len(calls))
        self.offset += len(calls)
        self.ingest.take(Records(self.source, calls, offsets, np.zeros(len(calls), np.int64)))
        return self.ingest.flush(self.source, Idle(caught_up=False, wall_ms=0, sources=1)).chunks


def taken(overview: LiveOverview, *flushes: tuple[Chunk, ...]) -> LiveOverview:
    for chunks in flushes:
        for chunk in chunks:
            overview.take(chunk)
    return overview


def text(
    rows: Sequence[OverviewRow],
    firing: Sequence[FiringAlert] = (),
    playing: Playing | None = None,
    width: int = 100,
) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    shown = playing or Playing(None, 4_200)
    console.print(screen(rows, firing, shown, span_ms=15_000, now_ms=START_MS))
    return stream.getvalue()


def row(feature: str, **changed: float | None) -> OverviewRow:
    values = {
        "calls_per_second": 28.4,
        "p50_ms": 820.0,
        "p95_ms": 5_300.0,
        "p99_ms": 7_700.0,
        "error_rate": 0.003,
        "spend_per_minute": 5.93e9,
    }
    return OverviewRow((feature,), **{**values, **changed})  # type: ignore[arg-type]


def test_nothing_is_shown_before_the_first_pane_is_full() -> None:
    overview = LiveOverview(VIEW)
    assert overview.rows(15_000) == []
    assert taken(overview, Publisher().flush([call(100, "chat")])).rows(15_000) == []


def test_rates_are_over_the_time_that_panes_cover_and_the_newest_pane_is_left_out() -> None:
    calls = [call(at, "chat") for at in (0, 500, 1_000, 1_500)] + [call(2_100, "chat")]
    (found,) = taken(LiveOverview(VIEW), Publisher().flush(calls)).rows(15_000)
    assert found.series == ("chat",)
    assert found.calls_per_second == 2
    assert found.spend_per_minute == 2 * 60 * 10_000_000
    assert found.error_rate == 0


def test_only_the_last_seconds_count() -> None:
    calls = [call(0, "chat", 9_000), call(5_000, "chat", 100), call(6_000, "chat")]
    (found,) = taken(LiveOverview(VIEW), Publisher().flush(calls)).rows(2_000)
    assert found.calls_per_second == 0.5
    assert found.p99_ms is not None
    assert 100 <= found.p99_ms < 101


def test_a_newer_version_of_a_pane_replaces_the_older_one_and_a_repeated_chunk_changes_nothing() -> None:
    publisher = Publisher()
    early = publisher.flush([call(0, "chat"), call(10, "search")])
    late = publisher.flush([call(20, "chat", failed=True), call(1_000, "chat")])
    rows = taken(LiveOverview(VIEW), early, late).rows(15_000)
    assert [(each.series, each.calls_per_second, each.error_rate) for each in rows] == [
        (("chat",), 2, 0.5),
        (("search",), 1, 0),
    ]
    assert taken(LiveOverview(VIEW), early, late, early, late).rows(15_000) == rows


def test_sources_add_up_and_percentiles_are_over_all_of_them() -> None:
    first = Publisher(0).flush([call(0, "chat", 100), call(1_000, "chat")])
    second = Publisher(1).flush([call(0, "chat", 100), call(1, "chat", 800), call(1_000, "chat")])
    (found,) = taken(LiveOverview(VIEW), first, second).rows(15_000)
    assert found.calls_per_second == 3
    assert found.p50_ms is not None
    assert found.p99_ms is not None
    assert 100 <= found.p50_ms < 101
    assert 800 <= found.p99_ms < 807


def test_percentiles_of_a_series_without_a_successful_call_are_undefined() -> None:
    chunks = Publisher().flush([call(0, "chat", failed=True), call(1_000, "chat")])
    (found,) = taken(LiveOverview(VIEW), chunks).rows(15_000)
    assert (found.p50_ms, found.error_rate) == (None, 1)


def test_old_panes_are_forgotten() -> None:
    publisher, overview = Publisher(), LiveOverview(VIEW)
    for second in range(0, 600, 5):
        taken(overview, publisher.flush([call(1_000 * second, "chat")]))
    assert len(overview._cells) <= KEPT_MS // 5_000 + 1


def test_blocks_of_other_views_are_passed_over() -> None:
    overview = LiveOverview(overview_view(("model",)))
    assert taken(overview, Publisher().flush([call(0, "chat"), call(1_000, "chat")])).rows(15_000) == []


def test_screen_shows_every_feature_with_its_numbers_and_the_sums() -> None:
    shown = text([row("chat"), row("search", calls_per_second=1.6, p50_ms=None, error_rate=None)])
    chat, search, every = (
        next(line.split() for line in shown.splitlines() if line.split()[:1] == [name])
        for name in ("chat", "search", "all")
    )
    assert chat == ["chat", "28.4", "820", "ms", "5.3", "s", "7.7", "s", "0.3", "%", "$5.93"]
    assert search == ["search", "1.6", "-", "5.3", "s", "7.7", "s", "-", "$5.93"]
    assert every == ["all", "30.0", "$11.86"]
    assert "normal traffic; the next incident starts in 5 s" in shown
    assert "none firing" in shown


def test_screen_fits_eighty_columns_without_losing_a_column() -> None:
    shown = text([row("code-completion", spend_per_minute=1_234.5e9)], width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(
        part in shown for part in ("code-completion", "calls/s", "P99", "errors", "spend/min", "$1,234.50")
    )


def test_screen_marks_features_whose_alerts_fire_and_names_the_alerts() -> None:
    firing = [
        FiringAlert(
            "LatencyHigh", Severity.WARNING, (("feature", "chat"), ("model", "gpt-4.1")), START_MS - 4_300
        ),
        FiringAlert("ProviderOutage", Severity.CRITICAL, (("provider", "anthropic"),), START_MS - 65_000),
    ]
    incident = DEMO.incidents[1]
    shown = text([row("chat"), row("search")], firing, Playing(incident, 10_000))
    assert "● chat" in shown
    assert "● search" not in shown
    assert "LatencyHigh chat, gpt-4.1 for 4 s" in shown
    assert "ProviderOutage anthropic for 1 m 5 s" in shown
    assert f"latency spike: {incident.cause} (10 s more)" in shown


def test_screen_before_the_first_panes_says_what_it_waits_for() -> None:
    assert "the worker starts" in text([])


def test_screen_shows_names_that_look_like_markup_as_they_are() -> None:
    assert "[red]x[/red]" in text([row("[red]x[/red]")])


def transition(before: State, after: State, series: str = "chat") -> Transition:
    return Transition(
        id="0" * 32,
        at_ms=START_MS,
        group="demo",
        alert="LatencyHigh",
        severity=Severity.WARNING,
        series=(("feature", series),),
        from_state=before,
        to_state=after,
        from_severity=None,
        measure="latency.p95",
        value=1.0,
        unit="milliseconds",
        threshold=1.0,
        direction="above",
        window_start_ms=START_MS - 10_000,
        window_end_ms=START_MS,
        calls=100,
        since_ms=START_MS - 2_000,
        episode_ms=START_MS - 2_000,
        labels=(),
        runbook="latency-high",
        summary="",
        reason="",
    )


def test_alerts_seen_counts_firings_once_and_forgets_what_resolved() -> None:
    seen = AlertsSeen()
    seen.take(transition(State.INACTIVE, State.PENDING), 10)
    seen.take(transition(State.PENDING, State.FIRING), 12.34)
    seen.take(transition(State.FIRING, State.FIRING), 14)
    seen.take(transition(State.INACTIVE, State.FIRING, "search"), 15)
    assert [alert.series for alert in seen.firing] == [(("feature", "chat"),), (("feature", "search"),)]
    seen.take(transition(State.FIRING, State.RESOLVED), 20)
    assert [alert.series for alert in seen.firing] == [(("feature", "search"),)]
    assert seen.summary() == {
        "transitions": 5,
        "fired": 2,
        "resolved": 1,
        "firing": 1,
        "first_firing_seconds": 12.3,
    }

"""What Evaluate remembers of sources and rules, and how it goes into a snapshot and comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rules.evaluator import RuleState, Thresholds
from rules.rule import Rule
from streams import shard_state
from streams.chunk import Late, Seal, wire_late
from streams.content import Content
from streams.records import Source
from streams.windows import TierPane, ViewWindows


@dataclass(slots=True)
class Held:
    """The newest content of one pane of one source, with the version of each row, until its source seals it."""

    content: Content
    versions: NDArray[np.int64]


@dataclass(slots=True)
class SourceState:
    """What one shard knows of one source. `late`: bookings that no tick may see yet."""

    version: int = -1
    seal: Seal | None = None
    late_applied: int = -1
    held: dict[tuple[str, int], Held] = field(default_factory=dict)
    late: list[Late] = field(default_factory=list)


@dataclass(slots=True)
class RuleTicks:
    """One rule's running state: its alerts, its next tick, and its levels for the series known so far.

    `empty_ms`: the tick since which its window has been empty.
    """

    rule: Rule
    state: RuleState = field(default_factory=RuleState)
    next_ms: int | None = None
    empty_ms: int | None = None
    levels: Thresholds | None = None


def view_state(windows: ViewWindows) -> shard_state.ViewState:
    """One view as plain values."""
    return shard_state.ViewState(
        windows.view.hash,
        list(windows.rows.series),
        {
            width: [shard_state.pane_state(at, pane.content()) for at, pane in sorted(panes.items())]
            for width, panes in windows.tiers.items()
        },
        {span: window.end_ms for span, window in windows.windows.items()},
    )


def restore_view(windows: ViewWindows, state: shard_state.ViewState) -> None:
    """Fill a view that is new from plain values; its windows count their totals anew."""
    windows.rows.number(state.series)
    for width, panes in state.tiers.items():
        if width in windows.tiers:
            for pane in panes:
                windows.tiers[width].setdefault(pane.start_ms, TierPane()).add(shard_state.content_of(pane))
    for span, end_ms in state.ends.items():
        if span in windows.windows:
            windows.windows[span].restore(end_ms)


def source_state(source: Source, state: SourceState) -> shard_state.SourceState:
    """One source as plain values."""
    held: dict[str, list[shard_state.PaneState]] = {}
    for (view, start), each in sorted(state.held.items(), key=lambda item: item[0]):
        held.setdefault(view, []).append(shard_state.pane_state(start, each.content, each.versions))
    return shard_state.SourceState(
        source.topic,
        source.partition,
        source.topic_id,
        state.version,
        state.seal,
        state.late_applied,
        held,
        [wire_late(late) for late in state.late],
    )

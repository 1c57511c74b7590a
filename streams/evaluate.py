"""Evaluate, the second stage: pane chunks of one shard in; alert transitions out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from rules.evaluator import RuleState, Thresholds, close, evaluate, thresholds
from rules.rule import PANE_MS, Rule, RuleSet, tier_ms
from rules.transition import Transition
from rules.view import Field, FieldKind, Selection
from streams import shard_state
from streams.chunk import Chunk, Late, Seal, late_of
from streams.content import Content, contents, difference, merge, renumbered, restrict
from streams.evaluate_state import Held, RuleTicks, SourceState, restore_view, source_state, view_state
from streams.frontier import pane_start
from streams.late import above, divided, plain
from streams.late import apply as apply_late
from streams.records import Source
from streams.rule_log import Epoch, RuleLog
from streams.shard_state import ShardState
from streams.times import UNKNOWN
from streams.windows import ViewWindows, Window

SILENT_MS: Final = 30_000
"""A source that reports nothing for this long, by the other sources' clocks, no longer holds them back."""
FORGET_FROM: Final = 2_048
"""Series of a view that a shard remembers before it looks for ones to forget."""
_LAG: Final = Field(FieldKind.PEAK, "lag", Selection.ANY)


class Evaluate:
    """One shard. The same chunks in the same order give the same transitions, to the id."""

    def __init__(self, shard: int, log: RuleLog) -> None:
        self.shard = shard
        self.watermark_ms = UNKNOWN
        self.summary_errors = 0
        self._evaluated_ms = UNKNOWN
        self._log = log
        self._sources: dict[Source, SourceState] = {}
        self._views: dict[str, ViewWindows] = {}
        self._ticks: dict[str, RuleTicks] = {}
        self._epoch = log.epochs[0]
        self._prepare_windows()
        for rule in sorted(self._epoch.rules.rules, key=lambda each: each.name):
            if self._is_mine(rule):
                self._ticks[rule.name] = RuleTicks(rule)

    @property
    def seals(self) -> dict[Source, Seal]:
        """The newest seal of each source."""
        return {source: state.seal for source, state in self._sources.items() if state.seal is not None}

    @property
    def silent(self) -> list[Source]:
        """Sources that report nothing any more and hold nobody back."""
        seals = self.seals
        newest = max((seal.wall_ms for seal in seals.values()), default=0)
        return [source for source, seal in seals.items() if seal.wall_ms < newest - SILENT_MS]

    def active(self) -> Iterator[tuple[Rule, RuleState]]:
        """Every rule with alerts that are not inactive."""
        for ticks in self._ticks.values():
            if ticks.state.alerts:
                yield ticks.rule, ticks.state

    def switch(self, log: RuleLog) -> None:
        """Use a newer rules log. Ticks that have passed stay as they were."""
        self._log = log
        tiers = {key: set(windows.tiers) for key, windows in self._views.items()}
        self._prepare_windows()
        for state in self._sources.values():
            for (view, start), held in state.held.items():
                for width in self._views[view].tiers.keys() - tiers[view]:
                    self._views[view].seed(width, start, held.content)

    def state(self) -> ShardState:
        """Everything that is remembered, as plain values."""
        return ShardState(
            format=shard_state.FORMAT,
            shard=self.shard,
            watermark_ms=self.watermark_ms,
            epoch_ms=self._epoch.from_ms,
            sources=[source_state(source, state) for source, state in sorted(self._sources.items())],
            views=[view_state(windows) for _, windows in sorted(self._views.items()) if windows.rows.series],
            rules=[
                shard_state.RuleState(
                    name,
                    RuleSet((ticks.rule,)).hash,
                    ticks.next_ms,
                    ticks.empty_ms,
                    [shard_state.alert_state(*item) for item in sorted(ticks.state.alerts.items())],
                )
                for name, ticks in sorted(self._ticks.items())
            ],
        )

    @classmethod
    def restored(cls, state: ShardState, log: RuleLog) -> Evaluate:
        """A shard that goes on where another stood. Views and rules that the log no longer has are left out."""
        shard = cls(state.shard, log)
        shard.watermark_ms = shard._evaluated_ms = state.watermark_ms
        shard._epoch = log.epoch_at(state.epoch_ms)
        shard._ticks = {
            rule.name: RuleTicks(rule) for rule in shard._epoch.rules.rules if shard._is_mine(rule)
        }
        for view in state.views:
            if view.view in shard._views:
                restore_view(shard._views[view.view], view)
        for source in state.sources:
            shard._sources[Source(source.topic, source.partition, source.topic_id)] = SourceState(
                source.version,
                source.seal,
                source.late_applied,
                {
                    (view, pane.start_ms): Held(shard_state.content_of(pane), shard_state.versions_of(pane))
                    for view, panes in source.held.items()
                    if view in shard._views
                    for pane in panes
                },
                [late for late in map(late_of, source.late) if late.view in shard._views],
            )
        for rule in state.rules:
            ticks = shard._ticks.get(rule.name)
            if ticks is not None and RuleSet((ticks.rule,)).hash == rule.meaning:
                ticks.next_ms, ticks.empty_ms = rule.next_ms, rule.empty_ms
                ticks.state.alerts.update(shard_state.alerts_of(rule.alerts))
        return shard

    def take(self, chunk: Chunk) -> list[Transition]:
        """Take one chunk in; the transitions of every tick that became due."""
        state = self._sources.setdefault(chunk.source, SourceState())
        sealed = state.seal.frontier_ms if state.seal is not None else UNKNOWN
        for block in chunk.blocks:
            windows = self._views.get(block.view)
            if windows is None:
                continue
            for start, content in contents(windows.view, windows.rows, block).items():
                if start + PANE_MS > sealed:
                    self._replace(state, windows, start, chunk.version, content)
        for late in chunk.late:
            fresh = above(late, state.late_applied) if late.view in self._views else None
            if fresh is not None:
                state.late.append(fresh)
        state.late_applied = max([state.late_applied, *(int(late.offset.max()) for late in chunk.late)])
        if chunk.seal is None or chunk.version < state.version:
            return []  # an older flush of a worker that has lost the source meanwhile says nothing new
        state.version = chunk.version
        self._seal(state, chunk.seal)
        transitions = self._tick()
        self._forget_series()
        return transitions

    def _prepare_windows(self) -> None:
        """Views of every epoch, with all the windows that their rules need."""
        for view in self._log.all_views():
            self._views.setdefault(view.hash, ViewWindows(view))
        for epoch in self._log.epochs:
            for rule in epoch.rules.rules:
                self._views[rule.view.hash].window(rule.window_ms)

    def _replace(
        self, state: SourceState, windows: ViewWindows, start: int, version: int, content: Content
    ) -> None:
        """Put newer versions of cells in the place of those before; older ones change nothing.

        An equal one says the same, unless its source was read again because of prices that it had not heard of in time.
        """
        key = (windows.view.hash, start)
        held = state.held.get(key)
        if held is None:
            state.held[key] = Held(content, np.full(len(content.rows), version, np.int64))
            windows.apply(start, content)
            return
        at = np.minimum(np.searchsorted(held.content.rows, content.rows), len(held.content.rows) - 1)
        known = held.content.rows[at] == content.rows
        stale = known & (held.versions[at] > version)
        if stale.all():
            return
        if stale.any():
            content = restrict(content, content.rows[~stale])
        replaced = content.rows[known[~stale]]
        if len(replaced):
            windows.apply(start, difference(content, restrict(held.content, replaced)))
        else:
            windows.apply(start, content)
        kept = restrict(held.content, np.setdiff1d(held.content.rows, replaced, assume_unique=True))
        versions = dict(zip(held.content.rows.tolist(), held.versions.tolist(), strict=True))
        versions |= dict.fromkeys(content.rows.tolist(), version)
        together = merge([kept, content])
        state.held[key] = Held(
            together, np.array([versions[row] for row in together.rows.tolist()], np.int64)
        )

    def _next_late(self) -> int | None:
        """How far a source was sealed when the first of the waiting late calls came, if that is below the watermark."""
        waiting = [
            int(late.seen_ms.min()) for state in self._sources.values() for late in state.late if len(late)
        ]
        first = min(waiting, default=None)
        return None if first is None or first >= self.watermark_ms else first

    def _apply_late(self, seen_ms: int) -> list[Transition]:
        """Add the spend of late calls that ticks after `seen_ms` see to its panes.

        Which ticks those are follows from the calls alone, not from when they were published.
        """
        due: list[Late] = []
        for state in self._sources.values():
            parts = [divided(late, seen_ms) for late in state.late]
            due += [part for part, _ in parts if part is not None]
            state.late = [later for _, later in parts if later is not None]
        transitions: list[Transition] = []
        concerned = {late.view for late in due}
        for ticks in self._ticks.values():
            step = ticks.rule.tick_ms
            if ticks.rule.view.hash in concerned:
                if ticks.next_ms is not None and ticks.next_ms <= seen_ms:
                    # Ticks were left out while the window was empty: none of those may see it.
                    transitions += self._evaluate(ticks, seen_ms // step * step)
                elif ticks.next_ms is None:
                    ticks.next_ms = (seen_ms // step + 1) * step
        for late in due:
            apply_late(late, self._views[late.view])
        return transitions

    def _seal(self, state: SourceState, seal: Seal) -> None:
        """Take a source's seal: forget versions that can no longer change, book its lag, move the watermark."""
        if state.seal is not None:
            # What a worker publishes that was stopped for a while says nothing of now: its source is not silent.
            wall_ms = max(seal.wall_ms, state.seal.wall_ms)
            seal = replace(
                seal, wall_ms=wall_ms, watermark_ms=max(seal.watermark_ms, state.seal.watermark_ms)
            )
        state.seal = seal
        for key in [key for key in state.held if key[1] + PANE_MS <= seal.frontier_ms]:
            del state.held[key]
        if seal.lag_ms and seal.watermark_ms != UNKNOWN:
            start = int(pane_start(np.array([seal.watermark_ms], np.int64))[0])
            for windows in self._views.values():
                if _LAG in windows.view.fields:
                    row = windows.rows.number([()])
                    windows.apply(start, plain(windows.view, row, {_LAG: np.array([seal.lag_ms], np.int64)}))
        self.watermark_ms = max(self.watermark_ms, self._combined())

    def _combined(self) -> int:
        """The least reported watermark, once every source has reported; silent sources do not count."""
        seals, silent = self.seals, set(self.silent)
        heard = [seal for source, seal in seals.items() if source not in silent]
        if len(seals) < max((seal.sources for seal in heard), default=1):
            return UNKNOWN
        return min(seal.watermark_ms for seal in heard)

    def _tick(self) -> list[Transition]:
        """Evaluate every rule at every tick up to the watermark, in order of time."""
        transitions: list[Transition] = []
        if self.watermark_ms == UNKNOWN:
            return transitions
        while True:
            nexts = [
                (tick, ticks) for ticks in self._ticks.values() if (tick := self._next(ticks)) is not None
            ]
            first = min((tick for tick, _ in nexts), default=None)
            following = self._following_epoch()
            late = self._next_late()
            begins = None if following is None else following.from_ms
            if late is not None and all(late < each for each in (first, begins) if each is not None):
                transitions += self._apply_late(late)
            elif following is not None and (first is None or first > following.from_ms):
                if following.from_ms > self.watermark_ms:
                    break
                transitions += self._enter(following)
            elif first is None or first > self.watermark_ms:
                break
            else:
                for tick, ticks in nexts:
                    if tick == first:
                        transitions += self._evaluate(ticks, tick)
        for windows in self._views.values():
            windows.prune()
        self._evaluated_ms = max(self._evaluated_ms, self.watermark_ms)
        return transitions

    def _following_epoch(self) -> Epoch | None:
        """The epoch after the one in force."""
        later = [epoch for epoch in self._log.epochs if epoch.from_ms > self._epoch.from_ms]
        return later[0] if later else None

    def _enter(self, epoch: Epoch) -> list[Transition]:
        """Put an epoch in force at its boundary. A rule that means the same keeps its alerts; others' alerts end."""
        for key, windows in self._views.items():
            windows.prune()
            used_before = {
                tier_ms(rule.window_ms) for rule in self._epoch.rules.rules if rule.view.hash == key
            }
            later = [each for each in self._log.epochs if each.from_ms > epoch.from_ms]
            spans = {r.window_ms for each in (epoch, *later) for r in each.rules.rules if r.view.hash == key}
            windows.begin(spans, used_before, epoch.from_ms)
        before, self._epoch = self._ticks, epoch
        self._ticks = {}
        transitions: list[Transition] = []
        for rule in sorted(epoch.rules.rules, key=lambda each: each.name):
            if not self._is_mine(rule):
                continue
            old = before.pop(rule.name, None)
            if old is not None and old.rule == rule:
                self._ticks[rule.name] = old
                continue
            if old is not None:
                transitions += close(old.rule, old.state, epoch.from_ms, "rule changed")
            # Where the rules came after their time, ticks that have passed stay as they were.
            first = (max(epoch.from_ms, self._evaluated_ms) // rule.tick_ms + 1) * rule.tick_ms
            self._ticks[rule.name] = RuleTicks(rule, next_ms=first)
        for old in before.values():
            transitions += close(old.rule, old.state, epoch.from_ms, "rule removed")
        return transitions

    def _forget_series(self) -> None:
        """Bound memory: once more than half of a view's rows are of series without calls, number the others anew."""
        for windows in self._views.values():
            known = len(windows.rows.series)
            if known < FORGET_FROM:
                continue
            held = [
                each.content.rows
                for source in self._sources.values()
                for (view, _), each in source.held.items()
                if view == windows.view.hash
            ]
            live = np.unique(np.concatenate([windows.live_rows(), *held]))
            if 2 * len(live) > known:
                continue
            new_of = windows.renumber(live)
            for source in self._sources.values():
                for (view, _), each in source.held.items():
                    if view == windows.view.hash:
                        each.content = renumbered(each.content, new_of)
            for ticks in self._ticks.values():
                if ticks.rule.view.hash == windows.view.hash:
                    ticks.levels = None

    def _is_mine(self, rule: Rule) -> bool:
        """Whether any series of the rule can lie on this shard."""
        return bool(rule.view.parent) or rule.view.shard(("",) * len(rule.by)) == self.shard

    def _next(self, ticks: RuleTicks) -> int | None:
        """The rule's next tick. Time in which nothing can change is skipped: its window is empty and stays so."""
        rule, step = ticks.rule, ticks.rule.tick_ms
        window = self._views[rule.view.hash].window(rule.window_ms)
        if ticks.next_ms is not None and (window.held or self._unsettled(ticks)):
            return ticks.next_ms
        earliest = window.earliest(UNKNOWN if ticks.next_ms is None else ticks.next_ms - rule.window_ms)
        if earliest is None:
            return None
        if ticks.next_ms is None:
            return (earliest // step + 1) * step
        # One tick before the first that sees the pane: a condition that held in silence is then known to have held.
        return max(earliest // step * step, ticks.next_ms, window.end_ms or 0)

    def _unsettled(self, ticks: RuleTicks) -> bool:
        """Whether an empty window can still change alerts: until their timers, or a pending one's patience, ran out."""
        rule = ticks.rule
        if not ticks.state.alerts:
            return False
        if ticks.empty_ms is None or ticks.next_ms is None:
            return True
        longest = max(rule.for_ms, rule.keep_firing_for_ms, rule.window_ms)
        return ticks.next_ms <= ticks.empty_ms + longest + rule.tick_ms

    def _evaluate(self, ticks: RuleTicks, tick_ms: int) -> tuple[Transition, ...]:
        rule = ticks.rule
        window = self._views[rule.view.hash].window(rule.window_ms)
        if window.end_ms is None or tick_ms > window.end_ms:
            window.advance(tick_ms)
        if ticks.levels is None or len(ticks.levels.warning) < len(window.series):
            ticks.levels = thresholds(rule, window)
        levels = self._of_live(ticks.levels, window, ticks.state)
        evaluation = evaluate(rule, ticks.state, window, tick_ms, levels)
        self.summary_errors += evaluation.summary_errors
        ticks.next_ms = tick_ms + rule.tick_ms
        if window.held:
            ticks.empty_ms = None
        elif ticks.empty_ms is None:
            ticks.empty_ms = tick_ms
        return evaluation.transitions

    @staticmethod
    def _of_live(levels: Thresholds, window: Window, state: RuleState) -> Thresholds:
        """The levels of the series that take part in a tick: live ones, and those with an alert."""
        live = window.live()
        rows = [row for series in state.alerts if (row := window.store.rows.find(series)) is not None]
        live[rows] = True
        return Thresholds(
            np.where(live, levels.warning[: len(live)], np.nan),
            np.where(live, levels.critical[: len(live)], np.nan),
        )

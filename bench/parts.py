"""What the other parts do: replay from a file, evaluation of many series, percentiles, pane records, snapshots."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from workload import batches, calls, config, pricing, rule_log, rule_set

from rules.evaluator import RuleState, evaluate, thresholds
from rules.rule import PANE_MS, Rule, RuleSet
from streams import chunk, histogram, shard_state
from streams.block import Block, Sparse
from streams.call_files import CallFile
from streams.content import contents
from streams.evaluate import Evaluate
from streams.histogram import BUCKETS
from streams.ingest import Ingest
from streams.position import Idle
from streams.records import Source
from streams.replaying import Replay
from streams.rule_log import Epoch, RuleLog
from streams.snapshot import Snapshots
from streams.windows import ViewWindows

START_MS = 1_760_000_000_000


def replay_per_second(count: int = 60_000) -> float:
    """Calls per CPU second of `streams.replaying`, from JSON lines to transitions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calls.jsonl"
        path.write_bytes(b"\n".join(calls(count, START_MS)))
        file = CallFile(str(path))
        before = time.process_time()
        replay: Replay | None = None
        for records in file.batches():
            if replay is None:
                replay = Replay(config(), RuleLog([Epoch(0, rule_set())]), pricing(), records.source)
            replay.feed(records)
        if replay is None or replay.counts.accepted != count:
            raise RuntimeError("the replay did not take every call")
        replay.finish()
        return count / (time.process_time() - before)


def evaluated_series_per_second(series: int = 10_000, ticks: int = 30) -> float:
    """Series times ticks per CPU second: the window moves on, and one P95 rule is evaluated, in a window of 5 min."""
    rule: Rule = next(each for each in rule_set().rules if each.alert == "Slow")
    store = ViewWindows(rule.view)
    window = store.window(rule.window_ms)
    random = np.random.default_rng(3)
    first = START_MS // 300_000 * 300_000
    spread = rule.window_ms + ticks * rule.tick_ms
    for start in range(first, first + spread, rule.tick_ms):
        for at, content in contents(rule.view, store.rows, _block(rule, series, start, random)).items():
            store.apply(at, content)
    window.advance(first + rule.window_ms)
    levels, state = thresholds(rule, window), RuleState()
    before = time.process_time()
    for tick in range(1, ticks + 1):
        at = first + rule.window_ms + tick * rule.tick_ms
        window.advance(at)
        evaluate(rule, state, window, at, levels)
    return series * ticks / (time.process_time() - before)


def _block(rule: Rule, series: int, start_ms: int, random: np.random.Generator) -> Block:
    """One call of each series in one pane."""
    entries = np.arange(series, dtype=np.int64)
    ones = np.ones(series, np.int64)
    buckets = histogram.bucket_index(np.rint(random.lognormal(14, 0.8, series)).astype(np.int64))
    fields = {each.name: each.kind for each in rule.view.fields}
    return Block(
        view=rule.view.hash,
        series=tuple((f"series-{number}",) for number in range(series)),
        row=entries,
        start_ms=np.full(series, start_ms, np.int64),
        columns={name: ones for name, kind in fields.items() if kind == "count"},
        sparse={name: Sparse(entries, buckets, ones) for name, kind in fields.items() if kind == "histogram"},
    )


def percentiles_seconds(series: int = 100_000, calls_each: int = 50) -> float:
    """CPU seconds for P50, P95 and P99 of every series of a window."""
    random = np.random.default_rng(4)
    values = np.rint(random.lognormal(14, 0.8, series * calls_each)).astype(np.int64)
    rows = np.repeat(np.arange(series), calls_each)
    keys, counts = histogram.count_keys(rows * BUCKETS + histogram.bucket_index(values))
    before = time.process_time()
    for rank in (50, 95, 99):
        histogram.percentiles(series, keys, counts, rank)
    return time.process_time() - before


@dataclass(frozen=True, slots=True)
class SnapshotCost:
    """Bytes in Kafka, and CPU seconds to take a snapshot and to restore it."""

    size: int
    take_seconds: float
    restore_seconds: float


def snapshot(series: int = 100_000, calls_each: int = 10) -> SnapshotCost:
    """A shard with one P95 rule over a window of 5 min, full, in which each series has some calls at random times."""
    rule: Rule = next(each for each in rule_set().rules if each.alert == "Slow")
    log = RuleLog([Epoch(0, RuleSet((rule,)))])
    random = np.random.default_rng(5)
    evaluate_shard, source = Evaluate(rule.view.shard(()), log), Source("bench", 0, "id")
    first = START_MS // 300_000 * 300_000
    spread = rule.window_ms // PANE_MS
    names = [(f"series-{number}",) for number in range(series)]
    for second in range(spread):
        chosen = random.choice(series, series * calls_each // spread, replace=False)
        block = _block(rule, len(chosen), first + second * PANE_MS, random)
        block = replace(block, series=tuple(names[number] for number in chosen.tolist()))
        seal_ms = first + (second + 1) * PANE_MS
        seal = chunk.Seal(seal_ms, seal_ms, seal_ms, 1, caught_up=False, lag_ms=0)
        evaluate_shard.take(chunk.Chunk(source, rule.view.shard(()), second + 1, (block,), seal=seal))
    snapshots = Snapshots(rule.view.shard(()), {}, "bench")
    before = time.process_time()
    chunks, manifest, _ = snapshots.take(shard_state.encode(evaluate_shard.state()), 1, START_MS)
    taken = time.process_time() - before
    records = {each.key: each.value or b"" for each in (*chunks, *manifest)}
    before = time.process_time()
    found = Snapshots(rule.view.shard(()), records, "bench").newest()
    if found is None:
        raise RuntimeError("the snapshot cannot be read")
    Evaluate.restored(found.state, log)
    restored = time.process_time() - before
    return SnapshotCost(sum(map(len, records.values())), taken, restored)


def record_bytes_per_call(count: int = 60_000) -> float:
    """Bytes of pane records per call before compression, flushed every 5,000 calls of each source."""
    ingest = Ingest(config(), rule_log(), pricing())
    written = 0
    for records in batches(count, 5_000, START_MS):
        if records.source not in ingest.sources:
            ingest.assign(records.source, None)
        ingest.take(records)
        flush = ingest.flush(records.source, Idle(caught_up=False, wall_ms=START_MS, sources=6))
        written += sum(len(chunk.encode(each)) for each in flush.chunks)
    return written / count

"""Faults of windows, watermarks and recovery that other systems shipped, each shown not to be there.

Docstrings name the product and what it did. `docs/public-faults.md` lists them with faults of alerting systems.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata
from builders import MINUTE, SECOND, at, call, cells, no_prices, raw, records, rule, rule_log, view
from cluster import CALLS, PANES, SNAPSHOTS, TOPIC_ID, Cluster, Worker

from rules.loader import RuleFile, nearest_exact_windows, parse_rule_files
from rules.problem import InvalidFilesError
from rules.transition import Transition
from streams.fetching import Columns
from streams.ingest import IngestConfig
from streams.loop import Clock, Committed, Loop, Outgoing, Start
from streams.position import Position
from streams.records import LossError, Source
from streams.settings import Settings
from streams.stages import IngestStage, write_position
from streams.times import UNKNOWN
from streams.topics import _check, planned_topics

NOON = at("12:00:00")
WINDOW = 10 * SECOND
COUNTED = "count:one:any"
BUSY = rule("Busy", "calls", above=30, window=WINDOW)
WATCHED = view("calls", "latency.p95", "latency.max", "spend", "users")


def traffic(seconds: int, partitions: int = 1, first: int = NOON) -> list[list[dict[str, Any]]]:
    """By partition, calls of two features that are in turn busy and quiet, in a little disorder, some of them twice."""
    rng = random.Random(seconds)
    found: list[list[dict[str, Any]]] = [[] for _ in range(partitions)]
    for second in range(seconds):
        busy = second % 40 >= 20
        for number in range(12 if busy else 2):
            event = call(
                first + second * SECOND + number * 80 - rng.randint(0, 900),
                id=f"id-{second}-{number}",
                feature=rng.choice(["chat", "search"]) if busy else "chat",
                user=f"user-{rng.randint(1, 40)}",
                latency_ms=rng.randint(10, 9_000),
                cost_usd=rng.randint(0, 3),
            )
            found[rng.randrange(partitions)] += [event] * (2 if rng.random() < 0.1 else 1)
    return found


def run(cluster: Cluster, calls: list[list[dict[str, Any]]]) -> Cluster:
    """One worker that nothing happens to, for comparison."""
    for partition, those in enumerate(calls):
        cluster.publish(those, partition)
    worker = cluster.worker().take_over()
    worker.turn(NOON)
    worker.turn(NOON + 10 * MINUTE, caught_up=True)
    return cluster


def counted(calls: list[list[dict[str, Any]]]) -> Counter[tuple[str, int]]:
    """How many calls each feature has in each second, by the calls alone: each id once in a partition."""
    found: Counter[tuple[str, int]] = Counter()
    for those in calls:
        for event in {each["id"]: each for each in those}.values():
            found[event["feature"], event["at"] // SECOND * SECOND] += 1
    return found


def in_panes(cluster: Cluster) -> Counter[tuple[str, int]]:
    """The same by the newest versions of all panes."""
    found: Counter[tuple[str, int]] = Counter()
    for number in range(cluster.partitions):
        chunks = [each for each in cluster.chunks if each.source.partition == number]
        for (of, series, start), content in cells(chunks).items():
            if of == BUSY.view.hash:
                found[series[0], start] += content[COUNTED]
    return found


def plain(found: list[Transition]) -> list[tuple[Any, ...]]:
    """Transitions by id and all that was measured; which calls are shown with them is left out."""
    return [(each.id, each.series, each.at_ms, str(each.to_state), each.value, each.calls) for each in found]


def agree(cluster: Cluster, calls: list[list[dict[str, Any]]]) -> None:
    """Panes are those of the calls, and transitions those of a worker that nothing happened to."""
    assert in_panes(cluster) == counted(calls)
    undisturbed = run(Cluster(cluster.rules, cluster.partitions), calls)
    assert len(undisturbed.transitions) >= 4
    assert plain(cluster.transitions) == plain(undisturbed.transitions)


# --- moving partitions


@pytest.mark.parametrize("committed", [True, False])
def test_s1_a_partition_that_is_revoked_in_the_middle_of_a_window_keeps_every_call_of_it(
    committed: bool,
) -> None:
    """sql-flow: a window's state stayed on the worker that lost the partition, and a tenth of the calls with it."""
    calls = traffic(100)
    cluster = Cluster.of(BUSY)
    cluster.publish(calls[0])
    first, second = cluster.worker(), cluster.worker()
    first.take_over()
    # In the middle of a window, and of a pane.
    first.turn(NOON, most=317)
    first.now_ms = NOON + SECOND
    first.read(CALLS, 5)
    first.do(first.flushed(CALLS), commit=committed)
    first.read(PANES)
    first.give_up()
    second.take_over()
    second.turn(NOON + 2 * SECOND, most=200)
    second.turn(NOON + 3 * SECOND)
    second.turn(NOON + 10 * MINUTE, caught_up=True)
    agree(cluster, calls)


def test_s2_a_worker_that_was_given_up_for_dead_and_comes_back_changes_nothing() -> None:
    """sql-flow: when a dead worker's partition came back to an old one, its old state was published over the new."""
    calls = traffic(100)
    cluster = Cluster.of(BUSY)
    cluster.publish(calls[0])
    old, new = cluster.worker().take_over(), cluster.worker()
    old.turn(NOON, most=300)
    old.read(CALLS, 100)
    # Stopped here: what it was about to publish is still in its hands, and so are the panes that it had read.
    chunks, commit = old.flushed(CALLS), dict(cluster.committed)
    snapshot = old.flushed(PANES)
    new.take_over()
    new.turn(NOON + MINUTE, most=250)
    for _ in range(2):  # a retry too; the broker refuses the commit of a generation that is over
        old.do(replace(chunks, commit={}))
    old.read(PANES)
    old.do(replace(snapshot, commit={}))
    new.turn(NOON + 2 * MINUTE, most=200)
    assert cluster.committed != commit
    new.give_up()
    old.give_up()
    old.take_over()
    old.turn(NOON + 3 * MINUTE)
    old.turn(NOON + 10 * MINUTE, caught_up=True)
    agree(cluster, calls)


def test_s3_rebalances_that_come_while_state_is_still_being_rebuilt_change_nothing() -> None:
    """Quix Streams: of four workers that joined two seconds apart, one went on with state that was half recovered."""
    calls = traffic(120, partitions=4)
    cluster = Cluster.of(BUSY, partitions=4)
    for partition, those in enumerate(calls):
        cluster.publish(those, partition)
    everything = cluster.worker().all_places
    workers: list[Worker] = []
    for number in range(4):
        for worker in workers:
            worker.give_up()
        workers.append(cluster.worker())
        for index, place in enumerate(everything):
            workers[index % len(workers)].take_over(place)
        # Each has time to read some of what it has to rebuild from, publishes and commits that, and loses it again.
        for worker in workers:
            worker.turn(NOON + number * 2 * SECOND, most=11)
    for turns in range(1, 40):
        for worker in workers:
            worker.turn(NOON + turns * 10 * SECOND, most=23)
    for turns in (0, 1):
        for worker in workers:
            worker.turn(NOON + (10 + turns) * MINUTE, caught_up=True)
    agree(cluster, calls)


def test_b23_what_a_window_measures_stays_the_same_when_its_partition_and_its_shard_move() -> None:
    """Faust: a windowed table answered with other values once its partition had moved to another worker."""
    measures = {"calls": 4, "latency.p95": 900, "latency.max": 5_000, "spend": 10**9, "users": 3}
    watching = [rule(name, name, above=above, window=WINDOW) for name, above in measures.items()]
    calls = traffic(60)
    steady, moving = Cluster.of(*watching), Cluster.of(*watching)
    run(steady, calls)
    moving.publish(calls[0])
    worker = moving.worker().take_over()
    for turn in range(1, 25):
        worker.turn(NOON + turn * SECOND, most=20)
        if turn % 3 == 0:
            worker.give_up()
            worker = moving.worker().take_over()
    worker.turn(NOON + 10 * MINUTE, caught_up=True)
    assert {each.alert for each in moving.transitions} == set(measures)
    assert plain(moving.transitions) == plain(steady.transitions)


# --- what the log no longer has


def ingest_stage(*, accept_loss: bool = False) -> IngestStage:
    return IngestStage(Settings(), IngestConfig(), rule_log(BUSY), no_prices, accept_loss=accept_loss)


SOURCE = Source(CALLS, 0, TOPIC_ID)
AT_20 = Position(10, 20, NOON, 0, (), NOON - 10_000)


def test_s4_calls_that_were_deleted_before_they_were_counted_are_refused_with_what_is_lost() -> None:
    """Quix Streams: a stored offset below the log's start was moved to the start, and nobody heard of what was lost."""
    start = Start(Committed(10, write_position(AT_20, TOPIC_ID)), log_start=31)
    with pytest.raises(LossError, match=r"llm\.calls/0: the calls at offsets 20 to 30 .* --accept-loss"):
        ingest_stage().assign(SOURCE, start)
    assert ingest_stage(accept_loss=True).assign(SOURCE, start) == 31


def test_s4_calls_that_were_counted_before_they_were_deleted_are_no_loss() -> None:
    """Quix Streams, the other side of it: what is published already need not be read again."""
    for log_start, expected in ((5, 10), (10, 10), (11, 20), (20, 20)):
        start = Start(Committed(10, write_position(AT_20, TOPIC_ID)), log_start)
        assert ingest_stage().assign(SOURCE, start) == expected


def test_s4_a_committed_offset_without_its_text_is_refused_too_where_the_log_starts_behind_it() -> None:
    """Quix Streams: the same, where offsets were set by a tool and nothing says what was counted."""
    assert ingest_stage().assign(SOURCE, Start(Committed(10), log_start=10)) == 10
    with pytest.raises(LossError, match=r"offsets 10 to 30 .* --accept-loss"):
        ingest_stage().assign(SOURCE, Start(Committed(10), log_start=31))
    assert ingest_stage(accept_loss=True).assign(SOURCE, Start(Committed(10), log_start=31)) == 31


def test_s4_a_topic_that_was_created_again_is_refused() -> None:
    """Quix Streams: the same, where the offset belongs to a topic that is gone."""
    start = Start(Committed(10, write_position(AT_20, "another-id")), log_start=0)
    with pytest.raises(LossError, match=r"deleted and created again since the last run .* --accept-loss"):
        ingest_stage().assign(SOURCE, start)
    assert ingest_stage(accept_loss=True).assign(SOURCE, start) is None


def test_s4_a_snapshot_whose_panes_are_gone_is_not_gone_on_from_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Quix Streams: the same for evaluate, whose stored offset stands in its snapshot."""
    cluster = run(Cluster.of(BUSY), traffic(60))
    (shard,) = cluster.shards
    late = cluster.worker()
    late.take_over((PANES, shard), log_start=1_000)
    assert "the panes between the snapshot at offset" in caplog.text
    assert "are gone" in caplog.text
    assert late.evaluate.shards[shard].watermark_ms == UNKNOWN


# --- closing windows


def test_s5_a_window_whose_end_was_pending_at_a_crash_still_closes_although_no_call_comes_any_more() -> None:
    """Bytewax: a window that was due to close when the process died closed only with the next item of its key."""
    cluster = Cluster.of(rule("Two", "calls", above=1, window=WINDOW))
    cluster.publish([call(NOON, feature="chat"), call(NOON + 100, feature="chat")])
    first = cluster.worker().take_over()
    first.turn(NOON + SECOND)
    assert cluster.transitions == []
    # Nothing is left to read, neither for ingest nor for evaluate.
    second = cluster.worker().take_over()
    second.turn(NOON + 5 * SECOND, caught_up=True)
    second.turn(NOON + 20 * SECOND, caught_up=True)
    assert [(each.to_state, each.at_ms - NOON) for each in cluster.transitions] == [
        ("firing", SECOND),
        ("resolved", 11 * SECOND),
    ]
    assert cluster.told == [("Two", "first"), ("Two", "resolved")]


def test_b24_one_call_and_then_silence_is_evaluated() -> None:
    """Faust, Quix Streams: windows closed only when the next event came, so the last one before a silence never did."""
    cluster = Cluster.of(rule("Slow", "latency.max", above=1_000, window=WINDOW))
    cluster.publish([call(NOON, feature="chat", latency_ms=60_000)])
    worker = cluster.worker().take_over()
    for second in range(8):
        worker.turn(NOON + second * SECOND, caught_up=True)
    (fired,) = cluster.transitions
    assert (fired.to_state, fired.at_ms, fired.value, fired.calls) == ("firing", NOON + SECOND, 60_000, 1)
    assert cluster.told == [("Slow", "first")]


RULE_OF_A_WINDOW = """\
version: 1
groups:
  - name: tests
    rules:
      - {{alert: A, measure: calls, window: {seconds}s, above: 1, runbook: r}}
"""


@pytest.mark.parametrize("seconds", [10, 59, 61, 90, 119, 121, 600, 605, 611, 3_600, 3_601, 17_999])
def test_s6_a_window_is_refused_or_holds_exactly_its_calls_at_every_tick(seconds: int) -> None:
    """Bytewax: sliding windows whose length was no multiple of their offset lost items."""
    file = RuleFile("alerts.yaml", RULE_OF_A_WINDOW.format(seconds=seconds))
    if seconds * SECOND not in nearest_exact_windows(seconds * SECOND):
        with pytest.raises(InvalidFilesError, match="cannot be computed exactly: the nearest that can are"):
            parse_rule_files([file], None)
        return
    (loaded,) = parse_rule_files([file], None).rules
    rng = random.Random(seconds)
    # Beyond 0 calls it breaches, so each pair of transitions is a stretch of ticks that see at least one call.
    each = replace(
        loaded,
        where=(),
        threshold=replace(loaded.threshold, default=replace(loaded.threshold.default, warning=0)),
    )
    times = sorted(NOON + rng.randrange(20 * seconds * SECOND) for _ in range(12))
    cluster = Cluster.of(each)
    cluster.publish([call(time) for time in times])
    worker = cluster.worker().take_over()
    worker.turn(NOON)
    worker.turn(NOON + 25 * seconds * SECOND, caught_up=True)
    first = times[0] // each.tick_ms * each.tick_ms
    sees = {
        tick: any(tick - each.window_ms <= time // SECOND * SECOND < tick for time in times)
        for tick in range(first, NOON + 24 * seconds * SECOND, each.tick_ms)
    }
    expected = [now for before, now in pairwise(sees) if sees[before] != sees[now]]
    assert [found.at_ms for found in cluster.transitions] == expected


# --- late calls


def test_s7_a_late_call_gets_the_same_verdict_before_and_after_a_restart() -> None:
    """Kafka Streams (KAFKA-7994): stream time was forgotten at a restart, so a late record was taken for a good one."""
    late = call(NOON, feature="chat", id="late", cost_usd=7)
    spend = rule("Spend", "spend", above=10**12, window=MINUTE)
    found = []
    for restarts in (False, True):
        cluster = Cluster.of(BUSY, spend)
        cluster.publish([call(NOON + second * SECOND, feature="chat") for second in range(10)])
        worker = cluster.worker().take_over()
        worker.turn(NOON + 10 * SECOND)
        if restarts:
            worker = cluster.worker().take_over()
        cluster.publish([late])
        worker.turn(NOON + 11 * SECOND)
        assert (worker.ingest.ingest.counts.late, worker.ingest.ingest.counts.accepted) == (
            1,
            0 if restarts else 10,
        )
        if restarts:
            # Once more: its booking is repeated, and applied by its offset once.
            worker = cluster.worker().take_over()
            worker.turn(NOON + 12 * SECOND)
        booked = {(int(each.offset[0]), int(each.spend[0])) for c in cluster.chunks for each in c.late}
        assert booked == {(10, 7 * 10**9)}
        found.append((in_panes(cluster), {each.seal.frontier_ms for each in cluster.chunks if each.seal}))
    assert found[0] == found[1]


def test_b25_a_call_older_than_the_last_sealed_pane_is_counted_as_late_and_raises_a_measure() -> None:
    """Faust: an event behind the oldest window was dropped, and nothing counted it."""
    cluster = Cluster.of(BUSY, rule("Late", "late", above=0, window=WINDOW))
    cluster.publish([call(NOON + second * SECOND, feature="chat", id=f"i{second}") for second in range(20)])
    cluster.publish([call(NOON, feature="chat", id="old")])
    worker = cluster.worker().take_over()
    worker.turn(NOON + 20 * SECOND)
    worker.turn(NOON + 40 * SECOND, caught_up=True)
    assert in_panes(cluster)["chat", NOON] == 1
    fired = cluster.transitions[0]
    assert (fired.alert, fired.value, fired.at_ms) == ("Late", 1, NOON + 20 * SECOND)


@pytest.mark.parametrize("broker_knows_the_time", [True, False])
def test_b27_one_call_dated_tomorrow_makes_none_of_the_next_hundred_late(broker_knows_the_time: bool) -> None:
    """sql-flow: one event of tomorrow moved the watermark, and everything of today was dropped as late."""
    cluster = Cluster.of(BUSY, rule("Clamped", "clamped", above=0, window=MINUTE))
    calls = [call(NOON + number * 100, feature="chat", id=f"i{number}") for number in range(101)]
    calls[1:1] = [call(NOON + 86_400_000, feature="chat", id="tomorrow")]
    cluster.publish(calls, broker_ms=NOON if broker_knows_the_time else 0)
    worker = cluster.worker().take_over()
    worker.turn(NOON + 10 * SECOND)
    counts = worker.ingest.ingest.counts
    assert (counts.accepted, counts.late, counts.clamped) == (102, 0, int(broker_knows_the_time))
    today = sum(number for (_, start), number in in_panes(cluster).items() if start < NOON + MINUTE)
    assert today == 101 + broker_knows_the_time
    worker.turn(NOON + 20 * SECOND, caught_up=True)
    alerts = {each.alert for each in cluster.transitions}
    assert alerts == ({"Busy", "Clamped"} if broker_knows_the_time else {"Busy"})


# --- snapshots


def snapshotted(calls: list[list[dict[str, Any]]], most: int) -> tuple[Cluster, Worker]:
    """A cluster whose worker has taken two whole snapshots and read on."""
    cluster = Cluster.of(BUSY)
    cluster.publish(calls[0])
    worker = cluster.worker().take_over()
    for turn in range(1, 4):
        worker.turn(NOON + turn * 2 * SECOND, most=most)
    return cluster, worker


@pytest.mark.parametrize("written", ["nothing", "chunks", "all"])
def test_s8_a_snapshot_that_an_unclean_stop_left_half_written_is_not_used(
    written: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka Streams (KAFKA-7192): after an unclean stop, state that no checkpoint covered was trusted."""
    calls = traffic(100)
    cluster, worker = snapshotted(calls, 150)
    (shard,) = cluster.shards
    whole = manifests(cluster, shard)
    worker.now_ms = NOON + MINUTE
    worker.read(CALLS, 100)
    worker.flush(CALLS)
    worker.read(PANES)
    chunks, manifest, removals = worker.flushed(PANES).then
    worker.publish(*{"nothing": [], "chunks": [chunks], "all": [chunks, manifest, removals]}[written])
    again = cluster.worker().take_over()
    now = manifests(cluster, shard)
    assert (now == whole) is (written != "all")
    assert again._positions[PANES, shard] == max(now)
    assert caplog.text.count("a snapshot is not used") == 0, "what has no manifest is not even looked at"
    again.turn(NOON + 2 * MINUTE)
    again.turn(NOON + 10 * MINUTE, caught_up=True)
    agree(cluster, calls)


@pytest.mark.parametrize("damage", ["missing", "changed", "another shard's", "older than its chunks"])
def test_s8_a_damaged_snapshot_is_passed_over_with_what_is_wrong_and_the_one_before_is_used(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka Streams (KAFKA-7192): the same, where what is there looks whole and is not."""
    calls = traffic(100)
    cluster, _ = snapshotted(calls, 150)
    (shard,) = cluster.shards
    older, newest = sorted(manifests(cluster, shard))
    log = cluster.logs[SNAPSHOTS, shard]
    prefix = f"chunk/{newest:020d}/".encode()
    key = next(each.key for each in log if each.key is not None and each.key.startswith(prefix))
    bytes_of = cluster.live((SNAPSHOTS, shard))
    name = f"manifest/{newest:020d}/".encode()
    manifest = next(each for each in bytes_of if each.startswith(name))
    wrong = {
        "missing": (key, None, "chunks are missing"),
        "changed": (key, bytes_of[key][:-1] + b"!", "its checksum does not match"),
        "another shard's": (
            manifest,
            bytes_of[manifest].replace(f'"shard":{shard}'.encode(), b'"shard":99'),
            "it is of shard 99",
        ),
        "older than its chunks": (
            manifest,
            bytes_of[manifest].replace(f'"offset":{newest}'.encode(), b'"offset":1'),
            "chunks are missing",
        ),
    }[damage]
    worker = cluster.worker()
    worker.publish([Outgoing(SNAPSHOTS, wrong[1], wrong[0], shard)])
    worker.take_over()
    assert worker._positions[PANES, shard] == older
    assert "a snapshot is not used" in caplog.text
    assert wrong[2] in caplog.text
    worker.turn(NOON + MINUTE)
    worker.turn(NOON + 10 * MINUTE, caught_up=True)
    agree(cluster, calls)


def manifests(cluster: Cluster, shard: int) -> list[int]:
    """The offsets of the snapshots that have a manifest."""
    keys = cluster.live((SNAPSHOTS, shard))
    return sorted(int(key.split(b"/")[1]) for key in keys if key.startswith(b"manifest/"))


def test_s10_what_is_emitted_does_not_depend_on_when_the_workers_were_restarted() -> None:
    """Flink (FLINK-36663): after a restore, results came out that a run without it would not have given."""
    calls = traffic(100, partitions=2)
    for step in (60, 90, 200):
        cluster = Cluster.of(BUSY, partitions=2)
        for partition, those in enumerate(calls):
            cluster.publish(those, partition)
        turns = 0
        while turns * step < len(calls[0]) + len(calls[1]):
            worker = cluster.worker().take_over()
            worker.turn(NOON + turns * 2 * SECOND, most=step)
            turns += 1
        worker.turn(NOON + turns * 2 * SECOND)
        worker.turn(NOON + 10 * MINUTE, caught_up=True)
        agree(cluster, calls)


# --- the client's border


class Consumer:
    """A consumer as the loop sees it: positions, the last stable offset, and when a fetch was last answered."""

    def __init__(self, *partitions: TopicPartition) -> None:
        self.partitions = set(partitions)
        self.at = dict.fromkeys(partitions, 0)
        self.stable: dict[TopicPartition, int] = dict.fromkeys(partitions, 0)
        self.polled: dict[TopicPartition, int] = dict.fromkeys(partitions, 0)
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self.done: list[str] = []
        self.away = False
        self.log_start = 0
        self._coordinator = self
        self._client = SimpleNamespace(
            get_random_node=lambda: 1,
            cluster=SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=1)]),
            send=self._describe,
        )

    async def _describe(self, _node: int, _request: Any) -> Any:
        self._answer()
        topics = {each.topic for each in self.partitions}
        numbers = [(0, each.partition, 1) for each in self.partitions]
        topic_id = SimpleNamespace(hex=TOPIC_ID)
        return SimpleNamespace(topics=[(0, name, topic_id, False, numbers) for name in topics])

    def _answer(self) -> None:
        if self.away:
            raise KafkaConnectionError("no broker answers")

    async def fetch_committed_offsets(self, _: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        self._answer()
        return self.offsets

    async def beginning_offsets(self, wanted: Any) -> dict[TopicPartition, int]:
        self._answer()
        return dict.fromkeys(wanted, self.log_start)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at[partition] = offset

    def assignment(self) -> set[TopicPartition]:
        return self.partitions

    async def position(self, partition: TopicPartition) -> int:
        return self.at[partition]

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        return self.polled[partition]

    def last_stable_offset(self, partition: TopicPartition) -> int | None:
        return self.stable[partition]

    async def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        self.done.append("committed")
        self.offsets.update(offsets)


class Producer:
    """A producer whose records are acknowledged when the test says so."""

    def __init__(self, done: list[str], *, at_once: bool = False) -> None:
        self.done = done
        self.at_once = at_once
        self.open: list[asyncio.Future[None]] = []

    async def send(self, topic: str, *_: Any, **__: Any) -> asyncio.Future[None]:
        self.done.append(f"sent to {topic}")
        self.open.append(sent := asyncio.get_running_loop().create_future())
        if self.at_once:
            self.acknowledge()
        return sent

    def acknowledge(self) -> None:
        for each in self.open:
            each.set_result(None)
        self.open.clear()


async def owning(loop: Loop, *partitions: TopicPartition) -> None:
    loop.assign(set(partitions))
    await loop._take_over()


ZERO, ONE = TopicPartition(CALLS, 0), TopicPartition(CALLS, 1)


async def test_s9_a_partition_that_is_paused_or_slow_is_not_idle() -> None:
    """Flink (FLINK-34252, FLINK-35886): a paused or slow input was called idle, and its data dropped as late."""
    consumer = Consumer(ZERO, ONE)
    now = NOON
    loop = Loop(ingest_stage(), consumer, Producer([]), asyncio.Event(), lambda: now)
    await owning(loop, ZERO, ONE)

    async def idle() -> set[int]:
        return {source.partition for source in await loop._caught_up()}

    consumer.at = {ZERO: 5, ONE: 5}
    consumer.stable = {ZERO: 5, ONE: 6}
    consumer.polled = {ZERO: now - 10, ONE: now - 10}
    assert await idle() == {0}, "there is more to read of the second"
    consumer.stable[ONE] = 5
    assert await idle() == {0, 1}
    consumer.polled[ONE] = now - 1_001
    assert await idle() == {0}, "of a paused one no fetch was answered of late"
    consumer.polled[ONE] = now
    consumer.stable[ONE] = None  # type: ignore[assignment]
    assert await idle() == {0}, "nobody has said where the second ends"


def test_s9_the_clock_does_not_stand_in_for_the_data_of_a_source_that_is_not_idle() -> None:
    """Flink (FLINK-34252, FLINK-35886): the other half: what a slow source still has is not late."""
    cluster = Cluster.of(BUSY, partitions=2)
    for number in (0, 1):
        cluster.publish([call(NOON, feature="chat", id=f"first-{number}")], number)
    worker = cluster.worker().take_over()
    worker.turn(NOON + 4 * SECOND)
    # The first source is idle; of the second the broker has more, which comes slowly.
    first, second = (worker._sources[CALLS, number] for number in (0, 1))
    for seconds in range(5, 90, 5):
        worker.now_ms = now = NOON + seconds * SECOND
        worker.do(worker.ingest.flush(Clock(now, frozenset({first}), 2)))
    worker.read(PANES)
    (shard,) = cluster.shards
    assert worker.evaluate.shards[shard].watermark_ms == NOON - 3 * SECOND
    cluster.publish([call(NOON + SECOND, feature="chat", id=f"i{n}") for n in range(40)], 1)
    worker.turn(now + 100)
    assert worker.ingest.ingest.counts.late == 0
    worker.do(worker.ingest.flush(Clock(now + 2 * SECOND, frozenset({first, second}), 2)))
    worker.read(PANES)
    assert [(each.to_state, each.value) for each in cluster.transitions][:1] == [("firing", 42)]


def loop_that_reads(consumer: Consumer, *answers: tuple[int, int]) -> Loop:
    """A loop over one partition whose fetches give so many calls from these offsets on, and which then stops."""
    stopping, left = asyncio.Event(), list(answers)

    async def getmany(**_: Any) -> dict[TopicPartition, Columns]:
        first, number = left.pop(0)
        if not left:
            stopping.set()
        offsets = list(range(first, first + number))
        values: list[bytes | None] = [raw(call(NOON + offset, feature="chat")) for offset in offsets]
        return {ZERO: Columns(values, offsets, [NOON] * number)}

    vars(consumer).update(getmany=getmany, subscribe=lambda *_, **__: None)
    consumer._fetcher = SimpleNamespace(_records={})
    loop = Loop(ingest_stage(), consumer, Producer([], at_once=True), stopping, lambda: NOON)
    loop.assign({ZERO})
    return loop


@pytest.mark.parametrize(
    ("answers", "log_start", "said"),
    [
        (
            [(0, 10), (30, 5), (35, 1)],
            30,
            "read up to offset 10 and starts at 30 now: what lies between was deleted",
        ),
        ([(0, 10), (0, 5), (5, 1)], 0, "read up to offset 10 and goes on at 0: its end was cut off"),
    ],
)
async def test_s4_a_log_that_is_cut_off_while_it_is_read_is_not_read_on_from_its_start(
    answers: list[tuple[int, int]], log_start: int, said: str
) -> None:
    """Quix Streams: the same while the worker runs: the client goes to the start of the log by itself."""
    consumer = Consumer(ZERO)
    loop = loop_that_reads(consumer, *answers)
    await loop._take_over()
    consumer.log_start = log_start
    with pytest.raises(OffsetOutOfRangeError, match=f"llm.calls/0 was {said}"):
        await loop.run()


async def test_s4_offsets_that_are_missing_in_a_log_that_is_whole_are_no_loss() -> None:
    """Quix Streams: offsets of aborted transactions and their markers are no calls."""
    consumer = Consumer(ZERO)
    loop = loop_that_reads(consumer, (2, 10), (15, 5), (20, 1), (30, 1))
    await loop.run()
    assert loop._stage.ingest.counts.accepted == 16


@pytest.mark.parametrize(("of_the_record", "warned"), [("CreateTime", True), ("LogAppendTime", False)])
async def test_b27_a_topic_whose_producers_set_the_time_of_records_is_warned_about_at_the_start(
    of_the_record: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """sql-flow: there the producer's clock is the only witness, and one that is a day ahead goes unnoticed."""
    entries = [("cleanup.policy", "delete"), ("message.timestamp.type", of_the_record)]

    async def describe_configs(_: Any) -> list[Any]:
        return [SimpleNamespace(resources=[(0, "", 2, CALLS, entries)])]

    admin = Consumer(ZERO)
    vars(admin).update(describe_configs=describe_configs)
    await _check(admin, planned_topics(Settings())[:1])
    assert ("set message.timestamp.type=LogAppendTime" in caplog.text) is warned


async def test_s11_a_broker_that_is_away_at_the_start_drops_no_state() -> None:
    """Flink (FLINK-6006): with a broker down at a restore, the partitions that it did not name lost their offsets."""
    consumer = Consumer(ZERO, ONE)
    text = write_position(AT_20, TOPIC_ID)
    consumer.offsets = {ZERO: OffsetAndMetadata(10, text), ONE: OffsetAndMetadata(10, text)}
    consumer.away = True
    stage = ingest_stage()
    loop = Loop(stage, consumer, Producer([]), asyncio.Event(), lambda: NOON)
    with pytest.raises(KafkaConnectionError):
        await owning(loop, ZERO, ONE)
    assert (loop.assigned, stage.ingest.sources, loop.joined) == ([], [], False)
    await loop.flush()
    assert consumer.done == [], "nothing is committed over what is there"
    consumer.away = False
    await owning(loop, ZERO, ONE)
    assert consumer.at == {ZERO: 10, ONE: 10}
    assert [stage.ingest._position(state).next for state in stage.ingest._sources.values()] == [20, 20]


async def test_s12_calls_that_were_fetched_and_not_yet_published_are_read_again_after_a_kill() -> None:
    """Faust: while the first message was slow, later ones were committed past it, and a kill lost it."""
    consumer = Consumer(ZERO)
    producer = Producer(consumer.done)
    stage = ingest_stage()
    loop = Loop(stage, consumer, producer, asyncio.Event(), lambda: NOON)
    await owning(loop, ZERO)
    events = [call(NOON + number, feature="chat") for number in range(9)]
    await loop._do(stage.take(records(events, source=Source(CALLS, 0, TOPIC_ID))))
    assert consumer.done == [], "to take calls commits nothing"
    flushing = asyncio.create_task(loop.flush())
    while len(producer.open) < 16:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert "committed" not in consumer.done, "nothing is committed before it is acknowledged"
    assert consumer.offsets == {}
    producer.acknowledge()
    await flushing
    assert consumer.done[-1] == "committed"
    assert consumer.offsets[ZERO].offset == 0, "the pane is open: its calls are read again"


async def test_s12_a_publication_that_fails_is_not_committed() -> None:
    """Faust: the same, where the broker goes away between the two."""
    consumer = Consumer(ZERO)
    producer = Producer(consumer.done)
    stage = ingest_stage()
    loop = Loop(stage, consumer, producer, asyncio.Event(), lambda: NOON)
    await owning(loop, ZERO)
    await loop._do(stage.take(records([call(NOON)], source=Source(CALLS, 0, TOPIC_ID))))
    flushing = asyncio.create_task(loop.flush())
    while len(producer.open) < 16:
        await asyncio.sleep(0)
    producer.open[3].set_exception(KafkaConnectionError("gone"))
    for number, each in enumerate(producer.open):
        if number != 3:
            each.set_result(None)
    with pytest.raises(KafkaConnectionError):
        await flushing
    assert consumer.offsets == {}

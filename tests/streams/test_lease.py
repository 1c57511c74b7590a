"""The lease of the notifier: valid for half a session after a commit that the broker has taken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError

from streams.lease import GroupLease, clocks_ms
from streams.records import Source

ALERTS = TopicPartition("llm.alerts", 0)
SESSION_MS = 10_000


class Group:
    """A consumer as the lease uses it; each renewal takes `takes_ms` on both clocks."""

    def __init__(self) -> None:
        self.monotonic_ms, self.wall_ms = 1_000, 1_790_000_000_000
        self.takes_ms = 0
        self.error: Exception | None = None
        self.owned: dict[TopicPartition, Source] = {ALERTS: Source("llm.alerts", 0)}
        self.committed: list[int] = []
        self.lease = GroupLease(
            self, lambda: self.owned, SESSION_MS, lambda: (self.monotonic_ms, self.wall_ms)
        )

    async def position(self, _: TopicPartition) -> int:
        return 42

    async def commit(self, offsets: dict[TopicPartition, Any]) -> None:
        self.passes(self.takes_ms)
        if self.error is not None:
            raise self.error
        self.committed.append(offsets[ALERTS].offset)

    def passes(self, ms: int, wall_ms: int | None = None) -> None:
        self.monotonic_ms += ms
        self.wall_ms += ms if wall_ms is None else wall_ms


async def test_a_lease_is_valid_for_half_a_session_from_when_it_was_asked_for() -> None:
    group = Group()
    assert not group.lease.is_valid()
    group.takes_ms = 1_000
    assert await group.lease.renew()
    assert group.committed == [42]
    group.passes(3_999)
    assert group.lease.is_valid()
    group.passes(1)
    assert not group.lease.is_valid()


@pytest.mark.parametrize(
    ("monotonic_ms", "wall_ms"), [(60_000, 60_000), (0, 60_000), (60_000, 0), (10, -60_000)]
)
async def test_a_process_that_was_stopped_finds_its_lease_too_old_by_either_clock(
    monotonic_ms: int, wall_ms: int
) -> None:
    group = Group()
    await group.lease.renew()
    group.passes(monotonic_ms, wall_ms)
    assert not group.lease.is_valid()
    assert await group.lease.renew()
    assert group.lease.is_valid()


@pytest.mark.parametrize(
    "error", [CommitFailedError(), IllegalStateError(), KafkaConnectionError(), TimeoutError()]
)
async def test_a_commit_that_is_not_taken_gives_no_lease_and_is_told_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group()
    group.error = error
    for _ in range(3):
        assert not await group.lease.renew()
    assert not group.lease.is_valid()
    assert caplog.text.count("notifications wait until the broker confirms") == 1


async def test_a_stop_while_the_commit_was_under_way_leaves_a_lease_that_is_over() -> None:
    group = Group()
    group.takes_ms = SESSION_MS
    assert await group.lease.renew()
    assert not group.lease.is_valid()


async def test_who_has_given_the_partition_up_has_no_lease() -> None:
    group = Group()
    await group.lease.renew()
    group.lease.forget()
    assert not group.lease.is_valid()
    await group.lease.renew()
    group.owned = {}
    assert not group.lease.is_valid()
    assert not await group.lease.renew()


async def test_a_partition_that_went_while_the_commit_was_under_way_gives_no_lease() -> None:
    class Leaving(Group):
        async def commit(self, offsets: dict[TopicPartition, Any]) -> None:
            await super().commit(offsets)
            self.owned = {}

    group = Leaving()
    assert not await group.lease.renew()


async def test_both_clocks_are_milliseconds_and_go_on() -> None:
    first = clocks_ms()
    await asyncio.sleep(0)
    assert all(later >= earlier for earlier, later in zip(first, clocks_ms(), strict=True))

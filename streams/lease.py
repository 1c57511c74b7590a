"""The lease of the notifier: that its partitions are surely still its own, by an answer of the broker that is fresh."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from streams.records import Source

_log: Final = logging.getLogger(__name__)

RENEW_SECONDS: Final = 5.0


def clocks_ms() -> tuple[int, int]:
    """The monotonic clock and the wall clock: one of them goes on while a process, or its machine, is stopped."""
    return time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000


class GroupLease:
    """A commit of the group that the broker has taken, for half a session from when it was asked.

    The broker takes commits of the present generation only, and each one prolongs the session. So nobody else has the
    partitions before a whole session has passed since, or before the revocation was heard. A process that was stopped
    finds its lease too old. `partitions` gives the partitions that are ours now.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partitions: Callable[[], Mapping[TopicPartition, Source]],
        session_ms: int,
        clocks: Callable[[], tuple[int, int]] = clocks_ms,
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._lasts_ms = session_ms // 2
        self._clocks = clocks
        self._asked: tuple[int, int] | None = None
        self._is_refused = False

    def is_valid(self) -> bool:
        """Whether the last commit that was taken is young enough, by both clocks."""
        if self._asked is None or not self._partitions():
            return False
        return all(
            0 <= now - then < self._lasts_ms for now, then in zip(self._clocks(), self._asked, strict=True)
        )

    async def renew(self) -> bool:
        """Commit where the consumer is; False where the broker does not take it, or does not answer."""
        partitions = list(self._partitions())
        if not partitions:
            return False
        asked = self._clocks()
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                at = {each: OffsetAndMetadata(await self._consumer.position(each), "") for each in partitions}
                await self._consumer.commit(at)
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            if not self._is_refused:
                _log.warning("notifications wait until the broker confirms that they are ours: %r", error)
            self._is_refused = True
            return False
        self._is_refused = False
        if list(self._partitions()) != partitions:
            return False
        self._asked = asked
        return True

    def forget(self) -> None:
        """The partitions are another's."""
        self._asked = None

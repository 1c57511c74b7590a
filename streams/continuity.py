"""Continuity: whether what a consumer gives goes on where it was read up to, or the log was cut off meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from streams.records import Records


class Continuity:
    """The next offset of each partition. Where a log no longer has it, the client goes to the log's start unasked."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._next: dict[TopicPartition, int] = {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on reading at this offset."""
        self._consumer.seek(partition, offset)
        self._next[partition] = offset

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Whatever comes next of these is right."""
        for partition in partitions:
            self._next.pop(partition, None)

    async def check(self, partition: TopicPartition, records: Records) -> None:
        """Note records that are about to be taken. Offsets may be missing: of aborted calls, or of compacted ones.

        Raises:
            OffsetOutOfRangeError: the log no longer has what should come, so where to go on must be decided anew.
            KafkaError: its start cannot be asked for.
        """
        first, wanted = int(records.offsets[0]), self._next.get(partition)
        if wanted is not None and first != wanted:
            if first < wanted:
                raise OffsetOutOfRangeError(
                    f"{records.source} was read up to offset {wanted} and goes on at {first}: its end was cut off"
                )
            beginning = (await self._consumer.beginning_offsets([partition]))[partition]
            if beginning > wanted:
                raise OffsetOutOfRangeError(
                    f"{records.source} was read up to offset {wanted} and starts at {beginning} now: what lies "
                    "between was deleted"
                )
        self._next[partition] = int(records.offsets[-1]) + 1

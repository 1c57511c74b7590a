"""Following the rules log while a stage runs: what is known goes to the stage, sources it overtook are read again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError

from streams.records import Records, Source
from streams.rule_log import Known

_log: Final = logging.getLogger(__name__)


class FollowsRules(Protocol):
    """A stage whose work depends on the rules log."""

    def know(self, known: Known) -> dict[Source, int]:
        """Go by what is known now; sources to be read again, each from an offset."""
        ...

    def read_again(self, source: Source, log_start: int, /) -> int | None:
        """Start a source anew: the offset to read from; None where it stays as it is."""
        ...

    def must_wait(self, records: Records, now_ms: int, /) -> bool:
        """Whether more must be known of the rules log before these records may be taken."""
        ...


class Following:
    """Keeps one stage at what `known` gives."""

    def __init__(self, stage: FollowsRules, known: Callable[[], Known]) -> None:
        self._stage = stage
        self._known = known

    def must_wait(self, records: Records, now_ms: int) -> bool:
        """Whether more must be known before these records may be taken."""
        return self._stage.must_wait(records, now_ms)

    async def catch_up(
        self, consumer: AIOKafkaConsumer, partitions: Mapping[TopicPartition, Source]
    ) -> set[TopicPartition]:
        """Take in what is known now; the partitions that are read again. What was fetched of them before is void.

        Raises:
            KafkaError: the start of a log cannot be asked for.
        """
        again = self._stage.know(self._known())
        if not again:
            return set()
        wanted = [partition for partition, source in partitions.items() if source in again]
        beginnings = await consumer.beginning_offsets(wanted)
        found = set()
        for partition in wanted:
            if partition not in partitions:
                continue  # given up meanwhile: its next owner rebuilds it by the rules of now
            source = partitions[partition]
            offset = self._stage.read_again(source, beginnings[partition])
            if offset is None:
                continue
            _log.info(
                "%s is read again from offset %d: a new version holds for its open panes", source, offset
            )
            found.add(partition)
            with contextlib.suppress(IllegalStateError):  # as above
                consumer.seek(partition, offset)
        return found

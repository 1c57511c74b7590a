"""Fetching in columns: a consumer whose `getmany` gives values, offsets and times instead of an object per record."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult


@dataclass(slots=True)
class Columns:
    """Records of one partition in order of offset: one entry of each list per record, `times_ms` the records' own."""

    values: list[bytes | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def offset(self) -> int:
        """The last offset: what a fetcher goes on behind."""
        return self.offsets[-1]

    def extend(self, more: Columns) -> None:
        """Append later records."""
        self.values += more.values
        self.offsets += more.offsets
        self.times_ms += more.times_ms

    def cut(self, rows: slice) -> Columns:
        """Some of the records."""
        return Columns(self.values[rows], self.offsets[rows], self.times_ms[rows])


def fetch_columns(consumer: AIOKafkaConsumer) -> None:
    """Let a started consumer's `getmany` return `Columns` by partition from now on; `getone` must not be used then.

    aiokafka makes a ConsumerRecord of each record, with a generator's turn and three calls of Python on the way: two
    thirds of the cost of a fetch. Its own code still fetches, checks, decompresses and parses the record batches, skips
    what was aborted, and keeps the positions; only the last step takes whole batches.
    """
    consumer._fetcher._records = _Results(consumer._fetcher._records)  # noqa: SLF001 - there is no public way


class _Results(OrderedDict[TopicPartition, Any]):
    """Fetched and not yet taken, by partition: each result hands out columns."""

    def __setitem__(self, partition: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            result.getall = _InColumns(result).take
        super().__setitem__(partition, result)


class _InColumns:
    """One fetch result. `held`: what was parsed and did not fit into what was asked for."""

    def __init__(self, result: Any) -> None:
        self._result = result
        self._held = Columns()
        records = result._partition_records  # noqa: SLF001
        records._records = _Batches(records._records, records)  # noqa: SLF001
        records._consumer_record = lambda _, columns: columns  # noqa: SLF001

    def take(self, max_records: int | None = None) -> Columns:
        """In place of `FetchResult.getall`: the next records, at most as many; moves the consumer's position."""
        result, taken = self._result, Columns()
        if not result.check_assignment(result._topic_partition) or not result.has_more():  # noqa: SLF001
            return taken
        records = result._partition_records  # noqa: SLF001
        while max_records is None or len(taken) < max_records:
            more = self._held if self._held.values else next(records, None)
            self._held = Columns()
            if more is None:
                result._update_position()  # noqa: SLF001
                result._partition_records = None  # noqa: SLF001
                return taken
            if max_records is not None and len(taken) + len(more) > max_records:
                room = max_records - len(taken)
                more, self._held = more.cut(slice(room)), more.cut(slice(room, None))
            records.next_fetch_offset = more.offset + 1
            taken.extend(more)
        result._update_position()  # noqa: SLF001
        return taken


class _Batches:
    """The record batches of one answer to a fetch, each of which iterates as one `Columns`."""

    def __init__(self, batches: Any, records: Any) -> None:
        self._batches = batches
        self._records = records
        self.has_next = batches.has_next

    def next_batch(self) -> _Batch:
        return _Batch(self._batches.next_batch(), self._records)


class _Batch:
    """A record batch of aiokafka in all but its iteration."""

    def __init__(self, batch: Any, records: Any) -> None:
        self._batch = batch
        self._records = records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Columns]:
        records = list(self._batch)
        first = self._records.next_fetch_offset
        if records and records[0].offset < first:
            # The broker answers with the whole batch in which the wanted offset lies.
            records = [record for record in records if record.offset >= first]
        if records:
            yield Columns(
                [record.value for record in records],
                [record.offset for record in records],
                [record.timestamp for record in records],
            )

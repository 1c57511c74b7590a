"""Agreeing on the rules through their topic: reading its history, and publishing a changed rule set."""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from rules.loader import RuleFile, parse_rule_files
from rules.problem import InvalidFilesError
from rules.rule import PANE_MS
from streams import rule_log
from streams.kafka import read_to_end
from streams.overview import overview_view
from streams.rule_log import Epoch, RuleFileText, RuleLog, RulesRecord
from streams.setup import Setup

_log: Final = logging.getLogger(__name__)

KEPT_MS: Final = 7 * 86_400_000
"""Epochs that ended longer ago concern no pane that is kept."""


async def agree_on_rules(
    setup: Setup, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, now_ms: int
) -> RuleLog:
    """The log as it stands, after publishing this worker's rules where they differ from the newest."""
    topic = setup.settings.topics.rules
    records = []
    for value in await read_to_end(consumer, topic):
        try:
            records.append(rule_log.decode(value or b""))
        except msgspec.MsgspecError as error:
            _log.error("a record of %s cannot be read: %s: passed over", topic, error)
    mine = next_record(setup, records[-1] if records else None, now_ms)
    if mine is not None:
        key = f"{mine.from_ms:013d}-{mine.hash}".encode()
        await producer.send_and_wait(topic, rule_log.encode(mine), key=key, partition=0)
        records.append(mine)
        _log.info("published rule set %s, in force from %d", mine.hash, mine.from_ms)
    return log_of(records, now_ms)


def next_record(setup: Setup, newest: RulesRecord | None, now_ms: int) -> RulesRecord | None:
    """The record to publish: None when the newest says the same.

    The first rule set ever holds from the beginning of time, a later one from the next pane but one: an edit never
    rewrites the past.
    """
    if newest is not None and _meaning(newest) == (
        setup.rules.hash,
        setup.settings.overview,
        setup.prices.version,
    ):
        return None
    return RulesRecord(
        hash=setup.rules.hash,
        from_ms=0 if newest is None else max(newest.from_ms + PANE_MS, (now_ms // PANE_MS + 2) * PANE_MS),
        published_ms=now_ms,
        files=[RuleFileText(file.name, file.text) for file in setup.files],
        overview=setup.settings.overview,
        prices=setup.prices.version,
    )


def log_of(records: list[RulesRecord], now_ms: int) -> RuleLog:
    """The epochs that still concern anything."""
    ordered = sorted(records, key=lambda record: record.from_ms)
    first = max((i for i, record in enumerate(ordered) if record.from_ms <= now_ms - KEPT_MS), default=0)
    epochs = []
    for record in ordered[first:]:
        try:
            rules = parse_rule_files([RuleFile(file.name, file.text) for file in record.files], None)
        except InvalidFilesError as error:
            _log.error(
                "rule set %s, in force from %d, cannot be read any more: %s",
                record.hash,
                record.from_ms,
                error,
            )
            continue
        extra = (overview_view(record.overview),) if record.overview else ()
        epochs.append(Epoch(record.from_ms, rules, extra))
    return RuleLog(epochs)


def _meaning(record: RulesRecord) -> tuple[str, list[str], str]:
    return record.hash, record.overview, record.prices

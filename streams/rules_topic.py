"""Agreeing on the rules through their topic: reading its history, and publishing a changed rule set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from rules.loader import RuleFile, parse_rule_files
from rules.problem import InvalidFilesError
from rules.rule import PANE_MS
from streams import rule_log
from streams.alert_record import rfc3339
from streams.kafka import read_to_end
from streams.overview import overview_view
from streams.rule_log import Epoch, RuleFileText, RuleLog, RulesRecord
from streams.setup import Setup

_log: Final = logging.getLogger(__name__)

KEPT_MS: Final = 7 * 86_400_000
"""Epochs that ended longer ago concern no pane that is kept."""


class OutdatedRules(Exception):  # noqa: N818 - it is a refusal with instructions, not an error of the program
    """Rule files that were in force before and were replaced since; the message says how to put them in force again."""


async def agree_on_rules(
    setup: Setup,
    consumer: AIOKafkaConsumer,
    producer: AIOKafkaProducer,
    now_ms: int,
    *,
    activate: bool = False,
    problems: list[str] | None = None,
) -> RuleLog:
    """The log as it stands, after publishing this worker's rules where they are new.

    Files that were replaced by later ones do not win by accident: without `activate` the newest set stays in force.
    `problems` receives why rule sets that should hold now cannot be loaded.
    """
    problems = [] if problems is None else problems
    topic = setup.settings.topics.rules
    records = await read_records(consumer, topic, problems)
    try:
        mine = next_record(setup, records, now_ms, activate=activate)
    except OutdatedRules as error:
        _log.warning("%s", error)
        mine = None
    if mine is not None:
        key = f"{mine.from_ms:013d}-{mine.hash}".encode()
        await producer.send_and_wait(topic, rule_log.encode(mine), key=key, partition=0)
        _log.info("published rule set %s, in force from %s", mine.hash, rfc3339(mine.from_ms))
        # Another worker may have published at the same moment: what both go by is the log, in its order.
        records = await read_records(consumer, topic, problems)
    return log_of(records, now_ms, problems)


async def read_records(
    consumer: AIOKafkaConsumer, topic: str, problems: list[str] | None = None
) -> list[RulesRecord]:
    """Every record of the rules topic, in its order; what cannot be read is named in the log and passed over.

    `problems` receives what is wrong with records that no readable one came after.
    """
    records = []
    problems = [] if problems is None else problems
    problems.clear()
    for value in await read_to_end(consumer, topic):
        try:
            records.append(rule_log.decode(value or b""))
            problems.clear()
        except msgspec.MsgspecError as error:
            problems.append(f"a record cannot be read: {error}")
            _log.error("a record of %s cannot be read: %s: passed over", topic, error)
    return records


def next_record(
    setup: Setup, records: Sequence[RulesRecord], now_ms: int, *, activate: bool = False
) -> RulesRecord | None:
    """The record to publish: None when the newest says the same.

    The first rule set ever holds from the beginning of time, a later one from the next pane but one: an edit never
    rewrites the past.

    Raises:
        OutdatedRules: the files were in force before, were replaced since, and `activate` is not given.
    """
    mine = (setup.rules.hash, setup.settings.overview, setup.prices.version)
    meanings = [_meaning(record) for record in records]
    if meanings and meanings[-1] == mine:
        return None
    if mine in meanings and not activate:
        newest = records[-1]
        raise OutdatedRules(
            f"rule set {setup.rules.hash} was in force before and was replaced by {newest.hash} on "
            f"{rfc3339(newest.published_ms)}: {newest.hash} stays in force. To put these files in force again, run "
            "`tocsin rules activate`"
        )
    last = records[-1].from_ms if records else None
    return RulesRecord(
        hash=setup.rules.hash,
        from_ms=0 if last is None else max(last + PANE_MS, (now_ms // PANE_MS + 2) * PANE_MS),
        published_ms=now_ms,
        files=[RuleFileText(file.name, file.text) for file in setup.files],
        overview=setup.settings.overview,
        prices=setup.prices.version,
    )


def log_of(records: list[RulesRecord], now_ms: int, problems: list[str] | None = None) -> RuleLog:
    """The epochs that still concern anything; `problems` receives why those that should hold now are not among them."""
    found: list[str] = []
    ordered = sorted(records, key=lambda record: record.from_ms)
    first = max((i for i, record in enumerate(ordered) if record.from_ms <= now_ms - KEPT_MS), default=0)
    epochs = []
    for record in ordered[first:]:
        try:
            rules = parse_rule_files([RuleFile(file.name, file.text) for file in record.files], None)
        except InvalidFilesError as error:
            found.append(f"rule set {record.hash} cannot be loaded: {error}")
            _log.error(
                "rule set %s, in force from %d, cannot be read any more: %s",
                record.hash,
                record.from_ms,
                error,
            )
            continue
        extra = (overview_view(record.overview),) if record.overview else ()
        epochs.append(Epoch(record.from_ms, rules, extra))
        if record.from_ms <= now_ms:
            found.clear()
    if problems is not None:
        problems += found
    return RuleLog(epochs)


def _meaning(record: RulesRecord) -> tuple[str, list[str], str]:
    return record.hash, record.overview, record.prices

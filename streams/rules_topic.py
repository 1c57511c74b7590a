"""Agreeing on the rules through their topic: reading its history, and publishing a changed rule set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from rules.loader import RuleFile, parse_rule_files
from rules.problem import InvalidFilesError, Problem
from rules.rule import PANE_MS, RuleSet
from streams import rule_log
from streams.alert_record import rfc3339
from streams.kafka import read_to_end
from streams.overview import overview_view
from streams.price_book import PriceBook
from streams.price_file import pack_price_file, parse_price_file, unpack_price_file
from streams.rule_log import DELAY_MS, LEAD_MS, Epoch, RuleFileText, RuleLog, RulesRecord
from streams.setup import Setup

_log: Final = logging.getLogger(__name__)

KEPT_MS: Final = 7 * 86_400_000
"""Epochs that ended longer ago concern no pane that is kept."""
LARGEST_BYTES: Final = 950_000
"""Of a record: a producer refuses those of 1,000,000."""


class OutdatedRules(Exception):  # noqa: N818 - it is a refusal with instructions, not an error of the program
    """Rule files that were in force before and were replaced since; the message says how to put them in force again."""


async def agree_on_rules(
    setup: Setup,
    consumer: AIOKafkaConsumer,
    producer: AIOKafkaProducer,
    now_ms: Callable[[], int],
    *,
    activate: bool = False,
    problems: list[str] | None = None,
) -> RuleLog:
    """The log as it stands, after publishing this worker's rules and prices where they are new.

    Files that were replaced by later ones do not win by accident: without `activate` the newest set stays in force.
    `problems` receives why rule sets that should hold now cannot be loaded.

    Raises:
        InvalidFilesError: rule files and price file together are too large for a record.
    """
    problems = [] if problems is None else problems
    topic = setup.settings.topics.rules
    records = await read_records(consumer, topic, problems)
    if await publish_if_new(setup, records, producer, now_ms, activate=activate):
        # Another worker may have published at the same moment: what both go by is the log, in its order.
        records = await read_records(consumer, topic, problems)
    return log_of(records, now_ms(), problems)


async def publish_if_new(
    setup: Setup,
    records: Sequence[RulesRecord],
    producer: AIOKafkaProducer,
    now_ms: Callable[[], int],
    *,
    activate: bool = False,
) -> bool:
    """Publish this worker's rules and prices where the newest record does not say the same; whether it did.

    `now_ms` is the clock: between its time and the acknowledgement nothing may take long.

    Raises:
        InvalidFilesError: rule files and price file together are too large for a record.
    """
    try:
        mine = next_record(setup, records, now_ms(), activate=activate)
    except OutdatedRules as error:
        _log.warning("%s", error)
        return False
    if mine is None:
        return False
    value = rule_log.encode(mine)
    if len(value) > LARGEST_BYTES:
        cause = (
            f"{len(value):,} bytes, more than a record of the rules topic may have ({LARGEST_BYTES:,}): remove rules, "
            "or entries of the price file"
        )
        raise InvalidFilesError([Problem("rule files and price file together", 0, 0, cause)])
    key = f"{mine.from_ms:013d}-{mine.hash}".encode()
    await producer.send_and_wait(setup.settings.topics.rules, value, key=key, partition=0)
    _log.info("published rule set %s, in force from %s", mine.hash, rfc3339(mine.from_ms))
    took_ms = now_ms() - mine.published_ms
    if mine.from_ms and took_ms > DELAY_MS:
        _log.warning(
            "publishing it took %.1f s: workers may have sealed panes that it holds for, and say so",
            took_ms / 1_000,
        )
    return True


async def read_records(
    consumer: AIOKafkaConsumer, topic: str, problems: list[str] | None = None
) -> list[RulesRecord]:
    """Every record of the rules topic, in its order; what cannot be read is named in the log and passed over.

    `problems` receives what is wrong with records that no readable one came after.
    """
    problems = [] if problems is None else problems
    problems.clear()
    return decoded(await read_to_end(consumer, topic), topic, problems)


def decoded(values: Iterable[bytes | None], topic: str, problems: list[str]) -> list[RulesRecord]:
    """The records of some values of the topic; what cannot be read is named in the log and passed over.

    A readable record settles the problems of those before it; what is wrong after it is added to them.
    """
    records = []
    for value in values:
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

    The first rule set ever holds from the beginning of time, a later one only after `LEAD_MS`: an edit never rewrites
    the past, and workers have heard of it before there are panes that it holds for.

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
    last = settled(records)[-1].from_ms if records else None
    return RulesRecord(
        hash=setup.rules.hash,
        from_ms=0 if last is None else max(last + PANE_MS, _after_lead(now_ms)),
        published_ms=now_ms,
        files=[RuleFileText(file.name, file.text) for file in setup.files],
        overview=setup.settings.overview,
        prices=setup.prices.version,
        price_file=pack_price_file(setup.price_file),
    )


def settled(records: Sequence[RulesRecord]) -> list[RulesRecord]:
    """The records, each with the time from which it does hold.

    Of two workers that both found the topic empty, the one that came second has no say over the past either.
    """
    found = list(records[:1])
    for record in records[1:]:
        from_ms = record.from_ms or _after_lead(record.published_ms)
        found.append(msgspec.structs.replace(record, from_ms=from_ms))
    return found


def log_of(records: list[RulesRecord], now_ms: int, problems: list[str] | None = None) -> RuleLog:
    """The epochs that still concern anything; `problems` receives why those that should hold now are not among them."""
    found: list[str] = []
    ordered = sorted(settled(records), key=lambda record: record.from_ms)
    first = max((i for i, record in enumerate(ordered) if record.from_ms <= now_ms - KEPT_MS), default=0)
    epochs = []
    books: dict[str, PriceBook] = {}
    for record in ordered[first:]:
        try:
            rules = _rules_of(record)
            prices = _prices_of(record, books)
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
        epochs.append(Epoch(record.from_ms, rules, extra, prices))
        if record.from_ms <= now_ms:
            found.clear()
    if problems is not None:
        problems += found
    return RuleLog(epochs)


def _rules_of(record: RulesRecord) -> RuleSet:
    return parse_rule_files([RuleFile(file.name, file.text) for file in record.files], None)


def _prices_of(record: RulesRecord, books: dict[str, PriceBook]) -> PriceBook | None:
    """The prices of a record, from the books of those before it where they are the same."""
    if record.price_file is None:
        return None
    book = books.get(record.prices)
    if book is None:
        content = unpack_price_file(record.price_file)
        entries = parse_price_file("the price file in the rules topic", content) if content else ()
        book = books[record.prices] = PriceBook(entries)
        if book.version != record.prices:
            _log.warning(
                "rule set %s, in force from %s, was published with another version of genai-prices than is installed "
                "here: models that its price file does not name are priced by the one here",
                record.hash,
                rfc3339(record.from_ms),
            )
    return book


def _after_lead(now_ms: int) -> int:
    return -(-(now_ms + LEAD_MS) // PANE_MS) * PANE_MS


def _meaning(record: RulesRecord) -> tuple[str, list[str], str]:
    return record.hash, record.overview, record.prices

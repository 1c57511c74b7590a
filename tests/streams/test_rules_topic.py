"""What a worker publishes to the rules topic, what it makes of what is there, and what it asks of the files."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from rules.problem import InvalidFilesError
from streams import rule_log
from streams.price_file import pack_price_file, unpack_price_file
from streams.rule_log import DELAY_MS, LEAD_MS, RulesRecord
from streams.rules_topic import LARGEST_BYTES, OutdatedRules, decoded, log_of, next_record, publish_if_new
from streams.settings import load_settings
from streams.setup import Setup, read_again, read_setup

NOW = 1_790_000_000_400
DAY = 86_400_000
ALERTS = """\
version: 1
groups:
  - name: tests
    rules:
      - {{alert: Busy, measure: calls, window: 1m, above: {above}, runbook: latency-high, summary: test}}
"""
PRICES = "version: 1\nprices: [{{model: own, input: ${price}, output: $1}}]\n"


def setup(folder: Path, above: int = 5, price: int | None = None) -> Setup:
    (folder / "alerts.yaml").write_text(ALERTS.format(above=above))
    config = "rules: [alerts.yaml]\n"
    if price is not None:
        (folder / "prices.yaml").write_text(PRICES.format(price=price))
        config += "prices: prices.yaml\n"
    path = folder / "tocsin.yaml"
    path.write_text(config)
    return read_setup(load_settings(path), {}, io.StringIO())


def published(made: Setup, records: list[RulesRecord], now_ms: int = NOW, **more: bool) -> RulesRecord:
    record = next_record(made, records, now_ms, **more)
    assert record is not None
    return rule_log.decode(rule_log.encode(record))


def test_the_first_version_holds_from_the_beginning_and_later_ones_after_the_lead_on_a_pane_boundary(
    tmp_path: Path,
) -> None:
    first = published(setup(tmp_path), [])
    assert first.from_ms == 0
    assert next_record(setup(tmp_path), [first], NOW) is None
    second = published(setup(tmp_path, 6), [first])
    assert second.from_ms == NOW - 400 + 1_000 + LEAD_MS
    third = published(setup(tmp_path, 7), [first, second])
    assert third.from_ms == second.from_ms + 1_000


def test_a_price_file_is_a_version_of_its_own_and_travels_with_the_record(tmp_path: Path) -> None:
    first = published(setup(tmp_path), [])
    second = published(setup(tmp_path, price=2), [first])
    third = published(setup(tmp_path, price=3), [first, second])
    assert first.hash == second.hash == third.hash
    assert len({first.prices, second.prices, third.prices}) == 3
    log = log_of([first, second, third], NOW)
    rates = [epoch.prices.unit_price(None, "own", NOW) for epoch in log.epochs if epoch.prices is not None]
    assert [getattr(rate, "bands", None) and rate.bands[0].input for rate in rates] == [
        None,
        2_000_000,
        3_000_000,
    ]


def test_files_that_were_replaced_come_back_only_when_they_are_activated(tmp_path: Path) -> None:
    first = published(setup(tmp_path), [])
    second = published(setup(tmp_path, 6), [first])
    with pytest.raises(OutdatedRules, match="run `tocsin rules activate`"):
        next_record(setup(tmp_path), [first, second], NOW)
    assert published(setup(tmp_path), [first, second], activate=True).hash == first.hash


def test_records_of_before_price_files_were_kept_are_read_and_name_no_prices(tmp_path: Path) -> None:
    record = msgspec.json.decode(rule_log.encode(published(setup(tmp_path), [])))
    del record["price_file"]
    problems: list[str] = []
    (old,) = decoded([msgspec.json.encode(record)], "llm.rules", problems)
    (epoch,) = log_of([old], NOW, problems).epochs
    assert epoch.prices is None
    assert problems == []


def test_of_two_workers_that_both_found_the_topic_empty_the_second_has_no_say_over_the_past(
    tmp_path: Path,
) -> None:
    first, second = published(setup(tmp_path), []), published(setup(tmp_path, 6), [])
    log = log_of([first, second], NOW)
    assert [(epoch.from_ms, epoch.rules.hash) for epoch in log.epochs] == [
        (0, first.hash),
        (NOW - 400 + 1_000 + LEAD_MS, second.hash),
    ]


def test_a_version_that_cannot_be_loaded_is_a_problem_from_its_time_until_the_next(tmp_path: Path) -> None:
    first = published(setup(tmp_path), [])
    broken = msgspec.structs.replace(
        published(setup(tmp_path, price=2), [first]), price_file=b"no zstd", from_ms=NOW - 5_000
    )
    problems: list[str] = []
    assert [epoch.from_ms for epoch in log_of([first, broken], NOW, problems).epochs] == [0]
    assert "the price file in the rules topic" in problems[0]
    third = msgspec.structs.replace(published(setup(tmp_path, 7), [first]), from_ms=NOW - 1_000)
    problems.clear()
    assert len(log_of([first, broken, third], NOW, problems).epochs) == 2
    assert problems == []


def test_versions_whose_successor_has_held_for_a_week_are_left_out(tmp_path: Path) -> None:
    first, second = published(setup(tmp_path), []), published(setup(tmp_path, 6), [], NOW)
    second = msgspec.structs.replace(second, from_ms=NOW)
    assert len(log_of([first, second], NOW + 6 * DAY).epochs) == 2
    assert len(log_of([first, second], NOW + 8 * DAY).epochs) == 1


def test_prices_of_another_version_of_the_library_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = msgspec.structs.replace(published(setup(tmp_path), []), prices="another")
    with caplog.at_level(logging.WARNING):
        log_of([record], NOW)
    assert "another version of genai-prices" in caplog.text


def test_what_is_packed_is_bounded_when_it_is_unpacked() -> None:
    assert unpack_price_file(pack_price_file(b"")) == b""
    assert unpack_price_file(pack_price_file(b"x" * 4_000_000)) == b"x" * 4_000_000
    with pytest.raises(InvalidFilesError, match="larger than 4,000,000 bytes"):
        unpack_price_file(pack_price_file(b"x" * 4_000_001))
    with pytest.raises(InvalidFilesError, match="cannot be unpacked"):
        unpack_price_file(pack_price_file(b"x")[:3])


class Producer:
    """Takes what is published."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def send_and_wait(self, topic: str, value: bytes, key: bytes, partition: int) -> None:
        assert (topic, partition) == ("llm.rules", 0)
        assert key[13:14] == b"-"
        self.values.append(value)


async def test_a_record_that_no_producer_would_take_is_refused_with_what_to_do(tmp_path: Path) -> None:
    made = setup(tmp_path)
    producer = Producer()
    assert await publish_if_new(made, [], producer, lambda: NOW)
    large = msgspec.structs.replace(rule_log.decode(producer.values[0]).files[0], text="#" * LARGEST_BYTES)
    with pytest.raises(InvalidFilesError, match="remove rules, or entries of the price file"):
        await publish_if_new(with_files(made, large), [], producer, lambda: NOW)
    assert len(producer.values) == 1


async def test_a_publication_that_took_long_is_said_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([NOW, NOW + DELAY_MS, NOW, NOW + DELAY_MS + 1])
    first = published(setup(tmp_path), [])
    with caplog.at_level(logging.WARNING):
        assert await publish_if_new(setup(tmp_path, 6), [first], Producer(), lambda: next(clock))
        assert caplog.text == ""
        assert await publish_if_new(setup(tmp_path, 6), [first], Producer(), lambda: next(clock))
    assert "publishing it took 3.0 s" in caplog.text


def with_files(made: Setup, *files: rule_log.RuleFileText) -> Setup:
    return replace(made, files=files)  # type: ignore[arg-type]


def test_reading_files_again_takes_rules_and_prices_and_nothing_else(tmp_path: Path) -> None:
    before = setup(tmp_path, 5, 2)
    (tmp_path / "alerts.yaml").write_text(ALERTS.format(above=6))
    (tmp_path / "prices.yaml").write_text(PRICES.format(price=3))
    (tmp_path / "tocsin.yaml").write_text("group: another\n")
    after = read_again(before)
    assert after.rules.hash != before.rules.hash
    assert after.prices.version != before.prices.version
    assert after.settings is before.settings
    (tmp_path / "alerts.yaml").write_text("version: 1\ngroups: 3\n")
    (tmp_path / "prices.yaml").write_text("version: 1\nprices: 3\n")
    with pytest.raises(InvalidFilesError) as caught:
        read_again(before)
    assert {Path(problem.file).name for problem in caught.value.problems} == {"alerts.yaml", "prices.yaml"}

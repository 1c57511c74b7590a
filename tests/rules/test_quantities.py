from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules import quantities as q
from rules.quantities import DAY, HOUR, MINUTE, SECOND, QuantityError, Unit


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("800ms", 800),
        ("2s", 2 * SECOND),
        ("1.5s", 1_500),
        ("90s", 90 * SECOND),
        ("5m", 5 * MINUTE),
        ("1h30m", 90 * MINUTE),
        ("24h", DAY),
        ("30d", 30 * DAY),
        ("2w", 14 * DAY),
        ("3000us", 3),
        (" 0s ", 0),
        ("0.1s", 100),
    ],
)
def test_a_duration_is_whole_milliseconds(text: str, milliseconds: int) -> None:
    assert q.parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "5", "1:30", "5 m", "s", "-5s", "5min", "5M", "1e3s", "5sx", "x5s", "5s 3", ".5s"]
)
def test_a_duration_without_a_known_unit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(QuantityError) as caught:
        q.parse_duration(text)
    hint = "write a number with ms, s, m, h, d or w, such as 90s or 5m"
    assert str(caught.value) == f'"{text}" is not a duration: {hint}'


def test_a_duration_finer_than_a_millisecond_is_refused_but_a_threshold_may_be_finer() -> None:
    with pytest.raises(QuantityError, match='"1us" is finer than a millisecond'):
        q.parse_duration("1us")
    assert q.parse_quantity("350us", q.MILLISECONDS) == 0.35


def test_a_value_longer_than_a_person_writes_is_refused_and_shown_cut() -> None:
    with pytest.raises(QuantityError, match=r'"1{40}\.\.\." is too long for a duration'):
        q.parse_duration("1" * 41)
    with pytest.raises(QuantityError, match=r'"1{40}\.\.\." is too long for a value'):
        q.parse_quantity("1" * 41, q.CALLS)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("2s", q.MILLISECONDS, 2_000),
        ("2%", q.RATIO, 0.02),
        ("0.5 %", q.RATIO, 0.005),
        ("100%", q.RATIO, 1),
        ("$5", q.NANODOLLARS, 5_000_000_000),
        ("$ 1,000.50", q.NANODOLLARS, 1_000_500_000_000),
        ("$0.000000001", q.NANODOLLARS, 1),
        ("50", q.CALLS, 50),
        ("12k", q.TOKENS, 12_000),
        ("1.5M", q.TOKENS, 1_500_000),
        ("1 G", q.CHARACTERS, 1_000_000_000),
        ("1,234", q.USERS, 1_234),
        ("2.5", q.CALLS_PER_SECOND, 2.5),
        ("100/s", q.TOKENS_PER_SECOND, 100),
        ("12k/min", q.TOKENS_PER_MINUTE, 12_000),
        (".5", q.SCORE, 0.5),
        ("-0.5", q.SCORE, -0.5),
    ],
)
def test_a_value_is_read_into_the_base_unit_exactly(text: str, unit: Unit, value: float) -> None:
    read = q.parse_quantity(text, unit)
    assert read == value
    assert isinstance(read, type(value))


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        (
            "2%",
            q.MILLISECONDS,
            '"2%" is not a duration: write a number with ms, s, m, h, d or w, such as 90s or 5m',
        ),
        ("2", q.RATIO, '"2" is not a percentage: write a number with %, such as 2%'),
        ("2s", q.RATIO, '"2s" is not a percentage: write a number with %, such as 2%'),
        ("x%", q.RATIO, '"x%" is not a number'),
        ("5", q.NANODOLLARS, '"5" is not an amount of money: write a dollar sign and a number, such as $5'),
        ("$x", q.NANODOLLARS, '"$x" is not a number'),
        ("$1,00", q.NANODOLLARS, '"$1,00" is not a number'),
        ("$0.0000000001", q.NANODOLLARS, '"$0.0000000001" is finer than a nano-dollar'),
        ("2s", q.CALLS, '"2s" is not a number of calls: write digits, such as 50, 12k or 1.5M'),
        ("x", q.TOKENS, '"x" is not a number of tokens: write digits, such as 50, 12k or 1.5M'),
        ("-1", q.CALLS, '"-1" is not a number of calls: write digits, such as 50, 12k or 1.5M'),
        ("nan", q.SCORE, '"nan" is not a number'),
        ("1e3", q.SCORE, '"1e3" is not a number'),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_to_write(text: str, unit: Unit, message: str) -> None:
    with pytest.raises(QuantityError) as caught:
        q.parse_quantity(text, unit)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (6_100, q.MILLISECONDS, "6.1 s"),
        (0.024, q.RATIO, "2.4 %"),
        (12_340_000_000, q.NANODOLLARS, "$12.34"),
        (12_300, q.TOKENS, "12.3k tokens"),
        (2_500_000, q.TOKENS, "2.5M tokens"),
        (3e9, q.CHARACTERS, "3G characters"),
        (9_999, q.CALLS, "9,999 calls"),
        (2.5, q.CALLS_PER_SECOND, "2.5 calls/s"),
        (0.8765, q.SCORE, "0.876"),
        (-0.5, q.SCORE, "-0.5"),
        (0, q.SCORE, "0"),
        (0.00012, q.SCORE, "0.00012"),
        (0.0000012, q.SCORE, "0.0000012"),
    ],
)
def test_a_value_is_written_as_a_person_reads_it(value: float, unit: Unit, text: str) -> None:
    assert q.format_quantity(value, unit) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (0.35, "0.35 ms"),
        (820, "820 ms"),
        (-820, "-820 ms"),
        (6_100, "6.1 s"),
        (59_999, "60 s"),
        (60_000, "1 m"),
        (150_000, "2 m 30 s"),
        (12_000_000, "3 h 20 m"),
        (187_200_000, "2 d 4 h"),
        (2 * DAY, "2 d"),
    ],
)
def test_a_duration_is_written_in_at_most_two_parts(milliseconds: float, text: str) -> None:
    assert q.format_duration(milliseconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0s"),
        (1_500, "1500ms"),
        (30_000, "30s"),
        (300_000, "5m"),
        (5_400_000, "1h30m"),
        (DAY, "24h"),
        (2 * DAY, "48h"),
        (30 * DAY, "30d"),
        (3 * DAY + HOUR, "3d1h"),
    ],
)
def test_a_window_is_written_as_in_yaml(milliseconds: int, text: str) -> None:
    assert q.format_window(milliseconds) == text


@given(st.integers(0, 400 * DAY))
def test_a_written_window_reads_back_as_itself(milliseconds: int) -> None:
    assert q.parse_duration(q.format_window(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("nanodollars", "text"),
    [
        (0, "$0.00"),
        (1_234_500_000_000, "$1,234.50"),
        (-5_000_000_000, "-$5.00"),
        (4_200_000, "$0.0042"),
        (500_000_000, "$0.50"),
        (1, "$0.0000000010"),
    ],
)
def test_money_has_cents_or_two_significant_digits(nanodollars: int, text: str) -> None:
    assert q.format_money(nanodollars) == text


@given(st.integers(0, 10**15))
def test_an_amount_of_nano_dollars_is_read_without_rounding(nanodollars: int) -> None:
    whole, rest = divmod(nanodollars, 10**9)
    assert q.parse_quantity(f"${whole}.{rest:09d}", q.NANODOLLARS) == nanodollars

"""Values with units: reading `2s`, `2%`, `$5`, `12k` into base units, and writing them for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

NANODOLLARS_PER_DOLLAR: Final = 1_000_000_000
SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_DURATION_UNITS: Final[dict[str, Fraction]] = {
    "us": Fraction(1, 1000),
    "ms": Fraction(1),
    "s": Fraction(SECOND),
    "m": Fraction(MINUTE),
    "h": Fraction(HOUR),
    "d": Fraction(DAY),
    "w": Fraction(7 * DAY),
}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")
_NUMBER: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_MULTIPLES: Final = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_LONGEST: Final = 40  # characters; no value that a person writes is longer


class Kind(StrEnum):
    """What a unit measures; it decides how a value is written in YAML."""

    DURATION = "duration"
    RATIO = "ratio"
    MONEY = "money"
    COUNT = "count"
    RATE = "rate"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Unit:
    """A base unit: the name used in JSON output, its kind, and the suffix that a person reads and may write."""

    name: str
    kind: Kind
    suffix: str = ""


MILLISECONDS: Final = Unit("ms", Kind.DURATION)
RATIO: Final = Unit("ratio", Kind.RATIO)
NANODOLLARS: Final = Unit("nanodollars", Kind.MONEY)
CALLS: Final = Unit("calls", Kind.COUNT)
TOKENS: Final = Unit("tokens", Kind.COUNT)
CHARACTERS: Final = Unit("characters", Kind.COUNT)
USERS: Final = Unit("users", Kind.COUNT)
SESSIONS: Final = Unit("sessions", Kind.COUNT)
CALLS_PER_SECOND: Final = Unit("calls/s", Kind.RATE, "/s")
TOKENS_PER_SECOND: Final = Unit("tokens/s", Kind.RATE, "/s")
TOKENS_PER_MINUTE: Final = Unit("tokens/min", Kind.RATE, "/min")
SCORE: Final = Unit("score", Kind.SCORE)


class QuantityError(ValueError):
    """A value that cannot be read; the message says what to write instead."""


def parse_duration(text: str) -> int:
    """Whole milliseconds of a duration such as `90s`, `5m`, `1h30m`, `30d`.

    Raises:
        QuantityError: no unit, an unknown unit, or a fraction of a millisecond.
    """
    value = _duration(text)
    if value.denominator != 1:
        raise QuantityError(f'"{_shown(text)}" is finer than a millisecond')
    return int(value)


def parse_quantity(text: str, unit: Unit) -> int | float:
    """The value in the unit's base: ms, a ratio of 1, nano-dollars (int), a count, a rate, a score.

    Raises:
        QuantityError: the text is not a value of that kind.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise QuantityError(f'"{_shown(text)}" is too long for a value')
    match unit.kind:
        case Kind.DURATION:
            value = _duration(text)
        case Kind.RATIO:
            if not text.endswith("%"):
                raise QuantityError(f'"{text}" is not a percentage: write a number with %, such as 2%')
            value = Fraction(_decimal(text[:-1].strip(), text)) / 100
        case Kind.MONEY:
            if not text.startswith("$"):
                raise QuantityError(
                    f'"{text}" is not an amount of money: write a dollar sign and a number, such as $5'
                )
            nano = Fraction(_decimal(text[1:].strip(), text)) * NANODOLLARS_PER_DOLLAR
            if nano.denominator != 1:
                raise QuantityError(f'"{text}" is finer than a nano-dollar')
            return int(nano)
        case Kind.SCORE:
            value = Fraction(_decimal(text.removeprefix("-"), text)) * (-1 if text.startswith("-") else 1)
        case _:
            value = _count(text, unit)
    return int(value) if value.denominator == 1 else float(value)


def format_quantity(value: float, unit: Unit) -> str:
    """The value as a person reads it: `6.1 s`, `2.4 %`, `$12.34`, `12.3k tokens`."""
    match unit.kind:
        case Kind.DURATION:
            return format_duration(value)
        case Kind.RATIO:
            return f"{_short(value * 100)} %"
        case Kind.MONEY:
            return format_money(round(value))
        case Kind.SCORE:
            return _short(value)
        case _:
            name = unit.name.removesuffix("s") if value == 1 and unit.kind is Kind.COUNT else unit.name
            return f"{_scaled(value)} {name}"


def format_duration(milliseconds: float) -> str:
    """`0.35 ms`, `820 ms`, `6.1 s`, `2 m 30 s`, `3 h 20 m`, `2 d 4 h`: at most two parts."""
    if milliseconds < 0:
        return "-" + format_duration(-milliseconds)
    if milliseconds < SECOND:
        return f"{_short(milliseconds)} ms"
    if milliseconds < MINUTE:
        return f"{_short(milliseconds / SECOND)} s"
    seconds = round(milliseconds / SECOND)
    parts = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
    size, big, small_size, small = next(part for part in parts if seconds >= part[0])
    rest = seconds % size // small_size
    return f"{seconds // size} {big} {rest} {small}" if rest else f"{seconds // size} {big}"


def format_window(milliseconds: int) -> str:
    """A configured duration as it is written in YAML: `30s`, `5m`, `1h30m`, `24h`, `30d`."""
    if milliseconds == 0:
        return "0s"
    if milliseconds % SECOND:
        return f"{milliseconds}ms"
    parts, rest = [], milliseconds
    for size, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")):
        if size == DAY and milliseconds <= 2 * DAY:
            continue  # people say 24h
        if rest >= size:
            parts.append(f"{rest // size}{name}")
            rest %= size
    return "".join(parts)


def format_money(nanodollars: int) -> str:
    """Dollars with cents from a dollar up, with two significant digits below: `$1,234.50`, `$0.0042`."""
    sign, size = ("-", -nanodollars) if nanodollars < 0 else ("", nanodollars)
    dollars = Decimal(size) / NANODOLLARS_PER_DOLLAR
    if size == 0 or dollars >= 1:
        return f"{sign}${dollars:,.2f}"
    places = max(2, 1 - dollars.adjusted())
    return f"{sign}${dollars:.{places}f}"


def _duration(text: str) -> Fraction:
    text = text.strip()
    if len(text) > _LONGEST:
        raise QuantityError(f'"{_shown(text)}" is too long for a duration')
    total, position = Fraction(0), 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != position:
            break
        total += Fraction(Decimal(part[1])) * _DURATION_UNITS[part[2]]
        position = part.end()
    if position != len(text) or not text:
        hint = "write a number with ms, s, m, h, d or w, such as 90s or 5m"
        raise QuantityError(f'"{_shown(text)}" is not a duration: {hint}')
    return total


def _count(text: str, unit: Unit) -> Fraction:
    body = text.removesuffix(unit.suffix).strip() if unit.suffix else text
    number = _NUMBER.match(body)
    multiple = body[number.end() :].strip() if number else None
    if number is None or multiple not in _MULTIPLES:
        raise QuantityError(
            f'"{_shown(text)}" is not a number of {unit.name}: write digits, such as 50, 12k or 1.5M'
        )
    return Fraction(_decimal(number[0], text)) * _MULTIPLES[multiple]


def _decimal(digits: str, text: str) -> Decimal:
    if not _NUMBER.fullmatch(digits):
        raise QuantityError(f'"{_shown(text)}" is not a number')
    return Decimal(digits.replace(",", ""))


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _short(value: float) -> str:
    """Three significant digits, without trailing zeros or exponents."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    places = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    text = f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = f"{value:.2g}"
        if "e" in text:
            text = f"{Decimal(text):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return _short(value / (1e3 if name == "k" else size)) + name
    return _short(value)

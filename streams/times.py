"""Times of calls: RFC 3339 texts and epoch milliseconds, parsed for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = int(np.iinfo(np.int64).min)
"""The stored integer of a value that is absent."""
EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01; smaller epoch numbers are seconds that were meant to be milliseconds, or a clock that was never set."""
LATEST_MS: Final = 4_102_444_800_000
"""2100-01-01; larger epoch numbers are micro- or nanoseconds."""
_SHAPES: Final = 8
"""Widths of texts in one batch that are parsed together; more are parsed one by one."""
_LONGEST: Final = 40
_UTC, _POINT, _COLON, _PLUS, _MINUS = b"Z.:+-"
_DIGITS: Final = "0123456789"
_MINUTE_SHAPE: Final = "0000-00-00T00:00:"


class TimeError(ValueError):
    """A time that cannot be used; the message is the reason for the rejection."""


def parse_time(value: str | float) -> int:
    """Epoch milliseconds (floor) of one time: RFC 3339 with an offset, or a number of epoch milliseconds.

    Raises:
        TimeError: no zone, not a time, or outside the years 2000 to 2099.
    """
    if isinstance(value, str):
        try:
            # RFC 3339 allows a lower-case zone; fromisoformat does not.
            moment = datetime.fromisoformat(value[:-1] + "Z" if value.endswith("z") else value)
        except ValueError as error:
            raise TimeError(f'"{value[:40]}" is no RFC 3339 time') from error
        if moment.tzinfo is None:
            raise TimeError(f'"{value[:40]}" has no zone: write an offset, such as Z or +02:00')
        since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        ms = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    else:
        ms = int(value // 1)
    if not EARLIEST_MS <= ms < LATEST_MS:
        raise TimeError(
            f"{str(value)[:40]} is outside the years 2000 to 2099: a number must be epoch milliseconds"
        )
    return ms


def parse_times(values: Sequence[str | float | None]) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Epoch milliseconds of each value, int64[n], UNKNOWN where it is None; and reasons by index where unusable."""
    quick = _by_shape(values)
    if quick is not None:
        return quick, {}
    result = np.full(len(values), UNKNOWN, np.int64)
    reasons: dict[int, str] = {}
    for index, value in enumerate(values):
        if value is not None:
            try:
                result[index] = parse_time(value)
            except (TimeError, OverflowError) as error:
                reasons[index] = str(error)
    return result, reasons


def _by_shape(values: Sequence[str | float | None]) -> NDArray[np.int64] | None:
    """All values, when each is a text of a shape that `_fixed_width` knows, else None."""
    try:
        widths = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]  # what has no length is no text
    except TypeError:
        return None
    texts = cast("Sequence[str]", values)
    distinct = np.flatnonzero(np.bincount(widths)).tolist() if len(widths) else []
    if not distinct or len(distinct) > _SHAPES or distinct[-1] > _LONGEST:
        return None
    if len(distinct) == 1:
        return _fixed_width(texts, distinct[0])
    result = np.empty(len(texts), np.int64)
    for width in distinct:
        rows = np.flatnonzero(widths == width)
        some = _fixed_width([texts[row] for row in rows.tolist()], width)
        if some is None:
            return None
        result[rows] = some
    return result


def _fixed_width(texts: Sequence[str], width: int) -> NDArray[np.int64] | None:
    """Texts of one shape, `YYYY-MM-DDTHH:MM:SS[.fraction]` with Z or with an offset, or None when one has another."""
    joined = "".join(texts)
    if not joined.isascii() or width < 20:
        return None
    # By position and not by text, so that every step runs over neighbours.
    table = np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), width).T.copy()
    if (table[-1] == _UTC).all():
        end, east = width - 1, None
    elif width >= 25:
        end, east = width - 6, _offset_ms(table[-6:])
        if east is None:
            return None
    else:
        return None
    if end == 20 or (end > 20 and not (table[19] == _POINT).all()):
        return None
    minute = _minutes(table, texts)
    seconds = _number(table[17:19])
    fraction = _number(table[20 : min(end, 23)]) if end > 20 else 0
    rest = _number(table[23:end]) if end > 23 else 0
    if minute is None or seconds is None or fraction is None or rest is None or (seconds >= 60).any():
        return None
    ms = minute + seconds * 1000 + fraction * 10 ** max(0, 23 - end)
    if east is not None:
        ms -= east
    return ms if ((ms >= EARLIEST_MS) & (ms < LATEST_MS)).all() else None


def _number(digits: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """The numbers that rows of digits spell, int64[n]; None when one is no digit."""
    values = digits - np.uint8(ord("0"))  # wraps above 9 for anything that is no digit
    if (values > 9).any():
        return None
    number: NDArray[np.int64] = values[0].astype(np.int64)
    for place in values[1:]:
        number = number * 10 + place
    return number


def _offset_ms(table: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Offsets `+HH:MM` or `-HH:MM` from UTC in milliseconds, east positive, or None when one has another shape."""
    ahead = table[0] == _PLUS
    hours, minutes = _number(table[1:3]), _number(table[4:6])
    if not (ahead | (table[0] == _MINUS)).all() or not (table[3] == _COLON).all():
        return None
    if hours is None or minutes is None or (hours >= 24).any() or (minutes >= 60).any():
        return None
    offset = (hours * 60 + minutes) * 60_000
    return np.where(ahead, offset, -offset)


def _minutes(table: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.int64] | int | None:
    """Epoch milliseconds of the minute of each time, its offset left aside, or None when one is no such time.

    Calls that come together mostly ended in the same minute, which is then parsed once.
    """
    head = table[:17]
    if (head == head[:, :1]).all():
        return _minute_ms(texts[0][:17])
    known: dict[str, int | None] = {}
    for prefix in {text[:17] for text in texts}:
        known[prefix] = _minute_ms(prefix)
        if known[prefix] is None:
            return None
    return np.array([known[text[:17]] for text in texts], np.int64)


def _minute_ms(prefix: str) -> int | None:
    if prefix[11:13] >= "24":  # newer Pythons take 24:00 for midnight, which then must be all of the time
        return None
    shape = "".join("0" if character in _DIGITS else character for character in prefix)
    if shape.upper() != _MINUTE_SHAPE and shape != _MINUTE_SHAPE.replace("T", " "):
        return None
    try:
        moment = datetime.fromisoformat(f"{prefix}00+00:00")
    except ValueError:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000

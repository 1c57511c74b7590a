"""Times of calls: RFC 3339 texts and epoch milliseconds, parsed for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = int(np.iinfo(np.int64).min)
"""The stored integer of a value that is absent."""
EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01; smaller epoch numbers are seconds that were meant to be milliseconds, or a clock that was never set."""
LATEST_MS: Final = 4_102_444_800_000
"""2100-01-01; larger epoch numbers are micro- or nanoseconds."""
_DAY_MS: Final = 86_400_000
_SEPARATORS: Final = {4: b"-", 7: b"-", 10: b"Tt ", 13: b":", 16: b":"}


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
        raise TimeError(f"{value} is outside the years 2000 to 2099: a number must be epoch milliseconds")
    return ms


def parse_times(values: Sequence[str | float | None]) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Epoch milliseconds of each value, int64[n], UNKNOWN where it is None; and reasons by index where unusable."""
    texts = [value for value in values if type(value) is str]
    if len(texts) == len(values) and texts:
        width = len(texts[0])
        if all(map(width.__eq__, map(len, texts))):
            quick = _fixed_width(texts, width)
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


def _fixed_width(texts: Sequence[str], width: int) -> NDArray[np.int64] | None:
    """All texts of the shape `YYYY-MM-DDTHH:MM:SS[.fraction]Z`, or None when one has another shape."""
    joined = "".join(texts)
    if not joined.isascii() or width < 20 or width == 21:
        return None
    table = np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), width)
    shaped = np.isin(table[:, width - 1], (ord("Z"), ord("z"))).all()
    for position, allowed in _SEPARATORS.items():
        shaped = shaped and np.isin(table[:, position], list(allowed)).all()
    if width > 20:
        shaped = shaped and (table[:, 19] == ord(".")).all()
    if not shaped:
        return None
    digits = table - np.uint8(ord("0"))  # wraps above 9 for anything that is no digit

    def number(start: int, end: int) -> NDArray[np.int64]:
        value = np.zeros(len(texts), np.int64)
        for position in range(start, end):
            value = value * 10 + digits[:, position]
        return value

    places = [*range(4), 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, *range(20, width - 1)]
    if (digits[:, places] > 9).any():
        return None
    month, day, hour = number(5, 7), number(8, 10), number(11, 13)
    minute, second = number(14, 16), number(17, 19)
    in_range = (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    if not in_range.all():
        return None
    months = (number(0, 4) - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]")
    length = (months + 1).astype("datetime64[M]").astype("datetime64[D]") - first
    if (day > length.astype(np.int64)).any():
        return None
    fraction = number(20, min(width - 1, 23)) * 10 ** max(0, 24 - width) if width > 20 else 0
    ms = (first.astype(np.int64) + day - 1) * _DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + fraction
    return ms if ((ms >= EARLIEST_MS) & (ms < LATEST_MS)).all() else None

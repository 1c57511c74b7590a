"""Times and durations as they are written on the command line."""

from __future__ import annotations

from rules.problem import InvalidFilesError, Problem
from rules.quantities import SECOND, QuantityError, parse_duration
from streams.times import TimeError, parse_time


def milliseconds_of(text: str, option: str) -> int:
    """A duration in milliseconds. Raises InvalidFilesError naming the option."""
    try:
        return parse_duration(text)
    except QuantityError as error:
        raise InvalidFilesError([Problem(option, 0, 0, str(error))]) from error


def seconds_of(text: str) -> float:
    """A duration in seconds. Raises InvalidFilesError."""
    return milliseconds_of(text, "--for") / SECOND


def moment_of(text: str, option: str, now_ms: int) -> int:
    """Epoch milliseconds of an RFC 3339 time, or of a duration ago. Raises InvalidFilesError naming the option."""
    try:
        return now_ms - parse_duration(text)
    except QuantityError:
        try:
            return parse_time(text)
        except TimeError as error:
            raise InvalidFilesError(
                [Problem(option, 0, 0, f"{error}; or write a duration ago, such as 10m")]
            ) from error

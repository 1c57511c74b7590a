from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.times import UNKNOWN, TimeError, parse_time, parse_times

moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31, 23, 59, 59))  # noqa: DTZ001


def expected_ms(text: str) -> int:
    since = datetime.fromisoformat(text.upper()) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(milliseconds=1)


def written(moment: datetime, digits: int) -> str:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{f'{moment.microsecond:06d}000'[:digits]}Z" if digits else f"{text}Z"


@given(st.lists(moments, min_size=1, max_size=20), st.integers(0, 9))
def test_texts_of_one_width_are_read_as_fromisoformat_reads_them(
    moments: list[datetime], digits: int
) -> None:
    texts = [written(moment, digits) for moment in moments]
    times, faults = parse_times(texts)
    assert faults == {}
    assert times.tolist() == [expected_ms(text) for text in texts]


@given(st.lists(st.tuples(moments, st.integers(-14 * 60, 14 * 60)), min_size=1, max_size=20))
def test_offsets_are_applied(moments: list[tuple[datetime, int]]) -> None:
    texts = [
        moment.replace(tzinfo=timezone(timedelta(minutes=offset))).isoformat() for moment, offset in moments
    ]
    times, faults = parse_times(texts)
    for index, text in enumerate(texts):
        if index in faults:
            assert not 2000 <= datetime.fromisoformat(text).astimezone(UTC).year < 2100
        else:
            assert times[index] == expected_ms(text)


@given(
    st.lists(
        st.from_regex(r"\A20[0-9]{2}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}[Zz]\Z"), min_size=1
    )
)
@example(["2026-02-29T00:00:00Z"])
@example(["2024-02-29T00:00:00Z", "2026-04-31T00:00:00Z"])
@example(["2026-10-01T12:00:00z", "2026-10-01T23:59:60Z"])
def test_a_batch_is_read_as_its_texts_one_by_one(texts: list[str]) -> None:
    times, faults = parse_times(texts)
    for index, text in enumerate(texts):
        try:
            expected = parse_time(text)
        except TimeError:
            assert index in faults
        else:
            assert times[index] == expected
            assert index not in faults


@given(st.lists(st.text(alphabet="0123456789-:TZ.+ z", min_size=20, max_size=24), min_size=1, max_size=5))
def test_texts_that_nearly_are_times_are_read_as_fromisoformat_reads_them_or_refused(
    texts: list[str],
) -> None:
    times, faults = parse_times(texts)
    for index, text in enumerate(texts):
        try:
            moment = datetime.fromisoformat(text[:-1] + "Z" if text.endswith("z") else text)
        except ValueError:
            assert index in faults
            continue
        if moment.tzinfo is None:
            assert "no zone" in faults[index]
        elif index not in faults:
            assert times[index] == expected_ms(text)


def test_epoch_milliseconds_and_their_fractions_are_taken_and_absent_times_are_unknown() -> None:
    times, faults = parse_times([1_790_856_000_123, 1_790_856_000_123.9, None, "2026-10-01T12:00:00+02:00"])
    assert times.tolist() == [1_790_856_000_123, 1_790_856_000_123, UNKNOWN, 1_790_848_800_000]
    assert faults == {}


@pytest.mark.parametrize("text", ["2026-10-01T12:00:00", "2026-10-01 12:00:00.5", "2026-10-01"])
def test_a_time_without_a_zone_is_refused_and_the_reason_says_what_to_write(text: str) -> None:
    with pytest.raises(TimeError, match="no zone: write an offset"):
        parse_time(text)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01T00:00:00Z", "2026-10-01T25:00:00Z", "x" * 5_000]
)
def test_what_is_no_time_is_refused_with_a_bounded_reason(text: str) -> None:
    with pytest.raises(TimeError, match="no RFC 3339 time") as raised:
        parse_time(text)
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize("number", [0, -1, 1_790_856_000, 1_790_856_000_000_000, 1e300, 10**400])
def test_numbers_that_are_seconds_or_microseconds_are_refused(number: float) -> None:
    with pytest.raises(TimeError, match="must be epoch milliseconds"):
        parse_time(number)


def test_a_fault_concerns_only_its_own_text() -> None:
    times, faults = parse_times(
        ["2026-10-01T12:00:00Z", "0001-01-01T00:00:00+23:59", "2026-10-01T12:00:00Z", "1999-12-31T23:59:59Z"]
    )
    assert set(faults) == {1, 3}
    assert times[0] == times[2] == 1_790_856_000_000


def test_no_times_at_all_are_no_fault() -> None:
    times, faults = parse_times([])
    assert len(times) == 0
    assert faults == {}

from __future__ import annotations

import itertools

import numpy as np
from builders import at
from hypothesis import given
from hypothesis import strategies as st

from streams.frontier import CORROBORATION, Frontier, Lateness, clamp, pane_start
from streams.times import UNKNOWN

LATENESS = Lateness(allowed_ms=10_000, skew_ms=300_000)
NOON = at("12:00:00")
YEAR = 365 * 86_400_000


def advance(frontier: Frontier, *calls: tuple[int, int]) -> list[int]:
    times, brokers = (np.array(column, np.int64) for column in zip(*calls, strict=True))
    return frontier.advance(times, brokers, LATENESS).tolist()


offsets = st.integers(0, 20_000) | st.integers(0, 2_000_000) | st.just(900_000) | st.just(YEAR)
calls = st.lists(
    st.tuples(offsets.map(NOON.__add__), st.integers(0, 1_000_000).map(NOON.__add__) | st.just(0)),
    min_size=1,
    max_size=80,
)


@given(calls, st.lists(st.integers(1, 79)))
def test_sealed_times_do_not_depend_on_how_calls_are_cut_into_batches(
    calls: list[tuple[int, int]], cuts: list[int]
) -> None:
    whole, cut, single = Frontier(), Frontier(), Frontier()
    expected = advance(whole, *calls)
    edges = sorted({0, len(calls), *(each for each in cuts if each < len(calls))})
    in_parts = [each for start, end in itertools.pairwise(edges) for each in advance(cut, *calls[start:end])]
    one_by_one = [each for one in calls for each in advance(single, one)]
    assert expected == in_parts == one_by_one
    assert whole == cut == single


@given(calls)
def test_the_frontier_never_goes_back(calls: list[tuple[int, int]]) -> None:
    sealed = advance(Frontier(), *calls)
    assert sealed == sorted(sealed)


def test_without_jumps_it_is_the_largest_time_so_far_minus_the_allowed_lateness() -> None:
    seconds = [0, 5, 3, 9, 8, 300]
    found = advance(Frontier(), *((NOON + each * 1_000, 0) for each in seconds))
    assert found == [NOON + each * 1_000 - 10_000 for each in (0, 5, 5, 9, 9, 300)]


def test_nothing_is_sealed_before_the_first_call() -> None:
    assert Frontier().sealed_ms(LATENESS) == UNKNOWN
    assert Frontier().advance(np.zeros(0, np.int64), np.zeros(0, np.int64), LATENESS).tolist() == []


def test_a_future_dated_call_moves_nothing() -> None:
    frontier = Frontier()
    advance(frontier, (NOON, NOON), (NOON + YEAR, NOON), (NOON + 1_000, NOON + 1_000))
    assert frontier.sealed_ms(LATENESS) == NOON - 9_000


def test_twenty_corroborating_calls_move_the_frontier_to_the_earliest_of_them() -> None:
    frontier = Frontier()
    jump = NOON + 3_600_000
    advance(frontier, (NOON, 0), *((jump + each, 0) for each in range(CORROBORATION - 1)))
    assert frontier.sealed_ms(LATENESS) == NOON - 10_000
    advance(frontier, (jump + 500, 0))
    assert frontier.sealed_ms(LATENESS) == jump - 10_000


def test_one_clock_that_is_far_off_among_corroborating_calls_does_not_carry_the_frontier_away() -> None:
    frontier = Frontier()
    jump = NOON + 3_600_000
    advance(frontier, (NOON, 0), (NOON + YEAR, 0), *((jump, 0) for _ in range(CORROBORATION)))
    assert frontier.sealed_ms(LATENESS) == jump - 10_000
    assert frontier.ahead_ms == [NOON + YEAR]


def test_an_hour_of_silence_while_the_brokers_clock_moves_is_no_jump() -> None:
    frontier, later = Frontier(), NOON + 3_600_000
    assert advance(frontier, (NOON, NOON), (later, later + 200)) == [NOON - 10_000, later - 10_000]


def test_a_copy_moves_on_its_own() -> None:
    frontier = Frontier(NOON, NOON, [NOON + YEAR])
    copy = frontier.copy()
    advance(copy, (NOON + YEAR, NOON))
    assert frontier == Frontier(NOON, NOON, [NOON + YEAR])
    assert copy.ahead_ms == [NOON + YEAR, NOON + YEAR]


def test_times_ahead_of_the_brokers_by_more_than_the_skew_become_the_brokers() -> None:
    broker = np.array([NOON, NOON, 0], np.int64)
    times, future = clamp(np.array([NOON + 300_001, NOON + 300_000, NOON + YEAR], np.int64), broker, LATENESS)
    assert times.tolist() == [NOON, NOON + 300_000, NOON + YEAR]
    assert future.tolist() == [True, False, False]


def test_panes_are_half_open() -> None:
    assert pane_start(np.array([NOON, NOON + 999, NOON + 1_000], np.int64)).tolist() == [
        NOON,
        NOON,
        NOON + 1_000,
    ]

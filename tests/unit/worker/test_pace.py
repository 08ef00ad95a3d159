"""What is known of a device's speed by size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import pace

SAMPLES = st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-4, 10), st.floats(0, 50)), min_size=1, max_size=40)


def _measured(*samples: tuple[int, float]) -> pace.Pace:
    known = pace.Pace()
    for size, seconds in samples:
        known.observe(size, seconds, 0.0)
    return known


@given(SAMPLES, st.integers(1, 10_000), st.integers(1, 10_000))
def test_more_never_takes_less(samples: list[tuple[int, float, float]], one: int, other: int) -> None:
    known, now = pace.Pace(), 0.0
    for size, seconds, pause in samples:
        now += pause
        known.observe(size, seconds, now)
    low, high = sorted((one, other))
    assert 0 < known.seconds(low) <= known.seconds(high) + 1e-9


@given(SAMPLES, st.floats(1e-4, 20), st.integers(1, 10_000))
def test_what_is_done_within_a_time_is_the_most_that_is(
    samples: list[tuple[int, float, float]], seconds: float, most: int
) -> None:
    known = _measured(*((size, took) for size, took, _ in samples))
    found = known.within(seconds, most)
    assert 1 <= found <= most
    assert found == 1 or known.seconds(found) <= seconds
    assert found == most or known.seconds(found + 1) > seconds


def test_lines_go_from_one_known_size_to_the_next() -> None:
    known = _measured((10, 1.0), (100, 2.0))
    assert known.seconds(100) == 2.0
    assert known.seconds(55) == pytest.approx(1.5)
    assert known.seconds(5) == pytest.approx(0.5)
    assert known.seconds(400) == pytest.approx(8.0)
    assert pace.Pace().seconds(5) == 0.0


def test_what_is_a_minute_older_than_the_newest_is_forgotten() -> None:
    known = _measured((10, 1.0))
    known.observe(1000, 2.0, 61.0)
    assert known.seconds(10) == pytest.approx(0.02)
    # But nothing is forgotten while nothing is measured.
    assert known.seconds(1000) == 2.0


def test_one_measurement_is_not_the_whole_truth() -> None:
    known = _measured((100, 1.0), (100, 2.0))
    assert known.seconds(100) == 1.25

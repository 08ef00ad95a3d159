"""How many batches a worker wants in hand."""

from __future__ import annotations

import pytest

from podium_worker.domain import credits

LIMITS = credits.Limits(reserve_s=0.5, minimum=2, maximum=32, max_bytes=1000)


def test_before_the_first_batch_it_is_the_minimum() -> None:
    assert credits.wanted(credits.Measured(), 1, LIMITS) == 2


@pytest.mark.parametrize(
    ("batch_s", "ack_s", "expected"),
    [(10.0, 0.1, 2), (0.25, 0.0, 3), (0.25, 0.5, 5), (0.001, 0.0, 32)],
)
def test_it_covers_the_reserve_and_the_latency(batch_s: float, ack_s: float, expected: int) -> None:
    assert credits.wanted(credits.Measured(batch_s, 10, ack_s), 1, LIMITS) == expected


def test_each_device_counts() -> None:
    assert credits.wanted(credits.Measured(0.25), 4, LIMITS) == 12
    assert credits.wanted(credits.Measured(0.25), 0, LIMITS) == 0


def test_memory_bounds_what_is_wanted() -> None:
    measured = credits.Measured(0.01, batch_bytes=300)
    assert credits.bounded(30, measured, credits.Load(), LIMITS) == 3
    assert credits.bounded(30, measured, credits.Load(batches=2, bytes=600), LIMITS) == 3
    assert credits.bounded(30, measured, credits.Load(batches=4, bytes=1200), LIMITS) == 4


def test_a_batch_larger_than_the_bound_is_served_alone() -> None:
    measured = credits.Measured(0.01, batch_bytes=5000)
    assert credits.bounded(30, measured, credits.Load(), LIMITS) == 1


def test_blend_starts_with_the_first_value() -> None:
    assert credits.blend(0.0, 8.0) == 8.0
    assert credits.blend(8.0, 4.0) == 7.0

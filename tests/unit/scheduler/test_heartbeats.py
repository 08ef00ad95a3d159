"""How often workers say that they are alive."""

from __future__ import annotations

import pytest

from podium_scheduler.domain import heartbeats


@pytest.mark.parametrize(
    ("workers", "seconds"), [(0, 1.0), (1, 1.0), (100, 1.0), (101, 1.01), (200, 2.0), (250, 2.5), (10_000, 2.5)]
)
def test_the_more_workers_the_less_often_each(workers: int, seconds: float) -> None:
    assert heartbeats.interval_s(workers, 1.0, 10.0) == pytest.approx(seconds)


def test_never_more_often_than_asked_for() -> None:
    assert heartbeats.interval_s(10_000, 30.0, 60.0) == 30.0
    assert heartbeats.interval_s(1, 30.0, 60.0) == 30.0

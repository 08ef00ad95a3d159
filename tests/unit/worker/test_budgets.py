"""The search for the budget of a micro-batch, on devices that are nothing but arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import budgets


def _run(
    bounds: budgets.Bounds,
    seconds: Callable[[int], float],
    peak: Callable[[int], int] = lambda size: 0,
    capacity: float = float("inf"),
) -> tuple[int, list[budgets.Sample]]:
    """A device that takes `seconds(size)` and `peak(size)` bytes, of which it has `capacity`."""
    samples: list[budgets.Sample] = []
    while (size := budgets.next_size(bounds, samples)) is not None:
        fits = peak(size) <= capacity
        samples.append(budgets.Sample(size, seconds(size) if fits else 0.0, peak(size) if fits else 0, fits))
    return budgets.found(bounds, samples), samples


def test_it_stops_growing_where_throughput_does() -> None:
    # Filled at 64: below that a pass takes the same time however little it does.
    found, samples = _run(budgets.Bounds(first=1, most=4_096), lambda size: 0.001 * max(1.0, size / 64))
    assert found == 64
    assert samples[-1].size == 256


def test_one_noisy_step_does_not_end_it() -> None:
    def seconds(size: int) -> float:
        return 0.001 * max(1.0, size / 512) * (2.5 if size == 8 else 1.0)

    assert _run(budgets.Bounds(first=1, most=4_096), seconds)[0] == 512


def test_memory_bounds_it_before_it_runs_out() -> None:
    bounds = budgets.Bounds(first=1, most=4_096, memory_bytes=1_000)
    found, samples = _run(bounds, lambda size: 0.001, peak=lambda size: 100 + 10 * size, capacity=1_000)
    assert all(sample.fits for sample in samples)
    # 90 would fit exactly; all of what is left is taken, within a sixteenth.
    assert 84 <= found <= 90


def test_memory_that_runs_out_all_the_same_ends_it() -> None:
    found, samples = _run(budgets.Bounds(first=4, most=4_096), lambda size: 0.001, lambda size: size, capacity=100)
    assert found == 64
    assert not samples[-1].fits
    assert _run(budgets.Bounds(first=4, most=64), lambda size: 0.001, lambda size: size, capacity=1)[0] == 2
    assert _run(budgets.Bounds(first=1, most=64), lambda size: 0.001, lambda size: size, capacity=0)[0] == 1


def test_time_bounds_it() -> None:
    found, samples = _run(budgets.Bounds(first=1, most=4_096, seconds=3.0), lambda size: 0.5 + 0.1 * size)
    assert found == samples[-1].size == 4
    assert sum(sample.seconds for sample in samples) <= 3.0


@given(
    first=st.integers(1, 64),
    most=st.integers(64, 10_000),
    memory=st.integers(0, 10**6),
    each=st.integers(0, 10**4),
    constant=st.integers(0, 10**4),
    filled=st.integers(1, 10_000),
    capacity=st.integers(0, 10**6),
)
def test_it_ends_and_never_asks_for_more_than_there_is(
    first: int, most: int, memory: int, each: int, constant: int, filled: int, capacity: int
) -> None:
    bounds = budgets.Bounds(first=first, most=most, memory_bytes=memory)
    found, samples = _run(
        bounds, lambda size: 0.001 * max(1.0, size / filled), lambda size: constant + each * size, capacity
    )
    assert 1 <= found <= most
    assert len(samples) < 20
    fitting = [sample for sample in samples if sample.fits]
    assert found <= 2 * max((sample.size for sample in fitting), default=first)
    if memory and fitting and found > first:
        assert constant + each * found <= memory


@pytest.mark.parametrize(("each", "expected"), [(0.09, 16), (0.5, 4), (6.0, 1), (0.0, 16)])
def test_slow_models_get_few_at_a_time(each: float, expected: int) -> None:
    assert budgets.within(each, 2.0, 16) == expected

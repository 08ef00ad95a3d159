"""Cutting into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import microbatches

LENGTHS = st.lists(st.integers(min_value=0, max_value=600), max_size=300)


def _cut(lengths: Sequence[int], budget: int) -> list[microbatches.Microbatch]:
    remaining, cuts = microbatches.Remaining(lengths), []
    while remaining:
        cuts.append(remaining.take(budget))
    return cuts


@given(LENGTHS, st.integers(min_value=1, max_value=5000))
def test_every_item_once_longest_first_within_the_budget(lengths: list[int], budget: int) -> None:
    cuts = _cut(lengths, budget)
    assert sorted(index for cut in cuts for index in cut.indices) == list(range(len(lengths)))
    flat = [lengths[index] for cut in cuts for index in cut.indices]
    assert flat == sorted(lengths, reverse=True)
    for cut in cuts:
        assert cut.width == max(1, *(lengths[index] for index in cut.indices))
        assert cut.padded_tokens <= budget or len(cut.indices) == 1


@given(
    LENGTHS,
    st.lists(
        st.tuples(st.integers(1, 5000), st.lists(st.integers(1, 600), max_size=5), st.booleans()),
        min_size=1,
        max_size=20,
    ),
)
def test_whatever_each_may_hold_and_whoever_rides_along_every_item_comes_once(
    lengths: list[int], steps: list[tuple[int, list[int], bool]]
) -> None:
    remaining, seen, step = microbatches.Remaining(lengths), list[int](), 0
    while remaining:
        most, beside, fails = steps[step % len(steps)]
        left = len(remaining)
        cut = remaining.take(most, beside)
        assert cut.indices and len(remaining) == left - len(cut.indices)
        assert cut.width >= max([1, *beside, *(lengths[index] for index in cut.indices)])
        assert cut.riders == len(beside)
        assert cut.padded_tokens <= most or len(cut.indices) == 1
        if fails and step < len(steps):
            remaining.put_back(cut)
            assert len(remaining) == left
        else:
            seen += cut.indices
        step += 1
    assert sorted(seen) == list(range(len(lengths)))


def test_equal_lengths_keep_their_order() -> None:
    assert [cut.indices for cut in _cut([5, 5, 5, 9], 10)] == [(3,), (0, 1), (2,)]


def test_a_long_item_is_alone() -> None:
    assert [cut.indices for cut in _cut([1, 100, 1], 10)] == [(1,), (0, 2)]


def test_riders_take_their_place_and_a_longer_one_widens_it() -> None:
    remaining = microbatches.Remaining([4, 4, 4, 4, 4])
    assert remaining.take(16, [4, 2]) == microbatches.Microbatch((0, 1), 4, 2)
    assert remaining.take(16, [8]) == microbatches.Microbatch((2,), 8, 1)


def test_a_micro_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        microbatches.Remaining([1]).take(0)

"""Cutting into micro-batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import microbatches


@given(st.lists(st.integers(min_value=0, max_value=600), max_size=300), st.integers(min_value=1, max_value=5000))
def test_every_item_once_longest_first_within_the_budget(lengths: list[int], budget: int) -> None:
    cuts = microbatches.cut(lengths, budget)
    assert sorted(index for cut in cuts for index in cut.indices) == list(range(len(lengths)))
    flat = [lengths[index] for cut in cuts for index in cut.indices]
    assert flat == sorted(lengths, reverse=True)
    for cut in cuts:
        assert cut.width == max(1, *(lengths[index] for index in cut.indices))
        assert cut.padded_tokens <= budget or len(cut.indices) == 1


def test_equal_lengths_keep_their_order() -> None:
    assert [cut.indices for cut in microbatches.cut([5, 5, 5, 9], 10)] == [(3,), (0, 1), (2,)]


def test_a_long_item_is_alone() -> None:
    assert [cut.indices for cut in microbatches.cut([1, 100, 1], 10)] == [(1,), (0, 2)]

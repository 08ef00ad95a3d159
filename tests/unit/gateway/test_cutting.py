"""Cutting jobs into batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podium_gateway.domain import cutting

sizes = st.lists(st.integers(1, 50), min_size=1, max_size=200)
bounds = st.integers(0, 120)


@given(sizes, st.integers(1, 40), bounds)
def test_slices_cover_all_items_once_and_in_order(record: list[int], max_items: int, max_bytes: int) -> None:
    slices = cutting.cut(record, max_items, max_bytes)
    assert [i for s in slices for i in range(s.first, s.first + s.count)] == list(range(len(record)))
    assert [s.stop - s.start for s in slices] == [sum(record[s.first : s.first + s.count]) for s in slices]
    assert (slices[0].start, slices[-1].stop) == (0, sum(record))


@given(sizes, st.integers(1, 40), bounds)
def test_slices_keep_both_bounds(record: list[int], max_items: int, max_bytes: int) -> None:
    for piece in cutting.cut(record, max_items, max_bytes):
        assert 1 <= piece.count <= max_items
        assert piece.stop - piece.start <= max_bytes or piece.count == 1 or not max_bytes


@given(sizes, st.integers(1, 40), st.integers(1, 120))
def test_slices_end_only_where_a_bound_is_met(record: list[int], max_items: int, max_bytes: int) -> None:
    for piece in cutting.cut(record, max_items, max_bytes)[:-1]:
        with_next = piece.stop - piece.start + record[piece.first + piece.count]
        assert piece.count == max_items or with_next > max_bytes


def test_an_item_over_the_bound_is_alone() -> None:
    assert [(s.first, s.count) for s in cutting.cut([1, 99, 1, 1], 10, 10)] == [(0, 1), (1, 1), (2, 2)]


def test_without_bounds_there_is_one_slice() -> None:
    assert cutting.cut([5, 5], 0, 0) == [cutting.Slice(0, 2, 0, 10)]

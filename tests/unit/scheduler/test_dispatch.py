"""Credits are levels; batches go to the least loaded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podium_scheduler.domain import dispatch
from podium_scheduler.domain.dispatch import Offer


def test_free_credit_is_the_level_less_what_is_in_hand() -> None:
    assert dispatch.free_credit(level=4, total_level=10, in_hand_of_workload=1, in_hand=1) == 3
    assert dispatch.free_credit(level=4, total_level=2, in_hand_of_workload=1, in_hand=1) == 1


def test_a_lowered_level_never_gives_negative_credit() -> None:
    assert dispatch.free_credit(level=1, total_level=10, in_hand_of_workload=5, in_hand=5) == 0


def test_batches_spread_to_the_least_loaded() -> None:
    assert dispatch.spread([Offer("a", 5, 3), Offer("b", 5, 1)], 4) == ["b", "b", "a", "b"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6),
    st.integers(0, 60),
)
def test_nobody_gets_more_than_is_free(sessions: list[tuple[int, int]], batches: int) -> None:
    offers = [Offer(str(n), free, in_hand) for n, (free, in_hand) in enumerate(sessions)]
    chosen = dispatch.spread(offers, batches)
    assert len(chosen) == min(batches, sum(o.free for o in offers))
    assert all(chosen.count(o.session_id) <= o.free for o in offers)


def test_room_is_divided_in_turn_and_never_wasted_on_an_empty_stream() -> None:
    assert dispatch.divide(4, {"empty": 0, "short": 1, "long": 9}) == {"short": 1, "long": 3}
    assert dispatch.divide(1, {"a": 5, "b": 5}) == {"a": 1}
    assert dispatch.divide(0, {"a": 5}) == {}

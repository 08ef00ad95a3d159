"""Priority with aging, then weighted fair share between apps."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_scheduler.domain import fairness
from podium_scheduler.domain.fairness import Candidate, Shares

MINUTE = timedelta(minutes=1)


def job(name: str, app: str = "a", priority: int = 3, age: timedelta = MINUTE, batches: int = 100) -> Candidate:
    return Candidate(name, app, priority, age, batches, batch_items=10)


def test_a_sooner_priority_goes_first() -> None:
    assert fairness.plan([job("late", priority=4), job("soon", priority=2)], {}, Shares(), 3) == ["soon"] * 3


def test_what_the_first_level_leaves_goes_to_the_next() -> None:
    order = fairness.plan([job("late", priority=4), job("soon", priority=2, batches=2)], {}, Shares(), 3)
    assert order == ["soon", "soon", "late"]


def test_waiting_lifts_a_job_past_a_sooner_priority() -> None:
    old = job("old", priority=5, age=timedelta(minutes=41))
    assert fairness.plan([job("new", priority=2), old], {}, Shares(), 1) == ["old"]


def test_the_older_job_of_an_app_goes_first() -> None:
    assert fairness.plan([job("young", age=MINUTE), job("old", age=2 * MINUTE)], {}, Shares(), 1) == ["old"]


def test_apps_share_by_weight() -> None:
    order = fairness.plan([job("x", app="a"), job("y", app="b")], {"a": 3, "b": 1}, Shares(), 40)
    assert Counter(order) == {"x": 30, "y": 10}


def test_shares_hold_over_rounds_of_one() -> None:
    shares, order = Shares(), []
    for _ in range(40):
        order += fairness.plan([job("x", app="a"), job("y", app="b")], {"a": 3, "b": 1}, shares, 1)
    assert Counter(order) == {"x": 30, "y": 10}


def test_an_app_that_was_idle_neither_saves_up_nor_pays() -> None:
    shares = Shares()
    fairness.plan([job("x", app="a")], {}, shares, 50)
    order = fairness.plan([job("x", app="a"), job("y", app="b")], {}, shares, 20)
    assert abs(Counter(order)["x"] - Counter(order)["y"]) <= 1


candidates = st.lists(
    st.builds(
        job,
        name=st.uuids().map(str),
        app=st.sampled_from("abc"),
        priority=st.integers(1, 5),
        age=st.timedeltas(timedelta(0), timedelta(hours=2)),
        batches=st.integers(1, 20),
    ),
    max_size=12,
)


@given(candidates, st.integers(0, 60))
def test_a_plan_fills_the_room_and_never_exceeds_a_backlog(jobs: list[Candidate], room: int) -> None:
    order = fairness.plan(jobs, {"a": 5, "b": 1, "c": 2}, Shares(), room)
    assert len(order) == min(room, sum(j.batches for j in jobs))
    turns = Counter(order)
    assert all(turns[j.job_id] <= j.batches for j in jobs)


def test_target_depth_follows_the_credits_above_a_floor() -> None:
    assert fairness.target_depth(0) == 8
    assert fairness.target_depth(100) == 200


@pytest.mark.parametrize(
    ("credits", "depth", "fed"),
    [(0, 0, 8), (0, 6, 2), (0, 7, 0), (0, 8, 0), (1_000, 1_501, 0), (1_000, 1_500, 500), (1_000, 0, 2_000), (4, 20, 0)],
)
def test_a_stream_is_refilled_when_a_quarter_has_gone(credits: int, depth: int, fed: int) -> None:
    assert fairness.refill(credits, depth) == fed

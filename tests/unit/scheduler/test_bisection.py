"""Bisection as a whole: how many executors poison costs, and that nothing else is lost with it."""

from __future__ import annotations

import math
from collections.abc import Set
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_scheduler.domain import batches

POLICY = batches.RetryPolicy(first_delay=timedelta(0))


def bisect(items: int, poison: Set[int], dice: st.DataObject | None = None) -> tuple[set[int], set[int], int]:
    """Plays a worker that dies of poison until no batch is left; returns (computed, given up, deaths).

    Fresh batches and first halves may have company in the executor, and die with it without any fault of theirs.
    """
    waiting = [(0, items, 0, False)]
    computed: set[int] = set()
    given_up: set[int] = set()
    deaths = 0
    while waiting:
        at = dice.draw(st.integers(0, len(waiting) - 1)) if dice else 0
        group = [waiting.pop(at)]
        if dice and not alone(group[0]):
            company = [b for b in waiting if not alone(b)]
            group += company[: dice.draw(st.integers(0, 2))]
            waiting = [b for b in waiting if b not in group]
        inside = {n for first, count, _, _ in group for n in range(first, first + count)}
        if not inside & poison:
            computed |= inside
            continue
        deaths += 1
        for first, count, attempt, second in group:
            outcome = batches.after_crash(attempt + 1, count, POLICY)
            match outcome:
                case batches.Split(k, rest):
                    waiting += [(first, k, 0, False), (first + k, rest, 0, True)]
                case batches.GiveUp():
                    given_up.add(first)
                case batches.Retry():
                    waiting.append((first, count, attempt + 1, second))
    return computed, given_up, deaths


def alone(batch: tuple[int, int, int, bool]) -> bool:
    """What the worker's executor goes by: a second attempt, or a second half."""
    _, _, attempt, second = batch
    return attempt > 0 or second


@given(st.data(), st.integers(1, 300))
@settings(deadline=None, max_examples=200)
def test_one_poison_costs_a_logarithm_of_deaths_and_no_other_item(data: st.DataObject, items: int) -> None:
    poison = data.draw(st.integers(0, items - 1))
    computed, given_up, deaths = bisect(items, {poison}, data)
    assert given_up == {poison}
    assert computed == set(range(items)) - {poison}
    assert deaths <= 2 * math.log2(items) + 2


@given(st.data(), st.integers(2, 300))
@settings(deadline=None, max_examples=200)
def test_two_poisons_cost_twice_that_at_most(data: st.DataObject, items: int) -> None:
    poison = data.draw(st.sets(st.integers(0, items - 1), min_size=2, max_size=2))
    computed, given_up, deaths = bisect(items, poison, data)
    assert given_up == poison
    assert computed == set(range(items)) - poison
    assert deaths <= 2 * (2 * math.log2(items) + 2)


@pytest.mark.parametrize("items", [1, 2, 3, 255, 256, 1_000])
def test_every_place_of_the_poison_is_found(items: int) -> None:
    for poison in range(items):
        computed, given_up, deaths = bisect(items, {poison})
        assert (given_up, len(computed)) == ({poison}, items - 1)
        assert deaths <= math.ceil(math.log2(items)) + 2

"""What may be fed when Redis fills up."""

from __future__ import annotations

import pytest

from podium_scheduler.domain import room

LIMIT = 1_000_000


@pytest.mark.parametrize(
    ("used", "in_flight", "expected"),
    [
        (0, 0, (80, False)),
        (700_000, 0, (10, False)),
        (500_000, 295_000, (12, True)),
        (795_000, 0, (12, True)),
        (900_000, 0, (2, True)),
        (915_000, 0, (0, True)),
        (1_100_000, 0, (0, True)),
    ],
)
def test_what_is_in_flight_counts_like_what_is_used(used: int, in_flight: int, expected: tuple[int, bool]) -> None:
    assert room.Room(room.Memory(used, LIMIT), in_flight).batches(10_000) == expected


def test_what_was_fed_in_this_round_counts_too() -> None:
    left = room.Room(room.Memory(0, LIMIT), 0)
    left.take(750_000)
    assert left.batches(10_000) == (5, False)


def test_without_a_limit_everything_may_be_fed() -> None:
    left = room.Room(room.Memory(1 << 40, 0), 1 << 40)
    assert left.batches(10_000) == (None, False)
    assert not left.overflows
    assert left.lacks(10_000) == 0


def test_a_batch_that_is_too_large_for_its_share_goes_alone() -> None:
    assert room.Room(room.Memory(1_000, LIMIT), 0).batches(LIMIT) == (1, False)
    assert room.Room(room.Memory(1_000, LIMIT), LIMIT).batches(LIMIT) == (0, True)


@pytest.mark.parametrize(
    ("held", "gap", "expected"), [(0, False, 4), (3, False, 1), (4, False, 0), (100, False, 0), (100, True, 1)]
)
def test_the_reserve_is_for_those_who_hold_little_and_for_gaps(held: int, gap: bool, expected: int) -> None:
    assert room.allowance(held, gap=gap) == expected


def test_admission_gets_room_back_once_it_is_refused() -> None:
    assert room.Room(room.Memory(899_000, LIMIT), 0).excess == 0
    assert room.Room(room.Memory(910_000, LIMIT), 0).excess == 60_000
    assert room.Room(room.Memory(910_000, 0), 0).excess == 0


def test_what_is_shed_makes_room_for_a_batch_and_more() -> None:
    left = room.Room(room.Memory(915_000, LIMIT), 0)
    assert left.lacks(10_000) == 5_000 + 50_000
    assert left.lacks(1_000) == 0
    assert not left.overflows
    assert room.Room(room.Memory(915_000, LIMIT), 60_000).overflows
    assert not room.Room(room.Memory(999_000, LIMIT), 0).overflows, "nobody is stuck: nothing is in flight"

"""Which models make room for another: properties of the pure planner, and the cases that it was made for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import residency
from podium_worker.domain.residency import IDLE_S, Candidate, Capacity, Resident

GIB = 1 << 30


def evictions(present: list[Resident], candidate: Candidate, shared: int, alone: int = 0) -> tuple[str, ...] | None:
    return residency.evictions(present, candidate, Capacity(shared, alone))


def resident(
    name: str, gib: int, *, load_s: float = 10, idle_s: float = 60, busy: bool = False, rank: int | None = None
) -> Resident:
    return Resident(name, gib * GIB, load_s, idle_s, busy, rank)


def test_what_fits_evicts_nobody() -> None:
    assert evictions([resident("a", 4)], Candidate("b", 4 * GIB), 8 * GIB) == ()


def test_without_a_bound_nobody_goes() -> None:
    assert evictions([resident("a", 400)], Candidate("b", 400 * GIB), 0) == ()


def test_the_idle_and_quickly_loaded_goes_first() -> None:
    present = [resident("slow", 4, load_s=100), resident("fresh", 4, idle_s=11), resident("idle", 4, idle_s=1000)]
    assert evictions(present, Candidate("new", 4 * GIB), 12 * GIB) == ("idle",)


def test_the_wanted_stay_before_the_unwanted() -> None:
    present = [resident("wanted", 4, load_s=0.1, idle_s=5000, rank=1), resident("other", 4, load_s=500, idle_s=1)]
    assert evictions(present, Candidate("new", 4 * GIB, rank=0), 8 * GIB) == ("other",)


def test_the_less_wanted_goes_for_the_more_wanted_and_never_the_other_way_round() -> None:
    present = [resident("second", 8, rank=1)]
    assert evictions(present, Candidate("first", 8 * GIB, rank=0), 8 * GIB) == ("second",)
    assert evictions(present, Candidate("third", 8 * GIB, rank=2), 8 * GIB) is None
    assert evictions(present, Candidate("unwanted", 8 * GIB), 8 * GIB) is None


def test_a_batch_in_hand_keeps_its_model() -> None:
    assert evictions([resident("a", 8, busy=True)], Candidate("b", GIB, rank=0), 8 * GIB) is None


def test_two_workloads_that_nobody_asked_for_do_not_chase_each_other_out() -> None:
    present = [resident("a", 8, idle_s=IDLE_S / 2)]
    assert evictions(present, Candidate("b", 8 * GIB), 8 * GIB) is None
    assert evictions([replace(present[0], idle_s=IDLE_S)], Candidate("b", 8 * GIB), 8 * GIB) == ("a",)


def test_small_ones_are_spared_when_a_large_one_has_to_go_anyway() -> None:
    present = [resident("small", 1, idle_s=1000), resident("large", 8, idle_s=500)]
    assert evictions(present, Candidate("new", 8 * GIB, rank=0), 9 * GIB) == ("large",)


def test_a_model_of_nearly_the_whole_device_is_loaded_alone() -> None:
    large = Candidate("large", 9 * GIB, rank=0)
    assert evictions([], large, 8 * GIB, 10 * GIB) == ()
    assert evictions([resident("a", 1), resident("b", 1)], large, 8 * GIB, 10 * GIB) == ("a", "b")
    assert evictions([resident("a", 1, busy=True)], large, 8 * GIB, 10 * GIB) is None
    assert evictions([], Candidate("larger", 11 * GIB, rank=0), 8 * GIB, 10 * GIB) is None
    assert evictions([resident("large", 9)], Candidate("a", GIB, rank=0), 8 * GIB, 10 * GIB) == ("large",)


RESIDENTS = st.lists(
    st.builds(
        Resident,
        workload=st.uuids().map(str),
        memory_bytes=st.integers(0, 10),
        load_s=st.floats(0, 100),
        idle_s=st.floats(0, 100),
        busy=st.booleans(),
        rank=st.none() | st.integers(0, 5),
    ),
    max_size=6,
)


@given(RESIDENTS, st.integers(0, 12), st.none() | st.integers(0, 5), st.integers(1, 30))
def test_what_is_left_fits_nobody_busy_goes_and_nobody_goes_for_nothing(
    present: list[Resident], memory: int, rank: int | None, capacity: int
) -> None:
    chosen = evictions(present, Candidate("new", memory, rank), capacity)
    if chosen is None:
        movable = [r for r in present if not r.busy]
        assert memory + sum(r.memory_bytes for r in present) > capacity
        assert rank is None or memory > capacity or any(r.busy or r.rank is not None for r in present) or not movable
        return
    gone = [r for r in present if r.workload in chosen]
    assert len(gone) == len(chosen)
    assert not any(r.busy for r in gone)
    left = memory + sum(r.memory_bytes for r in present if r not in gone)
    assert left <= capacity
    for one in gone:
        assert left + one.memory_bytes > capacity or one.memory_bytes == 0

"""What sessions can still take, kept up one by one, is what counting all of them anew would say."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from podium_scheduler.domain.openings import Opening, Openings

WORKLOADS = ("a", "b", "c")
OPENINGS = st.builds(
    Opening, st.dictionaries(st.sampled_from(WORKLOADS), st.integers(0, 3)), st.integers(0, 5), st.integers(0, 4)
)
STEPS = st.lists(st.tuples(st.builds(UUID, int=st.integers(0, 6)), st.none() | OPENINGS), max_size=40)


@given(STEPS)
def test_sums_and_order_are_those_of_all_sessions(steps: list[tuple[UUID, Opening | None]]) -> None:
    kept, every = Openings(), dict[UUID, Opening]()
    for session_id, opening in steps:
        if opening is None:
            kept.drop(session_id)
            every.pop(session_id, None)
        else:
            kept.put(session_id, opening)
            every[session_id] = opening
        offered = {w for one in every.values() for w in one.free}
        assert kept.by_workload() == {w: sum(one.free.get(w, 0) for one in every.values()) for w in offered}
        assert kept.room == sum(one.room for one in every.values())
        for workload in WORKLOADS:
            able = {key: one.load for key, one in every.items() if one.free.get(workload)}
            found = list(kept.least_loaded(workload, len(every)))
            assert set(found) == able.keys() and len(found) == len(able)
            assert [able[key] for key in found] == sorted(able.values())
            assert list(kept.least_loaded(workload, 2)) == found[:2]


def test_of_equal_load_whoever_has_waited_longest_comes_first() -> None:
    kept = Openings()
    for n in (3, 1, 2):
        kept.put(UUID(int=n), Opening({"a": 1}, 1, 0))
    kept.put(UUID(int=3), Opening({"a": 0}, 0, 1))
    kept.put(UUID(int=3), Opening({"a": 1}, 1, 0))
    assert [key.int for key in kept.least_loaded("a", 9)] == [1, 2, 3]

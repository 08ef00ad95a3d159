"""How large micro-batches are while calls come, and which calls ride along."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import microbatches, pace, riding

LIMITS = riding.Limits(slice_s=0.1)


def _pace(fixed_s: float, each_s: float, *sizes: int) -> pace.Pace:
    """A device that takes so long for each pass, and for each token."""
    known = pace.Pace()
    for size in sizes or (1, 16, 64, 256, 1024, 4096):
        known.observe(size, fixed_s + size * each_s, 0.0)
    return known


PACES = st.builds(_pace, st.floats(0, 0.2), st.floats(1e-6, 1e-2))
CALLS = st.lists(st.lists(st.integers(1, 300), max_size=8), max_size=30)


@given(PACES, st.integers(1, 10_000), st.floats(0, 10), st.floats(0, 1))
def test_what_a_micro_batch_may_hold_is_bounded(known: pace.Pace, budget: int, since: float, slice_s: float) -> None:
    found = riding.most(known, budget, since, riding.Limits(slice_s))
    assert 1 <= found <= budget
    if since > riding.LATELY_S or not slice_s:
        assert found == budget
    else:
        assert found == 1 or known.seconds(found) <= 2 * slice_s


def test_micro_batches_are_cut_while_calls_come_and_only_then() -> None:
    known = _pace(0.0, 1e-3)
    assert riding.most(known, 2048, 1.0, LIMITS) == 100
    assert riding.most(known, 2048, 6.0, LIMITS) == 2048
    assert riding.most(pace.Pace(), 2048, 1.0, LIMITS) == 2048
    # A GPU that is done in 10 ms anyway.
    assert riding.most(_pace(5e-3, 2e-8, 262_144), 262_144, 1.0, LIMITS) == 262_144


def test_where_cutting_is_dear_they_are_larger_but_not_much() -> None:
    # A pass costs 50 ms: 50 tokens in 0.1 s are half of the rate, so they get the longest time.
    assert 145 <= riding.most(_pace(0.05, 1e-3), 2048, 1.0, LIMITS) <= 155


@given(CALLS, PACES, st.integers(1, 300), st.integers(1, 500), st.integers(1, 5000))
def test_riders_never_make_a_micro_batch_larger_than_it_may_be(
    calls: list[list[int]], known: pace.Pace, width: int, rows: int, most: int
) -> None:
    chosen = riding.riders(calls, riding.Next(width, rows, most), known)
    assert chosen == sorted(set(chosen))
    assert all(calls[index] for index in chosen)
    beside = [size for index in chosen for size in calls[index]]
    cut = microbatches.Remaining([width] * rows).take(most, beside)
    assert cut.indices
    if beside:
        assert cut.padded_tokens <= most
        assert len(beside) <= most / cut.width / 2


@given(CALLS, PACES, st.integers(1, 300), st.integers(1, 500), st.integers(1, 5000))
def test_those_that_ride_cost_no_more_than_by_themselves(
    calls: list[list[int]], known: pace.Pace, width: int, rows: int, most: int
) -> None:
    chosen = riding.riders(calls, riding.Next(width, rows, most), known)
    if len(chosen) == len(calls) and calls:
        count, longest = sum(map(len, calls)), max(max(call) for call in calls)
        wide = max(width, longest)
        own = min(rows, most // wide - count)
        usual = max(1, min(rows, most // width)) * width
        ridden = known.seconds(usual) / usual * ((own + count) * wide - own * width)
        assert ridden <= known.seconds(count * longest) + 1e-9


def test_a_short_call_rides_where_a_pass_is_dear_and_not_among_long_texts() -> None:
    known = _pace(0.02, 3e-4)
    assert riding.riders([[10]], riding.Next(20, 100, 300), known) == [0]
    assert riding.riders([[10]], riding.Next(250, 100, 1000), known) == []


def test_a_long_call_does_not_widen_the_rows_of_short_ones() -> None:
    known = _pace(0.02, 3e-4)
    assert riding.riders([[12], [250], [9, 9]], riding.Next(12, 100, 600), known) == [0, 2]


def test_calls_are_no_more_than_half_of_a_micro_batch() -> None:
    known = _pace(0.5, 1e-3)
    assert riding.riders([[10]] * 5, riding.Next(10, 100, 100), known) == [0, 1, 2, 3, 4]
    assert riding.riders([[10]] * 6, riding.Next(10, 100, 100), known) == []
    assert riding.riders([[10]], riding.Next(10, 100, 10), known) == []


def test_a_call_of_which_nothing_comes_to_the_device_does_not_ride() -> None:
    known = _pace(0.5, 1e-3)
    assert riding.riders([[], [10] * 6], riding.Next(10, 100, 100), known) == []
    assert riding.riders([[], [10]], riding.Next(10, 100, 100), known) == [1]


def test_nobody_rides_while_nothing_is_known_of_the_device() -> None:
    assert riding.riders([[1]], riding.Next(10, 100, 1000), pace.Pace()) == []

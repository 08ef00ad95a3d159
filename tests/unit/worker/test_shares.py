"""The share that calls may take from batches: of a device's time, and of what passes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import shares

# Lengths of turns and of the pauses before them, in seconds.
_TURNS = st.lists(
    st.tuples(st.floats(0, 3, allow_nan=False), st.floats(0.001, 3, allow_nan=False)), min_size=1, max_size=60
)


@given(_TURNS, st.floats(0.05, 0.95), st.floats(0.5, 5))
def test_in_no_window_calls_take_more_than_their_share_and_one_turn(
    turns: list[tuple[float, float]], limit: float, window_s: float
) -> None:
    share = shares.Share(limit, window_s)
    now, taken, longest = 0.0, [], 0.0
    for pause, length in turns:
        now += pause
        if share.allows(now):
            share.take(now, now + length)
            taken.append((now, now + length))
            longest = max(longest, length)
            now += length
    for _, end in taken:
        since = end - window_s
        inside = sum(min(e, end) - max(b, since) for b, e in taken if e > since and b < end)
        assert inside <= limit * window_s + longest + 1e-6


@given(_TURNS, st.floats(0.05, 0.95), st.floats(0.5, 5))
def test_whoever_waits_a_window_is_let_in(turns: list[tuple[float, float]], limit: float, window_s: float) -> None:
    share = shares.Share(limit, window_s)
    now = 0.0
    for pause, length in turns:
        now += pause
        share.take(now, now + length)
        now += length
    assert share.allows(now + window_s)


def test_a_share_of_all_is_no_bound() -> None:
    share = shares.Share(1.0, 1.0)
    share.take(0, 100)
    assert share.allows(100)


def test_what_is_half_out_of_the_window_counts_by_half() -> None:
    share = shares.Share(0.5, 2.0)
    share.take(0, 1)
    assert not share.allows(1)
    assert share.taken_s(2.5) == 0.5
    assert share.allows(2.5)


@given(st.lists(st.floats(0.001, 1), max_size=300), st.floats(0.05, 0.95), st.floats(1, 5))
def test_calls_that_always_come_have_no_more_than_their_share_their_lead_and_one_piece(
    pieces: list[float], limit: float, most: float
) -> None:
    lead = shares.Lead(limit, most)
    calls = batches = 0.0
    for much in pieces:
        if lead.allows:
            lead.take(much)
            calls += much
        else:
            lead.repay(much)
            batches += much
        assert calls * (1 - limit) <= batches * limit + (most + 1) * (1 - limit) + 1e-6


@given(st.lists(st.floats(0.001, 100), max_size=30), st.floats(0.05, 0.95))
def test_calls_go_first_again_once_batches_had_what_is_theirs(pieces: list[float], limit: float) -> None:
    lead = shares.Lead(limit, 1.0)
    for much in pieces:
        lead.take(much)
    # However large the pieces were: that much is not held against those who call later.
    lead.repay(1.01 * (1 - limit) / limit)
    assert lead.allows


def test_what_batches_have_while_no_call_comes_is_not_saved_up() -> None:
    lead = shares.Lead(0.5, 1.0)
    lead.repay(100.0)
    lead.take(1.0)
    assert not lead.allows


def test_a_lead_of_all_is_no_bound() -> None:
    lead = shares.Lead(1.0, 1.0)
    lead.take(100.0)
    lead.repay(1.0)
    assert lead.allows

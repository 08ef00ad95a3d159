"""Whose turn it is on the device, with real threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from podium_worker.domain import shares
from podium_worker.executor import turns

DEADLINE_S = 10.0


def _turns(share: float = 1.0) -> turns.Turns[str, str]:
    return turns.Turns(2, shares.Share(share, 1000.0))


def _elsewhere(step: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    return thread


def test_calls_go_ahead_of_work_all_together() -> None:
    waiting = _turns()
    waiting.put("batch")
    waiting.call("a")
    waiting.call("b")
    assert waiting.take() == ["a", "b"]
    assert waiting.take() == "batch"


def test_an_idle_thread_wakes_for_either() -> None:
    waiting = _turns()
    taken: list[object] = []
    gives: list[Callable[[], None]] = [lambda: waiting.call("a"), lambda: waiting.put("batch")]
    for give in gives:
        thread = _elsewhere(lambda: taken.append(waiting.take()))
        give()
        thread.join(DEADLINE_S)
    assert taken == [["a"], "batch"]


def test_calls_that_have_had_their_share_wait_while_work_does() -> None:
    waiting = _turns(0.1)
    waiting.put("batch")
    waiting.took(0, 0, ahead=False)
    waiting.call("a")
    assert waiting.take() == ["a"]
    now = time.monotonic()
    waiting.took(now - 500, now, ahead=False)
    waiting.call("b")
    assert waiting.between() == []
    assert waiting.take() == "batch"
    # Nobody waits but the call.
    assert waiting.take() == ["b"]


def test_what_is_taken_while_nothing_waits_counts_for_nothing() -> None:
    waiting = _turns(0.1)
    now = time.monotonic()
    waiting.took(now - 900, now, ahead=False)
    waiting.put("batch")
    waiting.call("a")
    assert waiting.take() == ["a"]
    assert waiting.calls_s == 900


def test_calls_that_are_given_back_are_the_first_of_the_next_turn() -> None:
    waiting = _turns()
    waiting.call("a")
    waiting.call("b")
    assert waiting.between() == ["a", "b"]
    waiting.call("c")
    waiting.give_back(["b"])
    assert waiting.take() == ["b", "c"]


def test_who_brings_too_much_work_waits_and_who_waits_for_its_end_too() -> None:
    waiting = _turns()
    for name in ("1", "2"):
        waiting.put(name)
    third = _elsewhere(lambda: waiting.put("3"))
    assert waiting.take() == "1"
    third.join(DEADLINE_S)
    assert not third.is_alive()
    end = _elsewhere(waiting.join)
    for _ in range(2):
        waiting.take()
        waiting.done()
    assert end.is_alive()
    waiting.done()
    end.join(DEADLINE_S)
    assert not end.is_alive()

"""The watchdog and the worker that it watches, on a clock that a script moves: which time counts, what it leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import pytest

from podium_runtime import clock
from podium_worker.app import ports, watchdog
from tests.unit.worker.test_stuck_executors import LIMIT, OTHER, Watched
from tests.unit.worker.test_worker import WORKLOAD

STEP_S = 0.5
Step = float | Callable[[], object]


class Over(Exception):
    """The script has ended."""


class Scripted:
    """Each sleep of the watchdog lasts as long as the script says, however long it was to be."""

    def __init__(self, steps: Iterable[Step], time: clock.FakeClock) -> None:
        self._steps: Iterator[Step] = iter(steps)
        self._time = time

    def now(self) -> datetime:
        return self._time.now()

    def monotonic(self) -> float:
        return self._time.monotonic()

    async def sleep(self, seconds: float) -> None:
        assert seconds == STEP_S
        for step in self._steps:
            if not callable(step):
                self._time.advance(step)
                return
            step()
        raise Over


class Ticks:
    """Writes down what was watched."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def tick(self, seconds: float) -> None:
        self.seconds.append(seconds)


def play(worker: watchdog.Watched, time: clock.FakeClock, *steps: Step) -> None:
    """Runs the watchdog to the end of the script. Numbers are how long its sleeps last, calls happen between them."""
    with pytest.raises(Over):
        asyncio.run(watchdog.watch(worker, Scripted(steps, time)))


def quiet(seconds: float) -> list[Step]:
    """An undisturbed watch of so many seconds."""
    return [STEP_S] * int(seconds / STEP_S)


def test_what_was_slept_is_what_was_watched() -> None:
    ticks = Ticks()
    play(ticks, clock.FakeClock(), 0.5, 0.75, 1.0, 0.5)
    assert ticks.seconds == [0.5, 0.75, 1.0, 0.5]


def test_a_clock_that_jumps_was_not_watched_meanwhile() -> None:
    """SIGSTOP and SIGCONT of this process, a suspended machine, a starved one: a step at most was seen."""
    ticks = Ticks()
    play(ticks, clock.FakeClock(), 0.5, 86_400.0, 0.5)
    assert ticks.seconds == [0.5, 1.0, 0.5]


def test_a_jump_of_the_clock_kills_no_executor_and_stillness_still_does() -> None:
    rig = Watched()
    rig.compute(1)
    play(rig.worker, rig.clock, *quiet(LIMIT - 5), 10 * LIMIT)
    assert not rig.killed()
    play(rig.worker, rig.clock, *quiet(5))
    assert rig.killed()


def test_many_jumps_count_as_the_steps_that_they_were() -> None:
    rig = Watched()
    rig.compute(1)
    play(rig.worker, rig.clock, *[LIMIT] * int(LIMIT - 1))
    assert not rig.killed()


def test_a_slow_batch_lives_as_long_as_it_moves() -> None:
    rig = Watched()
    slow = rig.compute(1)

    def moves() -> None:
        rig.worker.progressed(0, slow.key, "texts", 1, b"")

    play(rig.worker, rig.clock, *[*quiet(LIMIT - 1), moves] * 5, *quiet(LIMIT - 1))
    assert not rig.killed()
    play(rig.worker, rig.clock, *quiet(2))
    assert rig.killed()


def test_an_idle_executor_is_left_alone() -> None:
    rig = Watched()
    play(rig.worker, rig.clock, *quiet(3 * LIMIT))
    lease = rig.compute(1)
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.finish(lease)
    play(rig.worker, rig.clock, *quiet(3 * LIMIT))
    assert not rig.killed()


def test_a_load_has_its_workload_s_limit() -> None:
    rig = Watched()
    rig.worker.welcome([WORKLOAD, OTHER], [], 1 << 20)
    waits = rig.assign(1, OTHER.name)
    rig.worker.preparing(0, waits.key)
    rig.worker.loading(0, OTHER.name)
    play(rig.worker, rig.clock, *quiet(OTHER.load_limit_s - 1), 10 * OTHER.load_limit_s)
    assert not rig.killed()
    play(rig.worker, rig.clock, *quiet(1))
    assert rig.killed()
    assert rig.told()[waits.batch_id].reason == "MODEL_UNAVAILABLE"

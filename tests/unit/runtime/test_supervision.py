"""The supervisor of background loops."""

from __future__ import annotations

import asyncio

import pytest

from podium_runtime import supervision


class Stubborn:
    """Swallows the first cancellation, as a library may that uses asyncio.wait_for."""

    name = "stubborn"

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.started = asyncio.Event()
        self.cancellations = 0

    async def run_once(self) -> float:
        self.started.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancellations += 1
                if self.cancellations > 1:
                    raise


class Dying:
    """Raises."""

    name = "dying"

    def __init__(self) -> None:
        self.wake = asyncio.Event()

    async def run_once(self) -> float:
        raise ValueError("out of order")


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again() -> None:
    loop, stop = Stubborn(), asyncio.Event()
    running = asyncio.create_task(supervision.Supervisor([loop]).run(stop))
    async with asyncio.timeout(10):
        await loop.started.wait()
        stop.set()
        await running
    assert loop.cancellations == 2


async def test_a_loop_that_dies_ends_the_others_and_is_named() -> None:
    other = Stubborn()
    with pytest.raises(supervision.LoopDied, match="dying"):
        async with asyncio.timeout(10):
            await supervision.Supervisor([other, Dying()]).run(asyncio.Event())


async def test_a_task_beside_the_loops_that_dies_ends_them_too() -> None:
    async def fails() -> None:
        raise ValueError("on purpose")

    watch = supervision.Watch([asyncio.create_task(fails())])
    with pytest.raises(supervision.LoopDied):
        await asyncio.wait_for(supervision.Supervisor([watch]).run(asyncio.Event()), 5)

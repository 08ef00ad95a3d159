"""A process that can be killed at any of its awaits, and what outlives it.

An event loop runs a process' steps one by one; between any two of them a kill -9 may fall. `Fate` counts the steps and
kills before the n-th: from then on every `Line` to the outside is cut, so that whatever of the process still runs
(`finally`, `except`) reaches nobody. Each call over a line has steps before and after its effect, so some kills come
before it, some between the effect and its answer, and some after. Nothing is drawn by lot: a dry run counts the steps,
then one run is made for each. Where the outside itself runs on the loop, as a server with its sockets does, only the
passes over lines are steps: anywhere else a death makes no difference to it.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Death(BaseException):
    """What a dead process gets from the outside."""


class Fate:
    """When a process dies: before its step `kill_at`, or never.

    `at_lines`: only what it does to the outside is a step, for a loop that others run on too.
    """

    def __init__(self, kill_at: int | None = None, *, at_lines: bool = False) -> None:
        self.kill_at = kill_at
        self.at_lines = at_lines
        self.steps = 0
        self.dead = False

    def step(self) -> None:
        """The loop is about to run a step."""
        if not self.dead:
            self.steps += 1
            self.dead = self.steps == self.kill_at

    async def pass_by(self) -> None:
        """An await at which it may die. Raises Death."""
        if self.at_lines:
            self.step()
        self._look()
        await asyncio.sleep(0)
        self._look()

    def _look(self) -> None:
        if self.dead:
            raise Death


class Line:
    """Something outside, as a mortal process reaches it."""

    def __init__(self, outside: object, fate: Fate) -> None:
        self._outside = outside
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._outside, name)
        if not inspect.iscoroutinefunction(there):
            return there

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._fate.pass_by()
            try:
                return await there(*args, **kwargs)
            finally:
                await self._fate.pass_by()

        return call


class _NoWaiting(selectors.SelectSelector):
    """Whoever would wait has waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everybody waits for something that nobody will do")
        self.waited += max(timeout, 0.0)
        return super().select(0)


class DyingLoop(asyncio.SelectorEventLoop):
    """Tells the fate of who runs on it of every step. Its time is virtual: it passes when nothing is left to do."""

    def __init__(self) -> None:
        self._no_waiting = _NoWaiting()
        self.fate: Fate | None = None
        super().__init__(self._no_waiting)

    def time(self) -> float:
        return self._no_waiting.waited

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        def stepped(*args: *Ts) -> object:
            if self.fate is not None:
                self.fate.step()
            return callback(*args)

        return super().call_soon(stepped, *args, context=context)


def run(story: Coroutine[Any, Any, T]) -> T:
    """Runs a story on a loop of its own."""
    with asyncio.Runner(loop_factory=DyingLoop) as runner:
        return runner.run(story)


async def until_death(fate: Fate, process: Coroutine[Any, Any, None]) -> None:
    """Runs a process until it ends or is killed; on a DyingLoop, or with a fate that looks at the lines."""
    loop = asyncio.get_running_loop()
    assert fate.at_lines or isinstance(loop, DyingLoop)
    task = asyncio.ensure_future(process)
    if isinstance(loop, DyingLoop):
        loop.fate = fate
    await asyncio.wait([task])
    if isinstance(loop, DyingLoop):
        loop.fate = None
    if not fate.dead:
        task.result()
    elif not task.cancelled():
        task.exception()

"""Asking a driver that may never answer.

Promises: a question is answered or given up within its bound, whatever the driver does; the event loop never waits, and
neither does the end of the process. Each line has a daemon thread for the question under way, never one of asyncio's
pool, whose threads are joined at the end. A thread that does not come back is left behind, and while it is away its
line answers Silent at once, so that a wedged driver holds one thread a line and not more. (A thread that the kernel
holds in an uninterruptible call delays the end of any process; that is out of our hands.)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

AnswerT = TypeVar("AnswerT")


class Silent(Exception):
    """No answer within the bound."""


class Line:
    """One question at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._away = False

    async def ask(self, question: Callable[[], AnswerT], within_s: float) -> AnswerT:
        """The answer, or what `question` raised. Raises Silent."""
        if self._away:
            raise Silent(f"{self._name} has not come back from an earlier call")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[AnswerT] = loop.create_future()

        def work() -> None:
            try:
                value = question()
            except BaseException as error:
                self._deliver(loop, answer, error=error)
            else:
                self._deliver(loop, answer, value=value)

        self._away = True
        threading.Thread(target=work, name=self._name, daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            raise Silent(f"{self._name} did not answer within {within_s:g} s") from None

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[AnswerT],
        *,
        value: AnswerT | None = None,
        error: BaseException | None = None,
    ) -> None:
        def settle() -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        self._away = False
        # The loop may have ended while the driver thought.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

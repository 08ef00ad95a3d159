"""What Podium is compared with runs in processes of its own: started once, idle while the other side is measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, BinaryIO

_LINE_BYTES = 1 << 16
_ANSWER_S = 300.0
_STOP_S = 30.0


class Ended(RuntimeError):
    """Such a process has ended by itself."""


class Child:
    """A process that answers each JSON line with one JSON line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def answer(self) -> dict[str, Any]:
        """The next line it says. Raises Ended, or TimeoutError."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise Ended(f"a process of the benchmark ended with status {await self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, **question: object) -> dict[str, Any]:
        """Sends a line and waits for its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # It has ended: the answer says so.
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            await self._process.stdin.drain()
        return await self.answer()


@contextlib.asynccontextmanager
async def started(module: str, *arguments: str, **environment: str) -> AsyncIterator[Child]:
    """Runs `python -m module`, with more in its environment; it ends when its standard input does."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-m", module, *arguments]
    async with running(command, {**os.environ, **offline, **environment}) as child:
        yield child


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], environment: Mapping[str, str], errors: BinaryIO | None = None
) -> AsyncIterator[Child]:
    """Runs any program that answers so, in exactly this environment; `errors`: its standard error, or ours."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        limit=_LINE_BYTES,
        env=environment,
        # A group of its own, so that what it has started can be killed with it.
        start_new_session=True,
    )
    try:
        yield Child(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def say(**answer: object) -> None:
    """One answer, from inside such a process."""
    print(json.dumps(answer), flush=True)

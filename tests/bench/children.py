"""What Podium is compared with runs in processes of its own: started once, idle while the other side is measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

_LINE_BYTES = 1 << 16
_ANSWER_S = 300.0
_STOP_S = 10.0


class Child:
    """A process that answers each JSON line with one JSON line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def answer(self) -> dict[str, Any]:
        """The next line it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with status {await self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, **question: object) -> dict[str, Any]:
        """Sends a line and waits for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.answer()


@contextlib.asynccontextmanager
async def started(module: str, *arguments: str, **environment: str) -> AsyncIterator[Child]:
    """Runs `python -m module`, with more in its environment; it ends when its standard input does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", **environment},
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
            process.kill()
            await process.wait()


def say(**answer: object) -> None:
    """One answer, from inside such a process."""
    print(json.dumps(answer), flush=True)

"""`podium up` as a person runs it: a real command with real children."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from podium_client import AsyncClient

READY_S = 90.0
STOP_S = 60.0


@dataclass(slots=True)
class Up:
    """A running `podium up`."""

    process: asyncio.subprocess.Process
    facts: dict[str, Any]
    data_dir: Path

    @property
    def family(self) -> list[psutil.Process]:
        """All its descendants."""
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def connection(self) -> dict[str, str]:
        """What it tells local clients."""
        found: dict[str, str] = json.loads((self.data_dir / "connection.json").read_text())
        return found

    def client(self) -> AsyncClient:
        """A client of it."""
        return AsyncClient(self.connection["address"], self.connection["token"])

    async def podium(self, *arguments: str) -> list[Any]:
        """What the command prints about it, a JSON document a line."""
        settings = {f"PODIUM_{key.upper()}": value for key, value in self.connection.items()}
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "podium_cli", *arguments, "--json"),
            env=os.environ | settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, errors = await asyncio.wait_for(command.communicate(), READY_S)
        assert command.returncode == 0, errors.decode()
        return [json.loads(line) for line in printed.splitlines()]

    async def end(self, number: signal.Signals) -> int:
        """Sends the signal to the command alone and waits for its end."""
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


async def spawn(data_dir: Path, *arguments: str) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PODIUM_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "podium_cli", "up", "--data-dir", str(data_dir), "--json", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@contextlib.asynccontextmanager
async def up(data_dir: Path, *arguments: str) -> AsyncIterator[Up]:
    """A ready stack, ended afterwards if the test has not."""
    process = await spawn(data_dir, *arguments)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
        if not line:
            raise AssertionError((await process.stderr.read()).decode())
        yield Up(process, json.loads(line), data_dir)
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.communicate(), STOP_S)


async def gone(processes: list[psutil.Process]) -> None:
    """Returns when all are gone; a dead one that the machine's init has not noticed yet counts as gone."""
    async with asyncio.timeout(STOP_S):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    with contextlib.suppress(psutil.TimeoutExpired):
                        await asyncio.to_thread(process.wait, 0.1)


async def said(process: asyncio.subprocess.Process, words: str) -> None:
    """Reads the command's messages until one has these words."""
    assert process.stderr is not None
    async with asyncio.timeout(READY_S):
        while words not in (line := (await process.stderr.readline()).decode()):
            assert line, f"ended without saying {words!r}"

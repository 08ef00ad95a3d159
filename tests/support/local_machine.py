"""The machine that `local` starts its pods on, as a scheduler that may be killed finds it: real processes.

A scheduler's death takes what its provider had in memory, and leaves its processes: they are not tied to it here. The
deaths come where one of a real scheduler could make a difference: also between the spawn of a process and the first
word that is heard of it, when there may be a process without a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podium_runtime import clock
from podium_scheduler.adapters.providers import local
from podium_scheduler.adapters.providers.local_gpus import Gpus
from podium_scheduler.adapters.providers.local_records import Process, Records, Snapshot
from tests.support import dying, provider_rigs
from tests.support.clouds.stand_in import WELL, Misbehaviour

_STEP_S = 30.0
_SLEEPS = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")


async def _no_gpus() -> Gpus:
    return Gpus()


class _Local(local.Local):
    """Remembers what it was told to destroy."""

    def __init__(self, settings: local.Settings, time: clock.Clock) -> None:
        super().__init__(settings, time, _no_gpus)
        self.destroyed: set[str] = set()

    async def destroy(self, provider_pod_id: str) -> None:
        await super().destroy(provider_pod_id)
        self.destroyed.add(provider_pod_id)


@dataclass
class LocalMachine:
    """Its processes, and the providers that schedulers had of it, one after the other."""

    folder: Path
    wrong: Misbehaviour = WELL
    """What goes wrong with all that is created."""
    ever: set[str] = field(default_factory=set)
    """Names of pods that had a record."""
    _opened: list[_Local] = field(default_factory=list)
    _fate: dying.Fate = field(default_factory=dying.Fate)

    def __post_init__(self) -> None:
        self.records = Records(self.folder)

    def reopen(self, fate: dying.Fate, time: clock.Clock) -> local.Local:
        """The provider of a new scheduler with this fate."""
        self._fate = fate
        settings = local.Settings(
            folder=self.folder,
            prefix=provider_rigs.CLUSTER,
            program=("no-such-program",) if self.wrong.refused else _SLEEPS,
            max_count=0 if self.wrong.no_capacity else 16,
            price_usd_per_hour=0.25,
            end_with_scheduler=False,
            grace_s=1.0,
        )
        self._opened.append(_Local(settings, time))
        return self._opened[-1]

    async def pass_by(self) -> None:
        """The scheduler of now may die here."""
        await self._fate.pass_by()

    def alive(self) -> Sequence[str]:
        """The pod's name for every process that lives."""
        return [name for name, processes in self._processes().items() for _ in processes]

    async def settle(self) -> None:
        """Until every launch has become its pod or has ended, and whatever was told to end has."""
        async with asyncio.timeout(_STEP_S):
            while not self._is_settled():  # noqa: ASYNC110 - processes announce nothing
                await asyncio.sleep(0.005)

    async def clear(self) -> None:
        """Ends everything."""
        for provider in self._opened:
            await provider.close()
        for process in [one for processes in self._processes().values() for one in processes]:
            process.signal(signal.SIGKILL)
        for provider in self._opened:
            _reap(provider.unreaped)

    def _is_settled(self) -> bool:
        known = {record.name: record for record in self.records.all()}
        self.ever |= known.keys()
        doomed = {name for one in self._opened for name in one.destroyed}
        return not any(
            name in doomed or name not in known or known[name].pid != process.pid or not _is_program(process)
            for name, processes in self._processes().items()
            for process in processes
        )

    def _processes(self) -> dict[str, list[Process]]:
        found = Snapshot().by_mark
        return {
            Path(mark).stem: processes
            for mark, processes in found.items()
            if mark and Path(mark).parent == self.folder
        }  # fmt: skip


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _is_program(process: Process) -> bool:
    """It is the program already, and no longer the launch."""
    with contextlib.suppress(OSError):
        return b"time.sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    return True


@contextlib.asynccontextmanager
async def opened(folder: Path, wrong: Misbehaviour, patch: pytest.MonkeyPatch) -> AsyncIterator[LocalMachine]:
    """A machine whose scheduler may also die right after a spawn, and right after what it hears of that."""
    machine = LocalMachine(folder, wrong)
    read_to_end = local._read_to_end

    async def overheard(read_end: int) -> str:
        try:
            await machine.pass_by()
        except dying.Death:
            os.close(read_end)
            raise
        words = await read_to_end(read_end)
        await machine.pass_by()
        return words

    with patch.context() as patched:
        patched.setattr(local, "_read_to_end", overheard)
        try:
            yield machine
        finally:
            await machine.clear()

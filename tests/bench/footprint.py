"""Peak resident memory of the processes of a stack, as the kernel keeps it: nothing is sampled. Linux only.

Resident memory counts what processes share (Postgres' buffers, the worker's arena) in each of them that has touched it.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.support import stack

_KINDS = {
    "podium_gateway": "gateway",
    "podium_scheduler": "scheduler",
    "podium_worker": "worker's front",
    "podium_worker.executor": "executor",
    "podium_worker.decoder": "decoder",
}
# Writing this resets a process's peak to what it holds now (man 5 proc_pid_clear_refs).
_RESET_PEAK = "5"


def peak_bytes(pid: int) -> int:
    """The most that a process ever held, or since its peak was last forgotten."""
    for row in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if row.startswith("VmHWM:"):
            return int(row.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")


def resident(running: stack.Stack) -> dict[str, list[int]]:
    """Bytes that each process holds now, by kind."""
    return _by_kind(running, lambda process: int(process.memory_info().rss))


def peaks(running: stack.Stack) -> dict[str, list[int]]:
    """Bytes that each process held at most since `forget_peaks`, by kind."""
    return _by_kind(running, lambda process: peak_bytes(process.pid))


def forget_peaks(running: stack.Stack) -> None:
    """From now on."""
    for process in _processes(running):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{process.pid}/clear_refs").write_text(_RESET_PEAK, encoding="utf-8")


def _processes(running: stack.Stack) -> Iterator[psutil.Process]:
    pids = [service.process.pid for service in running.services if service.process.returncode is None]
    for pid in (*pids, running.own_postgres.pid, running.redis.pid):
        if pid is not None:
            first = psutil.Process(pid)
            yield from (first, *first.children(recursive=True))


def _by_kind(running: stack.Stack, read: Callable[[psutil.Process], int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for process in _processes(running):
        # Postgres' backends come and go.
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, RuntimeError):
            found[_kind(process)].append(read(process))
    return dict(found)


def _kind(process: psutil.Process) -> str:
    arguments = process.cmdline()
    module = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    return _KINDS.get(module, process.name())

"""What tests do to processes that they did not start themselves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.request
from pathlib import Path

STEP_S = 30.0


async def freeze(pid: int) -> None:
    """Stops a process and waits until every thread of it stands still.

    kill() only leaves the order: on a busy machine the process runs on until one of its threads is scheduled and takes
    it, long enough to begin with a batch that comes right after.
    """
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(STEP_S):
        while {_state(task) for task in Path(f"/proc/{pid}/task").iterdir()} != {"T"}:  # noqa: ASYNC110 - by the kernel
            await asyncio.sleep(0.002)


def _state(task: Path) -> str:
    return task.joinpath("stat").read_text().rpartition(")")[2].split()[0]


def children(pid: int) -> list[int]:
    """Processes that a process has started and that still run; of a worker, its executors."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def maps_torch(pid: int) -> bool:
    """Whether a process has torch or CUDA loaded: their libraries are in its memory then."""
    files = {line.split(maxsplit=5)[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line}
    return any("/torch/lib/" in file or Path(file).name.startswith(("libcuda.", "libcudart")) for file in files)


async def metric(address: str, name: str, **labels: str) -> float:
    """Sum of a metric's series that bear these labels, on a Prometheus endpoint."""
    text = await asyncio.to_thread(_fetch, f"http://{address}/metrics")
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for series, value in found if all(pair in series for pair in wanted))


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        text: str = reply.read().decode()
        return text

"""An executor's process as the front starts it: it sees its one GPU, and no other."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from podium_runtime import clock
from podium_worker.adapters import executor_process
from podium_worker.domain import devices
from tests.support import processes

STEP_S = 30.0
COMMAND = executor_process.Command(threads=1, max_payload_bytes=1 << 20, log_level="error", log_format="json")


class Ready:
    """Hears when the executors listen; nothing else is of interest here."""

    def __init__(self) -> None:
        self.devices: asyncio.Queue[int] = asyncio.Queue()

    def executor_ready(self, device: int) -> None:
        self.devices.put_nowait(device)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 1


def gpu(index: int, visible: str) -> devices.Device:
    return devices.Device(index, visible, "NVIDIA H100", torch_name="cuda:0", visible=visible)


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def arguments(pid: int) -> dict[str, str]:
    """Its options, `--name value`."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}


async def started(*found: devices.Device) -> dict[int, tuple[str | None, str]]:
    """Of a process for each device, by its index: CUDA_VISIBLE_DEVICES, and the device that it computes on."""
    ready: Any = Ready()
    before = set(processes.children(os.getpid()))
    tasks = [
        asyncio.create_task(executor_process.ExecutorProcess(one, COMMAND, ready, clock.SystemClock()).run())
        for one in found
    ]
    try:
        async with asyncio.timeout(STEP_S):
            assert {await ready.devices.get() for _ in found} == {one.index for one in found}
        ours = set(processes.children(os.getpid())) - before
        told = {pid: arguments(pid) for pid in ours}
        return {
            int(said["--index"]): (environment(pid).get("CUDA_VISIBLE_DEVICES"), said["--device"])
            for pid, said in told.items()
            if "--index" in said
        }
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_each_executor_sees_exactly_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them compute on `cuda:0`: only what they see tells them apart."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa,GPU-bbbb,MIG-cccc")
    found = await started(gpu(0, "GPU-aaaa"), gpu(1, "GPU-bbbb"), gpu(2, "MIG-cccc"))
    assert found == {0: ("GPU-aaaa", "cuda:0"), 1: ("GPU-bbbb", "cuda:0"), 2: ("MIG-cccc", "cuda:0")}


async def test_the_executor_of_a_cpu_is_told_of_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert await started(devices.Device(0, "cpu", "CPU")) == {0: (None, "cpu")}

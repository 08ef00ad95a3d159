"""A whole worker on a real GPU: what it says of itself, an executor that dies, models that make room."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from podium.worker.v1 import worker_pb2
from tests.support import fake_scheduler

SETTINGS = {"devices": "auto"}


def rows(chunks: list[worker_pb2.BatchChunk]) -> np.ndarray:
    return np.concatenate([np.frombuffer(one.chunk.vectors, "<f4").reshape(-1, one.chunk.dimension) for one in chunks])


def loaded(name: str) -> Callable[[worker_pb2.Status], bool]:
    return lambda status: name in status.devices[0].resident_workloads


def alone(name: str) -> Callable[[worker_pb2.Status], bool]:
    return lambda status: list(status.devices[0].resident_workloads) == [name]


async def test_it_computes_and_an_executor_that_dies_costs_nothing(gpu: torch.device, tmp_path: Path) -> None:
    scheduler = fake_scheduler.FakeScheduler([fake_scheduler.minilm_workload()])
    some = [f"text number {number}" for number in range(256)]
    async with (
        fake_scheduler.served(scheduler) as address,
        fake_scheduler.worker(address, tmp_path, **SETTINGS) as worker,
    ):
        session = await scheduler.session()
        (device,) = session.hello.devices
        assert device.name == torch.cuda.get_device_name(gpu) and device.uuid.startswith("GPU-")
        session.say(assign=scheduler.assignment("minilm", some))
        chunks, _ = await session.result()
        first = rows(chunks)
        status = await session.status(loaded("minilm"))
        assert status.devices[0].vram_used_bytes > 100 << 20 and status.devices[0].temperature_celsius > 10
        os.kill(worker.executors()[-1], signal.SIGKILL)
        session.say(assign=scheduler.assignment("minilm", some))
        while (frame := await session.next_frame()) is not None and frame.HasField("failed"):
            # It was in hand when the process died: a scheduler would give it out again.
            session.say(assign=scheduler.assignment("minilm", some))
        again = []
        while frame is not None and not frame.HasField("done"):
            again += [frame.chunk] if frame.HasField("chunk") else []
            frame = await session.next_frame()
        np.testing.assert_allclose(rows(again), first, atol=1e-5)
        assert len(worker.executors()) == 2


async def test_a_wanted_model_takes_the_place_of_another_and_its_memory_comes_back(tmp_path: Path) -> None:
    first, second = fake_scheduler.minilm_workload(), fake_scheduler.minilm_workload()
    second.name = "minilm-2"
    for workload in (first, second):
        workload.needs.vram_bytes = 100 << 20
    scheduler = fake_scheduler.FakeScheduler([first, second])
    # Room for one: weights take about 90 MB.
    async with (
        fake_scheduler.served(scheduler) as address,
        fake_scheduler.worker(address, tmp_path, model_memory_bytes=str(150 << 20), **SETTINGS),
    ):
        session = await scheduler.session()
        for name in ("minilm", "minilm-2", "minilm"):
            session.say(desired=worker_pb2.Desired(resident_workloads=[name]))
            session.say(assign=scheduler.assignment(name, ["one", "two"]))
            chunks, _ = await session.result()
            assert len(rows(chunks)) == 2
            session.statuses.clear()
            await session.status(alone(name))

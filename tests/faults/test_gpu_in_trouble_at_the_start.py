"""A GPU that cannot be reached when its worker starts, and a driver that does not answer at all.

A script stands in for nvidia-smi, and a module for NVML's, which finds no library. The worker is a real process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podium.worker.v1 import worker_pb2
from tests.support import fake_scheduler as fake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

RECORDED = Path(__file__).parents[1] / "unit" / "worker" / "recorded"
NO_LIBRARY = """
NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_NO_PERMISSION = 9, 12, 4


class NVMLError(Exception):
    value = NVML_ERROR_LIBRARY_NOT_FOUND


def nvmlInit():
    raise NVMLError
"""


class Machine:
    """What nvidia-smi prints here."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answer = folder / "answer.csv"
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat {self._answer}\n")
        program.chmod(0o755)
        (folder / "pynvml.py").write_text(NO_LIBRARY)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def says(self, recorded: str, rows: int) -> None:
        """The first rows of a recorded answer."""
        fresh = self._answer.with_suffix(".new")
        fresh.write_text("".join((RECORDED / recorded).read_text().splitlines(keepends=True)[:rows]))
        fresh.replace(self._answer)


def _state(status: worker_pb2.Status, device: int) -> worker_pb2.DeviceState:
    return next(one.state for one in status.devices if one.index == device)


async def test_it_is_shown_with_its_reason_and_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    machine.says("lost_row.csv", rows=2)
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with (
        fake.served(scheduler) as address,
        fake.deployed_worker(address, tmp_path, devices="auto") as worker,
    ):
        session = await scheduler.session()
        first, lost = session.hello.devices
        assert first.uuid.startswith("GPU-4d0a1c5e") and not lost.uuid
        status = await session.status(lambda s: _state(s, 1) == worker_pb2.DEVICE_STATE_FAULTED)
        assert status.devices[1].reason.startswith("The driver cannot reach this GPU any more")
        await session.status(lambda s: any(workload.credits for workload in s.workloads))
        assign = scheduler.assignment("hash-64", ["one", "two"])
        session.say(assign=assign)
        await session.result()
        assert len(worker.executors()) == 1, "there is nothing that a second one could compute on"

        machine.says("several.csv", rows=2)
        session = await scheduler.session()
        assert [device.uuid[:12] for device in session.hello.devices] == ["GPU-4d0a1c5e", "GPU-9b7c2d11"]
        assert session.hello.devices[1].vram_bytes == 81559 << 20
        assert [lease.batch_id for lease in session.hello.in_hand] == [assign.lease.batch_id], "it goes on with it"
        session.say(desired=worker_pb2.Desired(resident_workloads=["hash-64"]))
        await session.status(lambda s: _state(s, 1) == worker_pb2.DEVICE_STATE_READY)


async def test_a_driver_that_fails_does_not_make_it_a_worker_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(tmp_path, monkeypatch)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho Failed to initialize NVML: Unknown Error; exit 255\n")
    async with fake.deployed_worker("127.0.0.1:1", tmp_path, devices="0") as process:
        assert await process.ended() == 2
        assert "driver of this machine's GPUs does not answer (nvidia-smi ended with 255" in process.log.read_text()

"""Which devices this machine has, found without torch: NVML, else nvidia-smi's CSV, else the CPU."""

from __future__ import annotations

import asyncio
import csv
import importlib
import importlib.util
import io
import platform
import shutil
from collections.abc import Sequence
from typing import Any, Protocol

from podium_runtime import logs
from podium_worker.domain import devices

log = logs.get_logger(__name__)

_SMI_TIMEOUT_S = 15.0
_MIB = 1024 * 1024


class NoDevices(Exception):
    """The settings ask for devices that are not here."""


class Probe(Protocol):
    """One way to find GPUs."""

    async def find(self) -> list[devices.Device] | None:
        """The GPUs by index, or None when this way does not work here."""


class Nvml:
    """Through nvidia-ml-py, if it is installed. In a thread, with a bound: a wedged driver can hang a call."""

    async def find(self) -> list[devices.Device] | None:
        if importlib.util.find_spec("pynvml") is None:
            return None
        nvml = importlib.import_module("pynvml")
        try:
            async with asyncio.timeout(_SMI_TIMEOUT_S):
                return await asyncio.to_thread(_ask_nvml, nvml)
        except (TimeoutError, nvml.NVMLError) as error:
            log.warning("nvml_unusable", error=str(error) or "timeout")
            return None


def _ask_nvml(nvml: Any) -> list[devices.Device]:
    nvml.nvmlInit()
    try:
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            found.append(
                devices.Device(
                    index=index,
                    uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                    name=_text(nvml.nvmlDeviceGetName(handle)),
                    vram_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                    compute_capability=f"{major}.{minor}",
                    torch_name=f"cuda:{index}",
                )
            )
        return found
    finally:
        nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class NvidiaSmi:
    """Through the command line tool that comes with the driver."""

    async def find(self) -> list[devices.Device] | None:
        program = shutil.which("nvidia-smi")
        if program is None:
            return None
        process = await asyncio.create_subprocess_exec(
            program,
            "--query-gpu=index,uuid,name,memory.total,compute_cap",
            "--format=csv,noheader,nounits",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_SMI_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            log.warning("nvidia_smi_hangs", seconds=_SMI_TIMEOUT_S)
            return None
        return parse_smi(output.decode(errors="replace")) if process.returncode == 0 else None


def parse_smi(text: str) -> list[devices.Device]:
    """Devices from `index, uuid, name, memory in MiB, compute capability` lines; lines that are none are left out."""
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) != 5 or not row[0].strip().isdigit():
            continue
        index, uuid, name, memory, capability = (cell.strip() for cell in row)
        vram = int(memory) * _MIB if memory.isdigit() else 0
        found.append(devices.Device(int(index), uuid, name, vram, capability, torch_name=f"cuda:{index}"))
    return found


async def discover(wanted: str, probes: Sequence[Probe] = (Nvml(), NvidiaSmi())) -> list[devices.Device]:
    """The devices to use. `wanted` is auto, cpu or GPU indices. Raises NoDevices if a named GPU is not there."""
    if wanted == "cpu":
        return [_cpu()]
    gpus: list[devices.Device] = []
    for probe in probes:
        found = await probe.find()
        if found is not None:
            gpus = found
            break
    if wanted == "auto":
        return gpus or [_cpu()]
    named = {int(part) for part in wanted.split(",")}
    missing = named - {gpu.index for gpu in gpus}
    if missing:
        raise NoDevices(f"PODIUM_DEVICES names GPU {sorted(missing)}; this machine has {[g.index for g in gpus]}.")
    return [gpu for gpu in gpus if gpu.index in named]


def _cpu() -> devices.Device:
    return devices.Device(index=0, uuid="cpu", name=platform.processor() or platform.machine() or "CPU")

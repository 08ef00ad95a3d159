"""Which devices this worker uses, found without torch: NVML, else nvidia-smi's CSV, else the CPU.

The CPU stands in for GPUs that are not there, never for GPUs that are in trouble: those are devices all the same, and
where the driver itself does not answer, nobody knows what is there.
"""

from __future__ import annotations

import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from podium_runtime import logs
from podium_worker.adapters.devices import nvml, smi, source
from podium_worker.domain import devices

log = logs.get_logger(__name__)

_UUIDS = ("GPU-", "MIG-")


class NoDevices(Exception):
    """The devices that the settings ask for are not to be had. The message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Found:
    """The devices to use, by index, and who knows about them; None for the CPU, of which nobody has to."""

    devices: tuple[devices.Device, ...]
    source: source.Source | None = None


def driven_gpus() -> bool:
    """Whether a driver is loaded and has given this machine, or this container, any GPU. Asks no driver."""
    loaded = pathlib.Path("/proc/driver/nvidia/version").exists()
    return loaded and any(pathlib.Path("/dev").glob("nvidia[0-9]*"))


async def discover(
    wanted: str,
    environment: Mapping[str, str],
    sources: Sequence[source.Source] | None = None,
    has_gpus: Callable[[], bool] = driven_gpus,
) -> Found:
    """The devices to use. `wanted` is auto, cpu or GPU indices, as nvidia-smi numbers them.

    CUDA_VISIBLE_DEVICES of the environment narrows the choice, as it does for any program. Raises NoDevices if a named
    GPU is not there, or if there are GPUs and their driver does not answer.
    """
    if wanted == "cpu":
        return Found((_cpu(),))
    gpus: list[devices.Device] = []
    knows: source.Source | None = None
    problems: list[str] = []
    answered = False
    for one in (nvml.Nvml(), smi.Smi()) if sources is None else sources:
        found = await one.find()
        answered = answered or found is not None
        if found:
            gpus, knows = visible(found, environment), one
            log.info("gpus_found", source=one.name, found=len(found), visible=len(gpus))
            for gpu in gpus:
                if gpu.trouble:
                    log.error("gpu_in_trouble", index=gpu.index, bus=gpu.pci_bus_id, reason=gpu.trouble)
            break
        if one.problem:
            problems.append(one.problem)
    if problems and not answered and (wanted != "auto" or has_gpus()):
        raise NoDevices(
            f"The driver of this machine's GPUs does not answer ({'; '.join(problems)}); "
            "set PODIUM_DEVICES=cpu to compute without them."
        )
    if wanted != "auto":
        named = {int(part) for part in wanted.split(",")}
        missing = sorted(named - {gpu.index for gpu in gpus})
        if missing:
            raise NoDevices(f"PODIUM_DEVICES names GPU {missing}; this machine has {[gpu.index for gpu in gpus]}.")
        gpus = [gpu for gpu in gpus if gpu.index in named]
    return Found(tuple(gpus), knows) if gpus else Found((_cpu(),))


def visible(gpus: Sequence[devices.Device], environment: Mapping[str, str]) -> list[devices.Device]:
    """Those that CUDA_VISIBLE_DEVICES lets a program see, by index. Raises NoDevices where it is ambiguous, or names a
    GPU alone that is in trouble.

    As CUDA reads it: numbers or UUIDs or their beginnings, and what follows the first that names nothing is ignored.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return list(gpus)
    kept: dict[int, devices.Device] = {}
    unknown = ""
    for entry in (part.strip() for part in listed.split(",")):
        if entry.isdigit():
            by_place = _numbered(gpus, environment)
            matching = by_place[int(entry) : int(entry) + 1]
        else:
            matching = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
        if not matching and any(gpu.trouble for gpu in gpus) and entry.startswith(_UUIDS):
            # It may be one in trouble, and says nothing about the others then.
            unknown = entry
            continue
        if len(matching) != 1:
            break
        kept[matching[0].index] = matching[0]
    if unknown and not kept:
        raise NoDevices(f"CUDA_VISIBLE_DEVICES names {unknown}, which is not here or is in trouble.")
    return sorted(kept.values(), key=lambda gpu: gpu.index)


def _numbered(gpus: Sequence[devices.Device], environment: Mapping[str, str]) -> Sequence[devices.Device]:
    """As CUDA numbers them: the fastest first unless told otherwise, which only it can tell among different cards."""
    names = {gpu.name for gpu in gpus if not gpu.trouble}
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(names) <= 1
    if not by_bus:
        raise NoDevices(
            "CUDA_VISIBLE_DEVICES has numbers, which CUDA gives to different GPUs in an order of its own; "
            "name them by UUID (nvidia-smi -L), or set CUDA_DEVICE_ORDER=PCI_BUS_ID."
        )
    return gpus


def _cpu() -> devices.Device:
    return devices.Device(index=0, uuid="cpu", name=platform.processor() or platform.machine() or "CPU")

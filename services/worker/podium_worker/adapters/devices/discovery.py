"""Which devices this worker uses, found without torch: NVML, else nvidia-smi's CSV, else the CPU."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podium_runtime import logs
from podium_worker.adapters.devices import nvml, smi, source
from podium_worker.domain import devices

log = logs.get_logger(__name__)


class NoDevices(Exception):
    """The settings ask for devices that are not here. The message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Found:
    """The devices to use, by index, and who knows about them; None for the CPU, of which nobody has to."""

    devices: tuple[devices.Device, ...]
    source: source.Source | None = None


async def discover(
    wanted: str, environment: Mapping[str, str], sources: Sequence[source.Source] | None = None
) -> Found:
    """The devices to use. `wanted` is auto, cpu or GPU indices, as nvidia-smi numbers them.

    CUDA_VISIBLE_DEVICES of the environment narrows the choice, as it does for any program. Raises NoDevices if a named
    GPU is not there.
    """
    if wanted == "cpu":
        return Found((_cpu(),))
    gpus: list[devices.Device] = []
    knows: source.Source | None = None
    for one in (nvml.Nvml(), smi.Smi()) if sources is None else sources:
        found = await one.find()
        if found:
            gpus, knows = visible(found, environment), one
            log.info("gpus_found", source=one.name, found=len(found), visible=len(gpus))
            break
    if wanted != "auto":
        named = {int(part) for part in wanted.split(",")}
        missing = sorted(named - {gpu.index for gpu in gpus})
        if missing:
            raise NoDevices(f"PODIUM_DEVICES names GPU {missing}; this machine has {[gpu.index for gpu in gpus]}.")
        gpus = [gpu for gpu in gpus if gpu.index in named]
    return Found(tuple(gpus), knows) if gpus else Found((_cpu(),))


def visible(gpus: Sequence[devices.Device], environment: Mapping[str, str]) -> list[devices.Device]:
    """Those that CUDA_VISIBLE_DEVICES lets a program see, by index. Raises NoDevices where it is ambiguous.

    As CUDA reads it: numbers or UUIDs or their beginnings, and what follows the first that names nothing is ignored.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return list(gpus)
    kept: dict[str, devices.Device] = {}
    for entry in (part.strip() for part in listed.split(",")):
        if entry.isdigit():
            by_place = _numbered(gpus, environment)
            matching = by_place[int(entry) : int(entry) + 1]
        else:
            matching = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
        if len(matching) != 1:
            break
        kept[matching[0].uuid] = matching[0]
    return sorted(kept.values(), key=lambda gpu: gpu.index)


def _numbered(gpus: Sequence[devices.Device], environment: Mapping[str, str]) -> Sequence[devices.Device]:
    """As CUDA numbers them: the fastest first unless told otherwise, which only it can tell among different cards."""
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) == 1
    if not by_bus:
        raise NoDevices(
            "CUDA_VISIBLE_DEVICES has numbers, which CUDA gives to different GPUs in an order of its own; "
            "name them by UUID (nvidia-smi -L), or set CUDA_DEVICE_ORDER=PCI_BUS_ID."
        )
    return gpus


def _cpu() -> devices.Device:
    return devices.Device(index=0, uuid="cpu", name=platform.processor() or platform.machine() or "CPU")

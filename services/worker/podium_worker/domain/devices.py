"""Compute devices and which workloads fit on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One compute device. `torch_name` is what its executor is told: "cpu" or "cuda:0"."""

    index: int
    uuid: str
    name: str
    vram_bytes: int = 0
    """0: the CPU's, or not known."""
    compute_capability: str = ""
    torch_name: str = "cpu"
    visible: str = ""
    """CUDA_VISIBLE_DEVICES of its executor, which sees this GPU alone, as cuda:0; empty for the CPU. By UUID, for CUDA
    numbers the GPUs its own way (the fastest first) and NVML by their place on the bus."""
    driver_version: str = ""
    cuda_version: str = ""
    """Newest that the driver is good for, as "12.8"; empty: unknown, or the CPU."""
    pci_bus_id: str = ""
    trouble: str = ""
    """Why no more than its index is known, in one sentence: the driver could not reach it. Empty: all is known."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a workload asks of a device and of the worker."""

    backend: str
    vram_bytes: int = 0
    min_compute_capability: str = ""
    min_cuda_version: str = ""
    """Of a GPU's driver; the CPU and a GPU whose version is not known are not asked."""


_FAULTED_AFTER = 5
# Halving a batch of a few hundred items down to one poison kills about ten executors in a row, and starting the next
# one at once is all that it takes. What dies more often than that is not poison.
_BISECTION = 12


@dataclass(frozen=True, slots=True)
class Deaths:
    """Deaths of a device's executor since it finished a batch: `plain` ones, and those with a batch to suspect."""

    plain: int = 0
    suspect: int = 0

    def another(self, *, suspect: bool) -> Deaths:
        """One more."""
        return Deaths(self.plain + int(not suspect), self.suspect + int(suspect))

    @property
    def count(self) -> int:
        """All of them."""
        return self.plain + self.suspect

    @property
    def reckoned(self) -> int:
        """Those that speak against the device."""
        return self.plain + max(0, self.suspect - _BISECTION)

    @property
    def faulted(self) -> bool:
        """Whether the device should be called broken."""
        return self.reckoned >= _FAULTED_AFTER


_FIRST_FAULT_PAUSE_S = 5.0
_LAST_FAULT_PAUSE_S = 300.0


def fault_pause_s(faults: int) -> float:
    """How long a device rests after its canary has failed `faults` times (from 1) with no good batch in between."""
    return min(_LAST_FAULT_PAUSE_S, _FIRST_FAULT_PAUSE_S * 2.0 ** min(faults - 1, 30))


def unavailable_reason(needs: Needs, devices: Sequence[Device], backends: Sequence[str]) -> str:
    """One sentence on why no device here can serve the workload; empty when one can."""
    if needs.backend not in backends:
        return f"This worker has no backend {needs.backend!r}; it has: {', '.join(backends)}."
    if any(fits(needs, device) for device in devices):
        return ""
    wants = []
    if needs.vram_bytes:
        wants.append(f"{needs.vram_bytes} bytes of device memory")
    if needs.min_compute_capability:
        wants.append(f"compute capability {needs.min_compute_capability}")
    if needs.min_cuda_version:
        wants.append(f"a driver for CUDA {needs.min_cuda_version}")
    return f"No device here has {' and '.join(wants)}."


def fits(needs: Needs, device: Device) -> bool:
    """Whether one device meets the needs, as the placer judges it. The CPU's memory is not counted as device memory;
    memory that a GPU does not tell, as where it shares the machine's, is not held against it. Of one in trouble nothing
    is known.
    """
    if device.trouble:
        return True
    if needs.min_compute_capability and capability(device.compute_capability) < capability(
        needs.min_compute_capability
    ):
        return False
    needed, known = needs.min_cuda_version, device.cuda_version
    if needed and known and capability(known) < capability(needed):
        return False
    return device.torch_name == "cpu" or not device.vram_bytes or needs.vram_bytes <= device.vram_bytes


def capability(text: str) -> tuple[int, int]:
    """ "9.0" as (9, 0), a CUDA version likewise; (0, 0) for the CPU's empty one."""
    major, _, minor = text.partition(".")
    return (int(major or 0), int(minor or 0))

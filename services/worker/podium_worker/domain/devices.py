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
    compute_capability: str = ""
    torch_name: str = "cpu"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a workload asks of a device and of the worker."""

    backend: str
    vram_bytes: int = 0
    min_compute_capability: str = ""


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
    return f"No device here has {' and '.join(wants)}."


def fits(needs: Needs, device: Device) -> bool:
    """Whether one device meets the needs. The CPU's memory is not counted as device memory."""
    if needs.min_compute_capability and capability(device.compute_capability) < capability(
        needs.min_compute_capability
    ):
        return False
    return device.torch_name == "cpu" or needs.vram_bytes <= device.vram_bytes


def capability(text: str) -> tuple[int, int]:
    """ "9.0" as (9, 0); (0, 0) for the CPU's empty one."""
    major, _, minor = text.partition(".")
    return (int(major or 0), int(minor or 0))

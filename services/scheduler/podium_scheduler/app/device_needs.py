"""Whether a worker's device has what a workload needs: as the worker itself judges it."""

from __future__ import annotations

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2


def meets(device: worker_pb2.Device, needs: workload_pb2.DeviceNeeds) -> bool:
    """A CPU's memory is not counted, and it has no compute capability."""
    if needs.min_compute_capability and version(device.compute_capability) < version(needs.min_compute_capability):
        return False
    return not device.vram_bytes or device.vram_bytes >= needs.vram_bytes


def version(text: str) -> tuple[int, ...]:
    """ "9.0" as (9, 0); what is no version comes before all: workers tell it."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else ()

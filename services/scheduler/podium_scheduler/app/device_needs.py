"""Whether a worker's device has what a workload needs: as the worker itself judges it."""

from __future__ import annotations

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_scheduler.domain import versions


def meets(device: worker_pb2.Device, needs: workload_pb2.DeviceNeeds) -> bool:
    """A CPU's memory is not counted, and it has no compute capability. A CUDA version counts where it is known."""
    if versions.older(device.compute_capability, needs.min_compute_capability):
        return False
    if versions.parsed(device.cuda_version) and versions.older(device.cuda_version, needs.min_cuda_version):
        return False
    return not device.vram_bytes or device.vram_bytes >= needs.vram_bytes

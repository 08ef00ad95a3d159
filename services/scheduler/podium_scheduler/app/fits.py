"""Which workloads a worker's devices can serve, by what the worker says of them in its Hello."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_scheduler.app import device_needs, worker_sessions


class Fits:
    """Which workloads each kind of device can serve; a fleet has many of a kind."""

    def __init__(self, workloads: Mapping[str, workload_pb2.Workload]) -> None:
        self._workloads = workloads
        self._known: dict[tuple[object, ...], frozenset[str]] = {}

    def of(self, hello: worker_pb2.Hello, device: worker_pb2.Device) -> frozenset[str]:
        """Names of the workloads that a worker may be given and whose needs its device meets."""
        told = hello.reads_token_ids, device.vram_bytes, device.compute_capability, device.cuda_version
        kind = (*hello.backends, "", *hello.workloads, "", *told)
        if kind not in self._known:
            servable = (w for w in self._workloads.values() if worker_sessions.may_serve(hello, w))
            self._known[kind] = frozenset(w.name for w in servable if device_needs.meets(device, w.needs))
        return self._known[kind]


def devices(hello: worker_pb2.Hello) -> Sequence[worker_pb2.Device]:
    """A worker's. One that names no device is one whose device is not known."""
    return list(hello.devices) or [worker_pb2.Device(uuid="cpu")]

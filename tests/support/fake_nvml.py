"""A driver's library that does what a test says, with the names, the units and the errors of the real module pynvml.

The errors and constants are the real module's own; it needs no driver for those.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass(eq=False)
class Gpu:
    """One GPU, and what it has to say. A value that is an error code is raised by whoever asks for it."""

    uuid: str
    bus: str
    name: str = "NVIDIA H100 80GB HBM3"
    capability: tuple[int, int] = (9, 0)
    total: int = 80 << 30
    used: int = 1 << 30
    utilization: int = 7
    temperature: int = 40
    slowdown: int = 87
    milliwatts: int = 123_456
    throttle: int = 0
    ecc: int = 0
    recovery: int = 0
    instances: Sequence[Gpu] = ()
    """Its MIG instances; MIG is on when there are any."""
    fails: dict[str, int] = field(default_factory=dict)
    """Function (without nvmlDevice) to the code that it raises for this GPU; "*" for all of them."""
    hangs: threading.Event | None = None
    """While it is set on the GPU, whoever asks it anything waits for the event."""
    events: queue.Queue[int] = field(default_factory=queue.Queue)
    """XIDs to come."""

    def lost(self) -> None:
        self.fails["*"] = pynvml.NVML_ERROR_GPU_IS_LOST


class FakeNvml:
    """Stands in for the module."""

    def __init__(self, *gpus: Gpu, fails: int = 0) -> None:
        self.gpus = gpus
        self.fails = fails
        self.cuda: int | None = 12040
        """None: a driver that does not tell."""
        self.opened = 0
        self.inits = 0
        self.stale_waits = 0
        """Waits on an event set from before the library was opened anew, which a real one does not survive."""
        self.nvmlDeviceGetName = self._tells("GetName", lambda gpu: gpu.name)
        self.nvmlDeviceGetUUID = self._tells("GetUUID", lambda gpu: gpu.uuid)
        self.nvmlDeviceGetCudaComputeCapability = self._tells("GetCudaComputeCapability", lambda gpu: gpu.capability)
        self.nvmlDeviceGetPciInfo = self._tells("GetPciInfo", lambda gpu: SimpleNamespace(busId=gpu.bus.encode()))
        self.nvmlDeviceGetMemoryInfo = self._tells("GetMemoryInfo", _memory)
        self.nvmlDeviceGetUtilizationRates = self._tells(
            "GetUtilizationRates", lambda gpu: SimpleNamespace(gpu=gpu.utilization, memory=0)
        )
        self.nvmlDeviceGetTemperature = self._tells("GetTemperature", lambda gpu: gpu.temperature)
        self.nvmlDeviceGetTemperatureThreshold = self._tells("GetTemperatureThreshold", lambda gpu: gpu.slowdown)
        self.nvmlDeviceGetPowerUsage = self._tells("GetPowerUsage", lambda gpu: gpu.milliwatts)
        self.nvmlDeviceGetCurrentClocksThrottleReasons = self._tells(
            "GetCurrentClocksThrottleReasons", lambda gpu: gpu.throttle
        )
        self.nvmlDeviceGetTotalEccErrors = self._tells("GetTotalEccErrors", lambda gpu: gpu.ecc)
        self.nvmlDeviceGetMigMode = self._tells("GetMigMode", lambda gpu: [int(bool(gpu.instances))] * 2)
        self.nvmlDeviceGetMaxMigDeviceCount = self._tells("GetMaxMigDeviceCount", lambda gpu: 7)

    def __getattr__(self, name: str) -> Any:
        # Constants and errors only: a function that the fake does not know must not reach a real driver.
        if name.startswith("NVML"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def nvmlInit(self) -> None:
        if self.fails:
            raise pynvml.NVMLError(self.fails)
        self.inits += 1
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"550.90.07"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        if self.cuda is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        self._check()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        self._check()
        return self._reach("GetHandleByIndex", self.gpus[index])

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> Gpu:
        self._check()
        found = [gpu for gpu in self.gpus if gpu.bus == bus]
        if not found:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self._reach("GetHandleByPciBusId", found[0])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, slot: int) -> Gpu:
        if slot >= len(gpu.instances):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu.instances[slot]

    def nvmlDeviceGetFieldValues(self, gpu: Gpu, fields: Sequence[int]) -> list[Any]:
        self._reach("GetFieldValues", gpu)
        assert fields == [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=gpu.recovery))]

    def nvmlEventSetCreate(self) -> dict[str, Any]:
        self._check()
        return {"born": self.inits}

    def nvmlDeviceRegisterEvents(self, gpu: Gpu, kinds: int, events: dict[str, Any]) -> None:
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        events["gpu"] = self._reach("RegisterEvents", gpu)

    def nvmlEventSetWait(self, events: dict[str, Any], timeout_ms: int) -> Any:
        self._check()
        if events["born"] != self.inits:
            self.stale_waits += 1
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        gpu = events["gpu"]
        if "EventSetWait" in gpu.fails:
            raise pynvml.NVMLError(gpu.fails["EventSetWait"])
        try:
            # Shorter than it was asked for, so that tests end soon.
            return SimpleNamespace(eventData=gpu.events.get(timeout=min(timeout_ms, 20) / 1000))
        except queue.Empty:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT) from None

    def nvmlEventSetFree(self, events: dict[str, Any]) -> None:
        events.clear()

    def _tells(self, function: str, value: Callable[[Gpu], Any]) -> Callable[..., Any]:
        def ask(gpu: Gpu, *_: int) -> Any:
            return value(self._reach(function, gpu))

        return ask

    def _reach(self, function: str, gpu: Gpu) -> Gpu:
        self._check()
        if gpu.hangs is not None:
            gpu.hangs.wait()
        code = gpu.fails.get(function, gpu.fails.get("*"))
        if code is not None:
            raise pynvml.NVMLError(code)
        return gpu

    def _check(self) -> None:
        if not self.opened:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)


def _memory(gpu: Gpu) -> Any:
    return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

"""GPUs through NVML (nvidia-ml-py).

Promises: each GPU is asked on a line of its own, so one that hangs leaves its siblings readable as long as the driver
does; a GPU that cannot be reached when it is looked for is found as one in trouble. A MIG instance is a device: its
memory is its own; temperature, power, memory errors and XIDs are those of the board that it is a part of.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from podium_runtime import logs
from podium_worker.adapters.devices import lines, nvml_session, source, xids
from podium_worker.domain import devices, health

log = logs.get_logger(__name__)

_FIND_WITHIN_S = 15.0
_READ_WITHIN_S = 5.0
_UNCORRECTED, _VOLATILE = 1, 0
_CORE_SENSOR = 0
_SLOWDOWN_THRESHOLD = 1
_HARDWARE_THERMAL_SLOWDOWN = 0x40
_RECOVERY_ACTION_FIELD = 230
# Reset, reboot the node, drain and reset, reset the bus, reboot the system (nvmlDeviceGpuRecoveryAction_t).
_RECOVERY = {
    1: "recovery action: reset the GPU",
    2: "recovery action: reboot the machine",
    4: "recovery action: drain and reset the GPU",
    6: "recovery action: reset the bus",
    7: "recovery action: reboot the machine",
}


class Nvml:
    """Through the driver's library. `library` stands in for the module pynvml."""

    name = "nvml"
    problem = ""

    def __init__(
        self, library: Any = None, *, find_within_s: float = _FIND_WITHIN_S, read_within_s: float = _READ_WITHIN_S
    ) -> None:
        self._nvml = library if library is not None else _module()
        self._find_within_s, self._read_within_s = find_within_s, read_within_s
        self._session = nvml_session.Session(self._nvml)
        self._finding = lines.Line("nvml discovery")
        self._lines: dict[str, lines.Line] = {}
        self._xids = xids.Listener(self._nvml, self._session)

    async def find(self) -> list[devices.Device] | None:
        if self._nvml is None:
            return None
        self.problem = ""
        try:
            return await self._finding.ask(self._find, self._find_within_s)
        except lines.Silent as silence:
            self.problem = str(silence)
            log.error("nvml_unusable", error=str(silence))
        except self._nvml.NVMLError as error:
            # No driver is not worth a warning: most machines have none. And GPUs may be there for others only.
            absent = error.value in (
                self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
                self._nvml.NVML_ERROR_DRIVER_NOT_LOADED,
                self._nvml.NVML_ERROR_NO_PERMISSION,
            )
            self.problem = "" if absent else f"NVML: {error}"
            (log.info if absent else log.warning)("nvml_unusable", error=str(error))
        return None

    async def read(self, wanted: Sequence[devices.Device]) -> list[health.Reading]:
        return list(await asyncio.gather(*(self._read_one(device) for device in wanted)))

    def watch(self, wanted: Sequence[devices.Device], notice: Callable[[], None]) -> None:
        self._xids.start(wanted, notice)

    def close(self) -> None:
        self._xids.stop()

    async def _read_one(self, device: devices.Device) -> health.Reading:
        line = self._lines.setdefault(device.uuid, lines.Line(f"nvml of GPU {device.index}"))
        try:
            reading = await line.ask(lambda: self._read(device), self._read_within_s)
        except lines.Silent as silence:
            reading = source.troubled(device, health.Trouble.SILENT, str(silence))
        return replace(reading, xids=self._xids.take(device.uuid))

    def _read(self, device: devices.Device) -> health.Reading:
        nvml = self._nvml
        try:
            with self._session.opened():
                own, board = self._handles(device)
                return self._measure(device, own, board)
        except nvml.NVMLError as error:
            # The handles of a GPU that was lost or reset stay bad until the library is opened anew.
            self._session.doubt()
            return source.troubled(device, _trouble(nvml, error), str(error))

    def _measure(self, device: devices.Device, own: Any, board: Any) -> health.Reading:
        nvml, ask = self._nvml, self._ask
        needed = self._recovery(board)
        if needed:
            return source.troubled(device, health.Trouble.RESET_REQUIRED, needed)
        total, used, free = self._memory(own)
        rates = ask(nvml.nvmlDeviceGetUtilizationRates, own)
        milliwatts = ask(nvml.nvmlDeviceGetPowerUsage, board)
        slowed = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, board) or 0
        return health.Reading(
            index=device.index,
            uuid=device.uuid,
            name=device.name,
            vram_total_bytes=total,
            vram_used_bytes=used,
            vram_free_bytes=free,
            utilization_percent=None if rates is None else int(rates.gpu),
            temperature_c=ask(nvml.nvmlDeviceGetTemperature, board, _CORE_SENSOR),
            slowdown_c=ask(nvml.nvmlDeviceGetTemperatureThreshold, board, _SLOWDOWN_THRESHOLD),
            thermal_slowdown=bool(slowed & _HARDWARE_THERMAL_SLOWDOWN),
            power_w=None if milliwatts is None else milliwatts / 1000.0,
            ecc_errors=ask(nvml.nvmlDeviceGetTotalEccErrors, board, _UNCORRECTED, _VOLATILE),
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What may be missing: None for whatever the driver does not tell. A GPU that is gone is not that."""
        nvml = self._nvml
        try:
            return function(*arguments)
        except nvml.NVMLError as error:
            if _trouble(nvml, error) is not health.Trouble.UNREADABLE:
                raise
            return None

    def _memory(self, own: Any) -> tuple[int, int, int]:
        """Total, used and free bytes; zeros where memory is not the GPU's own, as on integrated ones."""
        nvml = self._nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(own)
        except nvml.NVMLError as error:
            if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION):
                raise
            return 0, 0, 0
        return int(memory.total), int(memory.used), int(memory.free)

    def _recovery(self, board: Any) -> str:
        """What the driver wants done to the GPU; empty for nothing, and from drivers that do not tell."""
        values = self._ask(self._nvml.nvmlDeviceGetFieldValues, board, [_RECOVERY_ACTION_FIELD])
        if values is None or values[0].nvmlReturn != 0:
            return ""
        return _RECOVERY.get(int(values[0].value.uiVal), "")

    def _handles(self, device: devices.Device) -> tuple[Any, Any]:
        """The device's own handle, and that of its board.

        By bus address: to find a UUID NVML touches other GPUs too, and fails when any of them is lost.
        """
        nvml = self._nvml
        board = nvml.nvmlDeviceGetHandleByPciBusId(device.pci_bus_id)
        if _text(nvml.nvmlDeviceGetUUID(board)) == device.uuid:
            return board, board
        for instance in self._instances(board) or ():
            if _text(nvml.nvmlDeviceGetUUID(instance)) == device.uuid:
                return instance, board
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)

    def _instances(self, board: Any) -> list[Any] | None:
        """Handles of the MIG instances of a board; None where MIG is off or unknown."""
        nvml = self._nvml
        mode = self._ask(nvml.nvmlDeviceGetMigMode, board)
        if mode is None or mode[0] == 0:
            return None
        slots = range(self._ask(nvml.nvmlDeviceGetMaxMigDeviceCount, board) or 0)
        found = (self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, board, slot) for slot in slots)
        return [instance for instance in found if instance is not None]

    def _find(self) -> list[devices.Device]:
        nvml = self._nvml
        found: list[devices.Device] = []
        with self._session.opened():
            driver = _text(self._ask(nvml.nvmlSystemGetDriverVersion) or "")
            cuda = _cuda(self._ask(nvml.nvmlSystemGetCudaDriverVersion_v2) or 0)
            following = 0
            for position in range(nvml.nvmlDeviceGetCount()):
                try:
                    board = nvml.nvmlDeviceGetHandleByIndex(position)
                    here = self._devices_of(board, driver, cuda, following)
                except nvml.NVMLError as error:
                    # It keeps its number, so that the others keep theirs.
                    following += 1
                    if error.value == nvml.NVML_ERROR_NO_PERMISSION:
                        log.info("gpu_of_others", position=position)
                        continue
                    found.append(source.unidentified(following - 1, _trouble(nvml, error), str(error)))
                    # As with a reading: until the library is opened anew, nobody reaches it.
                    self._session.doubt()
                    continue
                found.extend(here)
                following += max(1, len(here))
        return found

    def _devices_of(self, board: Any, driver: str, cuda: str, first: int) -> list[devices.Device]:
        """The board itself, or its MIG instances, numbered from `first`."""
        nvml = self._nvml
        instances = self._instances(board)
        handles = [board] if instances is None else instances
        major, minor = self._ask(nvml.nvmlDeviceGetCudaComputeCapability, board) or (0, 0)
        bus = _text(nvml.nvmlDeviceGetPciInfo(board).busId)
        if not handles:
            log.warning("gpu_left_out", bus=bus, error="MIG is on and it has no instances")
        return [
            devices.Device(
                index=first + offset,
                uuid=uuid,
                name=_text(nvml.nvmlDeviceGetName(handle)),
                vram_bytes=self._memory(handle)[0],
                compute_capability=f"{major}.{minor}" if major else "",
                torch_name="cuda:0",
                visible=uuid,
                driver_version=driver,
                cuda_version=cuda,
                pci_bus_id=bus,
            )
            for offset, handle in enumerate(handles)
            for uuid in (_text(nvml.nvmlDeviceGetUUID(handle)),)
        ]


def _module() -> Any:
    """The module pynvml, or None where it is not installed."""
    return importlib.import_module("pynvml") if importlib.util.find_spec("pynvml") is not None else None


def _cuda(number: int) -> str:
    """12080 as "12.8", as NVML numbers CUDA's versions; 0: the driver does not tell."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _trouble(nvml: Any, error: Any) -> health.Trouble:
    if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
        return health.Trouble.LOST
    if error.value == nvml.NVML_ERROR_RESET_REQUIRED:
        return health.Trouble.RESET_REQUIRED
    return health.Trouble.UNREADABLE


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value

"""What a way to the driver must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from podium_worker.domain import devices, health


class Source(Protocol):
    """One way to learn about GPUs. Nothing it does blocks the loop or outlasts its bound."""

    @property
    def name(self) -> str:
        """For logs: "nvml" or "nvidia-smi"."""

    @property
    def problem(self) -> str:
        """Why `find` said None last although there is a driver; empty where there is none."""

    async def find(self) -> list[devices.Device] | None:
        """The GPUs by index, those in trouble too, or None when this way does not work here. May be asked again."""

    async def read(self, wanted: Sequence[devices.Device]) -> list[health.Reading]:
        """One reading for each device, in their order; a trouble where the driver has no answer. Never raises."""

    def watch(self, wanted: Sequence[devices.Device], notice: Callable[[], None]) -> None:
        """Listens for errors from now on; calls `notice`, from any thread, when a reading should be taken at once."""

    def close(self) -> None:
        """Stops listening. Waits for nothing."""


def unidentified(index: int, trouble: health.Trouble, detail: str, bus: str = "") -> devices.Device:
    """A GPU of which no more is known than that it is there."""
    told = health.sentence(trouble, detail)
    return devices.Device(index, uuid="", name="", torch_name="cuda:0", pci_bus_id=bus, trouble=told)


def troubled(device: devices.Device, trouble: health.Trouble, detail: str = "") -> health.Reading:
    """A reading that only tells what is the matter."""
    return health.Reading(device.index, device.uuid, device.name, device.vram_bytes, trouble=trouble, detail=detail)

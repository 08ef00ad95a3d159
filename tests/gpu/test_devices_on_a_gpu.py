"""The real driver, asked in both ways."""

from __future__ import annotations

import pytest
import torch

from podium_worker.adapters.devices import nvml, smi
from podium_worker.domain import devices, health

MIB = 1 << 20


async def found(source: nvml.Nvml | smi.Smi) -> list[devices.Device]:
    there = await source.find()
    assert there, f"{source.name} finds no GPU"
    return there


async def test_both_ways_find_the_same_gpus(gpu: torch.device) -> None:
    by_nvml, by_smi = await found(nvml.Nvml()), await found(smi.Smi())
    assert [(one.index, one.uuid, one.name, one.driver_version) for one in by_nvml] == [
        (one.index, one.uuid, one.name, one.driver_version) for one in by_smi
    ]
    properties = torch.cuda.get_device_properties(gpu)
    for first, second in zip(by_nvml, by_smi, strict=True):
        assert first.pci_bus_id.lower()[-10:] == second.pci_bus_id.lower()[-10:]
        assert first.vram_bytes == pytest.approx(second.vram_bytes, abs=MIB)
        assert first.cuda_version, "newer than what torch was built for, or the same major version"
        assert first.cuda_version.split(".")[0] >= (torch.version.cuda or "").split(".")[0]
        assert first.compute_capability == second.compute_capability == f"{properties.major}.{properties.minor}"


@pytest.mark.parametrize("source", [nvml.Nvml, smi.Smi])
async def test_a_reading_is_plausible(source: type[nvml.Nvml] | type[smi.Smi]) -> None:
    there = source()
    known = await found(there)
    for one, reading in zip(known, await there.read(known), strict=True):
        assert (reading.uuid, reading.trouble) == (one.uuid, health.Trouble.NONE)
        assert 0 < reading.vram_free_bytes <= reading.vram_total_bytes
        assert reading.utilization_percent is not None and 0 <= reading.utilization_percent <= 100
        assert reading.temperature_c is not None and 10 <= reading.temperature_c <= 100
        assert reading.power_w is not None and 10 <= reading.power_w <= 1500


async def test_events_can_be_listened_for() -> None:
    there = nvml.Nvml()
    known = await found(there)
    there.watch(known, lambda: None)
    try:
        readings = [await there.read(known) for _ in range(3)]
    finally:
        there.close()
    assert {xid for them in readings for one in them for xid in one.xids} == set()

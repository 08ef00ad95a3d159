"""Finding devices without torch."""

from __future__ import annotations

import pytest

from podium_worker.adapters import discovery
from podium_worker.domain import devices

SMI = """0, GPU-aaaa, NVIDIA H200, 143771, 9.0
1, GPU-bbbb, "NVIDIA, odd", [N/A], 8.9
garbage
"""


class Fixed:
    """A probe that finds what it was told."""

    def __init__(self, found: list[devices.Device] | None) -> None:
        self._found = found

    async def find(self) -> list[devices.Device] | None:
        return self._found


def test_smi_lines() -> None:
    first, second = discovery.parse_smi(SMI)
    assert first == devices.Device(0, "GPU-aaaa", "NVIDIA H200", 143771 << 20, "9.0", "cuda:0")
    assert (second.name, second.vram_bytes, second.torch_name) == ("NVIDIA, odd", 0, "cuda:1")


async def test_the_first_probe_that_works_decides() -> None:
    gpus = discovery.parse_smi(SMI)
    assert await discovery.discover("auto", [Fixed(None), Fixed(gpus)]) == gpus
    assert await discovery.discover("1", [Fixed(gpus)]) == gpus[1:]


async def test_without_gpus_it_is_the_cpu() -> None:
    for probe in (Fixed(None), Fixed([])):
        (cpu,) = await discovery.discover("auto", [probe])
        assert (cpu.uuid, cpu.torch_name) == ("cpu", "cpu")


async def test_a_named_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(discovery.NoDevices, match="3"):
        await discovery.discover("0,3", [Fixed(discovery.parse_smi(SMI))])

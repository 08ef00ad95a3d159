"""Which devices a worker uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from podium_worker.adapters.devices import discovery, source
from podium_worker.domain import devices, health


def gpu(index: int, uuid: str, name: str = "NVIDIA H100") -> devices.Device:
    return devices.Device(index, uuid, name, torch_name="cuda:0", visible=uuid)


GPUS = [gpu(0, "GPU-aaaa"), gpu(1, "GPU-abbb"), gpu(2, "GPU-cccc")]


class Fixed:
    """A source that finds what it was told."""

    name = "fixed"

    def __init__(self, found: list[devices.Device] | None, problem: str = "") -> None:
        self._found = found
        self.problem = problem

    async def find(self) -> list[devices.Device] | None:
        return self._found

    async def read(self, wanted: Sequence[devices.Device]) -> list[health.Reading]:
        return [source.troubled(device, health.Trouble.SILENT) for device in wanted]

    def watch(self, wanted: Sequence[devices.Device], notice: Callable[[], None]) -> None: ...

    def close(self) -> None: ...


async def discover(
    wanted: str, *found: list[devices.Device] | None, environment: Mapping[str, str] | None = None
) -> list[devices.Device]:
    return list((await discovery.discover(wanted, environment or {}, [Fixed(one) for one in found])).devices)


async def test_the_first_source_that_finds_any_decides_and_is_kept() -> None:
    first, second = Fixed(None), Fixed(GPUS)
    known = await discovery.discover("auto", {}, [first, second])
    assert known == discovery.Found(tuple(GPUS), second)


async def test_named_gpus() -> None:
    assert await discover("2,0", GPUS) == [GPUS[0], GPUS[2]]


@pytest.mark.parametrize("found", [None, []])
async def test_without_gpus_it_is_the_cpu(found: list[devices.Device] | None) -> None:
    known = await discovery.discover("auto", {}, [Fixed(found)])
    assert known.source is None
    assert [(one.uuid, one.torch_name, one.visible) for one in known.devices] == [("cpu", "cpu", "")]


IN_TROUBLE = source.unidentified(1, health.Trouble.LOST, "GPU is lost")


async def test_gpus_in_trouble_are_devices_and_not_the_cpu() -> None:
    assert await discover("auto", [IN_TROUBLE]) == [IN_TROUBLE]
    assert await discover("1", [GPUS[0], IN_TROUBLE]) == [IN_TROUBLE]


async def test_where_the_driver_does_not_answer_the_cpu_is_no_substitute() -> None:
    broken = [Fixed(None, "nvml discovery did not answer within 15 s"), Fixed(None, "nvidia-smi did not answer")]
    with pytest.raises(discovery.NoDevices, match=r"within 15 s; nvidia-smi did not answer.*PODIUM_DEVICES=cpu"):
        await discovery.discover("auto", {}, broken, lambda: True)
    with pytest.raises(discovery.NoDevices, match="within 15 s"):
        await discovery.discover("0", {}, broken, lambda: False)
    # Libraries of a driver, on a machine without one; and one of two ways that knows that there are none.
    one_knows = ([broken[0], Fixed([])], [Fixed([]), broken[1]], [Fixed(None), Fixed(None)])
    for sources in one_knows:
        known = await discovery.discover("auto", {}, sources, lambda: True)
        assert [one.uuid for one in known.devices] == ["cpu"]
    known = await discovery.discover("auto", {}, broken, lambda: False)
    assert [one.uuid for one in known.devices] == ["cpu"]
    known = await discovery.discover("auto", {}, [broken[0], Fixed(GPUS)], lambda: True)
    assert len(known.devices) == len(GPUS)
    known = await discovery.discover("auto", {"CUDA_VISIBLE_DEVICES": ""}, [broken[0], Fixed(GPUS)], lambda: True)
    assert [one.uuid for one in known.devices] == ["cpu"]


async def test_cpu_asks_no_driver() -> None:
    (cpu,) = await discover("cpu", GPUS)
    assert cpu.uuid == "cpu"


async def test_a_named_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(discovery.NoDevices, match=r"names GPU \[3\]; this machine has \[0, 1, 2\]"):
        await discover("0,3", GPUS)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        ("GPU-cccc,GPU-aaaa", [0, 2]),
        ("GPU-c", [2]),
        ("1", [1]),
        ("2,0", [0, 2]),
        ("0,-1,1", [0]),
        ("GPU-aaaa,GPU-nowhere,GPU-cccc", [0]),
        ("GPU-a", []),
        ("", []),
        ("7", []),
    ],
)
async def test_cuda_visible_devices_narrows_the_choice(visible: str, indices: list[int]) -> None:
    assert [one.index for one in discovery.visible(GPUS, {"CUDA_VISIBLE_DEVICES": visible})] == indices


@pytest.mark.parametrize(
    ("visible", "indices"),
    [("GPU-gone,GPU-cccc", [2]), ("GPU-cccc", [2]), ("1,2", [1, 2]), ("nothing,GPU-cccc", []), ("", []), ("-1", [])],
)
async def test_one_in_trouble_keeps_its_place_and_hides_no_other(visible: str, indices: list[int]) -> None:
    gpus = [GPUS[0], IN_TROUBLE, GPUS[2]]
    assert [one.index for one in discovery.visible(gpus, {"CUDA_VISIBLE_DEVICES": visible})] == indices


async def test_a_uuid_that_may_be_of_one_in_trouble_does_not_make_it_the_cpu() -> None:
    with pytest.raises(discovery.NoDevices, match="names GPU-gone, which is not here or is in trouble"):
        await discover("auto", [IN_TROUBLE], environment={"CUDA_VISIBLE_DEVICES": "GPU-gone"})


async def test_none_visible_is_the_cpu() -> None:
    (cpu,) = await discover("auto", GPUS, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert cpu.uuid == "cpu"


async def test_numbers_are_refused_where_cuda_numbers_in_an_order_of_its_own() -> None:
    mixed = [gpu(0, "GPU-aaaa", "NVIDIA T4"), gpu(1, "GPU-bbbb", "NVIDIA H100")]
    with pytest.raises(discovery.NoDevices, match="CUDA_DEVICE_ORDER"):
        await discover("auto", mixed, environment={"CUDA_VISIBLE_DEVICES": "0"})
    by_bus = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert await discover("auto", mixed, environment=by_bus) == mixed[:1]
    assert await discover("auto", mixed, environment={"CUDA_VISIBLE_DEVICES": "GPU-b"}) == mixed[1:]

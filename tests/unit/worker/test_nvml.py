"""NVML as a source, and the monitor over it, with a library that does what the test says."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pynvml
import pytest

from podium_runtime import clock
from podium_worker.adapters.devices import lines, monitor, nvml
from podium_worker.domain import devices, health
from podium_worker.domain.health import Health, Trouble
from tests.support.fake_nvml import FakeNvml, Gpu

DEADLINE_S = 20.0


def gpus(count: int = 2) -> list[Gpu]:
    return [Gpu(f"GPU-{index}", f"00000000:{index + 1:02X}:00.0") for index in range(count)]


async def source_of(*them: Gpu, read_within_s: float = DEADLINE_S) -> tuple[nvml.Nvml, list[devices.Device]]:
    source = nvml.Nvml(FakeNvml(*them), read_within_s=read_within_s)
    found = await source.find()
    assert found is not None
    return source, found


async def test_what_it_finds() -> None:
    _, found = await source_of(*gpus())
    assert found[1] == devices.Device(
        index=1,
        uuid="GPU-1",
        name="NVIDIA H100 80GB HBM3",
        vram_bytes=80 << 30,
        compute_capability="9.0",
        torch_name="cuda:0",
        visible="GPU-1",
        driver_version="550.90.07",
        cuda_version="12.4",
        pci_bus_id="00000000:02:00.0",
    )


@pytest.mark.parametrize(("number", "version"), [(12080, "12.8"), (11080, "11.8"), (13000, "13.0"), (None, "")])
async def test_what_cuda_its_driver_is_good_for(number: int | None, version: str) -> None:
    library = FakeNvml(*gpus(1))
    library.cuda = number
    (gpu,) = await nvml.Nvml(library).find() or []
    assert gpu.cuda_version == version


async def test_without_a_driver_it_does_not_work() -> None:
    for code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH):
        assert await nvml.Nvml(FakeNvml(fails=code)).find() is None


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("*", pynvml.NVML_ERROR_GPU_IS_LOST, "rebooted (GPU is lost)."),
        ("GetUUID", pynvml.NVML_ERROR_RESET_REQUIRED, "reset (GPU requires restart)."),
        ("GetHandleByIndex", pynvml.NVML_ERROR_UNKNOWN, "cannot read this GPU (Unknown Error)."),
    ],
)
async def test_a_gpu_in_trouble_from_the_start_is_a_device_and_the_others_keep_their_numbers(
    function: str, code: int, words: str
) -> None:
    first, second, third = gpus(3)
    second.fails[function] = code
    _, found = await source_of(first, second, third)
    assert [(gpu.index, gpu.uuid, bool(gpu.trouble)) for gpu in found] == [
        (0, "GPU-0", False),
        (1, "", True),
        (2, "GPU-2", False),
    ]
    assert found[1].trouble.endswith(words)


async def test_a_gpu_of_others_is_none_of_ours() -> None:
    first, second = gpus()
    first.fails["GetHandleByIndex"] = pynvml.NVML_ERROR_NO_PERMISSION
    _, found = await source_of(first, second)
    assert [gpu.index for gpu in found] == [1]


async def test_a_driver_that_fails_says_why_and_one_that_is_absent_does_not() -> None:
    hung = Gpu("GPU-0", "00000000:01:00.0", hangs=threading.Event())
    for library, problem in (
        (FakeNvml(fails=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), ""),
        (FakeNvml(fails=pynvml.NVML_ERROR_NO_PERMISSION), ""),
        (FakeNvml(fails=pynvml.NVML_ERROR_UNKNOWN), "NVML: Unknown Error"),
        (FakeNvml(hung), "nvml discovery did not answer within 0.1 s"),
    ):
        source = nvml.Nvml(library, find_within_s=0.1)
        assert await source.find() is None
        assert source.problem == problem
    assert hung.hangs is not None
    hung.hangs.set()


async def test_a_reading() -> None:
    source, found = await source_of(*gpus())
    assert (await source.read(found))[1] == health.Reading(
        index=1,
        uuid="GPU-1",
        name="NVIDIA H100 80GB HBM3",
        vram_total_bytes=80 << 30,
        vram_used_bytes=1 << 30,
        vram_free_bytes=79 << 30,
        utilization_percent=7,
        temperature_c=40,
        slowdown_c=87,
        power_w=123.456,
        ecc_errors=0,
    )


OPTIONAL = {
    "GetUtilizationRates": "utilization_percent",
    "GetTemperature": "temperature_c",
    "GetTemperatureThreshold": "slowdown_c",
    "GetPowerUsage": "power_w",
    "GetTotalEccErrors": "ecc_errors",
}
REFUSALS = [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN]


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("function", [*OPTIONAL, "GetCurrentClocksThrottleReasons", "GetFieldValues", "GetMigMode"])
async def test_what_it_does_not_tell_is_unknown_and_no_trouble(function: str, code: int) -> None:
    (gpu,) = gpus(1)
    source, found = await source_of(gpu)
    gpu.fails[function] = code
    (reading,) = await source.read(found)
    assert (reading.trouble, reading.vram_free_bytes) == (Trouble.NONE, 79 << 30)
    if function in OPTIONAL:
        assert getattr(reading, OPTIONAL[function]) is None


@pytest.mark.parametrize("function", ["GetHandleByPciBusId", "GetMemoryInfo", *OPTIONAL])
async def test_a_gpu_that_is_lost_half_way_is_lost(function: str) -> None:
    first, second = gpus()
    source, found = await source_of(first, second)
    first.fails[function] = pynvml.NVML_ERROR_GPU_IS_LOST
    readings = await source.read(found)
    assert [one.trouble for one in readings] == [Trouble.LOST, Trouble.NONE]
    assert readings[0].detail == "GPU is lost"


async def test_a_gpu_that_cannot_be_read() -> None:
    (gpu,) = gpus(1)
    source, found = await source_of(gpu)
    gpu.fails["GetMemoryInfo"] = pynvml.NVML_ERROR_UNKNOWN
    assert [one.trouble for one in await source.read(found)] == [Trouble.UNREADABLE]


async def test_memory_that_is_not_the_gpus_own_is_no_trouble() -> None:
    (gpu,) = gpus(1)
    gpu.fails["GetMemoryInfo"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    source, found = await source_of(gpu)
    assert found[0].vram_bytes == 0
    assert [one.trouble for one in await source.read(found)] == [Trouble.NONE]


@pytest.mark.parametrize(
    ("action", "trouble"),
    [
        (pynvml.NVML_GPU_RECOVERY_ACTION_NONE, Trouble.NONE),
        (pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET, Trouble.RESET_REQUIRED),
        (pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT, Trouble.RESET_REQUIRED),
        (pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P, Trouble.NONE),
        (pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET, Trouble.RESET_REQUIRED),
    ],
)
async def test_the_recovery_action_that_the_driver_wants(action: int, trouble: Trouble) -> None:
    (gpu,) = gpus(1)
    source, found = await source_of(gpu)
    gpu.recovery = action
    assert [one.trouble for one in await source.read(found)] == [trouble]


async def test_mig_instances_are_devices() -> None:
    first, second = gpus()
    first.instances = [
        Gpu("MIG-a", "", name="NVIDIA H100 MIG 1g.10gb", total=10 << 30, fails={"GetPowerUsage": 2}),
        Gpu("MIG-b", "", name="NVIDIA H100 MIG 2g.20gb", total=20 << 30, used=2 << 30, fails={"GetPowerUsage": 2}),
    ]
    first.milliwatts, first.ecc = 300_000, 3
    source, found = await source_of(first, second)
    assert [(one.index, one.visible, one.vram_bytes >> 30) for one in found] == [
        (0, "MIG-a", 10),
        (1, "MIG-b", 20),
        (2, "GPU-1", 80),
    ]
    assert {one.compute_capability for one in found} == {"9.0"}
    reading = (await source.read(found))[1]
    assert (reading.uuid, reading.vram_free_bytes >> 30, reading.power_w, reading.ecc_errors) == ("MIG-b", 18, 300.0, 3)


async def test_a_gpu_that_hangs_is_silent_and_its_siblings_are_read() -> None:
    first, second = gpus()
    source, found = await source_of(first, second, read_within_s=0.2)
    first.hangs = threading.Event()
    for _ in range(5):
        readings = await source.read(found)
        assert [one.trouble for one in readings] == [Trouble.SILENT, Trouble.NONE]
    waiting = [thread for thread in threading.enumerate() if thread.name == "nvml of GPU 0"]
    assert len(waiting) == 1, "one thread is left behind, however often it is asked"
    first.hangs.set()
    first.hangs = None
    async with asyncio.timeout(DEADLINE_S):
        while (await source.read(found))[0].trouble is not Trouble.NONE:
            pass


async def test_the_library_is_opened_anew_when_a_gpu_was_in_trouble() -> None:
    first, second = gpus()
    library = FakeNvml(first, second)
    source = nvml.Nvml(library)
    found = await source.find() or []
    assert library.inits == 1
    first.lost()
    async with asyncio.timeout(DEADLINE_S):
        while library.inits == 1:
            await source.read(found)
    assert library.opened == 1, "and was closed before"
    first.fails.clear()
    assert [one.trouble for one in await source.read(found)] == [Trouble.NONE] * 2


WEDGED = """
import asyncio, threading
from podium_worker.adapters.devices import lines

async def main():
    try:
        await lines.Line("wedged").ask(threading.Event().wait, 0.05)
    except lines.Silent as silence:
        print(silence)

asyncio.run(main())
"""


async def test_a_driver_that_never_answers_does_not_keep_the_process() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WEDGED, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE_S):
        said, _ = await process.communicate()
    assert (process.returncode, said) == (0, b"wedged did not answer within 0.05 s\n")


async def test_a_line_hands_on_what_was_raised() -> None:
    def fail() -> None:
        raise LookupError("so")

    line = lines.Line("failing")
    for _ in range(2):
        with pytest.raises(LookupError, match="so"):
            await line.ask(fail, DEADLINE_S)


class Ear:
    """A worker that remembers what it was told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told: dict[int, tuple[health.Reading, health.Verdict]] = {}
        self.found: list[devices.Device] = []
        self._news = asyncio.Event()

    def device_read(self, index: int, reading: health.Reading, verdict: health.Verdict) -> None:
        self.told[index] = (reading, verdict)
        self._news.set()

    def health_of(self, index: int) -> Health | None:
        return self.told[index][1].health if index in self.told else None

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not true():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def watched(
    ear: Ear, *them: Gpu, interval_s: float = 0.01, read_within_s: float = DEADLINE_S
) -> AsyncIterator[FakeNvml]:
    library = FakeNvml(*them)
    source = nvml.Nvml(library, read_within_s=read_within_s)
    found = await source.find() or []
    limits = health.Limits(rest_s=0.05)
    watch = monitor.Monitor(
        *(found, source, ear, clock.SystemClock()),
        limits=limits,
        interval_s=interval_s,
        look_s=interval_s,
        found=ear.found.append,
    )
    task = asyncio.create_task(watch.run())
    try:
        yield library
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_gpu_that_faults_is_told_while_its_siblings_go_on_and_so_is_its_return() -> None:
    ear = Ear()
    first, second = gpus()
    async with watched(ear, first, second):
        await ear.until(lambda: ear.health_of(0) is ear.health_of(1) is Health.HEALTHY)
        first.lost()
        await ear.until(lambda: ear.health_of(0) is Health.FAULTED)
        assert ear.health_of(1) is Health.HEALTHY
        assert "reboot" in ear.told[0][1].reason
        first.fails.clear()
        await ear.until(lambda: ear.health_of(0) is Health.HEALTHY)


async def test_a_gpu_in_trouble_from_the_start_is_faulted_and_returns_as_the_device_that_it_is() -> None:
    ear = Ear()
    first, second = gpus()
    second.lost()
    async with watched(ear, first, second) as library:
        await ear.until(lambda: ear.health_of(0) is Health.HEALTHY)
        assert ear.health_of(1) is Health.FAULTED
        assert "reboot" in ear.told[1][1].reason
        # Nobody reaches it before the library is opened anew.
        await ear.until(lambda: library.inits > 1)
        assert ear.found == []
        second.fails.clear()
        await ear.until(lambda: ear.health_of(1) is Health.HEALTHY)
        assert [(gpu.index, gpu.uuid, gpu.vram_bytes >> 30) for gpu in ear.found] == [(1, "GPU-1", 80)]
        second.events.put(79)
        await ear.until(lambda: ear.health_of(1) is Health.FAULTED)
        assert ear.told[1][1].xids == (79,)


async def test_what_is_the_matter_with_a_gpu_from_the_start_may_change() -> None:
    ear = Ear()
    (gpu,) = gpus(1)
    gpu.lost()
    async with watched(ear, gpu):
        await ear.until(lambda: "reboot" in ear.told[0][1].reason if ear.told else False)
        gpu.fails["*"] = pynvml.NVML_ERROR_RESET_REQUIRED
        await ear.until(lambda: "has to be reset" in ear.told[0][1].reason)
    assert ear.found == []


async def test_a_gpu_that_hangs_is_faulted_while_its_siblings_go_on() -> None:
    ear = Ear()
    first, second = gpus()
    async with watched(ear, first, second, read_within_s=0.1):
        await ear.until(lambda: ear.health_of(0) is Health.HEALTHY)
        first.hangs = threading.Event()
        await ear.until(lambda: ear.health_of(0) is Health.FAULTED)
        assert ear.told[0][0].trouble is Trouble.SILENT
        assert ear.health_of(1) is Health.HEALTHY
        first.hangs.set()
        first.hangs = None
        await ear.until(lambda: ear.health_of(0) is Health.HEALTHY)


async def test_an_xid_is_heard_at_once_and_about_its_gpu_only() -> None:
    ear = Ear()
    first, second = gpus()
    # The interval is longer than the test may take: only the error itself can bring the reading.
    async with watched(ear, first, second, interval_s=10 * DEADLINE_S):
        await ear.until(lambda: len(ear.told) == 2)
        second.events.put(13)
        await ear.until(lambda: ear.told[1][1].xids == (13,))
        assert ear.health_of(1) is Health.HEALTHY
        second.events.put(79)
        await ear.until(lambda: ear.health_of(1) is Health.FAULTED)
        assert ear.told[1][1].xids == (13, 79)
        assert ear.told[0][1] == health.Verdict()


async def test_mig_instances_share_the_xids_of_their_board() -> None:
    ear = Ear()
    (gpu,) = gpus(1)
    gpu.instances = [Gpu("MIG-a", ""), Gpu("MIG-b", "")]
    async with watched(ear, gpu, interval_s=10 * DEADLINE_S):
        await ear.until(lambda: len(ear.told) == 2)
        gpu.events.put(48)
        await ear.until(lambda: ear.health_of(0) is ear.health_of(1) is Health.FAULTED)


async def test_xids_are_heard_again_after_the_library_was_opened_anew() -> None:
    ear = Ear()
    first, second = gpus()
    async with watched(ear, first, second) as library:
        first.lost()
        await ear.until(lambda: library.inits > 1)
        first.fails.clear()
        await ear.until(lambda: ear.health_of(0) is Health.HEALTHY)
        second.events.put(62)
        await ear.until(lambda: 62 in ear.told[1][1].xids)
    assert library.stale_waits == 0


async def test_xids_that_are_not_supported_are_done_without() -> None:
    ear = Ear()
    (gpu,) = gpus(1)
    gpu.fails["RegisterEvents"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    async with watched(ear, gpu):
        await ear.until(lambda: ear.health_of(0) is Health.HEALTHY)
        gpu.temperature = 88
        await ear.until(lambda: ear.health_of(0) is Health.COOLING)


async def test_without_gpus_there_is_nothing_to_watch() -> None:
    cpu = devices.Device(0, "cpu", "CPU")
    async with asyncio.timeout(DEADLINE_S):
        await monitor.Monitor([cpu], None, Ear(), clock.SystemClock()).run()

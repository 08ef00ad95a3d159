"""nvidia-smi as a source, through what it prints.

The files in recorded/ are written after what the tool is reported to print (this project's machines have no driver):
the columns are those that smi.Smi asks for, in its order.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from podium_worker.adapters.devices import smi
from podium_worker.domain import devices, health
from podium_worker.domain.health import Trouble

RECORDED = Path(__file__).parent / "recorded"
MIB = 1 << 20


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


class Tool:
    """Plays one answer after the other, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: smi.Output | str) -> None:
        self._answers = [smi.Output(0, one) if isinstance(one, str) else one for one in answers]
        self.asked: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[str]) -> smi.Output:
        self.asked.append(arguments)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def found(*answers: smi.Output | str) -> list[devices.Device]:
    gpus = await smi.Smi(Tool(*answers)).find()
    assert gpus is not None
    return gpus


async def test_several_gpus() -> None:
    gpus = await found(recorded("several.csv"))
    assert [gpu.index for gpu in gpus] == [0, 1, 2, 3]
    assert gpus[3] == devices.Device(
        index=3,
        uuid="GPU-c3a8e9d4-6f21-1b3d-95b8-a2c4f7e01d56",
        name="NVIDIA L4",
        vram_bytes=23034 * MIB,
        compute_capability="8.9",
        torch_name="cuda:0",
        visible="GPU-c3a8e9d4-6f21-1b3d-95b8-a2c4f7e01d56",
        driver_version="550.90.07",
        pci_bus_id="00000000:5D:00.0",
    )


async def test_a_reading_of_each() -> None:
    source = smi.Smi(Tool(recorded("several.csv")))
    gpus = await source.find() or []
    readings = await source.read(gpus)
    assert [reading.index for reading in readings] == [0, 1, 2, 3]
    assert readings[2] == health.Reading(
        index=2,
        uuid=gpus[2].uuid,
        name="NVIDIA H100 80GB HBM3",
        vram_total_bytes=81559 * MIB,
        vram_used_bytes=79876 * MIB,
        vram_free_bytes=1203 * MIB,
        utilization_percent=100,
        temperature_c=79,
        power_w=689.30,
        ecc_errors=2,
    )


async def test_cells_that_are_no_numbers_are_unknown_and_no_trouble() -> None:
    source = smi.Smi(Tool(recorded("consumer.csv")))
    readings = await source.read(await source.find() or [])
    assert [one.ecc_errors for one in readings] == [None, None, 0]
    assert [one.power_w for one in readings] == [27.51, None, None]
    assert [one.utilization_percent for one in readings] == [3, None, 0]
    assert [one.temperature_c for one in readings] == [41, 35, None]
    assert {one.trouble for one in readings} == {Trouble.NONE}


async def test_an_old_driver_is_asked_again_without_what_it_does_not_know() -> None:
    def unknown(field: str) -> smi.Output:
        return smi.Output(2, recorded("unknown_field.txt").replace("compute_cap", field))

    tool = Tool(unknown("compute_cap"), unknown("mig.mode.current"), recorded("old_driver.csv"))
    source = smi.Smi(tool)
    gpus = await source.find() or []
    assert [(gpu.name, gpu.compute_capability) for gpu in gpus] == [("Tesla K80", "")] * 2
    assert [one.vram_free_bytes for one in await source.read(gpus)] == [11441 * MIB] * 2
    assert len(tool.asked) == 4, "what it learned of the driver it remembers"
    assert "compute_cap" not in tool.asked[-1][-2]


async def test_a_driver_that_knows_nothing_is_given_up() -> None:
    tool = Tool(smi.Output(2, 'Field "name" is not a valid field to query.'))
    assert await smi.Smi(tool).find() is None


@pytest.mark.parametrize("name", ["lost_row.csv", "lost_first_line.csv"])
async def test_a_lost_gpu_does_not_hide_its_siblings(name: str) -> None:
    gpus = await found(recorded("several.csv"))
    readings = await smi.Smi(Tool(smi.Output(15, recorded(name)))).read(gpus)
    assert [one.trouble for one in readings[:3]] == [Trouble.NONE, Trouble.LOST, Trouble.NONE]
    assert readings[1].uuid == gpus[1].uuid
    assert readings[1].detail in ("GPU is lost", "Unknown Error")


async def test_a_gpu_that_has_to_be_reset() -> None:
    gpus = await found(recorded("several.csv"))
    readings = await smi.Smi(Tool(recorded("lost_row.csv"))).read(gpus)
    assert readings[3].trouble is Trouble.RESET_REQUIRED


async def test_a_lost_gpu_that_ends_the_query_leaves_its_siblings_to_be_asked_for() -> None:
    gpus = await found(recorded("several.csv"))
    tool = Tool(smi.Output(15, "", recorded("lost_alone.csv")), recorded("siblings.csv"))
    readings = await smi.Smi(tool).read(gpus)
    assert [one.trouble for one in readings] == [Trouble.NONE, Trouble.LOST, Trouble.NONE, Trouble.NONE]
    assert readings[1].detail.startswith("GPU is lost.")
    assert tool.asked[1][:2] == ("-i", "00000000:19:00.0,00000000:4C:00.0,00000000:5D:00.0")


async def test_a_gpu_that_is_lost_from_the_start_is_in_trouble_and_its_siblings_are_found() -> None:
    rows = recorded("several.csv").splitlines()
    nothing = smi.Output(6, "No devices were found\n")
    lost = smi.Output(15, recorded("lost_alone.csv"))
    gpus = await found(lost, rows[0], lost, rows[2], rows[3], nothing)
    assert [(gpu.index, bool(gpu.uuid), bool(gpu.trouble)) for gpu in gpus] == [
        (0, True, False),
        (1, False, True),
        (2, True, False),
        (3, True, False),
    ]
    assert gpus[1].trouble.startswith("The driver cannot reach this GPU")


@pytest.mark.parametrize("name", ["lost_row.csv", "lost_first_line.csv"])
async def test_gpus_in_trouble_from_the_start_keep_their_numbers(name: str) -> None:
    gpus = await found(smi.Output(15, recorded(name)))
    assert [gpu.index for gpu in gpus] == [0, 1, 2, 3]
    assert not any(gpus[index].trouble for index in (0, 2))
    assert gpus[1].trouble.startswith("The driver cannot reach this GPU")
    assert ("has to be reset" in gpus[3].trouble) == (name == "lost_row.csv")


async def test_the_only_gpu_is_in_trouble() -> None:
    lost, nothing = smi.Output(15, recorded("lost_alone.csv")), smi.Output(6, "No devices were found\n")
    (gpu,) = await found(lost, lost, nothing)
    assert (gpu.index, gpu.pci_bus_id) == (0, "0000:3b:00.0")
    assert "GPU is lost" in gpu.trouble


async def test_a_driver_without_gpus_is_no_problem() -> None:
    assert await found(smi.Output(6, "No devices were found\n")) == []


async def test_a_gpu_that_is_not_listed_any_more_is_lost() -> None:
    gpus = await found(recorded("several.csv"))
    readings = await smi.Smi(Tool(recorded("siblings.csv"))).read(gpus)
    assert [one.trouble for one in readings] == [Trouble.NONE, Trouble.LOST, Trouble.NONE, Trouble.NONE]


async def test_a_gpu_that_mig_splits_is_left_out() -> None:
    (gpu,) = await found(recorded("mig.csv"))
    assert gpu.index == 1


async def test_names_may_hold_commas() -> None:
    row = recorded("several.csv").splitlines()[0].replace("NVIDIA H100 80GB HBM3", "NVIDIA, odd, 80GB")
    (gpu,) = await found(row)
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA, odd, 80GB", "9.0")


async def test_no_driver() -> None:
    broken = smi.Output(9, recorded("no_driver.txt"))
    source = smi.Smi(Tool(broken))
    assert await source.find() is None
    assert "couldn't communicate" in source.problem
    gpus = await found(recorded("several.csv"))
    readings = await smi.Smi(Tool(broken)).read(gpus)
    assert {one.trouble for one in readings} == {Trouble.UNREADABLE}
    assert "ended with 9" in readings[0].detail


async def test_a_tool_that_hangs_costs_its_bound() -> None:
    gpus = await found(recorded("several.csv"))
    release = threading.Event()

    def hang(arguments: Sequence[str]) -> smi.Output:
        release.wait()
        return smi.Output(0, recorded("several.csv"))

    source = smi.Smi(hang, within_s=0.05)
    assert {one.trouble for one in await source.read(gpus)} == {Trouble.SILENT}
    assert await source.find() is None
    assert source.problem == "nvidia-smi did not answer"
    release.set()


async def test_the_real_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {RECORDED / 'several.csv'}\necho complaint >&2\nexit 15\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    gpus = await smi.Smi().find()
    assert gpus is not None and len(gpus) == 4


async def test_without_the_program_it_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = smi.Smi()
    assert await source.find() is None
    assert source.problem == ""

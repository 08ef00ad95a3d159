"""GPUs through nvidia-smi's CSV, for machines where NVML cannot be used.

Promises: the tool runs in a thread that may be left behind, so a hanging driver costs its bound and no more; fields
that an old driver does not know are left out and not missed; one lost GPU does not hide the others. It tells no XIDs,
no slowdown temperatures and not what CUDA the driver is good for, and GPUs that are split by MIG are left out.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from podium_runtime import logs
from podium_worker.adapters.devices import lines, source
from podium_worker.domain import devices, health

log = logs.get_logger(__name__)

_WITHIN_S = 15.0
_MIB = 1024 * 1024
_MOST_GPUS = 16
_NEEDED = ("index", "uuid", "name")
# In the order in which they are given up when an old driver does not say which one it does not know.
_WANTED = (
    "compute_cap",
    "mig.mode.current",
    "ecc.errors.uncorrected.volatile.total",
    "pci.bus_id",
    "driver_version",
    "power.draw",
    "temperature.gpu",
    "utilization.gpu",
    "memory.free",
    "memory.used",
    "memory.total",
)
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')
# "GPU 0000:01:00.0: GPU is lost.  Reboot ...", "GPU0000:65:00.0: Unknown Error", "GPU3: 0000:5F:00.0: Unknown Error"
_NO_HANDLE = re.compile(
    r"Unable to determine the device handle for GPU\s*(?:\d+:\s*)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d)"
    r":\s*(.+)"
)
_NONE_HERE = "No devices were found"
_LOST_CELL, _RESET_CELL = "[gpu is lost]", "[gpu requires reset]"


@dataclass(frozen=True, slots=True)
class Output:
    """What the tool said. Its errors go to either stream, and its exit code may be 0 all the same."""

    code: int
    stdout: str
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A query's answer."""

    rows: Sequence[dict[str, str]] = ()
    """Field to cell, for each GPU."""
    lost: dict[str, str] = field(default_factory=dict)
    """GPUs that could not be reached: bus address to the tool's words."""
    problem: str = ""
    """What the tool said instead of rows."""


Run = Callable[[Sequence[str]], Output]


class Smi:
    """Through the command line tool that comes with the driver. `run` stands in for it: arguments to Output."""

    name = "nvidia-smi"
    problem = ""

    def __init__(self, run: Run | None = None, *, within_s: float = _WITHIN_S) -> None:
        self._run = run or _program(within_s)
        self._within_s = within_s
        self._line = lines.Line("nvidia-smi")
        self._fields: tuple[str, ...] = (*_NEEDED, *_WANTED)

    async def find(self) -> list[devices.Device] | None:
        report = await self._query()
        if report is not None and report.lost and not report.rows:
            report = await self._one_by_one(report)
        self.problem = ""
        if report is None:
            self.problem = "nvidia-smi did not answer" if self._run is not None else ""
            return None
        if report.problem:
            if _NONE_HERE in report.problem:
                return []
            self.problem = report.problem
            log.warning("nvidia_smi_unusable", error=report.problem)
            return None
        found = [device for row in report.rows for device in _device(row)]
        return sorted([*found, *_lost(report)], key=lambda device: device.index)

    async def read(self, wanted: Sequence[devices.Device]) -> list[health.Reading]:
        report = await self._query()
        if report is None:
            return [source.troubled(device, health.Trouble.SILENT, "nvidia-smi hangs") for device in wanted]
        if report.lost and not report.rows:
            report = await self._without(wanted, report)
        # A GPU that is gone may have lost its UUID as well, and then its row has its number only.
        nameless = {row["index"]: row for row in report.rows if row["uuid"].startswith("[")}
        by_uuid = {row["uuid"]: row for row in report.rows}
        rows = [by_uuid.get(device.uuid) or nameless.get(str(device.index)) for device in wanted]
        return [_reading(device, row, report) for device, row in zip(wanted, rows, strict=True)]

    def watch(self, wanted: Sequence[devices.Device], notice: Callable[[], None]) -> None:
        """It tells no events."""

    def close(self) -> None:
        """Nothing is open."""

    async def _without(self, wanted: Sequence[devices.Device], report: Report) -> Report:
        """Asks for the others by their bus address, when a lost GPU ended the query before the first row."""
        others = [device.pci_bus_id for device in wanted if _bus(device.pci_bus_id) not in report.lost]
        again = await self._query("-i", ",".join(others)) if others and all(others) else None
        if again is None:
            return report
        return Report(again.rows, {**again.lost, **report.lost}, again.problem)

    async def _one_by_one(self, report: Report) -> Report:
        """As _without, when nobody knows yet who the others are."""
        rows: list[dict[str, str]] = []
        lost = dict(report.lost)
        for position in range(_MOST_GPUS):
            one = await self._query("-i", str(position))
            if one is None or one.problem:
                break
            rows.extend(one.rows)
            lost.update(one.lost)
        return Report(rows, lost)

    async def _query(self, *arguments: str) -> Report | None:
        """None when there is no tool, or it does not answer."""
        if self._run is None:
            return None
        for _ in range(len(_WANTED) + 1):
            query = (*arguments, f"--query-gpu={','.join(self._fields)}", "--format=csv,noheader,nounits")
            try:
                output = await self._line.ask(functools.partial(self._run, query), self._within_s)
            except (lines.Silent, subprocess.TimeoutExpired, OSError) as error:
                log.warning("nvidia_smi_silent", error=str(error))
                return None
            unknown = _UNKNOWN_FIELD.search(output.stdout + output.stderr)
            if unknown is None:
                break
            self._forget(unknown[1])
        return parse(output, self._fields)

    def _forget(self, unknown: str) -> None:
        log.info("nvidia_smi_field_unknown", field=unknown)
        gone = unknown if unknown in _WANTED else next((one for one in _WANTED if one in self._fields), "")
        self._fields = tuple(one for one in self._fields if one != gone)


def parse(output: Output, fields: Sequence[str]) -> Report:
    """Reads an answer. Lines that are neither a GPU nor a complaint about one are left out."""
    rows = []
    for cells in csv.reader(io.StringIO(output.stdout), skipinitialspace=True):
        cells = [cell.strip() for cell in cells]
        if len(cells) > len(fields):
            # A comma in the product name.
            cells[2 : 3 + len(cells) - len(fields)] = [", ".join(cells[2 : 3 + len(cells) - len(fields)])]
        if len(cells) == len(fields) and cells[0].isdigit():
            rows.append(dict(zip(fields, cells, strict=True)))
    said = f"{output.stdout}\n{output.stderr}"
    lost = {_bus(found[1]): found[2].strip() for found in _NO_HANDLE.finditer(said)}
    problem = ""
    if not rows and not lost and output.code:
        words = " ".join(said.split())
        problem = f"nvidia-smi ended with {output.code}: {words[:300]}"
    return Report(rows, lost, problem)


def _device(row: dict[str, str]) -> list[devices.Device]:
    if row.get("mig.mode.current") == "Enabled":
        log.error("gpu_left_out", index=row["index"], error="MIG is on; its instances are only seen through NVML")
        return []
    trouble, words = _trouble(row)
    if trouble is health.Trouble.NONE and not row["uuid"].startswith("GPU-"):
        trouble, words = health.Trouble.UNREADABLE, row["uuid"].strip("[]")
    if trouble is not health.Trouble.NONE:
        return [source.unidentified(int(row["index"]), trouble, words, _known(row.get("pci.bus_id", "")))]
    return [
        devices.Device(
            index=int(row["index"]),
            uuid=row["uuid"],
            name=row["name"],
            vram_bytes=_bytes(row, "memory.total"),
            compute_capability=capability if _number(capability := row.get("compute_cap", "")) is not None else "",
            torch_name="cuda:0",
            visible=row["uuid"],
            driver_version=_known(row.get("driver_version", "")),
            pci_bus_id=_known(row.get("pci.bus_id", "")),
        )
    ]


def _lost(report: Report) -> list[devices.Device]:
    """Those that have no row. The tool numbers by bus address, so their numbers are those that no row has."""
    taken = {int(row["index"]) for row in report.rows}
    free = itertools.filterfalse(taken.__contains__, itertools.count())
    return [
        source.unidentified(index, _unreachable(words), words, bus)
        for index, (bus, words) in zip(free, sorted(report.lost.items()), strict=False)
    ]


def _trouble(row: dict[str, str]) -> tuple[health.Trouble, str]:
    """What a row's cells say is the matter, and the tool's words for it."""
    cells = {cell.lower() for cell in row.values()}
    if _LOST_CELL in cells:
        return health.Trouble.LOST, "GPU is lost"
    if _RESET_CELL in cells:
        return health.Trouble.RESET_REQUIRED, "GPU requires reset"
    return health.Trouble.NONE, ""


def _unreachable(words: str) -> health.Trouble:
    return health.Trouble.RESET_REQUIRED if "reset" in words.lower() else health.Trouble.LOST


def _reading(device: devices.Device, row: dict[str, str] | None, report: Report) -> health.Reading:
    if row is None:
        words = report.lost.get(_bus(device.pci_bus_id), "")
        if not report.rows and not words:
            return source.troubled(device, health.Trouble.UNREADABLE, report.problem or "nvidia-smi lists no GPU")
        return source.troubled(device, _unreachable(words), words or "nvidia-smi does not list it any more")
    trouble, words = _trouble(row)
    if trouble is not health.Trouble.NONE:
        return source.troubled(device, trouble, words)
    total, used = _bytes(row, "memory.total"), _bytes(row, "memory.used")
    return health.Reading(
        index=device.index,
        uuid=device.uuid,
        name=device.name,
        vram_total_bytes=total,
        vram_used_bytes=used,
        vram_free_bytes=_bytes(row, "memory.free") if "memory.free" in row else max(0, total - used),
        utilization_percent=_whole(row, "utilization.gpu"),
        temperature_c=_whole(row, "temperature.gpu"),
        power_w=_number(row.get("power.draw", "")),
        ecc_errors=_whole(row, "ecc.errors.uncorrected.volatile.total"),
    )


def _number(cell: str) -> float | None:
    """None for [N/A], [Not Supported], [Insufficient Permissions], [Unknown Error] and whatever else is no number."""
    return float(cell) if re.fullmatch(r"\d+(\.\d+)?", cell) else None


def _whole(row: dict[str, str], name: str) -> int | None:
    value = _number(row.get(name, ""))
    return None if value is None else int(value)


def _bytes(row: dict[str, str], name: str) -> int:
    return (_whole(row, name) or 0) * _MIB


def _known(cell: str) -> str:
    return "" if cell.startswith("[") else cell


def _bus(address: str) -> str:
    """A bus address in one form: the tool prints its domain with four digits or with eight."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _program(within_s: float) -> Run | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None

    def run(arguments: Sequence[str]) -> Output:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            check=False,
        )
        return Output(done.returncode, done.stdout, done.stderr)

    return run

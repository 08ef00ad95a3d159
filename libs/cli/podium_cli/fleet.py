"""`podium workers`: the fleet at a glance, and what an operator does with one worker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Annotated

import typer
from google.protobuf import duration_pb2

from podium.operator.v1 import operator_pb2
from podium.worker.v1 import worker_pb2
from podium_cli import exits, operator, output

workers = typer.Typer(help="Connected workers: list them and their devices, or let one finish and leave.")

_SHORT_ID = 8
_HOST_WIDTH = 14
_DEVICE_WIDTH = 18
_GIB = 1024**3


def listed() -> list[operator_pb2.Worker]:
    """All connected workers, by id."""
    found: list[operator_pb2.Worker] = []
    request = operator_pb2.ListWorkersRequest(page_size=operator.PAGE)
    while True:
        page = operator.call("ListWorkers", request, operator_pb2.ListWorkersResponse)
        found += page.workers
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@workers.callback(invoke_without_command=True)
def list_workers(context: typer.Context, as_json: output.AsJson = False) -> None:
    """List connected workers, a row for each device, and below what is wrong; with --json one worker a line.

    A worker is named by the beginning of its id; `podium workers drain` takes that.
    """
    if context.invoked_subcommand is not None:
        return
    found = listed()
    if as_json:
        for one in found:
            output.print_json(one)
        return
    names = short_ids([one.worker_id for one in found])
    output.print_table(
        ("WORKER", "HOST", "DEVICE", "STATE", "#VRAM GiB", "#UTIL", "#TEMP", "#POWER", "#IN HAND", "MODELS"),
        (row for one, name in zip(found, names, strict=True) for row in _rows(one, name)),
        empty="no workers are connected",
        folds="MODELS",
    )
    for one, name in zip(found, names, strict=True):
        for remark in _remarks(one):
            output.say(f"{name} {remark}")


def short_ids(ids: Sequence[str]) -> list[str]:
    """The ids, cut to what still tells them apart."""
    length = _SHORT_ID
    while len({one[:length] for one in ids}) < len(set(ids)):
        length += 1
    return [one[:length] for one in ids]


def _rows(worker: operator_pb2.Worker, name: str) -> Iterator[tuple[str, ...]]:
    """One for each device; batches in hand belong to the worker and are told once."""
    host = _squeeze(worker.hostname.split(".", 1)[0], _HOST_WIDTH)
    in_hand = str(len(worker.status.in_hand))
    states = {one.index: one for one in worker.status.devices}
    if not worker.devices:
        yield (name, host, "-", "-", "-", "-", "-", "-", in_hand, "")
    for device in worker.devices:
        yield (name, host, *_device(device, states.get(device.index)), in_hand, _models(states.get(device.index)))
        in_hand = ""


def _device(device: worker_pb2.Device, status: worker_pb2.DeviceStatus | None) -> tuple[str, ...]:
    """DEVICE to POWER; "-" for what is unknown, or has no meaning for a CPU."""
    label = _cut(f"{device.index} {device.name.removeprefix('NVIDIA ') or 'GPU'}", _DEVICE_WIDTH)
    if status is None:
        return (label, "-", "-", "-", "-", "-")
    state = worker_pb2.DeviceState.Name(status.state).removeprefix("DEVICE_STATE_")
    total, gpu = device.vram_bytes, device.vram_bytes > 0
    return (
        label,
        state if status.state else "-",
        f"{status.vram_used_bytes / _GIB:.1f}/{total / _GIB:.1f}" if total else "-",
        f"{status.utilization_percent}%" if gpu else "-",
        f"{status.temperature_celsius} °C" if status.temperature_celsius else "-",
        f"{status.power_watts:.0f} W" if status.power_watts else "-",
    )


def _models(status: worker_pb2.DeviceStatus | None) -> str:
    return ", ".join(status.resident_workloads) if status is not None else ""


def _remarks(worker: operator_pb2.Worker) -> Iterator[str]:
    """What an operator should know: devices that do not serve, and workloads that cannot be served."""
    if worker.quarantine_reason:
        yield f"quarantined: {worker.quarantine_reason}"
    if worker.status.draining:
        yield "draining"
    for device in worker.status.devices:
        if device.reason:
            state = worker_pb2.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_")
            yield f"device {device.index} {state}: {device.reason}"
        if device.ecc_errors:
            yield f"device {device.index}: {device.ecc_errors:,} uncorrected memory errors"
        if device.xids:
            yield f"device {device.index}: XID {', '.join(map(str, device.xids))}"
    for one in worker.status.workloads:
        if one.unavailable_reason:
            yield f"cannot serve {one.workload}: {one.unavailable_reason}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _squeeze(text: str, width: int) -> str:
    """Pods of one deployment differ at the end of their names."""
    half = width // 2
    return text if len(text) <= width else text[: width - half - 1] + "…" + text[-half:]


@workers.command("drain")
def drain_worker(
    worker_id: Annotated[str, typer.Argument(metavar="WORKER_ID", help="From `podium workers`.")],
    as_json: output.AsJson = False,
) -> None:
    """Let a worker finish what it has and end. It gets nothing new from now on."""
    request = operator_pb2.DrainWorkerRequest(worker_id=_whole_id(worker_id))
    worker = operator.call("DrainWorker", request, operator_pb2.DrainWorkerResponse).worker
    if as_json:
        output.print_json(worker)
    else:
        output.say(f"{worker.worker_id}: drains, {len(worker.status.in_hand)} batches in hand")


def _whole_id(given: str) -> str:
    """The id that begins so; what is given when there is none. BadInput when there are several."""
    try:
        return str(uuid.UUID(given))
    except ValueError:
        found = [one.worker_id for one in listed() if one.worker_id.startswith(given)]
    if len(found) > 1 and given not in found:
        raise exits.BadInput(f"{given}: {len(found)} workers have ids that begin so")
    return found[0] if len(found) == 1 else given


@workers.command("loads")
def list_loads(
    workload: Annotated[str, typer.Option("--workload", "-w", help="Only this workload.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """List how long models take to load, by type of device, as measured so far; with --json one object a line."""
    request = operator_pb2.ListModelLoadsRequest(workload=workload)
    found = operator.call("ListModelLoads", request, operator_pb2.ListModelLoadsResponse).model_loads
    if as_json:
        for one in found:
            output.print_json(one)
        return
    output.print_table(
        ("WORKLOAD", "DEVICE", "#LOADS", "#MEAN", "#LAST", "#MEMORY", "WHEN"),
        (
            (
                one.workload, one.device_name, f"{one.load_count:,}", _seconds(one.mean_duration),
                _seconds(one.last_duration), output.size_text(one.memory_bytes),
                output.time_text(one.last_time.ToDatetime(tzinfo=UTC)),
            )
            for one in found
        ),
        empty="no loads have been measured",
    )  # fmt: skip


def _seconds(span: duration_pb2.Duration) -> str:
    return f"{span.ToTimedelta().total_seconds():,.1f} s"

"""`podium workers` against recorded workers: what is shown, in how many columns, and what is done by short ids."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_cli import exits, fleet, main

RECORDED = Path(__file__).parent / "recorded" / "workers.json"
GPU_WORKER, CPU_WORKER = "1b2c3d4e-5f60-4718-8293-a4b5c6d7e8f9", "1b2c3d4e-5f60-5718-8293-a4b5c6d7e8f9"

Run = Callable[..., Awaitable[tuple[int, str, str]]]


class RecordedOperator(operator_pb2_grpc.OperatorServiceServicer):
    def __init__(self) -> None:
        self.answer = json_format.Parse(RECORDED.read_text(encoding="utf-8"), operator_pb2.ListWorkersResponse())
        self.drained: list[str] = []

    async def ListWorkers(
        self, request: operator_pb2.ListWorkersRequest, context: Any
    ) -> operator_pb2.ListWorkersResponse:
        """A worker a page."""
        place = int(request.page_token or 0)
        more = str(place + 1) if place + 1 < len(self.answer.workers) else ""
        page = self.answer.workers[place : place + 1]
        return operator_pb2.ListWorkersResponse(workers=page, next_page_token=more)

    async def DrainWorker(
        self, request: operator_pb2.DrainWorkerRequest, context: Any
    ) -> operator_pb2.DrainWorkerResponse:
        found = [one for one in self.answer.workers if one.worker_id == request.worker_id]
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no worker {request.worker_id} has a session")
        self.drained.append(request.worker_id)
        return operator_pb2.DrainWorkerResponse(worker=found[0])

    async def ListModelLoads(
        self, request: operator_pb2.ListModelLoadsRequest, context: Any
    ) -> operator_pb2.ListModelLoadsResponse:
        load = operator_pb2.ModelLoad(
            workload="eva02-large", device_name="NVIDIA H100 80GB HBM3", load_count=1_204, memory_bytes=1_238_368_256
        )
        load.mean_duration.FromMilliseconds(11_840)
        load.last_duration.FromMilliseconds(9_000)
        load.last_time.FromJsonString("2026-11-26T03:00:00Z")
        wanted = request.workload in ("", load.workload)
        return operator_pb2.ListModelLoadsResponse(model_loads=[load] if wanted else [])


@pytest.fixture
async def operator(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RecordedOperator]:
    servicer = RecordedOperator()  # type: ignore[abstract]
    server = grpc.aio.server()
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("PODIUM_OPERATOR_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("PODIUM_OPERATOR_TOKEN", "operator")
    yield servicer
    await server.stop(None)


@pytest.fixture
def podium(capsys: pytest.CaptureFixture[str]) -> Run:
    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main.run, list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_row_a_device_and_what_is_wrong_below(operator: RecordedOperator, podium: Run) -> None:
    code, out, _ = await podium("workers")
    assert code == exits.OK
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    host = "podium…5-x2x4k"
    assert rows[1:7] == [
        ["1b2c3d4e-5f60-4", host, "0 H100 80GB HBM3", "BUSY", "57.0/79.6", "97%", "71 °C", "412 W", "7",
         "minilm, clip-vit-b-32, eva02-large"],
        ["1b2c3d4e-5f60-4", host, "1 H100 80GB HBM3", "COOLING", "40.0/79.6", "0%", "91 °C", "118 W", "minilm"],
        ["1b2c3d4e-5f60-4", host, "2 H100 80GB HBM3", "FAULTED", "0.0/79.6", "0%", "-", "-"],
        ["1b2c3d4e-5f60-4", host, "3 H100 80GB HBM3", "BOOTING", "1.0/79.6", "3%", "44 °C", "96 W"],
        ["1b2c3d4e-5f60-5", "edge-1", "0 AMD EPYC 7B13 6…", "READY", "-", "-", "-", "-", "0", "minilm"],
        ["c0ffee00-0000-4", "lab", "0 Tesla T4", "-", "-", "-", "-", "-", "0"],
    ]  # fmt: skip
    assert out.splitlines()[7:] == [
        "1b2c3d4e-5f60-4 device 1 COOLING: 91 °C, as hot as it may be; goes on at 80 °C",
        "1b2c3d4e-5f60-4 device 2 FAULTED: the GPU has fallen off the bus (XID 79)",
        "1b2c3d4e-5f60-4 device 2: 2 uncorrected memory errors",
        "1b2c3d4e-5f60-4 device 2: XID 13, 79",
        "1b2c3d4e-5f60-5 draining",
        "1b2c3d4e-5f60-5 cannot serve siglip-base: the model is not here: podium models prefetch siglip-base",
        "c0ffee00-0000-4 quarantined: 7 results in a row were refused: not finite",
    ]


async def test_a_terminal_of_120_columns_shows_every_cell_whole(
    operator: RecordedOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    assert await asyncio.to_thread(main.run, ["workers"]) == exits.OK
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    table = lines[: lines.index(next(line for line in lines if "device 1 COOLING: " in line))]
    assert max(map(len, table)) <= 120
    assert "0 H100 80GB HBM3" in table[1]
    assert "57.0/79.6" in table[1]
    # Only the models go on in the next line.
    assert [line.strip() for line in table[1:4]][1:] == ["clip-vit-b-32,", "eva02-large"]


async def test_scripts_get_everything(operator: RecordedOperator, podium: Run) -> None:
    _, out, _ = await podium("workers", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["worker_id"] for one in found] == [one.worker_id for one in operator.answer.workers]
    model = found[0]["status"]["devices"][0]["models"][1]
    assert (model["workload"], model["budget"], model["precision"]) == ("clip-vit-b-32", 512, "float16")
    assert found[0]["devices"][0]["driver_version"] == "550.54.15"


async def test_a_worker_is_drained_by_the_beginning_of_its_id(operator: RecordedOperator, podium: Run) -> None:
    code, out, _ = await podium("workers", "drain", "1b2c3d4e-5f60-4")
    assert (code, out) == (exits.OK, f"{GPU_WORKER}: drains, 7 batches in hand\n")
    assert (await podium("workers", "drain", CPU_WORKER))[0] == exits.OK
    assert operator.drained == [GPU_WORKER, CPU_WORKER]
    code, _, err = await podium("workers", "drain", "1b2c")
    assert (code, err) == (exits.BAD_INPUT, "error: 1b2c: 2 workers have ids that begin so\n")
    assert (await podium("workers", "drain", "ffff"))[0] == exits.NOT_FOUND
    assert operator.drained == [GPU_WORKER, CPU_WORKER]


async def test_measured_loads_are_listed(operator: RecordedOperator, podium: Run) -> None:
    _, out, _ = await podium("workers", "loads")
    pattern = r"^eva02-large +NVIDIA H100 80GB HBM3 +1,204 +11\.8 s +9\.0 s +1\.15 GiB +2026-11-26 "
    assert re.search(pattern, out, re.MULTILINE)
    _, out, _ = await podium("workers", "loads", "--json")
    assert json.loads(out)["load_count"] == "1204"
    _, out, err = await podium("workers", "loads", "-w", "minilm")
    assert (out, err) == ("", "no loads have been measured\n")


def test_short_ids_still_tell_workers_apart() -> None:
    assert fleet.short_ids([]) == []
    assert fleet.short_ids(["w1", "w2"]) == ["w1", "w2"]
    assert fleet.short_ids(["aaaaaaaa-1", "bbbbbbbb-1"]) == ["aaaaaaaa", "bbbbbbbb"]
    assert fleet.short_ids(["aaaaaaaa-1", "aaaaaaaa-2"]) == ["aaaaaaaa-1", "aaaaaaaa-2"]
    assert fleet.short_ids(["same", "same"]) == ["same", "same"]

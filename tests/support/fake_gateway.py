"""GatewayService in memory, over real gRPC on loopback, with faults on demand: what the SDK is tested against.

Vectors are a function of the text. A text that begins with FAIL fails alone, LONG is reported as truncated, DIE makes
its whole batch fail. Batches have 5 items, chunks 2.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import google_crc32c
import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from podium.common.v1 import item_pb2, job_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc

DIMENSION = 4
BATCH_ITEMS = 5
CHUNK_ITEMS = 2
MAX_TEXT_BYTES = 64
TOKEN = "secret-of-the-fake"

Context = grpc.aio.ServicerContext[Any, Any]


def vector(text: str) -> npt.NDArray[np.float32]:
    """(DIMENSION,) float32 in [0, 1), from the text alone."""
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[: 4 * DIMENSION], dtype="<u4")
    return (words / np.float64(2**32)).astype(np.float32)


def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """(n, DIMENSION): what a correct client returns."""
    return np.stack([vector(text) for text in texts]) if texts else np.zeros((0, DIMENSION), np.float32)


@dataclass(frozen=True)
class Refusal:
    """One call answered with an error."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "the ledger is away"
    reason: str = "LEDGER_UNAVAILABLE"
    retry_after_s: float | None = 0.001


_NOT_YET = Refusal(grpc.StatusCode.UNIMPLEMENTED, "not served", "NOT_YET_IMPLEMENTED", None)


@dataclass
class Cut:
    """One StreamResults call: `messages` come, each `copies` times, then the refusal; UNAVAILABLE without details
    when there is none."""

    messages: int
    copies: int = 1
    refusal: Refusal | None = None


@dataclass
class FakeJob:
    message: job_pb2.Job
    digest: bytes
    items: item_pb2.TextItems
    released_to: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class FakeGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """The servicer and its controls."""

    def __init__(self) -> None:
        self.address = ""
        self.jobs: dict[str, FakeJob] = {}
        self.by_request: dict[str, FakeJob] = {}
        self.calls: Counter[str] = Counter()
        self.batches_computed = 0
        self.refusals: defaultdict[str, deque[Refusal]] = defaultdict(deque)
        self.cuts: deque[Cut] = deque()
        self.cursors: list[str] = []
        self.resumes: list[str] = []
        self.release_during_stream: set[str] = set()
        self.corrupt = ""
        self.hold = False
        self.accepted = asyncio.Event()
        self.most_open_streams = 0
        self._open_streams = 0

    async def _begin(self, name: str, context: Context) -> None:
        self.calls[name] += 1
        metadata = dict(context.invocation_metadata() or ())
        if metadata.get("authorization") != f"Bearer {TOKEN}":
            await refuse(context, Refusal(grpc.StatusCode.UNAUTHENTICATED, "unknown token", "BAD_TOKEN", None))
        if self.refusals[name]:
            await refuse(context, self.refusals[name].popleft())

    async def SubmitBatch(
        self, request: gateway_pb2.SubmitBatchRequest, context: Context
    ) -> gateway_pb2.SubmitBatchResponse:
        await self._begin("SubmitBatch", context)
        digest = request.SerializeToString(deterministic=True)
        known = self.by_request.get(request.request_id)
        if known is not None:
            if known.digest != digest:
                await refuse(context, Refusal(grpc.StatusCode.ALREADY_EXISTS, "another payload", "CONFLICT", None))
            return gateway_pb2.SubmitBatchResponse(job=known.message, already_accepted=True)
        await self._validate(request, context)
        total = len(request.texts.items)
        message = job_pb2.Job(
            job_id=str(uuid.uuid4()),
            request_id=request.request_id,
            workload=request.workload,
            state=job_pb2.JOB_STATE_RUNNING if self.hold else job_pb2.JOB_STATE_COMPLETED,
            priority=request.priority or 3,
            labels=request.labels,
            progress=job_pb2.JobProgress(items_total=total, batches_total=-(-total // BATCH_ITEMS)),
        )
        message.create_time.GetCurrentTime()
        job = FakeJob(message, digest, request.texts)
        if not self.hold:
            job.ready.set()
        self.batches_computed += message.progress.batches_total
        self.jobs[message.job_id] = self.by_request[request.request_id] = job
        self.accepted.set()
        return gateway_pb2.SubmitBatchResponse(job=message)

    async def _validate(self, request: gateway_pb2.SubmitBatchRequest, context: Context) -> None:
        bad = []
        if request.workload != "fake":
            bad.append(("workload", f"there is no workload {request.workload!r}"))
        for index, item in enumerate(request.texts.items):
            if len(item.text.encode()) > MAX_TEXT_BYTES:
                text = f"{len(item.text.encode()):,} bytes, the workload's limit is {MAX_TEXT_BYTES}"
                bad.append((f"texts.items[{index}].text", text))
        if bad:
            violations = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in bad]
            await abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "bad request",
                error_details_pb2.BadRequest(field_violations=violations),
            )

    async def _find(self, job_id: str, context: Context) -> FakeJob:
        if job_id not in self.jobs:
            await refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"no job {job_id}", "JOB_NOT_FOUND", None))
        return self.jobs[job_id]

    async def GetJob(self, request: gateway_pb2.GetJobRequest, context: Context) -> gateway_pb2.GetJobResponse:
        await self._begin("GetJob", context)
        return gateway_pb2.GetJobResponse(job=(await self._find(request.job_id, context)).message)

    async def ListJobs(self, request: gateway_pb2.ListJobsRequest, context: Context) -> gateway_pb2.ListJobsResponse:
        await self._begin("ListJobs", context)
        found = [
            job.message
            for job in reversed(self.jobs.values())
            if request.labels.items() <= job.message.labels.items()
            and (not request.states or job.message.state in request.states)
            and request.workload in ("", job.message.workload)
        ]
        start, size = int(request.page_token or 0), request.page_size or 100
        more = str(start + size) if start + size < len(found) else ""
        return gateway_pb2.ListJobsResponse(jobs=found[start : start + size], next_page_token=more)

    async def WatchJob(
        self, request: gateway_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.WatchJobResponse]:
        await self._begin("WatchJob", context)
        job = await self._find(request.job_id, context)
        yield gateway_pb2.WatchJobResponse(job=job.message)
        if job.message.state == job_pb2.JOB_STATE_RUNNING:
            await job.ready.wait()
            yield gateway_pb2.WatchJobResponse(job=job.message)

    async def CancelJob(self, request: gateway_pb2.CancelJobRequest, context: Context) -> gateway_pb2.CancelJobResponse:
        await self._begin("CancelJob", context)
        job = await self._find(request.job_id, context)
        if job.message.state == job_pb2.JOB_STATE_COMPLETED:
            await refuse(
                context, Refusal(grpc.StatusCode.FAILED_PRECONDITION, "the job is completed", "JOB_FINAL", None)
            )
        job.message.state = job_pb2.JOB_STATE_CANCELLED
        job.ready.set()
        return gateway_pb2.CancelJobResponse(job=job.message)

    async def ListWorkloads(
        self, request: gateway_pb2.ListWorkloadsRequest, context: Context
    ) -> gateway_pb2.ListWorkloadsResponse:
        await self._begin("ListWorkloads", context)
        workload = workload_pb2.Workload(
            name="fake",
            dimension=DIMENSION,
            modalities=[workload_pb2.MODALITY_TEXT],
            limits=workload_pb2.WorkloadLimits(max_text_bytes=MAX_TEXT_BYTES),
            model=workload_pb2.ModelSpec(model_name="sha256", revision="1", backend="fake"),
        )
        return gateway_pb2.ListWorkloadsResponse(workloads=[workload])

    async def ConsumeResults(
        self, requests: AsyncIterator[gateway_pb2.ConsumeResultsRequest], context: Context
    ) -> AsyncIterator[gateway_pb2.ConsumeResultsResponse]:
        await self._begin("ConsumeResults", context)
        async for _ in requests:
            yield gateway_pb2.ConsumeResultsResponse()

    async def Embed(self, request: gateway_pb2.EmbedRequest, context: Context) -> gateway_pb2.EmbedResponse:
        await refuse(context, _NOT_YET)

    async def StreamResults(
        self, request: gateway_pb2.StreamResultsRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.StreamResultsResponse]:
        await self._begin("StreamResults", context)
        self.cursors.append(request.after_cursor)
        self.resumes.append(request.resume_cursor)
        job = await self._find(request.job_id, context)
        start = int(request.resume_cursor or request.after_cursor or 0)
        if request.after_cursor:
            total, durable = len(job.items.items), int(request.after_cursor)
            whole = durable if durable == total else durable // BATCH_ITEMS * BATCH_ITEMS
            job.released_to = max(job.released_to, whole)
            job.message.progress.items_released = job.released_to
            job.message.results_released = job.released_to == total
        if start < job.released_to:
            await self._gone(context)
        self._open_streams += 1
        self.most_open_streams = max(self.most_open_streams, self._open_streams)
        try:
            await job.ready.wait()
            if job.message.job_id in self.release_during_stream:
                job.message.results_released = True
                await self._gone(context)
            cut = self.cuts.popleft() if self.cuts else None
            for sent, message in enumerate(self._messages(job, start)):
                if cut is not None and sent == cut.messages:
                    if cut.refusal is not None:
                        await refuse(context, cut.refusal)
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut on purpose")
                for _ in range(cut.copies if cut is not None else 1):
                    yield message
        finally:
            self._open_streams -= 1

    async def _gone(self, context: Context) -> None:
        await refuse(context, Refusal(grpc.StatusCode.OUT_OF_RANGE, "released", "RESULTS_RELEASED", None))

    def _messages(self, job: FakeJob, start: int) -> list[gateway_pb2.StreamResultsResponse]:
        texts = [item.text for item in job.items.items]
        out = []
        cancelled = job.message.state == job_pb2.JOB_STATE_CANCELLED
        for batch in range(0, len(texts), BATCH_ITEMS):
            batch_end = min(batch + BATCH_ITEMS, len(texts))
            if cancelled or any(text.startswith("DIE") for text in texts[batch:batch_end]):
                reason = job_pb2.BATCH_FAILURE_REASON_WORKER_LOST
                if cancelled:
                    reason = job_pb2.BATCH_FAILURE_REASON_CANCELLED
                failure = result_pb2.BatchFailure(
                    job_id=job.message.job_id,
                    first_item=batch,
                    item_count=batch_end - batch,
                    reason=reason,
                    message="the worker was lost",
                )
                out.append(gateway_pb2.StreamResultsResponse(failure=failure, cursor=str(batch_end)))
                continue
            for first in range(batch, batch_end, CHUNK_ITEMS):
                last = min(first + CHUNK_ITEMS, batch_end)
                chunk = self._chunk(job, first, last)
                out.append(gateway_pb2.StreamResultsResponse(chunk=chunk, cursor=str(last)))
        left = [m for m in out if int(m.cursor) > start]
        end = gateway_pb2.StreamEnd(job=job.message)
        left.append(gateway_pb2.StreamResultsResponse(end=end, cursor=str(len(texts))))
        if self.corrupt == "gap":
            del left[0]
        return left

    def _chunk(self, job: FakeJob, first: int, last: int) -> result_pb2.ResultChunk:
        items = job.items.items[first:last]
        good = [item.text for item in items if not item.text.startswith("FAIL")]
        data = vectors(good).astype("<f4").tobytes()
        places = list(enumerate(items, start=first))
        chunk = result_pb2.ResultChunk(
            job_id=job.message.job_id,
            first_item=first,
            item_count=last - first,
            vectors=data,
            count=len(good),
            dimension=DIMENSION,
            dtype=workload_pb2.DTYPE_FLOAT32,
            crc32c=google_crc32c.value(data),
            errors=[
                result_pb2.ItemError(
                    item_index=i, reason=result_pb2.ITEM_ERROR_REASON_EMPTY_INPUT, message="nothing to read"
                )
                for i, item in places
                if item.text.startswith("FAIL")
            ],
            truncations=[
                result_pb2.Truncation(item_index=i, token_count=300, max_tokens=256)
                for i, item in places
                if item.text.startswith("LONG")
            ],
            keys=[item.key for item in items] if items[0].key else [],
            provenance=result_pb2.Provenance(
                model_name="sha256",
                revision=f"{first}" if self.corrupt == "revision" else "1",
                dimension=DIMENSION,
                dtype=workload_pb2.DTYPE_FLOAT32,
                pooling=workload_pb2.POOLING_NONE,
                backend="fake",
            ),
        )
        if self.corrupt == "crc":
            chunk.crc32c ^= 1
        return chunk


async def abort(context: Context, code: grpc.StatusCode, message: str, *details: Message) -> NoReturn:
    """End the call with google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status returned")


async def refuse(context: Context, refusal: Refusal) -> NoReturn:
    """End the call as the refusal says."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain="podium")]
    if refusal.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(refusal.retry_after_s * 1e9))
        details.append(retry)
    await abort(context, refusal.code, refusal.message, *details)


@asynccontextmanager
async def serve_fake_gateway() -> AsyncIterator[FakeGateway]:
    """A fake gateway on a free port of the loopback."""
    fake = FakeGateway()
    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(fake, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)

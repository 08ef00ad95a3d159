"""GatewayService in memory, over real gRPC on loopback, with faults on demand: what the SDK is tested against.

Vectors are a function of the text, the URL or the inline image. An item that begins with FAIL (of a URL: its path)
fails alone, LONG is reported as truncated, DIE makes its whole batch fail. Batches have 5 items, chunks 2. Workloads:
"fake" takes texts, "fake-image" images, "fake-clip" both.
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

DIMENSION = 12
TRUNCATED = (4, 8)
BATCH_ITEMS = 5
CHUNK_ITEMS = 2
MAX_TEXT_BYTES = 64
MAX_IMAGE_BYTES = 4096
MAX_KEY_BYTES = 256
MAX_MESSAGE_BYTES = 64 << 20
TOKEN = "secret-of-the-fake"
TEXT, IMAGE = workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE
WORKLOADS = {"fake": [TEXT], "fake-clip": [TEXT, IMAGE], "fake-image": [IMAGE]}

Context = grpc.aio.ServicerContext[Any, Any]
Content = str | bytes


def vector(content: Content, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """(dimension,) float32 of unit length, from a text, a URL or the bytes of an image alone."""
    data = content.encode() if isinstance(content, str) else content
    words = np.frombuffer(hashlib.blake2b(data, digest_size=4 * DIMENSION).digest(), dtype="<i4")
    first = (words / np.float64(2**31)).astype(np.float32)[:dimension]
    return first / np.float32(np.linalg.norm(first))


def vectors(contents: Sequence[Content], dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """(n, dimension): what a correct client returns."""
    return np.stack([vector(one, dimension) for one in contents]) if contents else np.zeros((0, dimension), np.float32)


def encode(rows: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Rows as the contract says that they travel; written apart from the SDK, which has to read it."""
    if dtype == "float16":
        return rows.astype("<f2")
    if dtype == "int8":
        levels: npt.NDArray[np.int8] = np.rint(rows / np.abs(rows).max(axis=1, keepdims=True) * 127).astype("i1")
        return levels
    if dtype == "binary":
        bits: npt.NDArray[np.uint8] = np.packbits(rows > 0, axis=1)
        return bits
    return rows.astype("<f4")


@dataclass(frozen=True)
class Refusal:
    """One call answered with an error."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "the ledger is away"
    reason: str = "LEDGER_UNAVAILABLE"
    retry_after_s: float | None = 0.001


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
    keys: list[str]
    contents: list[Content]
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
        self.acknowledged: list[str] = []
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
        items, contents = contents_of(request)
        total = len(contents)
        message = job_pb2.Job(
            job_id=str(uuid.uuid4()),
            request_id=request.request_id,
            workload=request.workload,
            state=job_pb2.JOB_STATE_RUNNING if self.hold else job_pb2.JOB_STATE_COMPLETED,
            priority=request.priority or 3,
            labels=request.labels,
            options=request.options,
            modality=TEXT if request.HasField("texts") else IMAGE,
            budget_usd=request.budget_usd if request.HasField("budget_usd") else None,
            deduplicated=request.deduplicate,
            progress=job_pb2.JobProgress(
                items_total=total,
                batches_total=-(-total // BATCH_ITEMS),
                items_deduplicated=total - len(set(contents)) if request.deduplicate else 0,
            ),
        )
        message.create_time.GetCurrentTime()
        job = FakeJob(message, digest, [item.key for item in items], contents)
        if not self.hold:
            job.ready.set()
        self.batches_computed += message.progress.batches_total
        self.jobs[message.job_id] = self.by_request[request.request_id] = job
        self.accepted.set()
        return gateway_pb2.SubmitBatchResponse(job=message)

    async def _validate(self, request: gateway_pb2.SubmitBatchRequest, context: Context) -> None:
        bad = []
        kind = request.WhichOneof("items") or "items"
        taken = WORKLOADS.get(request.workload)
        if taken is None:
            bad.append(("workload", f"there is no workload {request.workload!r}"))
        elif (TEXT if kind == "texts" else IMAGE) not in taken:
            bad.append((kind, f"workload {request.workload!r} does not take {kind}"))
        dimensions = request.options.dimensions if request.options.HasField("dimensions") else DIMENSION
        if dimensions not in (*TRUNCATED, DIMENSION):
            bad.append(("options.dimensions", f"{dimensions} is none of 4, 8, 12"))
        seen: dict[str, int] = {}
        for index, (item, content) in enumerate(zip(*contents_of(request), strict=True)):
            path, size = f"{kind}.items[{index}]", len(content.encode() if isinstance(content, str) else content)
            field = item.WhichOneof("image") if isinstance(item, item_pb2.ImageItem) else "text"
            limit = MAX_IMAGE_BYTES if field == "data" else MAX_TEXT_BYTES
            if size > limit:
                bad.append((f"{path}.{field}", f"{size:,} bytes, the workload's limit is {limit}"))
            if len(item.key.encode()) > MAX_KEY_BYTES:
                bad.append((f"{path}.key", f"is {len(item.key.encode())} bytes; at most {MAX_KEY_BYTES} are allowed"))
            if item.key and seen.setdefault(item.key, index) != index:
                bad.append((f"{path}.key", f"{item.key!r} is also the key of item {seen[item.key]}"))
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
        return gateway_pb2.ListWorkloadsResponse(workloads=[workload(name) for name in WORKLOADS])

    async def ConsumeResults(
        self, requests: AsyncIterator[gateway_pb2.ConsumeResultsRequest], context: Context
    ) -> AsyncIterator[gateway_pb2.ConsumeResultsResponse]:
        await self._begin("ConsumeResults", context)
        async for request in requests:
            if request.HasField("hello"):
                for job in self.jobs.values():
                    for message in self._messages(job, 0)[:-1]:
                        name = f"{job.message.job_id}/{message.cursor}"
                        if message.HasField("chunk"):
                            yield gateway_pb2.ConsumeResultsResponse(delivery_id=name, chunk=message.chunk)
                        else:
                            yield gateway_pb2.ConsumeResultsResponse(delivery_id=name, failure=message.failure)
                    yield gateway_pb2.ConsumeResultsResponse(delivery_id=job.message.job_id, job=job.message)
            elif request.HasField("ack"):
                self.acknowledged.append(request.ack.delivery_id)

    async def Embed(self, request: gateway_pb2.EmbedRequest, context: Context) -> gateway_pb2.EmbedResponse:
        await self._begin("Embed", context)
        items, contents = contents_of(request)
        modality = TEXT if request.HasField("texts") else IMAGE
        message = job_pb2.Job(options=request.options, modality=modality, workload=request.workload)
        job = FakeJob(message, b"", [item.key for item in items], contents)
        return gateway_pb2.EmbedResponse(chunk=self._chunk(job, 0, len(contents)), token_count=7)

    async def StreamResults(
        self, request: gateway_pb2.StreamResultsRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.StreamResultsResponse]:
        await self._begin("StreamResults", context)
        self.cursors.append(request.after_cursor)
        self.resumes.append(request.resume_cursor)
        job = await self._find(request.job_id, context)
        start = int(request.resume_cursor or request.after_cursor or 0)
        if request.after_cursor:
            total, durable = len(job.contents), int(request.after_cursor)
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
        out, total = [], len(job.contents)
        cancelled = job.message.state == job_pb2.JOB_STATE_CANCELLED
        for batch in range(0, total, BATCH_ITEMS):
            batch_end = min(batch + BATCH_ITEMS, total)
            if cancelled or any(is_marked(one, "DIE") for one in job.contents[batch:batch_end]):
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
        left.append(gateway_pb2.StreamResultsResponse(end=end, cursor=str(total)))
        if self.corrupt == "gap":
            del left[0]
        return left

    def _chunk(self, job: FakeJob, first: int, last: int) -> result_pb2.ResultChunk:
        places = list(enumerate(job.contents[first:last], start=first))
        good = [one for _, one in places if not is_marked(one, "FAIL")]
        options = job.message.options
        dtype = options.dtype if options.HasField("dtype") and self.corrupt != "dtype" else workload_pb2.DTYPE_FLOAT32
        dimension = options.dimensions if options.HasField("dimensions") else DIMENSION
        name = workload_pb2.Dtype.Name(dtype).removeprefix("DTYPE_").lower()
        data = encode(vectors(good, dimension), name).tobytes() if good else b""
        text = job.message.modality == TEXT
        reason = result_pb2.ITEM_ERROR_REASON_EMPTY_INPUT if text else result_pb2.ITEM_ERROR_REASON_UNDECODABLE
        chunk = result_pb2.ResultChunk(
            job_id=job.message.job_id,
            first_item=first,
            item_count=last - first,
            vectors=data,
            count=len(good),
            dimension=dimension,
            dtype=dtype,
            crc32c=google_crc32c.value(data),
            errors=[
                result_pb2.ItemError(item_index=i, reason=reason, message="nothing to read")
                for i, one in places
                if is_marked(one, "FAIL")
            ],
            truncations=[
                result_pb2.Truncation(item_index=i, token_count=300, max_tokens=256)
                for i, one in places
                if is_marked(one, "LONG")
            ],
            keys=job.keys[first:last] if job.keys[first] else [],
            provenance=result_pb2.Provenance(
                model_name="sha256",
                revision=f"{first}" if self.corrupt == "revision" else "1",
                dimension=dimension,
                dtype=dtype,
                pooling=workload_pb2.POOLING_NONE,
                normalized=True,
                backend="fake",
            ),
        )
        if self.corrupt == "crc":
            chunk.crc32c ^= 1
        return chunk


def contents_of(
    request: gateway_pb2.SubmitBatchRequest | gateway_pb2.EmbedRequest,
) -> tuple[Sequence[item_pb2.TextItem | item_pb2.ImageItem], list[Content]]:
    """The items of a job, and what each holds."""
    if request.HasField("texts"):
        return request.texts.items, [item.text for item in request.texts.items]
    items = request.images.items
    return items, [item.url if item.HasField("url") else item.data for item in items]


def is_marked(content: Content, mark: str) -> bool:
    """Whether an item asks for trouble: at its beginning, or at that of a URL's last part."""
    if isinstance(content, bytes):
        return content.startswith(mark.encode())
    return content.rsplit("/", 1)[-1].startswith(mark)


def workload(name: str) -> workload_pb2.Workload:
    """An entry of the fake's registry."""
    return workload_pb2.Workload(
        name=name,
        dimension=DIMENSION,
        modalities=WORKLOADS[name],
        limits=workload_pb2.WorkloadLimits(max_text_bytes=MAX_TEXT_BYTES, max_image_bytes=MAX_IMAGE_BYTES),
        model=workload_pb2.ModelSpec(model_name="sha256", revision="1", backend="fake", normalized=True),
        dtypes=[
            workload_pb2.DTYPE_FLOAT32,
            workload_pb2.DTYPE_FLOAT16,
            workload_pb2.DTYPE_INT8,
            workload_pb2.DTYPE_BINARY,
        ],
        truncated_dimensions=TRUNCATED,
    )


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
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(fake, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)

"""The scheduler over gRPC.

A call ends with the client's deadline, or after CALL_S seconds without one, and is cancelled with the
client's call. Errors pass through with their details; only those that tell of our own trouble with the
scheduler are translated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from podium.common.v1 import job_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium_gateway.app import callers, ports
from podium_runtime import auth, errors, statuses, tracing

CALL_S = 60.0
PROBE_S = 5.0
_RETRY_AFTER_S = 1.0

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


class SchedulerClient:
    """Implements ports.Ledger, ports.Consumers and ports.Apps."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._authorization = auth.authorization(token)

    async def admit(
        self, caller: callers.Caller, request: scheduler_pb2.AdmitJobRequest
    ) -> scheduler_pb2.AdmitJobResponse:
        return await self._call(self._stub.AdmitJob, request, caller.remaining_s())

    async def get_job(self, caller: callers.Caller, job_id: str) -> job_pb2.Job:
        request = scheduler_pb2.GetJobRequest(app_id=caller.app_id, job_id=job_id)
        return (await self._call(self._stub.GetJob, request, caller.remaining_s())).job

    async def list_jobs(
        self, caller: callers.Caller, request: gateway_pb2.ListJobsRequest
    ) -> scheduler_pb2.ListJobsResponse:
        asked = scheduler_pb2.ListJobsRequest(
            app_id=caller.app_id,
            page_size=request.page_size,
            page_token=request.page_token,
            states=request.states,
            labels=request.labels,
            workload=request.workload,
        )
        return await self._call(self._stub.ListJobs, asked, caller.remaining_s())

    async def cancel_job(self, caller: callers.Caller, job_id: str) -> job_pb2.Job:
        request = scheduler_pb2.CancelJobRequest(app_id=caller.app_id, job_id=job_id)
        return (await self._call(self._stub.CancelJob, request, caller.remaining_s())).job

    async def list_batches(
        self, caller: callers.Caller, job_id: str, from_item: int, limit: int
    ) -> scheduler_pb2.ListBatchesResponse:
        request = scheduler_pb2.ListBatchesRequest(
            app_id=caller.app_id, job_id=job_id, from_item=from_item, limit=limit
        )
        return await self._call(self._stub.ListBatches, request, caller.remaining_s())

    async def report_missing_result(self, caller: callers.Caller, job_id: str) -> None:
        request = scheduler_pb2.ReportMissingResultRequest(app_id=caller.app_id, job_id=job_id)
        await self._call(self._stub.ReportMissingResult, request, caller.remaining_s())

    async def release_results(self, caller: callers.Caller, job_id: str, before_item: int) -> job_pb2.Job:
        request = scheduler_pb2.ReleaseResultsRequest(app_id=caller.app_id, job_id=job_id, before_item=before_item)
        return (await self._call(self._stub.ReleaseResults, request, caller.remaining_s())).job

    async def open_consumer(self, caller: callers.Caller, group: str, workload: str) -> ports.OpenedConsumer:
        request = scheduler_pb2.OpenConsumerRequest(app_id=caller.app_id, group=group, workload=workload)
        opened = await self._call(self._stub.OpenConsumer, request, caller.remaining_s())
        return ports.OpenedConsumer(opened.consumer_id, opened.group_id, opened.lease_ttl.ToMilliseconds() / 1000)

    async def advance_consumer(
        self, request: scheduler_pb2.AdvanceConsumerRequest, limit_s: float
    ) -> scheduler_pb2.AdvanceConsumerResponse:
        return await self._call(self._stub.AdvanceConsumer, request, None, limit_s)

    async def close_consumer(self, consumer_id: str, acknowledged: Sequence[int]) -> None:
        request = scheduler_pb2.CloseConsumerRequest(consumer_id=consumer_id, acknowledged=acknowledged)
        await self._call(self._stub.CloseConsumer, request, None, PROBE_S)

    async def list_workloads(self) -> Sequence[workload_pb2.Workload]:
        request = scheduler_pb2.ListWorkloadsRequest()
        return (await self._call(self._stub.ListWorkloads, request, None, PROBE_S)).workloads

    async def authenticate(self, token_sha256: bytes) -> tuple[str, float]:
        request = scheduler_pb2.AuthenticateAppRequest(token_sha256=token_sha256)
        try:
            answer = await self._send(self._stub.AuthenticateApp, request, PROBE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise statuses.from_rpc_error(error) from error
            raise translate(error, ours=True) from error
        return answer.app_id, answer.ttl.ToMilliseconds() / 1000

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        remaining_s: float | None,
        limit_s: float = CALL_S,
    ) -> ResponseT:
        ours = remaining_s is None or remaining_s > limit_s
        try:
            return await self._send(method, request, limit_s if ours or remaining_s is None else remaining_s)
        except grpc.aio.AioRpcError as error:
            raise translate(error, ours=ours) from error

    async def _send(
        self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT, timeout_s: float
    ) -> ResponseT:
        metadata = (*self._authorization, *tracing.outgoing())
        return await method(request, timeout=timeout_s, metadata=metadata)


def translate(error: grpc.aio.AioRpcError, *, ours: bool) -> errors.PodiumError:
    """The error that the client gets for one of the scheduler's; `ours` when the time limit was not the
    client's."""
    code = error.code()
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return errors.Internal("the scheduler refuses this gateway's token", reason="GATEWAY_TOKEN_REFUSED")
    known = statuses.from_rpc_error(error)
    bare = isinstance(known, errors.Unavailable) and known.reason in _BARE
    late = ours and code is grpc.StatusCode.DEADLINE_EXCEEDED
    if bare or late or code is grpc.StatusCode.CANCELLED:
        return errors.Unavailable(
            "the scheduler cannot be reached", reason="SCHEDULER_UNAVAILABLE", retry_after_s=_RETRY_AFTER_S
        )
    return known


class EmbedReplica:
    """Implements ports.EmbedReplica over a channel to one replica, which repeats nothing by itself."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._authorization = auth.authorization(token)

    async def embed(self, request: scheduler_pb2.EmbedRequest, timeout_s: float) -> scheduler_pb2.EmbedResponse:
        metadata = (*self._authorization, *tracing.outgoing())
        try:
            return await self._stub.Embed(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise translate(error, ours=False) from error


# Reasons of an error without ErrorInfo: gRPC itself raised it, not the scheduler.
_BARE = frozenset({"", errors.Unavailable.default_reason})

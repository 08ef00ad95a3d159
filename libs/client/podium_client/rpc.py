"""The gateway's calls: one channel, the token on every call, typed errors, retries of what is safe to repeat.

Every call here is safe to repeat: reads, Embed, SubmitBatch by its request id, CancelJob by its meaning.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium_client import wire
from podium_client.config import Endpoint, Tls
from podium_client.errors import ConfigurationError, PodiumError, Unauthenticated, Unavailable
from podium_client.jobs import Job, JobState, Workload, job_from_proto, state_to_proto, workload_from_proto
from podium_client.retry import Patience, RetryPolicy, call

Response = TypeVar("Response")
_STREAM_RESULTS = "/podium.gateway.v1.GatewayService/StreamResults"

# A dead connection, or a gateway that hangs, is noticed within 15 seconds, also while a stream waits for a GPU to
# start. Asked soon, since streams are silent often; answered late, since a slow line may be full of what we send.
_CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own pings, which measure the line, put keepalive off while they are on their way: a minute by default.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


def _target(address: str) -> str:
    if "," not in address:
        return address
    hosts = [one.strip() for one in address.split(",")]
    try:
        for host in hosts:
            ipaddress.IPv4Address(host.rsplit(":", 1)[0])
    except ValueError as error:
        raise ConfigurationError(
            f"{address}: several addresses must each be IPv4:port; or give one DNS name that has them all"
        ) from error
    return "ipv4:" + ",".join(hosts)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    def read(path: str | None) -> bytes | None:
        try:
            return Path(path).read_bytes() if path else None
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error

    return grpc.ssl_channel_credentials(read(tls.ca_file), read(tls.key_file), read(tls.cert_file))


def open_channel(endpoint: Endpoint) -> grpc.aio.Channel:
    """A channel to the endpoint; it connects at the first call. Must be made inside the loop that uses it."""
    target = _target(endpoint.address)
    if endpoint.tls is not None:
        return grpc.aio.secure_channel(target, _credentials(endpoint.tls), options=_CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)


def with_origin(error: PodiumError, endpoint: Endpoint) -> PodiumError:
    """The same error, its message naming the address and where that came from."""
    if isinstance(error, Unavailable) and error.reason == "UNAVAILABLE":
        error.message = f"cannot reach {endpoint.address} (from {endpoint.origin}): {error.message}"
    elif isinstance(error, Unauthenticated):
        error.message = f"{endpoint.address} (from {endpoint.origin}): {error.message}"
    error.args = (error.message,)
    return error


class Gateway:
    """GatewayService with retries. Each method takes the patience of the activity it belongs to, or uses
    its own."""

    def __init__(self, endpoint: Endpoint, policy: RetryPolicy) -> None:
        self.endpoint = endpoint
        self.policy = policy
        self._channel = open_channel(endpoint)
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        self._results: grpc.aio.UnaryStreamMultiCallable[gateway_pb2.StreamResultsRequest, wire.Message]
        self._results = self._channel.unary_stream(
            _STREAM_RESULTS,
            request_serializer=gateway_pb2.StreamResultsRequest.SerializeToString,
            response_deserializer=wire.read,
        )
        self._metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {endpoint.token}"),) if endpoint.token else ()
        )

    async def close(self) -> None:
        """Close the channel; calls in progress end with an error."""
        await self._channel.close()

    def patience(self) -> Patience:
        """Fresh patience for one activity."""
        return Patience(self.policy)

    async def _unary(
        self, method: Callable[..., Awaitable[Response]], request: Message, patience: Patience | None
    ) -> Response:
        try:
            return await call(patience or self.patience(), lambda: method(request, metadata=self._metadata))
        except PodiumError as error:
            raise with_origin(error, self.endpoint) from error.__cause__

    async def submit(
        self, request: gateway_pb2.SubmitBatchRequest, patience: Patience | None = None
    ) -> tuple[Job, bool]:
        """The job, and whether an earlier call with the same request id had created it."""
        response = await self._unary(self._stub.SubmitBatch, request, patience)
        return job_from_proto(response.job), response.already_accepted

    async def get_job(self, job_id: str) -> Job:
        """Read one job. JobNotFound when the app has no such job."""
        response = await self._unary(self._stub.GetJob, gateway_pb2.GetJobRequest(job_id=job_id), None)
        return job_from_proto(response.job)

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel what is left of a job; idempotent."""
        response = await self._unary(self._stub.CancelJob, gateway_pb2.CancelJobRequest(job_id=job_id), None)
        return job_from_proto(response.job)

    async def list_jobs(
        self,
        *,
        states: Sequence[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        workload: str = "",
        page_size: int = 100,
        patience: Patience | None = None,
    ) -> AsyncIterator[Job]:
        """The app's jobs, newest first; pages are fetched as they are needed."""
        request = gateway_pb2.ListJobsRequest(
            page_size=page_size,
            states=[state_to_proto(state) for state in states],
            labels=dict(labels or {}),
            workload=workload,
        )
        while True:
            response = await self._unary(self._stub.ListJobs, request, patience)
            for job in response.jobs:
                yield job_from_proto(job)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def workloads(self) -> list[Workload]:
        """All workloads, by name."""
        request = gateway_pb2.ListWorkloadsRequest(page_size=1000)
        found: list[Workload] = []
        while True:
            response = await self._unary(self._stub.ListWorkloads, request, None)
            found += [workload_from_proto(workload) for workload in response.workloads]
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def embed_once(self, request: gateway_pb2.EmbedRequest, timeout_s: float) -> gateway_pb2.EmbedResponse:
        """One attempt at Embed; the caller retries (podium_client.queries). Raises grpc.RpcError."""
        return await self._stub.Embed(request, metadata=self._metadata, timeout=timeout_s)

    def open_results(
        self, job_id: str, after: str, resume: str
    ) -> grpc.aio.UnaryStreamCall[gateway_pb2.StreamResultsRequest, wire.Message]:
        """One attempt at StreamResults; the caller retries (podium_client.streams)."""
        request = gateway_pb2.StreamResultsRequest(job_id=job_id, after_cursor=after, resume_cursor=resume)
        return self._results(request, metadata=self._metadata)

    def open_consumer(
        self,
    ) -> grpc.aio.StreamStreamCall[gateway_pb2.ConsumeResultsRequest, gateway_pb2.ConsumeResultsResponse]:
        """One attempt at ConsumeResults; the caller writes the hello and retries (podium_client.consuming)."""
        return self._stub.ConsumeResults(metadata=self._metadata)

    def open_watch(
        self, job_id: str
    ) -> grpc.aio.UnaryStreamCall[gateway_pb2.WatchJobRequest, gateway_pb2.WatchJobResponse]:
        """One attempt at WatchJob; the caller retries (podium_client.streams)."""
        request = gateway_pb2.WatchJobRequest(job_id=job_id)
        return self._stub.WatchJob(request, metadata=self._metadata)

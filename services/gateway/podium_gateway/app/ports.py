"""What the use cases need of the world. Adapters provide it; errors are podium_runtime's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from podium.common.v1 import job_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import callers, wakes


class Ledger(Protocol):
    """The scheduler's view of jobs. Raises errors.Unavailable when it cannot be reached, errors.NotFound for
    a job that the app does not have."""

    async def admit(
        self, caller: callers.Caller, request: scheduler_pb2.AdmitJobRequest
    ) -> scheduler_pb2.AdmitJobResponse:
        """Accepts a job."""

    async def get_job(self, caller: callers.Caller, job_id: str) -> job_pb2.Job:
        """Reads a job."""

    async def list_jobs(
        self, caller: callers.Caller, request: gateway_pb2.ListJobsRequest
    ) -> scheduler_pb2.ListJobsResponse:
        """Lists jobs."""

    async def cancel_job(self, caller: callers.Caller, job_id: str) -> job_pb2.Job:
        """Cancels a job."""

    async def list_batches(
        self, caller: callers.Caller, job_id: str, from_item: int, limit: int
    ) -> scheduler_pb2.ListBatchesResponse:
        """Batches whose first item is `from_item` or later, and whether readers should acknowledge."""

    async def report_missing_result(self, caller: callers.Caller, job_id: str) -> None:
        """A COMPLETED batch has no result in the store: the scheduler looks, and has it computed again."""

    async def release_results(self, caller: callers.Caller, job_id: str, before_item: int) -> job_pb2.Job:
        """Acknowledges results."""

    async def list_workloads(self) -> Sequence[workload_pb2.Workload]:
        """The registry."""


@dataclass(frozen=True, slots=True)
class OpenedConsumer:
    """A consumer at the ledger."""

    consumer_id: str
    group_id: int
    lease_ttl_s: float


class Consumers(Protocol):
    """The ledger's view of consumers. Raises errors.Unavailable when it cannot be reached."""

    async def open_consumer(self, caller: callers.Caller, group: str, workload: str) -> OpenedConsumer:
        """Raises errors.FailedPrecondition."""

    async def advance_consumer(
        self, request: scheduler_pb2.AdvanceConsumerRequest, limit_s: float
    ) -> scheduler_pb2.AdvanceConsumerResponse:
        """Raises errors.NotFound when the consumer's lease has ended."""

    async def close_consumer(self, consumer_id: str, acknowledged: Sequence[int]) -> None:
        """Settles, and gives the rest back."""

    async def report_missing_result(self, caller: callers.Caller, job_id: str) -> None:
        """A COMPLETED batch has no result in the store: the scheduler looks, and has it computed again."""


class Apps(Protocol):
    """Who the apps are."""

    async def authenticate(self, token_sha256: bytes) -> tuple[str, float]:
        """App of a token and the seconds for which that may be trusted. Raises errors.Unauthenticated."""


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """Where to read on: the batch that begins at item `batch`, after the stored entry `after` ('': from its
    start)."""

    batch: int
    after: str = ""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Consecutive serialized ResultChunks of one batch; `complete` when they reach its end."""

    first_item: int
    item_count: int
    complete: bool
    last_entry: str
    chunks: tuple[bytes | bytearray, ...]


class ResultStore(Protocol):
    """Results of completed batches. Raises errors.Unavailable when it cannot be reached."""

    async def read(self, job_id: str, start: ReadFrom, max_bytes: int, max_batches: int = 0) -> Sequence[StoredBatch]:
        """Batches that follow each other without a gap, about `max_bytes` of them and, unless that is 0, at
        most `max_batches`; empty when `start` has none."""

    async def ping(self) -> None:
        """Returns when the store answers."""


class JobEvents(Protocol):
    """Wake-ups when a job changes. They may be lost: whoever waits also polls."""

    def subscribe(self, job_id: str) -> AbstractAsyncContextManager[wakes.Wakes]:
        """Wakes for one job, for as long as the context is open."""

    def subscribe_group(self, group_id: int) -> AbstractAsyncContextManager[wakes.Wakes]:
        """Wakes for one consumer group."""


class EmbedReplica(Protocol):
    """One replica of the scheduler, as the interactive lane asks it: once, without a retry of the channel's."""

    async def embed(self, request: scheduler_pb2.EmbedRequest, timeout_s: float) -> scheduler_pb2.EmbedResponse:
        """Raises errors.Unavailable (NO_WARM_WORKER, SCHEDULER_UNAVAILABLE, ...), DeadlineExceeded,
        ResourceExhausted."""


class Compressor(Protocol):
    """Makes one LZ4 frame."""

    def __call__(self, data: memoryview) -> bytes:
        """The frame."""


class Meter(Protocol):
    """What is counted."""

    def admitted(self, items: int, batches: int) -> None:
        """A job was accepted."""

    def relayed(self, size: int) -> None:
        """A message of results went out, of so many bytes."""

    def ack_ignored(self) -> None:
        """A consumer acknowledged what it does not hold."""

    def authenticated(self, outcome: str) -> None:
        """A token was looked up: `hit`, `negative_hit` or `miss`."""


class EmbedMeter(Protocol):
    """What is counted of interactive calls."""

    def embed_began(self) -> None:
        """An interactive call is in flight."""

    def embed_ended(self, workload: str, outcome: str, seconds: float) -> None:
        """An interactive call is over: `outcome` is OK, CANCELLED or the reason of its error."""

    def embed_cached(self, hits: int, misses: int) -> None:
        """So many items of a call were in the cache, and so many were not."""

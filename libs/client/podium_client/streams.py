"""Server streams that survive cut connections.

Promise: the chunks of one job come in item order, each item exactly once, whatever happens to the
connection; a gap, an overlap that cannot be explained by redelivery, or an end before the last item raises
ProtocolError.

An `after` cursor acknowledges all before it, and acknowledged results are deleted. So a cut stream is taken
up where the *caller* began, and what was seen is dropped here; when a connection brought results and none of
them new (a proxy that cuts every stream at the same size), the next one resumes at the last cursor received,
which releases nothing. Only when the service asks for it, because unacknowledged results hold back new ones,
is what was received acknowledged; a caller that forbids this gets ResultsUnacknowledged instead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from podium_client import wire
from podium_client.errors import (
    RESULTS_UNACKNOWLEDGED,
    JobNotFound,
    PodiumError,
    ProtocolError,
    ResultsReleased,
    decode_details,
    from_rpc_error,
)
from podium_client.jobs import Job, job_from_proto
from podium_client.results import ResultChunk, chunk_from_proto, failure_from_proto
from podium_client.retry import Patience
from podium_client.rpc import Gateway, with_origin

_log = logging.getLogger("podium_client")


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Nothing more will come. `job`: in its final state; `cursor`: acknowledges everything."""

    job: Job
    cursor: str


class ResultStream:
    """The outcomes of one job from `after` (a durable cursor; empty: the start) to the end, in item order.

    `may_release`: what was received may be acknowledged when the service asks for it.
    """

    def __init__(
        self,
        gateway: Gateway,
        job_id: str,
        *,
        after: str = "",
        may_release: bool = True,
        patience: Patience | None = None,
    ) -> None:
        self._gateway = gateway
        self._job_id = job_id
        self._after = after
        self._resume = ""
        self._may_release = may_release
        self._patience = patience or gateway.patience()
        self._next: int | None = None if after else 0
        self._last_cursor = after
        self.end: StreamEnd | None = None
        self.redelivered_items = 0

    async def chunks(self) -> AsyncIterator[ResultChunk]:
        """Yield the chunks; afterwards `end` is set. PodiumError when the service refuses or stays away."""
        while self.end is None:
            before, heard = self._next, False
            call = self._gateway.open_results(self._job_id, self._after, self._resume)
            try:
                async for response in call:
                    heard = True
                    chunk = self._accept(response)
                    if chunk is not None:
                        self._patience.progress()
                        yield chunk
                if self.end is None:
                    raise ProtocolError(f"job {self._job_id}: the result stream ended without its last message")
            except grpc.RpcError as error:
                if decode_details(error).reason == RESULTS_UNACKNOWLEDGED:
                    self._acknowledge(error)
                elif heard and self._next == before:
                    self._resume = self._last_cursor
                await self._wait(error)
            finally:
                call.cancel()

    def _acknowledge(self, asked: grpc.RpcError) -> None:
        """Everything received so far, unless the caller forbids it."""
        if not self._may_release:
            raise with_origin(from_rpc_error(asked), self._gateway.endpoint) from asked
        self._after, self._resume = self._last_cursor, ""

    async def _wait(self, error: grpc.RpcError) -> None:
        try:
            await self._patience.wait(error)
        except PodiumError as typed:
            raise with_origin(typed, self._gateway.endpoint) from error

    def _accept(self, response: wire.Message) -> ResultChunk | None:
        """The new part of a message; None when there is none."""
        if isinstance(response, wire.ChunkMessage):
            return self._in_order(chunk_from_proto(response.chunk, response.cursor, response.vectors))
        kind = response.WhichOneof("result")
        if kind == "end":
            self._finish(job_from_proto(response.end.job), response.cursor)
            return None
        if kind == "chunk":
            chunk = chunk_from_proto(response.chunk, response.cursor)
        elif kind == "failure":
            chunk = failure_from_proto(response.failure, response.cursor)
        else:
            raise ProtocolError(f"job {self._job_id}: a result message of a kind that this SDK does not know")
        return self._in_order(chunk)

    def _in_order(self, chunk: ResultChunk) -> ResultChunk | None:
        expected = chunk.first_item if self._next is None else self._next
        if chunk.first_item > expected:
            raise ProtocolError(
                f"job {self._job_id}: items {expected} to {chunk.first_item - 1} are missing from the stream"
            )
        self.redelivered_items += min(expected, chunk.end_item) - chunk.first_item
        if chunk.end_item <= expected:
            return None
        self._next, self._last_cursor = chunk.end_item, chunk.cursor
        return chunk.since(expected)

    def _finish(self, job: Job, cursor: str) -> None:
        total = job.progress.items_total
        if self._next is not None and self._next != total:
            raise ProtocolError(f"job {self._job_id}: the stream ended at item {self._next} of {total}")
        self.end = StreamEnd(job, cursor or self._last_cursor)


async def release(gateway: Gateway, job_id: str, cursor: str) -> None:
    """Acknowledge everything before `cursor`. The caller's result is safe already, so failing is only
    logged: what is not released is deleted when the job's retention ends."""
    stream = ResultStream(gateway, job_id, after=cursor)
    try:
        async for _ in stream.chunks():
            pass
    except (ResultsReleased, JobNotFound):
        return
    except PodiumError as error:
        _log.warning("job %s: its results could not be released: %s", job_id, error)


async def watch(gateway: Gateway, job_id: str) -> AsyncIterator[Job]:
    """The job now and whenever it changes, until after a final state; survives cut connections."""
    patience = gateway.patience()
    job: Job | None = None
    while job is None or not job.state.final:
        call = gateway.open_watch(job_id)
        try:
            async for response in call:
                patience.progress()
                job = job_from_proto(response.job)
                yield job
            if job is None or not job.state.final:
                raise ProtocolError(f"job {job_id}: the watch ended before a final state")
        except grpc.RpcError as error:
            try:
                await patience.wait(error)
            except PodiumError as typed:
                raise with_origin(typed, gateway.endpoint) from error
        finally:
            call.cancel()

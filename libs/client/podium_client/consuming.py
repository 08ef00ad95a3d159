"""All of an app's finished results, as they finish, until each is acknowledged.

Promise: at least once. Everything that finishes comes to some consumer of the group, and comes again until it was
acknowledged: after a cut connection, a dead consumer or a dead gateway the deliveries that were not acknowledged come
once more, perhaps to another consumer, and the chunks of a batch of which only some were acknowledged come again with
the rest. To be exact, write each delivery in one transaction under the key (job_id, item index), overwriting what is
there, and acknowledge only after the commit: then nothing is lost and nothing is there twice.

The order is that in which batches finish, not that of the items. The end of a job comes after the group has
acknowledged everything else of it. What a group leaves unacknowledged until the retention of its job's results ends is
removed; the job's end tells (`results_expired`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import numpy.typing as npt

from podium.gateway.v1 import gateway_pb2
from podium_client.encodings import Dtype, FloatMatrix
from podium_client.errors import PodiumError, ProtocolError
from podium_client.jobs import Job, job_from_proto
from podium_client.results import ItemError, ResultChunk, chunk_from_proto, failure_from_proto
from podium_client.rpc import Gateway, with_origin

DEFAULT_WINDOW = 32
_LEAVE_S = 5.0


class _Acknowledging:
    """What every delivery can do."""

    _settle: Callable[[], None]

    async def ack(self) -> None:
        """Say that this delivery is durable on your side and need not come again. Harmless when repeated, and
        when the stream it came by is gone: then it will come once more."""
        self._settle()


@dataclass(frozen=True, slots=True, eq=False)
class ResultDelivery(_Acknowledging):
    """Outcomes of some consecutive items of one job; those of a failed batch have its error each."""

    job_id: str
    chunk: ResultChunk
    _settle: Callable[[], None] = field(repr=False)

    @property
    def first_item(self) -> int:
        """Index in the job of the first item covered."""
        return self.chunk.first_item

    @property
    def item_count(self) -> int:
        """Items covered, failed ones included."""
        return self.chunk.item_count

    @property
    def keys(self) -> tuple[str, ...]:
        """The caller's keys of all covered items; empty when the job has none."""
        return self.chunk.keys

    @property
    def vectors(self) -> npt.NDArray[Any]:
        """(rows, dimension) of the job's dtype (binary: (rows, bytes of a row)), read-only, one row for each item that
        succeeded; see `rows`."""
        return self.chunk.vectors

    @property
    def dimension(self) -> int:
        """Elements of a vector, however they are packed; may be 0 when every item failed."""
        return self.chunk.dimension

    @property
    def dtype(self) -> Dtype:
        """How the vectors are encoded, as the job asked for."""
        return self.chunk.dtype

    def to_float32(self) -> FloatMatrix:
        """(rows, dimension) float32, whatever the encoding: see podium_client.encodings.to_float32."""
        return self.chunk.to_float32()

    @property
    def errors(self) -> tuple[ItemError, ...]:
        """Why the other items have none."""
        return self.chunk.errors

    @property
    def rows(self) -> npt.NDArray[Any]:
        """(rows,) int: index in the job of the item of each row of `vectors`."""
        return self.chunk.ok().nonzero()[0] + self.chunk.first_item


@dataclass(frozen=True, slots=True, eq=False)
class JobDelivery(_Acknowledging):
    """A job in its final state. Unless `job.results_expired`, the group has acknowledged everything else of it."""

    job: Job
    _settle: Callable[[], None] = field(repr=False)


Delivery: TypeAlias = ResultDelivery | JobDelivery
_Call: TypeAlias = "grpc.aio.StreamStreamCall[gateway_pb2.ConsumeResultsRequest, gateway_pb2.ConsumeResultsResponse]"


class Consumer:
    """One consumer of a group, over as many streams as it takes."""

    def __init__(self, gateway: Gateway, group: str, *, window: int, workload: str) -> None:
        self._gateway = gateway
        self._hello = gateway_pb2.ConsumerHello(group=group, window=window, workload=workload)

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """Deliveries until the caller stops. PodiumError when the service refuses or stays away."""
        patience = self._gateway.patience()
        while True:
            stream = _Stream(self._gateway.open_consumer(), self._hello)
            left = False
            try:
                async for response in stream.responses():
                    patience.progress()
                    yield stream.delivery(response)
                raise ProtocolError("the stream of deliveries ended without an error")
            except (GeneratorExit, asyncio.CancelledError):
                left = True
                raise
            except grpc.RpcError as error:
                try:
                    await patience.wait(error)
                except PodiumError as typed:
                    raise with_origin(typed, self._gateway.endpoint) from error
            finally:
                await stream.close(gracefully=left)


class _Stream:
    """One call: its reader is the consumer, its writer a task that sends what was acknowledged."""

    def __init__(self, call: _Call, hello: gateway_pb2.ConsumerHello) -> None:
        self._call = call
        self._out: asyncio.Queue[gateway_pb2.ConsumeResultsRequest | None] = asyncio.Queue()
        self._out.put_nowait(gateway_pb2.ConsumeResultsRequest(hello=hello))
        self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while (request := await self._out.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The reader is told why.
            return

    async def responses(self) -> AsyncIterator[gateway_pb2.ConsumeResultsResponse]:
        """What comes. grpc.RpcError when the stream ends otherwise than well."""
        while True:
            response = await self._call.read()
            if not isinstance(response, gateway_pb2.ConsumeResultsResponse):
                return
            yield response

    def delivery(self, response: gateway_pb2.ConsumeResultsResponse) -> Delivery:
        """The delivery of a message."""
        ack = gateway_pb2.ConsumeResultsRequest(ack=gateway_pb2.DeliveryAck(delivery_id=response.delivery_id))

        def settle() -> None:
            self._out.put_nowait(ack)

        kind = response.WhichOneof("result")
        if kind == "chunk":
            return ResultDelivery(response.chunk.job_id, chunk_from_proto(response.chunk, ""), settle)
        if kind == "failure":
            return ResultDelivery(response.failure.job_id, failure_from_proto(response.failure, ""), settle)
        if kind == "job":
            return JobDelivery(job_from_proto(response.job), settle)
        raise ProtocolError("a delivery of a kind that this SDK does not know")

    async def close(self, *, gracefully: bool) -> None:
        """Ends the call. Gracefully: what was acknowledged reaches the service first."""
        try:
            if gracefully:
                async with asyncio.timeout(_LEAVE_S):
                    self._out.put_nowait(None)
                    async for _ in self.responses():
                        pass
        except (grpc.RpcError, TimeoutError):
            # What did not get through comes again.
            pass
        finally:
            self._call.cancel()
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

"""ConsumeResults: one consumer of all of an app's finished results, acknowledged chunk by chunk.

Promises: what the ledger has leased to this consumer is sent until it is acknowledged or the stream ends; an
acknowledgement is passed on to the ledger at once, and before the stream ends with OK; whatever was not acknowledged is
given back when the stream ends, or falls to others when the lease that this gateway renews runs out. Everything may
come twice, nothing is left out.

Three activities share a stream: one reads the consumer's frames, one keeps the lease (settles, renews, asks for more),
and the generator itself reads results and hands them to the transport. So a consumer that does not read keeps its lease
and costs no more than its window's list, one read of about READ_BYTES and one message.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, suppress

from podium.common.v1 import job_pb2, result_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import callers, cancellation, consumer_lease, frames, ports, refusals, workloads
from podium_gateway.domain import deliveries, requests, violations
from podium_runtime import clock, errors

READ_BYTES = 2 << 20
MAX_UNACKNOWLEDGED_BYTES = 64 << 20
_FINAL = frozenset({job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_EXPIRED})
_WITHOUT_RESULT = frozenset({job_pb2.BATCH_STATE_FAILED, job_pb2.BATCH_STATE_CANCELLED, job_pb2.BATCH_STATE_EXPIRED})
Frames = AsyncIterator[gateway_pb2.ConsumeResultsRequest]


class ConsumeResults:
    """Serves consumers."""

    def __init__(
        self,
        ledger: ports.Consumers,
        registry: workloads.Registry,
        store: ports.ResultStore,
        events: ports.JobEvents,
        time: clock.Clock,
        meter: ports.Meter,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._store = store
        self._events = events
        self._clock = time
        self._meter = meter

    async def __call__(self, caller: callers.Caller, requested: Frames) -> AsyncGenerator[bytes, None]:
        """Yields serialized ConsumeResultsResponse messages until the consumer closes its side.

        Raises errors.InvalidArgument, FailedPrecondition, Unavailable.
        """
        hello = await self._hello(requested)
        opened = await self._ledger.open_consumer(caller, hello.group, hello.workload)
        window = deliveries.Window(hello.window, MAX_UNACKNOWLEDGED_BYTES)
        try:
            async with self._events.subscribe_group(opened.group_id) as woken:
                lease = consumer_lease.ConsumerLease(self._ledger, caller, opened, window, woken, self._clock)
                stream = _Stream(requested, lease, window, self._store, self._meter)
                async with aclosing(stream.messages()) as messages:
                    async for message in messages:
                        self._meter.relayed(len(message))
                        yield message
        finally:
            # When this does not get through, the lease runs out.
            with suppress(errors.PodiumError):
                await self._ledger.close_consumer(opened.consumer_id, sorted(window.settled))

    async def _hello(self, requested: Frames) -> gateway_pb2.ConsumerHello:
        first = await anext(requested, None)
        if first is None or first.WhichOneof("frame") != "hello":
            raise refusals.one("hello", "must be the first frame")
        bad = violations.Violations()
        requests.check_hello(first.hello.group, first.hello.window, bad)
        if first.hello.workload and await self._registry.find(first.hello.workload) is None:
            bad.add("hello.workload", f"there is no workload {first.hello.workload!r}")
        refusals.raise_if_any(bad)
        return first.hello


class _Stream:
    """One stream after its hello."""

    def __init__(
        self,
        requested: Frames,
        lease: consumer_lease.ConsumerLease,
        window: deliveries.Window,
        store: ports.ResultStore,
        meter: ports.Meter,
    ) -> None:
        self._requested = requested
        self._lease = lease
        self._window = window
        self._store = store
        self._meter = meter
        self._ids = deliveries.DeliveryIds(lease.tag)
        self._numbers = itertools.count()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Everything that is delivered while the consumer's side is open."""
        listening = asyncio.create_task(self._listen())
        keeping = asyncio.create_task(self._lease.keep())
        for task in (listening, keeping):
            task.add_done_callback(lambda _: self._lease.turn.set())
        try:
            while await self._turn(listening, keeping):
                async with aclosing(self._deliver()) as parts:
                    async for message in parts:
                        yield message
                        cancellation.honour()
                        if not await self._room(listening, keeping):
                            return
        finally:
            for task in (listening, keeping):
                task.cancel()
            await asyncio.gather(listening, keeping, return_exceptions=True)

    async def _turn(self, listening: asyncio.Task[None], keeping: asyncio.Task[None]) -> bool:
        """Waits until there is something to send and room for it; False when the consumer has left."""
        return await self._wait_until(listening, keeping, needs_delivery=True)

    async def _room(self, listening: asyncio.Task[None], keeping: asyncio.Task[None]) -> bool:
        return await self._wait_until(listening, keeping, needs_delivery=False)

    async def _wait_until(
        self, listening: asyncio.Task[None], keeping: asyncio.Task[None], *, needs_delivery: bool
    ) -> bool:
        turn = self._lease.turn
        while True:
            turn.clear()
            # A read that brought nothing to send may have swallowed it, and nobody would come to wake this one.
            cancellation.honour()
            if keeping.done():
                keeping.result()
            if listening.done():
                listening.result()
                return False
            if not self._window.full and (self._lease.queue or not needs_delivery):
                return True
            await turn.wait()

    async def _listen(self) -> None:
        """Takes acknowledgements until the consumer closes its side."""
        async for frame in self._requested:
            kind = frame.WhichOneof("frame")
            if kind == "hello":
                raise refusals.one("hello", "must be the first frame only")
            if kind is None:
                raise refusals.one("frame", "must be hello or ack")
            self._acknowledge(frame.ack.delivery_id)

    def _acknowledge(self, text: str) -> None:
        try:
            found = self._ids.decode(text)
        except deliveries.BadDeliveryId as error:
            raise refusals.one("ack.delivery_id", str(error)) from error
        if found is None or not self._window.acknowledge(*found):
            self._meter.ack_ignored()
            return
        self._lease.acknowledged()

    async def _deliver(self) -> AsyncGenerator[bytes, None]:
        """The messages of the next deliveries: one, or a run of batches that are read together."""
        first = self._lease.queue[0]
        if first.WhichOneof("what") == "job" and first.job.state in _FINAL:
            yield self._whole(self._lease.queue.popleft(), job=first.job)
        elif first.batch.state in _WITHOUT_RESULT:
            yield self._whole(self._lease.queue.popleft(), failure=_failure(first))
        elif first.batch.state == job_pb2.BATCH_STATE_COMPLETED:
            async with aclosing(self._results(first)) as messages:
                async for message in messages:
                    yield message
        else:
            # It was leased to us, the answer was lost, and then its result was lost too: it is computed again, and its
            # job goes on.
            self._lease.give_back(self._lease.queue.popleft())

    def _whole(
        self,
        delivery: scheduler_pb2.Delivery,
        *,
        job: job_pb2.Job | None = None,
        failure: result_pb2.BatchFailure | None = None,
    ) -> bytes:
        number = next(self._numbers)
        delivery_id = self._ids.encode(delivery.delivery, number)
        response = gateway_pb2.ConsumeResultsResponse(delivery_id=delivery_id, job=job, failure=failure)
        message = response.SerializeToString()
        self._window.sent(delivery.delivery, number, len(message), last=True)
        return message

    async def _results(self, first: scheduler_pb2.Delivery) -> AsyncGenerator[bytes, None]:
        start = ports.ReadFrom(first.batch.first_item)
        while True:
            run = await self._store.read(first.job_id, start, READ_BYTES, _run(self._lease.queue))
            if not run:
                # Lost with Redis: it is computed again, and whoever holds the delivery then will have it.
                self._window.forget(first.delivery)
                await self._lease.give_back_lost(self._lease.queue.popleft())
                return
            for stored in run:
                delivery = self._lease.queue[0]
                if (delivery.job_id, delivery.batch.first_item) != (first.job_id, stored.first_item):
                    return
                for message in self._chunks(delivery, stored):
                    yield message
                if self._lease.queue and self._lease.queue[0] is delivery:
                    start, first = ports.ReadFrom(stored.first_item, stored.last_entry), delivery
                    break
                if not stored.complete:
                    return
            else:
                return

    def _chunks(self, delivery: scheduler_pb2.Delivery, stored: ports.StoredBatch) -> Iterator[bytes]:
        """The messages of what was read of one batch; it leaves the queue with its last.

        A batch that was halved may find the result of the whole, which reaches beyond it, or be the whole and find the
        result of its first half, whose sibling is a delivery of its own.
        """
        end = delivery.batch.first_item + delivery.batch.item_count
        spans = [frames.span(chunk) for chunk in stored.chunks]
        chunks = [chunk for chunk, (first, _) in zip(stored.chunks, spans, strict=True) if first < end]
        ends = stored.complete or sum(spans[-1]) >= end
        for index, chunk in enumerate(chunks):
            last = ends and index == len(chunks) - 1
            if last:
                self._lease.queue.popleft()
            number = next(self._numbers)
            self._window.sent(delivery.delivery, number, len(chunk), last=last)
            yield frames.delivery_message(self._ids.encode(delivery.delivery, number).encode(), chunk)


def _run(queue: Iterable[scheduler_pb2.Delivery]) -> int:
    """How many deliveries at the head of the queue are results of one job that follow each other."""
    count, expected = 0, None
    for delivery in queue:
        batch = delivery.batch
        place = (delivery.job_id, batch.first_item)
        if expected not in (None, place) or batch.state != job_pb2.BATCH_STATE_COMPLETED:
            break
        count, expected = count + 1, (delivery.job_id, batch.first_item + batch.item_count)
    return count


def _failure(delivery: scheduler_pb2.Delivery) -> result_pb2.BatchFailure:
    batch = delivery.batch
    return result_pb2.BatchFailure(
        job_id=delivery.job_id,
        first_item=batch.first_item,
        item_count=batch.item_count,
        reason=batch.failure_reason,
        message=batch.failure_message,
    )

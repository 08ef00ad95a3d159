"""StreamResults: a job's outcomes in item order, from where the client stopped to the end.

Promises: every item of the job is covered exactly once, in order, by a chunk or a failure, and a StreamEnd
follows; what a client has after the last cursor it made durable is what it would have had without the break.
Results come from the store; what the store does not have is asked of the ledger: failed batches become
BatchFailure at their place, expired and released ones (by a cursor, or by the app's consumer groups, which
acknowledge in any order) end the stream with OUT_OF_RANGE, unfinished ones are waited for, and finished ones without a
result (the store has lost it) are reported, so that they are computed again.
A stream that waits while results nobody has acknowledged hold back work ends with RESOURCE_EXHAUSTED, reason
RESULTS_UNACKNOWLEDGED: what it has sent may be what it waits for the room of. Its client goes on with its cursor as
`after_cursor`; a `resume_cursor` goes on and acknowledges nothing.
Wake-ups may be lost, so every wait also ends by itself after a second.

At most two reads of about READ_BYTES are held for a stream: the one being written and the one after it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from podium.common.v1 import job_pb2, result_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import admitted, callers, cancellation, frames, jobs, ports, refusals, trimming, wakes
from podium_gateway.domain import cursors
from podium_runtime import clock, errors

READ_BYTES = 2 << 20
POLL_S = 1.0
MIN_ASK_INTERVAL_S = 0.2
LIST_LIMIT = 100
_FIRST_END_POLL_S = 0.1
_ACKNOWLEDGE_AFTER_S = 0.1
_LOST = frozenset({job_pb2.BATCH_STATE_FAILED, job_pb2.BATCH_STATE_CANCELLED, job_pb2.BATCH_STATE_EXPIRED})


class StreamResults:
    """Relays results."""

    def __init__(
        self,
        ledger: ports.Ledger,
        store: ports.ResultStore,
        events: ports.JobEvents,
        time: clock.Clock,
        meter: ports.Meter,
        remembered: admitted.AdmittedJobs,
    ) -> None:
        self._ledger = ledger
        self._admitted = remembered
        self._store = store
        self._events = events
        self._clock = time
        self._meter = meter

    async def __call__(
        self, caller: callers.Caller, request: gateway_pb2.StreamResultsRequest
    ) -> AsyncGenerator[bytes, None]:
        """Yields serialized StreamResultsResponse messages.

        Raises errors.InvalidArgument, NotFound, OutOfRange (RESULTS_RELEASED, RESULTS_EXPIRED), Unavailable.
        """
        job_id = refusals.job_id(request.job_id)
        job = self._admitted.find(caller.app_id, job_id) or await self._ledger.get_job(caller, job_id)
        codec = cursors.CursorCodec(job.job_id)
        acknowledged = _place(codec, "after_cursor", request.after_cursor, job.progress.items_total)
        resumed = _place(codec, "resume_cursor", request.resume_cursor, job.progress.items_total)
        place = resumed or acknowledged or cursors.Place(0, 0)
        if acknowledged is not None and acknowledged.batch > 0:
            job = await self._ledger.release_results(caller, job_id, acknowledged.batch)
        if place.batch < job.progress.items_released:
            raise released(job)
        if job.results_expired and place.batch < job.progress.items_total:
            raise expired(job)
        if place.batch == job.progress.items_total and job.state in jobs.FINAL:
            # Only to acknowledge.
            yield _last_message(codec, job).SerializeToString()
            return
        async with self._events.subscribe(job_id) as woken:
            released_to = acknowledged.batch if acknowledged is not None else 0
            relay = _Relay(self._ledger, self._store, self._clock, caller, job, woken, place, released_to)
            async with aclosing(relay.messages()) as messages:
                async for message in messages:
                    self._meter.relayed(len(message))
                    yield message


def _place(codec: cursors.CursorCodec, field: str, text: str, items_total: int) -> cursors.Place | None:
    """The place of a field's cursor; None when it is empty."""
    try:
        return codec.decode(text, items_total) if text else None
    except cursors.BadCursor as error:
        raise refusals.one(field, str(error)) from error


def released(job: job_pb2.Job) -> errors.OutOfRange:
    """The error for a read of results that the client has acknowledged before."""
    count = job.progress.items_released
    return errors.OutOfRange(
        f"results of the first {count} items were released and cannot be read again",
        reason="RESULTS_RELEASED",
        metadata={"items_released": str(count)},
    )


def expired(job: job_pb2.Job) -> errors.OutOfRange:
    """The error for a read of results that nobody read while they were kept."""
    return errors.OutOfRange(
        f"the results of job {job.job_id} were kept until {job.expire_time.ToJsonString()} and are gone",
        reason="RESULTS_EXPIRED",
        metadata={"expire_time": job.expire_time.ToJsonString()},
    )


def released_from(item: int) -> errors.OutOfRange:
    """The error for a read that has come to results which the app's consumer groups have acknowledged."""
    return errors.OutOfRange(
        f"results from item {item} on were released and cannot be read again",
        reason="RESULTS_RELEASED",
        metadata={"first_item": str(item)},
    )


class _Relay:
    """One stream, from a place to the end."""

    def __init__(
        self,
        ledger: ports.Ledger,
        store: ports.ResultStore,
        time: clock.Clock,
        caller: callers.Caller,
        job: job_pb2.Job,
        woken: wakes.Wakes,
        place: cursors.Place,
        released_to: int,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._clock = time
        self._caller = caller
        self._job_id = job.job_id
        self._final = job.state in jobs.FINAL
        self._total = job.progress.items_total
        self._codec = cursors.CursorCodec(job.job_id)
        self._woken = woken
        self._place = place
        self._released = released_to
        self._missing: int | None = None
        """The batch last seen COMPLETED without a result."""
        # Nothing of a job without any outcome has failed or was lost, so there is nothing to ask about it yet.
        untouched = not self._final and not job.progress.batches_finished
        self._asked_at = time.monotonic() if untouched else -math.inf

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Everything that is left of the stream. The next run is read while the consumer handles this one."""
        start = ports.ReadFrom(self._place.batch)
        ahead: asyncio.Task[Sequence[ports.StoredBatch]] | None = None
        try:
            while self._place.batch < self._total:
                run = await (ahead or self._read(start))
                ahead = None
                cancellation.honour()
                if run:
                    start = _after(run[-1])
                    if start.batch < self._total:
                        ahead = asyncio.create_task(self._read(start))
                    for message in (m for batch in run for m in self._chunks(batch)):
                        yield message
                else:
                    for message in await self._resolve():
                        yield message
                    # Without the entry: a batch whose results were lost half-way has other entries when it is
                    # back.
                    start = ports.ReadFrom(self._place.batch)
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)
        yield (await self._end()).SerializeToString()

    async def _read(self, start: ports.ReadFrom) -> Sequence[ports.StoredBatch]:
        # Down before the look: what is published from here on will be seen by the look or end the wait after
        # it.
        self._woken.clear(wakes.RESULTS)
        return await self._store.read(self._job_id, start, READ_BYTES)

    def _chunks(self, batch: ports.StoredBatch) -> Iterator[bytes]:
        """The messages for stored chunks; parts that the client already has are left out."""
        end = batch.first_item + batch.item_count
        for index, chunk in enumerate(batch.chunks):
            first, count = frames.span(chunk)
            ends_batch = batch.complete and index == len(batch.chunks) - 1
            reached = end if ends_batch else first + count
            at = self._place.item
            self._place = cursors.Place(end if ends_batch else batch.first_item, max(at, reached))
            if reached > at:
                unread = trimming.from_item(chunk, at) if first < at else chunk
                yield frames.chunk_message(unread, self._codec.encode(self._place))

    async def _resolve(self) -> list[bytes]:
        """Asks the ledger about the batch that the store does not have, or waits until asking makes sense."""
        since = self._clock.monotonic() - self._asked_at
        news = self._woken.pending(wakes.STATE)
        if news and since < MIN_ASK_INTERVAL_S:
            await self._woken.wait(MIN_ASK_INTERVAL_S - since, wakes.RESULTS)
            return []
        if not news and since < POLL_S:
            await self._woken.wait(POLL_S - since, wakes.RESULTS, wakes.STATE)
            return []
        self._woken.clear(wakes.STATE)
        self._asked_at = self._clock.monotonic()
        found = await self._ledger.list_batches(self._caller, self._job_id, self._place.batch, LIST_LIMIT)
        messages = await self._failures(found.batches)
        if not messages and not await self._report_missing(found.batches[0]):
            self._ask_to_acknowledge(found)
        return messages

    async def _failures(self, batches: Sequence[scheduler_pb2.Batch]) -> list[bytes]:
        """The messages for batches that will never have results, as far as they follow each other."""
        at = self._place.batch
        if not batches or batches[0].first_item != at:
            raise await self._refusal()
        if batches[0].state == job_pb2.BATCH_STATE_DELIVERED:
            raise released_from(at)
        messages: list[bytes] = []
        for batch in batches:
            if batch.first_item != self._place.batch or batch.state not in _LOST:
                break
            messages.extend(self._failure(batch))
        if messages:
            # What comes next may be lost too, and a cancelled job has thousands of such batches: no pause.
            self._asked_at = -math.inf
        return messages

    async def _report_missing(self, batch: scheduler_pb2.Batch) -> bool:
        """Whether the batch is finished, so that its result is there, or lost: then the scheduler is told.

        Only at the second sight: at the first, it may have been finished between the read and the question.
        """
        if batch.state != job_pb2.BATCH_STATE_COMPLETED:
            self._missing = None
            return False
        if self._missing == batch.first_item:
            await self._ledger.report_missing_result(self._caller, self._job_id)
        self._missing = batch.first_item
        return True

    def _ask_to_acknowledge(self, found: scheduler_pb2.ListBatchesResponse) -> None:
        if found.acknowledge_results and self._place.batch > self._released:
            raise errors.ResourceExhausted(
                "results that were sent and not acknowledged hold back new ones; store what has come, then call again "
                "with the last cursor as after_cursor, which acknowledges it",
                reason="RESULTS_UNACKNOWLEDGED",
                metadata={"after_cursor": self._codec.encode(self._place).decode()},
                retry_after_s=_ACKNOWLEDGE_AFTER_S,
            )

    def _failure(self, batch: scheduler_pb2.Batch) -> Iterator[bytes]:
        """Moves over a batch without results, with its message unless the client has all of it."""
        end = batch.first_item + batch.item_count
        first = max(batch.first_item, self._place.item)
        self._place = cursors.Place(end, max(end, first))
        if first >= end:
            return
        failure = result_pb2.BatchFailure(
            job_id=self._job_id,
            first_item=first,
            item_count=end - first,
            reason=batch.failure_reason,
            message=batch.failure_message,
        )
        cursor = self._codec.encode(self._place).decode()
        yield gateway_pb2.StreamResultsResponse(failure=failure, cursor=cursor).SerializeToString()

    async def _refusal(self) -> errors.PodiumError:
        """The results ahead of this stream were released or have expired; a gap in the ledger would be our fault."""
        job = await self._ledger.get_job(self._caller, self._job_id)
        if job.results_expired:
            return expired(job)
        if job.progress.items_released > self._place.batch or job.results_released:
            return released(job)
        return errors.Internal(f"the ledger has no batch that begins at item {self._place.batch}")

    async def _end(self) -> gateway_pb2.StreamResultsResponse:
        """The last message, once the job is final: the last result is in the store a moment before the
        ledger."""
        poll_s = _FIRST_END_POLL_S
        if not self._final:
            await self._woken.wait(poll_s, wakes.PROGRESS)
        while True:
            self._woken.clear(wakes.STATE, wakes.PROGRESS)
            job = await self._ledger.get_job(self._caller, self._job_id)
            if job.state in jobs.FINAL:
                return _last_message(self._codec, job)
            await self._woken.wait(poll_s, wakes.STATE, wakes.PROGRESS)
            if poll_s == POLL_S:
                # Results that were read are computed again; they may need the room of what was sent.
                self._ask_to_acknowledge(await self._ledger.list_batches(self._caller, self._job_id, self._total, 1))
            poll_s = min(poll_s * 2, POLL_S)


def _last_message(codec: cursors.CursorCodec, job: job_pb2.Job) -> gateway_pb2.StreamResultsResponse:
    """Nothing more will come."""
    total = job.progress.items_total
    cursor = codec.encode(cursors.Place(total, total)).decode()
    return gateway_pb2.StreamResultsResponse(end=gateway_pb2.StreamEnd(job=job), cursor=cursor)


def _after(batch: ports.StoredBatch) -> ports.ReadFrom:
    if batch.complete:
        return ports.ReadFrom(batch.first_item + batch.item_count)
    return ports.ReadFrom(batch.first_item, batch.last_entry)

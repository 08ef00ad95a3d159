"""One embed call: parts out, outcomes back, a bounded number of jobs in flight.

Promise: outcomes reach the sink in input order, each item exactly once; at most `window` parts are in
memory. A part leaves the window when it is written, so a slow first part holds the others back rather than
filling memory. On any error the call ends at once; its jobs go on at the service, and the same call made
again finds them. Nothing is released before the sink's commit has returned, unless the service is full of results
that are here already: then room for the rest of the call is worth more than a cheap second run after a crash.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from podium_client.encodings import Dtype, Layout, Matrix, dtype_from_wire
from podium_client.errors import JobCancelled, JobExpired, ProtocolError, ResultsReleased
from podium_client.feed import PartFeed
from podium_client.jobs import Job, JobState
from podium_client.parts import JobSpec, Part
from podium_client.results import BoolVector, ItemError, Provenance, ResultChunk, Summary, Truncation, fill
from podium_client.retry import Patience
from podium_client.rpc import Gateway
from podium_client.sinks.base import Outcome, Sink
from podium_client.streams import ResultStream, StreamEnd, release
from podium_client.submission import place

_ERRORS_IN_SUMMARY = 1000
_RESUBMISSIONS = 3
_RELEASES_AT_ONCE = 8


@dataclass(slots=True)
class CallProgress:
    """How far an embed call is. `items_total`: None while the input is an iterator that has not ended."""

    items_total: int | None = None
    items_submitted: int = 0
    items_done: int = 0
    items_failed: int = 0
    items_truncated: int = 0
    jobs: int = 0

    def add(self, chunk: ResultChunk) -> None:
        """Count the outcomes of a chunk."""
        self.items_done += chunk.item_count
        self.items_failed += len(chunk.errors)
        self.items_truncated += len(chunk.truncations)

    def subtract(self, other: CallProgress) -> None:
        """Take back outcomes that have to be computed again."""
        self.items_done -= other.items_done
        self.items_failed -= other.items_failed
        self.items_truncated -= other.items_truncated


ProgressCallback = Callable[[CallProgress], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """A part whose outcomes are all here."""

    outcome: Outcome
    end: StreamEnd

    @property
    def worth_retrying(self) -> bool:
        """Whether a later run should compute it again rather than find it: something in it failed."""
        return bool(self.outcome.errors)


class Model:
    """What makes the vectors of this call: must be the same for all parts, or rows could not be compared."""

    def __init__(self, gateway: Gateway, workload: str, dimensions: int | None, dtype: Dtype) -> None:
        self._gateway = gateway
        self._workload = workload
        self._dimension = dimensions
        self._dtype: Dtype = dtype
        self.provenance: Provenance | None = None

    def check(self, chunk: ResultChunk) -> Layout | None:
        """The layout of all rows, once known. ProtocolError when the chunk was made by something else than those
        before, or is not what was asked for."""
        made_by = chunk.provenance
        if made_by is not None and self.provenance is None:
            self.provenance = made_by
        elif made_by is not None and self.provenance is not None:
            # Precision and backend may differ between devices; the model may not.
            ours = replace(self.provenance, precision=made_by.precision, backend=made_by.backend)
            if ours != made_by:
                raise ProtocolError(
                    f"vectors of two models in one call: {self.provenance.model_name}@{self.provenance.revision} "
                    f"({self.provenance.dimension}) and {made_by.model_name}@{made_by.revision} "
                    f"({made_by.dimension})"
                )
        if len(chunk.vectors) and chunk.layout is not None:
            if self._dimension is None:
                self._dimension = chunk.layout.dimension
            expected = Layout(self._dimension, self._dtype)
            if chunk.layout != expected:
                raise ProtocolError(
                    f"vectors of {chunk.layout.dimension} {chunk.layout.dtype}, expected {expected.dimension} "
                    f"{expected.dtype}"
                )
        return Layout(self._dimension, self._dtype) if self._dimension is not None else None

    async def layout(self) -> Layout:
        """The layout; the dimension is asked of the registry when no vector has come (every item failed, or there is
        none)."""
        if self._dimension is None:
            found = [w.dimension for w in await self._gateway.workloads() if w.name == self._workload]
            self._dimension = found[0] if found else 0
        return Layout(self._dimension, self._dtype)


@dataclass(slots=True)
class Collector:
    """Gathers one job's chunks into the rows that the sink gave."""

    sink: Sink
    model: Model
    first_item: int
    item_count: int
    keys: tuple[str, ...] | None
    on_chunk: Callable[[ResultChunk], None]
    _rows: Matrix | None = None

    async def collect(self, stream: ResultStream) -> Finished:
        """Read the stream to its end. JobCancelled or JobExpired when that is why items have no outcome."""
        ok = np.zeros(self.item_count, dtype=np.bool_)
        errors: list[ItemError] = []
        truncations: list[Truncation] = []
        async for chunk in stream.chunks():
            self._place(chunk, ok, self.model.check(chunk))
            errors += [self._at_input(error) for error in chunk.errors]
            truncations += [replace(t, index=t.index + self.first_item) for t in chunk.truncations]
            self.on_chunk(chunk)
        end = stream.end
        if end is None or end.job.progress.items_total != self.item_count:
            raise ProtocolError(f"a job of {self.item_count} items ended as {end}")
        layout = await self.model.layout()
        rows = self._allocated(layout)
        if not ok.all():
            rows[~ok] = 0  # the sink may give an array that an earlier job of the same part half filled
        made_by = self.model.provenance
        outcome = Outcome(self.first_item, rows, ok, tuple(errors), tuple(truncations), self.keys, made_by, layout)
        return Finished(outcome, end)

    def _allocated(self, layout: Layout) -> Matrix:
        if self._rows is None:
            self._rows = self.sink.rows(self.first_item, self.item_count, layout)
        return self._rows

    def _place(self, chunk: ResultChunk, ok: BoolVector, layout: Layout | None) -> None:
        if chunk.end_item > self.item_count:
            raise ProtocolError(f"item {chunk.end_item - 1} in a job of {self.item_count}")
        if layout is not None:
            fill(self._allocated(layout), ok, chunk)

    def _at_input(self, error: ItemError) -> ItemError:
        key = self.keys[error.index] if self.keys is not None else error.key
        return replace(error, index=error.index + self.first_item, key=key)


async def in_thread(work: Callable[..., None], *arguments: object) -> None:
    """Run a sink's blocking step off the loop. A cancelled caller waits for its end, so that the sink is
    never aborted in the middle of a write."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def check_ended_well(job: Job) -> None:
    """Raise when the job ended before it was computed."""
    if job.state is JobState.CANCELLED:
        raise JobCancelled(f"job {job.job_id} was cancelled", reason="JOB_CANCELLED")
    if job.state is JobState.EXPIRED:
        raise JobExpired(f"job {job.job_id} expired before it was complete", reason="JOB_EXPIRED")


class EmbedCall:
    """Runs one call from its feed into its sink."""

    def __init__(
        self,
        gateway: Gateway,
        spec: JobSpec,
        feed: PartFeed,
        sink: Sink,
        *,
        window: int,
        total: int | None,
        may_release: bool,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._gateway = gateway
        self._spec = spec
        self._feed = feed
        self._sink = sink
        self._window = window
        self._on_progress = on_progress
        self._progress = CallProgress(items_total=total)
        # Shared by all calls of this activity: while any part gets on, the others may wait for room.
        self._patience: Patience = gateway.patience()
        self._may_release = may_release
        if may_release:
            self._patience.on_full = self._make_room
        self._held_there: list[StreamEnd] = []
        """Of jobs whose outcomes are all here, and still at the service."""
        options = spec.options
        dimensions = options.dimensions if options.HasField("dimensions") else None
        dtype = dtype_from_wire(options.dtype) if options.HasField("dtype") else "float32"
        self._model = Model(gateway, spec.workload, dimensions, dtype or "float32")
        self._errors: list[ItemError] = []
        self._ends: list[tuple[StreamEnd, bool]] = []

    async def run(self) -> Summary:
        """Everything up to the commit; release() is the caller's next step."""
        try:
            await self._pump()
            layout = await self._model.layout()
            await in_thread(self._sink.commit, layout, self._model.provenance)
        except BaseException:
            self._sink.abort()
            raise
        finally:
            self._feed.close()
        progress = self._progress
        return Summary(
            items=progress.items_done,
            succeeded=progress.items_done - progress.items_failed,
            failed=progress.items_failed,
            truncated=progress.items_truncated,
            dimension=layout.dimension,
            jobs=tuple(end.job.job_id for end, _ in self._ends),
            provenance=self._model.provenance,
            errors=tuple(self._errors),
            dtype=layout.dtype,
        )

    async def release(self, *, only_failed: bool = False) -> None:
        """Let the service drop the results; `only_failed`: just of the jobs that a later run should do
        again."""
        await self._release([end for end, failed in self._ends if failed or not only_failed])

    async def _make_room(self) -> None:
        held, self._held_there = self._held_there, []
        await self._release(held)

    async def _release(self, ends: Sequence[StreamEnd]) -> None:
        gate = asyncio.Semaphore(_RELEASES_AT_ONCE)

        async def one(end: StreamEnd) -> None:
            async with gate:
                await release(self._gateway, end.job.job_id, end.cursor)

        await asyncio.gather(*(one(end) for end in ends))

    async def _pump(self) -> None:
        running: deque[asyncio.Task[Finished]] = deque()
        reading: asyncio.Task[Part | None] | None = None
        exhausted = False
        try:
            while True:
                if reading is None and not exhausted and len(running) < self._window:
                    reading = asyncio.create_task(self._feed.next())
                # Those that are done wait for the first one: with them, each wait would end at once.
                waiting: set[asyncio.Task[Any]] = {task for task in running if not task.done()}
                if reading is not None:
                    waiting.add(reading)
                if not waiting:
                    break
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    part, reading = reading.result(), None
                    exhausted = part is None
                    if part is not None:
                        running.append(asyncio.create_task(self._run_part(part)))
                while running and running[0].done():
                    await self._write(running.popleft().result())
                for task in running:
                    if task.done():
                        task.result()
        finally:
            left: list[asyncio.Task[Any]] = [*running, *([reading] if reading is not None else [])]
            for unfinished in left:
                unfinished.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        self._progress.items_total = self._progress.items_done
        self._tell()

    async def _write(self, finished: Finished) -> None:
        await in_thread(self._sink.write, finished.outcome)
        room = _ERRORS_IN_SUMMARY - len(self._errors)
        self._errors += finished.outcome.errors[:room]
        self._ends.append((finished.end, finished.worth_retrying))

    async def _run_part(self, part: Part) -> Finished:
        job = await place(self._gateway, self._spec, part, self._patience)
        self._progress.items_submitted += part.item_count
        self._progress.jobs += 1
        self._tell()
        for resubmissions in range(_RESUBMISSIONS + 1):
            part_progress = CallProgress()

            def count(chunk: ResultChunk, mine: CallProgress = part_progress) -> None:
                mine.add(chunk)
                self._progress.add(chunk)
                self._tell()

            collector = Collector(self._sink, self._model, part.first_item, part.item_count, part.keys, count)
            try:
                stream = ResultStream(self._gateway, job.job_id, may_release=self._may_release, patience=self._patience)
                finished = await collector.collect(stream)
                check_ended_well(finished.end.job)
                self._held_there.append(finished.end)
                return finished
            except ResultsReleased:
                # Another run of the same input has taken the results in the meantime.
                if resubmissions == _RESUBMISSIONS:
                    raise
                self._progress.subtract(part_progress)
                job = await place(self._gateway, self._spec, part, self._patience)
        raise AssertionError("unreachable")

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(replace(self._progress))

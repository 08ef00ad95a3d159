"""The load: clients of the real SDK that submit, cancel, read, break off and come back, at random.

Each client does one thing after another, so the load follows what the system can do. Dice come from the seed; what
they decide about a job does not depend on timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

from podium_client import (
    AsyncClient,
    FailedPrecondition,
    PodiumError,
    ResultChunk,
    ResultsReleased,
    ResultsUnacknowledged,
    RetryPolicy,
)
from tests.faults.nemesis.cluster import WORKLOADS
from tests.faults.nemesis.history import Piece, Reading, Submission, digest
from tests.support import stack

CLIENTS = 8
PATIENCE = RetryPolicy(connect_for_s=300.0, retry_for_s=300.0, longest_pause_s=2.0)
_SIZES = (((1, 1), 1.0), ((2, 40), 3.0), ((41, 600), 4.0), ((601, 2_000), 2.0), ((2_001, 5_000), 0.5))
_LONGEST_REST_S = 3.0


class Client:
    """One client with a connection of its own to both gateways."""

    kind = "client"
    token = stack.APP_TOKEN

    def __init__(self, number: int, seed: int, gateways: str, submissions: list[Submission]) -> None:
        self.doing = "nothing yet"
        self.name = f"{self.kind} {number}"
        self._seed = seed
        self._gateways = gateways
        self._submissions = submissions
        self._count = 0
        self._dice = random.Random(f"{self.name} of {seed}")
        self._deeds: list[tuple[Callable[[AsyncClient, Submission], Awaitable[None]], float]] = [
            (self._read_all, 4),
            (self._read_in_parts, 4),
            (self._fetch, 1),
            (self._read_as_two, 2),
            (self._watch_and_read, 2),
            (self._cancel_and_read, 2),
            (self._leave, 2),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """One job after another until `stop`; what was begun is finished."""
        async with AsyncClient(self._gateways, self.token, retry=PATIENCE) as sdk:
            while not stop.is_set():
                await self._job(sdk)
                self.doing = "resting"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._dice.uniform(0.0, _LONGEST_REST_S)):
                        await stop.wait()

    async def _job(self, sdk: AsyncClient) -> None:
        submission = self._draw()
        deed = self._dice.choices([d for d, _ in self._deeds], [w for _, w in self._deeds])[0]
        self._submissions.append(submission)
        self.doing = f"submitting {submission.request_id}"
        try:
            await self._submit(sdk, submission)
            self.doing = f"{deed.__name__} of job {submission.job_id}"
            await deed(sdk, submission)
        except PodiumError as error:
            submission.complaints.append(f"{self.doing}: {words(error)}")

    def _draw(self) -> Submission:
        dice = self._dice
        self._count += 1
        bounds = dice.choices([s for s, _ in _SIZES], [w for _, w in _SIZES])[0]
        workload = dice.choices(sorted(WORKLOADS), (1, 3))[0]
        return Submission(
            request_id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            workload=workload,
            dimension=WORKLOADS[workload],
            prefix=f"seed {self._seed} {self.name} job {self._count} item",
            item_count=dice.randint(*bounds),
            window_s=round(dice.uniform(1.0, 12.0), 1) if dice.random() < 0.1 else None,
        )

    async def _submit(self, sdk: AsyncClient, submission: Submission) -> None:
        texts, priority = submission.texts(), self._dice.choice((None, 1, 3, 5))

        async def once() -> None:
            job = await sdk.submit(
                texts,
                workload=submission.workload,
                request_id=submission.request_id,
                priority=priority,
                completion_window_s=submission.window_s,
            )
            submission.jobs.append(job.job_id)

        how = self._dice.choices((1, 2, 3), (6, 2, 2))[0]
        if how == 2:
            # Hangs up before the answer; whether it was accepted nobody knows, so it asks again.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._dice.uniform(0.001, 0.08)):
                    await once()
        await asyncio.gather(*(once() for _ in range(2 if how == 3 else 1)))

    async def _read_all(self, sdk: AsyncClient, submission: Submission) -> None:
        await read(sdk, submission, "whole")
        if self._dice.random() < 0.4:
            await release(sdk, submission)

    async def _read_in_parts(self, sdk: AsyncClient, submission: Submission) -> None:
        """Breaks off after some chunks, makes what it has durable, and comes back with its cursor."""
        reading: Reading | None = None
        while reading is None or not reading.ended:
            reading = await read(sdk, submission, "parts", reading, self._dice.randint(1, 5))
            await asyncio.sleep(self._dice.uniform(0.0, 0.8))
        if self._dice.random() < 0.5:
            await release(sdk, submission)

    async def _fetch(self, sdk: AsyncClient, submission: Submission) -> None:
        reading = Reading("fetch")
        submission.readings.append(reading)
        assert submission.job_id is not None
        release_all = self._dice.random() < 0.5
        try:
            result = await sdk.fetch(submission.job_id, on_error="return", release=release_all)
        except ResultsUnacknowledged:
            # Only one that may not release is told so; a reader that may gets all.
            submission.readings.remove(reading)
            if release_all:
                raise
            await read(sdk, submission, "after a fetch")
            return
        rows = tuple(digest(row) for row, ok in zip(result.vectors, result.ok, strict=True) if ok)
        reading.pieces.append(Piece(0, len(result), rows, {e.index: e.reason for e in result.errors}))
        reading.ended = True
        if release_all:
            submission.read_up_to = submission.item_count

    async def _read_as_two(self, sdk: AsyncClient, submission: Submission) -> None:
        await asyncio.gather(read(sdk, submission, "first of two"), read(sdk, submission, "second of two"))

    async def _watch_and_read(self, sdk: AsyncClient, submission: Submission) -> None:
        async def watch() -> None:
            assert submission.job_id is not None
            async for job in sdk.watch(submission.job_id):
                submission.watched_states.append(job.state.value)

        await asyncio.gather(watch(), read(sdk, submission, "watching"))

    async def _cancel_and_read(self, sdk: AsyncClient, submission: Submission) -> None:
        reading = asyncio.create_task(read(sdk, submission, "cancelling"))
        try:
            await self._cancel(sdk, submission)
        finally:
            await reading

    async def _cancel(self, sdk: AsyncClient, submission: Submission) -> None:
        await asyncio.sleep(self._dice.uniform(0.0, 1.5))
        assert submission.job_id is not None
        submission.cancel_tried = True
        with contextlib.suppress(FailedPrecondition):
            await sdk.cancel(submission.job_id)

    async def _leave(self, sdk: AsyncClient, submission: Submission) -> None:
        """Nobody reads: the results wait for the last look."""


async def read(
    sdk: AsyncClient, submission: Submission, reader: str, reading: Reading | None = None, at_most: int | None = None
) -> Reading:
    """Reads on from the submission's cursor, to the end or for some chunks, whose cursor is the next start then."""
    if reading is None:
        reading = Reading(reader, submission.read_up_to)
        submission.readings.append(reading)
    try:
        return await _read_on(sdk, submission, reading, at_most)
    except ResultsReleased:
        # The SDK acknowledges what it has given to a reader when the service asks for room. What another reader has
        # got by then need not come to this one; what nobody has got the verdict will miss.
        submission.cursor, submission.read_up_to = submission.furthest()
        if submission.read_up_to <= reading.place:
            raise
        rest = Reading(f"{reader}, overtaken", submission.read_up_to)
        submission.readings.append(rest)
        return await _read_on(sdk, submission, rest, at_most)


async def _read_on(sdk: AsyncClient, submission: Submission, reading: Reading, at_most: int | None) -> Reading:
    assert submission.job_id is not None
    # The wire's own generator: closed at once, not when the garbage is collected.
    chunks = cast(AsyncGenerator[ResultChunk, None], sdk.results(submission.job_id, after=submission.cursor))
    count = 0
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            reading.pieces.append(Piece.of(chunk))
            reading.cursor = chunk.cursor
            count += 1
            if count == at_most:
                submission.cursor, submission.read_up_to = chunk.cursor, chunk.end_item
                return reading
    reading.ended = True
    return reading


async def release(sdk: AsyncClient, submission: Submission) -> None:
    """Acknowledges all that was read to the end."""
    cursor, _ = submission.furthest()
    assert submission.job_id is not None
    await sdk.release(submission.job_id, cursor)
    submission.cursor, submission.read_up_to = cursor, submission.item_count


def words(error: PodiumError) -> str:
    """All that an error of the SDK says."""
    return f"{type(error).__name__} {error.code} {error.reason}: {error.message}"

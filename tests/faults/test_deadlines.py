"""Jobs whose time is up, and jobs that are cancelled, while somebody reads them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from podium_client import AsyncClient, ResultChunk
from podium_client.jobs import Job, JobState
from tests.support import stack
from tests.support.fake_worker import FakeWorker, rows_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

STEP_S = 60.0
WINDOW_S = 6.0
TEXTS = [f"text {n}" for n in range(3 * 256)]
"""Three batches: the first is finished, the second is in a worker's hands, the third waits."""


async def read_to_the_end(client: AsyncClient, job: Job) -> list[ResultChunk]:
    async with asyncio.timeout(STEP_S):
        return [chunk async for chunk in client.results(job.job_id)]


def assert_rest_failed(chunks: list[ResultChunk], reason: str) -> None:
    """The first batch has its vectors; every other item has this error."""
    assert [c.first_item for c in chunks] == [0, 256, 512]
    assert chunks[0].errors == ()
    assert [int(row[0]) for row in chunks[0].vectors] == list(range(256))
    failed = [e for c in chunks[1:] for e in c.errors]
    assert [e.index for e in failed] == list(range(256, len(TEXTS)))
    assert {e.reason for e in failed} == {reason}


async def test_what_is_left_at_a_deadline_expires_and_what_is_done_stays(tmp_path: Path) -> None:
    async with (
        stack.running(tmp_path, workers=0) as running,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        FakeWorker(running.scheduler.address).session() as worker,
    ):
        job = await client.submit(TEXTS, workload="hash-384", completion_window_s=WINDOW_S)
        reading = asyncio.create_task(read_to_the_end(client, job))
        await worker.offer(2)
        first, second = await worker.assigned(), await worker.assigned()
        await worker.offer(1)
        await worker.finish(first, rows_of(first))
        await worker.hear("ack")
        cancel = (await worker.hear("cancel")).cancel
        assert cancel.lease == second.lease
        assert_rest_failed(await reading, "DEADLINE_EXCEEDED")
        ended = await client.job(job.job_id)
        assert ended.state is JobState.EXPIRED
        assert ended.deadline is not None and ended.finish_time is not None
        late_s = (ended.finish_time - ended.deadline).total_seconds()
        print(f"expired {late_s:.2f} s after its deadline")
        assert 0 <= late_s < 5.0
        assert_rest_failed(await read_to_the_end(client, job), "DEADLINE_EXCEEDED")


async def test_a_reader_of_a_job_that_is_cancelled_gets_an_outcome_for_every_item(tmp_path: Path) -> None:
    async with (
        stack.running(tmp_path, workers=0) as running,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        FakeWorker(running.scheduler.address).session() as worker,
    ):
        job = await client.submit(TEXTS, workload="hash-384")
        reading = asyncio.create_task(read_to_the_end(client, job))
        await worker.offer(2)
        first, second = await worker.assigned(), await worker.assigned()
        await worker.offer(1)
        await worker.finish(first, rows_of(first))
        await worker.hear("ack")
        await client.cancel(job.job_id)
        assert (await worker.hear("cancel")).cancel.lease == second.lease
        assert_rest_failed(await reading, "CANCELLED")
        assert (await client.job(job.job_id)).state is JobState.CANCELLED

"""Workers that are told to go, under load: only what they hand back is computed twice, and they are gone in time."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
COMPUTED = "podium_worker_items_computed_total"
GRACE_S = 8.0
TEXTS = [f"text {n}" for n in range(8_000)]
BATCH = 256


def assert_exact(result: Embeddings) -> None:
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))


async def until_computing(worker: stack.Service) -> None:
    """Waits until a worker has computed something."""
    while not await processes.metric(worker.metrics, COMPUTED):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.02)


def events(service: stack.Service, name: str) -> list[dict[str, object]]:
    """What a service's log says under a name."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


async def test_a_drained_worker_finishes_what_it_holds_and_nothing_is_computed_twice(tmp_path: Path) -> None:
    async with stack.running(
        tmp_path, workers=2, fault_delay_s="0.01", shutdown_grace_s=str(GRACE_S), max_batches_in_hand="4"
    ) as running:
        leaving, staying = running.workers
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            embedding = asyncio.create_task(client.embed_texts(TEXTS, workload="hash-384"))
            await until_computing(leaving)
            leaving.process.send_signal(signal.SIGTERM)
            last = await count_until_it_ends(leaving)
            result = await embedding
            retried = await processes.metric(running.scheduler.metrics, "podium_batches_ended_total", outcome="retried")
        assert leaving.process.returncode == 0
        handed_back = sum(int(str(line["batches"])) for line in events(leaving, "drain_hands_back"))
        twice = last + await processes.metric(staying.metrics, COMPUTED) - len(TEXTS)
        # The count of the process that left is read while it lives, so it may lack its end, never have too much.
        assert twice <= handed_back * BATCH
        assert retried >= handed_back
        assert len(events(leaving, "drained")) == 1
        assert [e["goodbye"] for e in events(running.scheduler, "session_closed")] == [True]
    assert_exact(result)


async def count_until_it_ends(worker: stack.Service) -> float:
    """The last count of computed items that a worker shows."""
    last = 0.0
    while worker.process.returncode is None:
        try:
            last = await processes.metric(worker.metrics, COMPUTED)
        except OSError:
            break
        await asyncio.sleep(0.02)
    await worker.process.wait()
    return last


@pytest.mark.parametrize("second", [False, True], ids=["the grace is over", "asked twice"])
async def test_what_cannot_be_finished_in_time_is_handed_back(tmp_path: Path, second: bool) -> None:
    grace_s = 60.0 if second else 2.0
    async with stack.running(tmp_path, fault_delay_s="0.5", shutdown_grace_s=str(grace_s)) as running:
        (leaving,) = running.workers
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            # 8 s for each of the batches.
            embedding = asyncio.create_task(client.embed_texts(TEXTS[: 2 * BATCH], workload="hash-384"))
            await until_computing(leaving)
            began = time.monotonic()
            leaving.process.send_signal(signal.SIGTERM)
            if second:
                while not events(leaving, "drain_began"):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.02)
                leaving.process.send_signal(signal.SIGINT)
            assert await leaving.process.wait() == 0
            took_s = time.monotonic() - began
            quick = await running.start("worker", fault_delay_s="0")
            result = await embedding
            (job_id,) = result.jobs
            assert await processes.metric(quick.metrics, COMPUTED) == 2 * BATCH
        # Far from the minute of the grace; and not much over the two seconds on a busy machine.
        assert took_s < 15.0
        assert [e["goodbye"] for e in events(running.scheduler, "session_closed")][:1] == [True]
        assert {str(e["outcome"]) for e in events(running.scheduler, "attempt_failed")} == {"Retry"}
        assert await attempts_of(running, job_id) == [1, 1]
    assert result.ok.all()


async def attempts_of(running: stack.Stack, job_id: str) -> list[int]:
    """Attempts of a job's batches, by the ledger."""
    connection = await asyncpg.connect(running.environment["PODIUM_POSTGRES_URL"].replace("+asyncpg", ""))
    try:
        rows = await connection.fetch("SELECT attempt FROM batches WHERE job_id = $1 ORDER BY first_item", job_id)
    finally:
        await connection.close()
    return [row["attempt"] for row in rows]

"""A leader that is stopped and comes back after another took over: feeding goes on, and it does no harm."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from podium_client import AsyncClient
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

STEP_S = 120.0
FEEDING_AGAIN_S = 5.0
TEXTS = [f"text {n}" for n in range(60_000)]

# Counters that say what the batches say; a job that is fed twice or by two leaders has others.
WRONG_COUNTERS = """
    SELECT j.job_id FROM jobs j JOIN batches b ON b.job_id = j.job_id GROUP BY j.job_id
    HAVING j.batches_pending <> count(*) FILTER (WHERE b.state = 'PENDING')
        OR j.batches_finished <> count(*) FILTER (WHERE b.finish_time IS NOT NULL)
        OR j.items_succeeded <> sum(b.items_succeeded) OR j.batch_count <> count(*)
"""


async def leader_of(connection: asyncpg.Connection) -> tuple[str, int]:
    """The last leader's name and its term."""
    row = await connection.fetchrow("SELECT leader_replica_id, leader_term FROM cluster")
    return row["leader_replica_id"], row["leader_term"]


async def fed(connection: asyncpg.Connection) -> int:
    """Batches that were ever fed and have not gone back."""
    found: int = await connection.fetchval("SELECT count(*) FROM batches WHERE state <> 'PENDING'")
    return found


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["paused", "killed"])
async def test_the_leader_is_gone_in_mid_job(tmp_path: Path, how: signal.Signals) -> None:
    async with stack.servers(tmp_path) as running:
        names = ["first", "second"]
        schedulers = dict(
            zip(names, await asyncio.gather(*(running.start("scheduler", replica_id=n) for n in names)), strict=True)
        )
        running.environment["PODIUM_SCHEDULER_ADDRESS"] = ",".join(s.address for s in schedulers.values())
        await asyncio.gather(running.start("gateway"), running.start("worker"), running.start("worker"))
        connection = await asyncpg.connect(running.environment["PODIUM_POSTGRES_URL"].replace("+asyncpg", ""))
        reached = asyncio.Event()

        def progress(call: object) -> None:
            if getattr(call, "items_done", 0) >= 0.2 * len(TEXTS):
                reached.set()

        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            embedding = asyncio.create_task(
                client.embed_texts(TEXTS, workload="hash-384", progress=progress, release=False)
            )
            await reached.wait()
            gone, term = await leader_of(connection)
            schedulers[gone].process.send_signal(how)
            began = time.monotonic()
            while (await leader_of(connection))[1] == term:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            before = await fed(connection)
            while await fed(connection) == before and not embedding.done():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            took = time.monotonic() - began
            result = await embedding
            other, newer = await leader_of(connection)
            assert (other, newer) == (next(n for n in names if n != gone), term + 1)
            if how is signal.SIGSTOP:
                schedulers[gone].process.send_signal(signal.SIGCONT)
                while not re.search(r"leadership_(lost|superseded)", schedulers[gone].log.read_text()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                # It is a good replica again: it does not lead, and it serves.
                again = await client.embed_texts(TEXTS[:2_000], workload="hash-384", run="again", release=False)
                np.testing.assert_array_equal(again.vectors, result.vectors[:2_000])
                assert await leader_of(connection) == (other, newer)
                assert schedulers[gone].process.returncode is None
        wrong = await connection.fetch(WRONG_COUNTERS)
        await connection.close()
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))
    assert wrong == []
    print(f"leader {how.name}: feeding again after {took:.1f} s")
    assert took < FEEDING_AGAIN_S

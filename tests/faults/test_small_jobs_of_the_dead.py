"""Small jobs go straight to idle workers. Their scheduler is killed in the middle of them, and the next one as soon as
it leads: no job is lost or stuck or has another's vectors, only what was in flight is computed again, nothing stays."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import redis.asyncio as redis

from podium_client import AsyncClient, JobState
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import ledger_moves, stack
from tests.support.replicas import Replicas

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

STEP_S = 180.0
CLIENTS = 4
ITEMS = 16
ENOUGH = 4 * CLIENTS
"""Jobs before the first death and after the last."""


class Crowd:
    """Clients that have one small job after the other done."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._numbers = itertools.count()
        self._news = asyncio.Condition()
        self.over = False
        self.done = self.straight = 0
        """Jobs; those of them that were begun as they were admitted."""

    async def until(self, reached: Callable[[], bool]) -> None:
        """A job's end may be what is waited for."""
        async with self._news:
            await self._news.wait_for(reached)

    async def work(self) -> None:
        """One client."""
        while not self.over:
            texts = [f"job {next(self._numbers)}, text {n}" for n in range(ITEMS)]
            job = await self._client.submit(texts, workload="hash-384")
            rows, seen, cursor = np.empty((ITEMS, 384), dtype=np.float32), np.zeros(ITEMS, dtype=int), ""
            async for chunk in self._client.results(job.job_id):
                at = slice(chunk.first_item, chunk.first_item + chunk.item_count)
                rows[at], cursor = chunk.vectors, chunk.cursor
                seen[at] += 1
            assert (seen == 1).all()
            np.testing.assert_array_equal(rows, hash_vectors([text.encode() for text in texts], 384))
            await self._client.release(job.job_id, cursor)
            async with self._news:
                self.done += 1
                self.straight += job.state is JobState.RUNNING
                self._news.notify_all()


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    while not await look():  # noqa: ASYNC110 - other processes do it
        await asyncio.sleep(0.005)


async def assert_nothing_stays(running: stack.Stack) -> None:
    """No batch in hand, no result and no work in Redis, once what was released last has gone."""
    async with ledger_moves.ledger(running) as ledger, redis.Redis.from_url(running.redis.url) as buffer:

        async def nothing() -> bool:
            left = await ledger.fetchval("SELECT count(*) FROM batches WHERE state <> 'DELIVERED'")
            return not left and not [k for kind in ("chunks", "index") async for k in buffer.scan_iter(f"*:{kind}:*")]

        await until(nothing)
        assert await buffer.xlen("podium:work:hash-384") == 0


async def test_their_scheduler_is_killed_and_the_next_one_as_it_recovers(tmp_path: Path) -> None:
    async with stack.servers(tmp_path, as_deployed=True) as running, asyncio.timeout(STEP_S):
        await ledger_moves.watch(running)
        # A batch is in a worker's hands long enough to be there when its scheduler dies.
        running.environment |= {"PODIUM_FAULT_DELAY_S": "0.02"}
        replicas = Replicas(running)
        first = await replicas.start("scheduler0")
        for name in ("gateway0", "worker0", "worker1", "worker2"):
            await replicas.start(name)
        async with (
            AsyncClient(replicas.addresses("gateway"), stack.APP_TOKEN) as client,
            ledger_moves.ledger(running) as ledger,
        ):

            async def second_leads() -> bool:
                return bool(await ledger.fetchval("SELECT leader_replica_id = 'scheduler1' FROM cluster"))

            crowd = Crowd(client)
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(crowd.work())
                await crowd.until(lambda: crowd.straight >= ENOUGH)
                await first.stop(signal.SIGKILL)
                second = await running.spawn("scheduler", scheduler_listen=first.address, replica_id="scheduler1")
                await until(second_leads)
                await second.stop(signal.SIGKILL)
                await replicas.start("scheduler2", scheduler_listen=first.address)
                before = crowd.straight
                await crowd.until(lambda: crowd.straight >= before + ENOUGH)
                crowd.over = True
            await assert_nothing_stays(running)
        again = await ledger_moves.claimed_again(running)
        assert again.keys() <= await ledger_moves.in_flight(running, ["scheduler0", "scheduler1"])
        print(f"{crowd.done} jobs, {crowd.straight} begun as they were admitted, {sum(again.values())} computed again")

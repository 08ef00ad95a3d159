"""Callers that went away stop costing: at the gateway, at the scheduler, in Redis and in Postgres."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
import redis.asyncio as redis

from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium_client import AsyncClient
from podium_runtime import auth
from tests.support import processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

STEP_S = 30.0
AT_ONCE_S = 5.0
"""A second is promised; the rest is for a busy machine. Nothing here would end by itself in that time."""
CALLS = 20
POOL = 32
"""Connections of a gateway to Redis at most (PODIUM_REDIS_CONNECTIONS): fewer than there are calls."""
_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'podium-scheduler' AND wait_event_type = 'Lock' AND query LIKE '%request_id%FOR NO KEY%'
      AND datname = current_database()
"""


async def until(what: Callable[[], Awaitable[float]], wanted: float, within_s: float = STEP_S) -> float:
    """Waits until `what` is as wanted; returns how long that took, in seconds."""
    started = time.monotonic()
    while True:
        found, spent = await what(), time.monotonic() - started
        if found == wanted:
            return spent
        assert spent < within_s, f"{found} after {within_s} s, not {wanted}"
        await asyncio.sleep(0.02)


class Watched:
    """What callers leave behind at a gateway, its Redis and its scheduler."""

    def __init__(self, running: stack.Stack, buffer: redis.Redis, job_id: str) -> None:
        self._running = running
        self._redis = buffer
        self._channel = f"podium:job:{job_id}"

    async def streams(self) -> float:
        return await processes.metric(self._running.gateway.metrics, "podium_gateway_open_streams")

    async def subscriptions(self) -> float:
        return float((await self._redis.pubsub_numsub(self._channel))[0][1])

    async def scheduler_calls(self) -> float:
        """Those that a reader and a watcher of a job make again and again."""
        metrics = self._running.scheduler.metrics
        made = [
            await processes.metric(metrics, "podium_grpc_handled_total", method=method)
            for method in ("GetJob", "ListBatches")
        ]
        return sum(made)

    async def connections(self) -> float:
        return float(len(await self._redis.client_list()))


def open_calls(channel: grpc.aio.Channel, job_id: str) -> list[Any]:
    """CALLS readers and as many watchers of a job that does not move."""
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    metadata = auth.authorization(stack.APP_TOKEN)
    reads = [
        stub.StreamResults(gateway_pb2.StreamResultsRequest(job_id=job_id), metadata=metadata) for _ in range(CALLS)
    ]
    watches = [stub.WatchJob(gateway_pb2.WatchJobRequest(job_id=job_id), metadata=metadata) for _ in range(CALLS)]
    return [*reads, *watches]


@pytest.mark.parametrize("how", ["cancelled", "connection closed", "killed"])
async def test_streams_of_callers_that_went_away_end_at_once(tmp_path: Path, how: str) -> None:
    async with stack.running(tmp_path, workers=0) as running, redis.Redis.from_url(running.redis.url) as buffer:
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client:
            job = await client.submit(["never computed"], workload="hash-384")
        watched = Watched(running, buffer, job.job_id)
        connections = await watched.connections()
        if how == "killed":
            arguments = [running.gateway.address, stack.APP_TOKEN, job.job_id, str(tmp_path / "read")]
            reader = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.support.stream_reader", *arguments
            )
            await until(watched.streams, 1)
            reader.kill()
            await reader.wait()
        else:
            async with grpc.aio.insecure_channel(running.gateway.address) as channel:
                calls = open_calls(channel, job.job_id)
                await until(watched.streams, 2 * CALLS)
                await until(watched.subscriptions, 1)
                if how == "cancelled":
                    for call in calls:
                        call.cancel()
                else:
                    await channel.close(None)
        took = await until(watched.streams, 0, AT_ONCE_S)
        await until(watched.subscriptions, 0, AT_ONCE_S)
        print(f"{how}: all streams gone after {took:.2f} s")
        await asyncio.sleep(1.0)  # what was on its way to the scheduler
        calls_made = await watched.scheduler_calls()
        await asyncio.sleep(2.5)  # two and a half of their poll intervals
        assert await watched.scheduler_calls() == calls_made
        assert await watched.connections() <= connections + POOL, "the pool's, not one for each call"


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_statements_of_callers_that_went_away_end_in_postgres(tmp_path: Path, how: str) -> None:
    async with stack.running(tmp_path, workers=0) as running:
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client:
            job = await client.submit(["never computed"], workload="hash-384")
        holder = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
        other = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
        async with grpc.aio.insecure_channel(running.gateway.address) as channel, holder.transaction():
            await holder.execute("SELECT FROM jobs WHERE job_id = $1 FOR UPDATE", job.job_id)
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            calls = [
                stub.CancelJob(
                    gateway_pb2.CancelJobRequest(job_id=job.job_id),
                    metadata=auth.authorization(stack.APP_TOKEN),
                    timeout=5.0 if how == "deadline" else STEP_S,
                )
                for _ in range(4)
            ]

            async def waiting() -> float:
                return float(await other.fetchval(_WAITING))

            await until(waiting, len(calls))
            for call in calls:
                if how == "cancelled":
                    call.cancel()
                else:
                    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            took = await until(waiting, 0, AT_ONCE_S)
            print(f"{how}: all statements gone after {took:.2f} s")
        await holder.close()
        await other.close()
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client:
            assert (await client.cancel(job.job_id)).state.final, "its connections work"

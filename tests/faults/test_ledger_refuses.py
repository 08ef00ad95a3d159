"""Postgres is there and says no: too few connections, conflicts at random. Callers wait or are told UNAVAILABLE, never
INTERNAL, and every job ends exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_runtime import auth
from tests.support import ledger_moves, processes, stack
from tests.support.replicas import assert_exact

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]

Call = grpc.aio.UnaryUnaryCall[Any, Any]
STEP_S = 90.0
TEXTS = [f"text {n}" for n in range(30_000)]
CALLERS = 200
# Longer than a call waits for a connection (2 s), shorter than a transaction waits for a lock (10 s).
LOCKED_S = 5.0

# Each statement that writes one of the hot tables fails once in four times, as two transactions that conflict would.
CONFLICTS = """
    CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF random() < 0.25 THEN
            PERFORM nextval('conflicts');
            RAISE EXCEPTION 'could not serialize access, says the test' USING ERRCODE = '40001';
        END IF;
        RETURN NULL;
    END $$;
    CREATE SEQUENCE conflicts;
"""
TRIGGER = "CREATE TRIGGER conflict AFTER INSERT OR UPDATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION conflict()"
HOT = ("jobs", "batches", "sessions", "cluster")


async def embed(running: stack.Stack) -> Embeddings:
    """All texts, through the SDK."""
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        return await client.embed_texts(TEXTS, workload="hash-384", items_per_job=5_000)


async def crowd(running: stack.Stack) -> Counter[grpc.StatusCode]:
    """Many callers at once, none of whom tries again; the codes they were answered."""
    async with grpc.aio.insecure_channel(running.gateway.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        token = auth.authorization(stack.APP_TOKEN)
        return await _codes(stub.ListJobs(gateway_pb2.ListJobsRequest(), metadata=token) for _ in range(CALLERS))


async def crowd_at_the_scheduler(running: stack.Stack) -> Counter[grpc.StatusCode]:
    """Likewise past the gateway, which would repeat their calls."""
    async with grpc.aio.insecure_channel(running.scheduler.address) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        request = scheduler_pb2.ListJobsRequest(app_id="default")
        token = auth.authorization(stack.INTERNAL_TOKEN)
        return await _codes(stub.ListJobs(request, metadata=token) for _ in range(CALLERS))


async def _codes(calls: Iterable[Call]) -> Counter[grpc.StatusCode]:
    async with asyncio.timeout(STEP_S):
        return Counter(await asyncio.gather(*(call.code() for call in calls)))


async def test_the_pool_is_exhausted(tmp_path: Path) -> None:
    async with stack.running(tmp_path, postgres_pool_size="2") as running:
        embedding = asyncio.create_task(embed(running))
        assert (await crowd(running)).keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        async with ledger_moves.ledger(running) as connection, connection.transaction():
            # Both connections of the scheduler wait for this lock, and everybody else for one of them.
            await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            patient, impatient = (asyncio.create_task(c) for c in (crowd(running), crowd_at_the_scheduler(running)))
            await asyncio.sleep(LOCKED_S)
        codes = await patient
        # The gateway asks again, so its callers only wait; without it they are told.
        assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        at_once = await impatient
        print(f"while the pool was exhausted: through the gateway {dict(codes)}, at the scheduler {dict(at_once)}")
        assert at_once.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert at_once[grpc.StatusCode.UNAVAILABLE] > CALLERS / 2
        assert await crowd(running) == {grpc.StatusCode.OK: CALLERS}
        assert_exact(await embedding, TEXTS)
        assert [s.process.returncode for s in running.services] == [None] * 3


async def test_transactions_conflict_at_random(tmp_path: Path) -> None:
    async with stack.running(tmp_path, workers=2) as running, ledger_moves.ledger(running) as connection:
        await ledger_moves.watch(running)
        await connection.execute(CONFLICTS)
        for table in HOT:
            await connection.execute(TRIGGER.format(table))
        assert_exact(await embed(running), TEXTS)
        conflicts = await connection.fetchval("SELECT last_value FROM conflicts")
        computed = [processes.metric(w.metrics, "podium_worker_items_computed_total") for w in running.workers]
        print(f"{conflicts} transactions were told that they conflict")
        assert conflicts > 10
        assert sum(await asyncio.gather(*computed)) == len(TEXTS)
        assert await ledger_moves.claimed_again(running) == {}
        assert [s.process.returncode for s in running.services] == [None] * 4

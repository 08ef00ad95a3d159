"""Jobs with a budget, through gateway, scheduler and pods of this machine that say that they cost something."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import grpc
import pytest

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_client import AsyncClient, Job
from podium_runtime import auth
from tests.support import local_fleet, stack

pytestmark = pytest.mark.timeout(300)

# $3.60 an hour, and 50 items a second until something has been measured: 2,000 items cost 4 cents, and their pod's way
# up about 20.
LITTLE, ENOUGH = 0.02, 50.0


async def submit(client: AsyncClient, budget_usd: float | None) -> Job:
    texts = [f"text {n} {os.urandom(4).hex()}" for n in range(2_000)]
    return await client.submit(texts, workload="hash-384", budget_usd=budget_usd)


async def reasons(fleet: local_fleet.Fleet) -> str:
    """What `podium explain hash-384` says."""
    async with grpc.aio.insecure_channel(fleet.running.scheduler.address) as channel:
        stub = operator_pb2_grpc.OperatorServiceStub(channel)
        request = operator_pb2.ExplainQueueRequest(workload="hash-384")
        answer = await stub.ExplainQueue(request, metadata=auth.authorization(stack.OPERATOR_TOKEN))
        return "\n".join(answer.reasons)


async def until_finished(client: AsyncClient, job_id: str) -> Job:
    async with asyncio.timeout(local_fleet.STEP_S):
        while (job := await client.job(job_id)).finish_time is None:  # noqa: ASYNC110 - by the scheduler
            await asyncio.sleep(0.1)
    return job


async def test_a_job_without_the_money_for_a_pod_waits_and_is_done_on_one_that_is_there_for_another(
    tmp_path: Path,
) -> None:
    async with (
        local_fleet.from_zero(tmp_path) as fleet,
        AsyncClient(fleet.running.gateway.address, stack.APP_TOKEN) as client,
    ):
        poor = await submit(client, LITTLE)
        assert poor.budget_usd == LITTLE and (await client.job(poor.job_id)).budget_usd == LITTLE
        async with asyncio.timeout(local_fleet.STEP_S):
            while "budget" not in (said := await reasons(fleet)):  # noqa: ASYNC110 - by the scheduler
                await asyncio.sleep(0.1)
        assert "2,000 items wait: $1e-05 is left for each of their jobs' budgets, and each would cost $" in said
        assert await fleet.pods() == []
        rich = await submit(client, ENOUGH)
        done = await until_finished(client, rich.job_id)
        assert 0 < done.progress.items_succeeded == 2_000 and done.budget_usd == ENOUGH
        assert (await until_finished(client, poor.job_id)).progress.items_succeeded == 2_000
        # Given back, for there is nothing left to do. That it is gone for good the provider's list says seconds later.
        (pod,) = await fleet.until(lambda pods: local_fleet.states(pods) in (["DESTROYING"], ["DESTROYED"]))
        assert pod["workload"] == "hash-384"
        # What its batches took is written now and then.
        async with asyncio.timeout(local_fleet.STEP_S):
            while not (cost := (await client.job(rich.job_id)).cost_usd):  # noqa: ASYNC110 - by the scheduler
                await asyncio.sleep(0.1)
        assert 0 < cost < ENOUGH

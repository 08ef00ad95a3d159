"""A job larger than Redis that nobody reads: its pod goes when there is no room, and another comes for its reader."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import redis.asyncio as redis

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_client import AsyncClient
from podium_runtime import auth
from tests.support import local_fleet, stack
from tests.support.local_fleet import states

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

OPERATOR = auth.authorization(stack.OPERATOR_TOKEN)
LIMIT = 16 << 20
TEXTS = [f"text {n}" for n in range(20_000)]
"""Of 384 elements: 29 MiB of results."""
READ_S = 150.0


async def explained(fleet: local_fleet.Fleet) -> list[str]:
    async with grpc.aio.insecure_channel(fleet.running.scheduler.address) as channel:
        operators = operator_pb2_grpc.OperatorServiceStub(channel)
        asked = operator_pb2.ExplainQueueRequest(workload="hash-384")
        return list((await operators.ExplainQueue(asked, metadata=OPERATOR)).reasons)


async def test_its_pod_goes_while_nobody_reads_and_another_comes_for_who_does(tmp_path: Path) -> None:
    async with (
        local_fleet.from_zero(tmp_path) as fleet,
        redis.Redis.from_url(fleet.running.redis.url) as buffer,
        AsyncClient(fleet.running.gateway.address, stack.APP_TOKEN) as client,
    ):
        await buffer.config_set("maxmemory", LIMIT)
        (job,) = await client.submit_texts(TEXTS, workload="hash-384", items_per_job=len(TEXTS))
        (pod,) = await fleet.until(lambda pods: states(pods) == ["DESTROYED"])
        assert pod["reason"] == "IDLE"
        waiting = (await client.job(job.job_id)).progress
        assert 0 < waiting.items_succeeded < len(TEXTS)
        # Another reason to wait was said within the last minute.
        async with asyncio.timeout(local_fleet.STEP_S):
            while not any("wait until results are read" in why for why in await explained(fleet)):  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        # The work is long overdue, and rounds enough to rent another for it have passed.
        assert len(await fleet.pods()) == 1
        async with asyncio.timeout(READ_S):
            read = sum([len(chunk.vectors) async for chunk in client.results(job.job_id)])
        assert read == len(TEXTS)
        assert len(await fleet.pods()) > 1

"""Pods on this machine, rented when there is work and given back when there is none: the whole system, really."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from podium_client import AsyncClient, Job
from tests.support import stack

STEP_S = 60.0
PLAN = """
cluster: e2e
idle_s: 2
drain_grace_s: 5
providers:
  local: {{max_count: 2, price_usd_per_hour: 3.6, folder: {folder}}}
limits: {{max_pods: 2}}
watch: {{interval_s: 0.5, boot_s: 60, worker_s: 5}}
wishes: {{age_gate_s: 0, depth_gate: 1, target_s: 60}}
"""

pytestmark = pytest.mark.timeout(300)


class Fleet:
    """A stack without workers, whose scheduler rents."""

    def __init__(self, running: stack.Stack, ledger: asyncpg.Connection) -> None:
        self.running = running
        self._ledger = ledger

    async def embed(self, texts: int = 200) -> Job:
        async with AsyncClient(self.running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            # Never the same job again: its results would be there already.
            mine = [f"text {n} {os.urandom(4).hex()}" for n in range(texts)]
            result = await client.embed_texts(mine, workload="hash-384")
            assert result.ok.all()
            return await client.job(result.jobs[0])

    async def cost(self, job: Job) -> Job:
        """The job, with what it costs by now."""
        async with AsyncClient(self.running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            return await client.job(job.job_id)

    def workers(self) -> list[psutil.Process]:
        """Of all pods."""
        family = psutil.Process(self.running.scheduler.process.pid).children(recursive=True)
        return [one for one in family if one.cmdline()[-2:] == ["-m", "podium_worker"]]

    async def pods(self) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self._ledger.fetch("SELECT * FROM pods ORDER BY create_time")
        return found

    async def until(self, true: Callable[[list[asyncpg.Record]], bool]) -> list[asyncpg.Record]:
        async with asyncio.timeout(STEP_S):
            while not true(found := await self.pods()):  # noqa: ASYNC110 - by the scheduler
                await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def from_zero(folder: Path, more: str = "") -> AsyncIterator[Fleet]:
    plan = folder / "pods.yaml"
    plan.write_text(PLAN.format(folder=folder / "pods") + more)
    async with stack.servers(folder) as running:
        running.environment["PODIUM_PODS"] = str(plan)
        await running.start("scheduler")
        await running.start("gateway")
        ledger = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
        try:
            yield Fleet(running, ledger)
        finally:
            await ledger.close()


def states(pods: list[asyncpg.Record]) -> list[str]:
    return [pod["state"] for pod in pods]


async def test_a_pod_comes_with_work_and_goes_when_it_is_idle_and_another_comes(tmp_path: Path) -> None:
    async with from_zero(tmp_path) as fleet:
        assert await fleet.pods() == []
        first = await fleet.embed()
        (pod,) = await fleet.until(lambda pods: states(pods) == ["DESTROYED"])
        assert pod["reason"] == "IDLE" and pod["ready_time"] is not None and pod["worker_id"] is not None
        second = await fleet.embed()
        pods = await fleet.until(lambda pods: states(pods) == ["DESTROYED"] * 2)
        assert pods[1]["worker_id"] != pod["worker_id"]
        assert fleet.workers() == []
        # At $3.60 an hour, a GPU-second is a tenth of a cent; each job answers for its own pod.
        for job, pod in zip((first, second), pods, strict=True):
            cost = await fleet.cost(job)
            life_s = (pod["end_time"] - pod["call_time"]).total_seconds()
            assert 0 < cost.gpu_seconds < life_s
            assert cost.cost_usd == pytest.approx(cost.gpu_seconds / 1000, rel=0.01)


async def test_a_pod_that_is_killed_by_hand_is_replaced_and_its_job_completes(tmp_path: Path) -> None:
    async with from_zero(tmp_path, "environment: {PODIUM_FAULT_DELAY_S: '0.03'}") as fleet:
        embedding = asyncio.create_task(fleet.embed(20_000))
        pod = next(p for p in await fleet.until(lambda pods: "READY" in states(pods)) if p["state"] == "READY")
        (worker,) = [one for one in fleet.workers() if one.environ()["PODIUM_POD_ID"] == str(pod["pod_id"])]
        worker.kill()
        await embedding
        pods = await fleet.until(lambda pods: len(pods) >= 2 and set(states(pods)) <= {"DESTROYED", "LOST"})
        assert pods[0]["reason"] in ("PROVIDER_ERROR", "WORKER_GONE", "VANISHED")

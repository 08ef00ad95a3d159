"""A whole system without workers, whose scheduler rents pods on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil

from podium_client import AsyncClient, Job
from tests.support import stack

STEP_S = 90.0
PLAN = """
cluster: e2e
idle_s: 2
drain_grace_s: 5
providers:
  local: {{max_count: 1, price_usd_per_hour: 3.6, folder: {folder}}}
limits: {{max_pods: 1}}
watch: {{interval_s: 0.5, boot_s: 60, worker_s: 5}}
wishes: {{age_gate_s: 0, depth_gate: 1, target_s: 60}}
"""
# Long enough to be seen at work.
SLOWLY = "environment: {PODIUM_FAULT_DELAY_S: '0.03'}"
_NONE: Mapping[str, str] = {}


class Fleet:
    """A stack without workers, whose scheduler rents."""

    def __init__(self, running: stack.Stack, ledger: asyncpg.Connection) -> None:
        self.running = running
        self._ledger = ledger

    async def embed(self, texts: int) -> Job:
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
        return [one for one in family if _is_worker(one)]

    async def pods(self) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self._ledger.fetch("SELECT * FROM pods ORDER BY create_time")
        return found

    async def until(self, true: Callable[[list[asyncpg.Record]], bool]) -> list[asyncpg.Record]:
        async with asyncio.timeout(STEP_S):
            while not true(found := await self.pods()):  # noqa: ASYNC110 - by the scheduler
                await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def from_zero(
    folder: Path, more: str = "", *, scheduler: Mapping[str, str] = _NONE, gateway: Mapping[str, str] = _NONE
) -> AsyncIterator[Fleet]:
    """`more` goes into the pods file; `scheduler` and `gateway` are settings of the one service alone."""
    plan = folder / "pods.yaml"
    plan.write_text(PLAN.format(folder=folder / "pods") + more)
    async with stack.servers(folder) as running:
        running.environment["PODIUM_PODS"] = str(plan)
        await running.start("scheduler", **scheduler)
        await running.start("gateway", **gateway)
        ledger = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
        try:
            yield Fleet(running, ledger)
        finally:
            await ledger.close()


def _is_worker(process: psutil.Process) -> bool:
    # One that has ended, and is a zombie until somebody looks, is none.
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()[-2:] == ["-m", "podium_worker"]
    return False


def states(pods: list[asyncpg.Record]) -> list[str]:
    return [pod["state"] for pod in pods]

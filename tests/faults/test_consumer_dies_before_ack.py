"""Consumers, gateways and Redis die in the middle of ConsumeResults: the table of the pgvector daemons is exact.

The daemons are those of `examples/`, as processes of their own; the truth they are held against is computed here.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import numpy as np
import pytest
import redis.asyncio as redis

from podium_client import AsyncClient
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 100.0
DAEMON = Path(__file__).parents[2] / "examples" / "pgvector_daemon.py"
TEXTS = [f"text {n}" for n in range(40_000)]


@dataclass(slots=True)
class Rig:
    """A stack of replicas, the app's own database beside it, and its daemons."""

    running: stack.Stack
    table: asyncpg.Connection
    url: str
    daemons: list[asyncio.subprocess.Process]

    @property
    def addresses(self) -> str:
        return ",".join(s.address for s in self.running.services if s.name == "gateway")

    async def daemon(self) -> asyncio.subprocess.Process:
        """One more consumer of the group."""
        environment = self.running.environment | {"PODIUM_ADDRESS": self.addresses, "PODIUM_TOKEN": stack.APP_TOKEN}
        started = await asyncio.create_subprocess_exec(sys.executable, str(DAEMON), self.url, env=environment)
        self.daemons.append(started)
        return started

    async def rows(self) -> int:
        """Items that are in the table."""
        if await self.table.fetchval("SELECT to_regclass('podium_items')") is None:
            return 0
        return int(await self.table.fetchval("SELECT count(*) FROM podium_items"))

    async def until_rows(self, count: int) -> None:
        async with asyncio.timeout(STEP_S):
            while True:
                if await self.rows() >= count:
                    return
                await asyncio.sleep(0.05)

    async def until_jobs(self, job_ids: list[str]) -> None:
        """Until the end of each job is in the table, and so everything else of it."""
        async with asyncio.timeout(STEP_S):
            while True:
                if await self.rows() and await self.table.fetchval("SELECT count(*) FROM podium_jobs") == len(job_ids):
                    return
                await asyncio.sleep(0.1)

    async def assert_exact(self, job_ids: list[str]) -> None:
        """Each item is there once, with its own vector."""
        assert await self.rows() == len(TEXTS)
        first = 0
        for job_id in job_ids:
            query = "SELECT item_index, embedding::text, error_reason FROM podium_items WHERE job_id = $1 ORDER BY 1"
            found = await self.table.fetch(query, job_id)
            assert [r["item_index"] for r in found] == list(range(len(found)))
            assert {r["error_reason"] for r in found} == {None}
            vectors = np.array([np.fromstring(r["embedding"][1:-1], np.float32, sep=",") for r in found])
            expected = hash_vectors([t.encode() for t in TEXTS[first : first + len(found)]], 384)
            np.testing.assert_array_equal(vectors, expected)
            first += len(found)
        assert first == len(TEXTS)


@asynccontextmanager
async def rig(directory: Path) -> AsyncIterator[Rig]:
    """Two gateways, two schedulers, two workers; the app's database is another one on the same server."""
    async with stack.servers(directory, as_deployed=True) as running:
        settings = {"consumer_lease_s": "2"}
        await asyncio.gather(*(running.start("scheduler", **settings) for _ in range(2)))
        schedulers = [s.address for s in running.services]
        running.environment["PODIUM_SCHEDULER_ADDRESS"] = ",".join(schedulers)
        await asyncio.gather(*(running.start(name) for name in ("gateway", "gateway", "worker", "worker")))
        admin = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
        await admin.execute("CREATE DATABASE vectors")
        await admin.close()
        url = running.postgres.url.replace("+asyncpg", "").rsplit("/", 1)[0] + "/vectors"
        table = await asyncpg.connect(url)
        made = Rig(running, table, url, [])
        try:
            yield made
        finally:
            for daemon in made.daemons:
                if daemon.returncode is None:
                    daemon.kill()
                await daemon.wait()
            await table.close()


async def submit(at: Rig) -> list[str]:
    async with AsyncClient(at.addresses, stack.APP_TOKEN) as client:
        return [job.job_id for job in await client.submit_texts(TEXTS, workload="hash-384")]


async def test_one_of_two_daemons_is_killed_before_it_acknowledges(tmp_path: Path) -> None:
    async with rig(tmp_path) as at:
        victim, survivor = await at.daemon(), await at.daemon()
        job_ids = await submit(at)
        await at.until_rows(len(TEXTS) // 10)
        victim.kill()
        await at.until_jobs(job_ids)
        await at.assert_exact(job_ids)
        survivor.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STEP_S):
            assert await survivor.wait() == 0


async def test_every_daemon_is_killed_again_and_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as at:
        job_ids = await submit(at)
        for share in (0.1, 0.3, 0.5, 0.7):
            daemon = await at.daemon()
            await at.until_rows(int(share * len(TEXTS)))
            daemon.kill()
            await daemon.wait()
        await at.daemon()
        await at.until_jobs(job_ids)
        await at.assert_exact(job_ids)


async def test_the_gateways_are_killed_one_after_the_other(tmp_path: Path) -> None:
    async with rig(tmp_path) as at:
        gateways = [s for s in at.running.services if s.name == "gateway"]
        await at.daemon()
        job_ids = await submit(at)
        for share, gateway in zip((0.1, 0.4), gateways, strict=True):
            await at.until_rows(int(share * len(TEXTS)))
            await gateway.stop(signal.SIGKILL)
            await at.running.start("gateway", gateway_listen=gateway.address)
        await at.until_jobs(job_ids)
        await at.assert_exact(job_ids)


async def test_redis_loses_everything(tmp_path: Path) -> None:
    async with rig(tmp_path) as at:
        await at.daemon()
        job_ids = await submit(at)
        await at.until_rows(len(TEXTS) // 10)
        async with redis.Redis.from_url(at.running.redis.url) as client:
            await client.flushall()
        await at.until_jobs(job_ids)
        await at.assert_exact(job_ids)

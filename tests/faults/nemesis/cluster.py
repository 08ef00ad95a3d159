"""The cluster under test: every process real, and a proxy on every edge between two of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from podium_embedded import EmbeddedPostgres, EmbeddedRedis
from tests.faults.nemesis import plan
from tests.faults.nemesis.members import Member
from tests.support import stack
from tests.support.ports import free_port
from tests.support.tcp_proxy import TcpProxy

WORKLOADS = {"hash-384": 384, "hash-1024": 1024}
LEDGER_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection to a Postgres that is down, paused or just restarted raises."""
_START_S = 120.0
_WORKER = {
    "devices": "cpu",
    "torch_threads": "1",
    # A hash costs nothing: without a little patience no fault would ever meet a batch in hand.
    "fault_delay_s": "0.01",
    # Shorter than a paused executor may stay so.
    "stillness_limit_s": "5",
}


@dataclass(slots=True)
class Cluster:
    """All that runs. Members and edges go by the names of the plan."""

    servers: stack.Stack
    members: dict[str, Member]
    edges: dict[str, TcpProxy]

    @property
    def postgres(self) -> EmbeddedPostgres:
        """Postgres itself, not through a proxy."""
        return self.servers.own_postgres

    @property
    def redis(self) -> EmbeddedRedis:
        """Redis itself, not through a proxy."""
        return self.servers.redis

    @property
    def gateways(self) -> str:
        """Where clients connect."""
        return _addresses(self.edges[f"client>{g}"] for g in plan.GATEWAYS)

    @property
    def findings(self) -> list[str]:
        """What the supervisors have seen that must not happen."""
        return [finding for member in self.members.values() for finding in member.findings]

    def lives(self) -> list[stack.Service]:
        """Every process that ran, those of now included."""
        return [life for member in self.members.values() for life in member.lives]

    async def all_ready(self) -> None:
        """Waits until every member has been ready once."""
        await asyncio.gather(*(member.first_ready() for member in self.members.values()))

    @contextlib.asynccontextmanager
    async def ledger(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection to Postgres."""
        connection = await asyncpg.connect(self.postgres.url.replace("+asyncpg", ""), timeout=10, command_timeout=30)
        try:
            yield connection
        finally:
            connection.terminate()

    def buffer(self) -> Redis:
        """A new client of Redis; the caller closes it."""
        return Redis.from_url(self.redis.url, socket_timeout=10, socket_connect_timeout=10)


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Cluster]:
    """The whole cluster, ready; its logs lie in `directory`."""
    async with stack.servers(directory, as_deployed=True) as servers, contextlib.AsyncExitStack() as exits:
        edges = {name: TcpProxy(0) for name in plan.EDGES}
        for proxy in edges.values():
            await exits.enter_async_context(proxy)
        listens = {name: free_port() for name in (*plan.GATEWAYS, *plan.SCHEDULERS)}
        listens |= {plan.POSTGRES: servers.postgres.port, plan.REDIS: servers.redis.port}
        for name, proxy in edges.items():
            proxy.target_port = listens[name.split(">")[1]]
        members = {n: Member(n, servers, _settings(n, servers, edges, listens)) for n in plan.SERVICES}
        cluster = Cluster(servers, members, edges)
        tasks = [asyncio.create_task(member.run(), name=member.name) for member in members.values()]
        try:
            async with asyncio.timeout(_START_S):
                await cluster.all_ready()
            yield cluster
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for member in members.values():
                member.signal(signal.SIGKILL)


def _settings(name: str, servers: stack.Stack, edges: dict[str, TcpProxy], listens: dict[str, int]) -> dict[str, str]:
    """What a member is told: its own address, and the proxies of its edges as everybody else's."""
    schedulers = _addresses(edges[f"{name}>{s}"] for s in plan.SCHEDULERS if f"{name}>{s}" in edges)
    if name in plan.WORKERS:
        return {"scheduler_address": schedulers, "workloads": ",".join(WORKLOADS), **_WORKER}
    settings = {"redis_url": _through(servers.redis.url, edges[f"{name}>{plan.REDIS}"])}
    if name in plan.GATEWAYS:
        return settings | {"gateway_listen": f"127.0.0.1:{listens[name]}", "scheduler_address": schedulers}
    return settings | {
        "scheduler_listen": f"127.0.0.1:{listens[name]}",
        "replica_id": name,
        "postgres_url": _through(servers.postgres.url, edges[f"{name}>{plan.POSTGRES}"]),
    }


def _addresses(proxies: Iterable[TcpProxy]) -> str:
    return ",".join(proxy.address for proxy in proxies)


def _through(url: str, proxy: TcpProxy) -> str:
    return re.sub(r"@127\.0\.0\.1:\d+", f"@{proxy.address}", url)

"""What processes spent between two moments: CPU seconds, transactions, commands. Other load does not change these."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg
import psutil
import redis.asyncio as redis

from tests.support import stack


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters, all growing. `cpu_s`: user and system seconds of each process with all that it has started, by name."""

    at: float
    cpu_s: Mapping[str, float]
    transactions: int
    commands: int


@dataclass(frozen=True, slots=True)
class Span:
    """From one reading to a later one."""

    first: Reading
    last: Reading

    @property
    def seconds(self) -> float:
        """Its length, by the wall's clock."""
        return self.last.at - self.first.at

    def cpu_s(self, name: str) -> float:
        """CPU seconds of a process."""
        return self.last.cpu_s[name] - self.first.cpu_s[name]

    def core_shares(self) -> dict[str, float]:
        """Of each process, the share of one core that it took, 0 to the number of cores."""
        return {name: self.cpu_s(name) / self.seconds for name in self.last.cpu_s}

    @property
    def transactions_per_s(self) -> float:
        """Transactions that Postgres ended, autovacuum's too."""
        return (self.last.transactions - self.first.transactions) / self.seconds

    @property
    def commands_per_s(self) -> float:
        """Commands that Redis took."""
        return (self.last.commands - self.first.commands) / self.seconds


class Meter:
    """Reads what the processes of a stack have spent."""

    def __init__(self, running: stack.Stack) -> None:
        self._running = running

    async def read(self) -> Reading:
        """Takes all counters."""
        pids = {service.name: service.process.pid for service in self._running.services}
        servers = {"postgres": self._running.own_postgres.pid, "redis": self._running.redis.pid}
        pids |= {name: pid for name, pid in servers.items() if pid is not None}
        cpu_s = {name: tree_cpu_s(pid) for name, pid in pids.items()}
        return Reading(time.monotonic(), cpu_s, await self._transactions(), await self._commands())

    async def _transactions(self) -> int:
        connection = await asyncpg.connect(self._running.postgres.url.replace("+asyncpg", ""))
        try:
            return int(await connection.fetchval("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"))
        finally:
            await connection.close()

    async def _commands(self) -> int:
        client = redis.Redis.from_url(self._running.redis.url)
        try:
            found = await client.info("stats")
            return int(found["total_commands_processed"])
        finally:
            await client.aclose()


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants, those that it has seen end too."""
    root = psutil.Process(pid)
    seconds = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += spent.user + spent.system + spent.children_user + spent.children_system
    return seconds


def resident_bytes(pid: int) -> int:
    """Memory of one process, without its children."""
    return int(psutil.Process(pid).memory_info().rss)

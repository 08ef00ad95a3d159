"""A whole Podium for tests: real processes, real gRPC, real Postgres and Redis, on free ports, gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis.asyncio as redis

from podium_embedded import EmbeddedPostgres, EmbeddedRedis
from podium_scheduler.adapters.sql import migrate
from tests.support import nursery, shared_postgres

APP_TOKEN = "test-app-token"
INTERNAL_TOKEN = "test-internal-token"
JOIN_TOKEN = "test-join-token"
OPERATOR_TOKEN = "test-operator-token"
START_S = 60.0
STOP_S = 20.0


@dataclass(slots=True)
class Service:
    """A running service process."""

    name: str
    process: asyncio.subprocess.Process | nursery.Child
    ready: Mapping[str, str]
    log: Path
    ready_file: Path

    @property
    def address(self) -> str:
        """Where its gRPC server listens."""
        return self.ready["grpc"]

    @property
    def metrics(self) -> str:
        """Where its Prometheus endpoint listens."""
        return self.ready["metrics"]

    async def become_ready(self) -> None:
        """Waits for its ready file. AssertionError, with the end of its log, when it ends before."""
        async with asyncio.timeout(START_S):
            while not self.ready_file.exists():
                if self.process.returncode is not None:
                    raise AssertionError(f"{self.name} ended at start:\n{self.log.read_text()[-4000:]}")
                await asyncio.sleep(0.02)
        self.ready = json.loads(self.ready_file.read_text())

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; returns the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


@dataclass(slots=True)
class Stack:
    """Servers and the services started on them."""

    directory: Path
    postgres: EmbeddedPostgres | shared_postgres.Lent
    redis: EmbeddedRedis
    services: list[Service] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Names the files of each service, of those too that start at the same time."""

    @property
    def own_postgres(self) -> EmbeddedPostgres:
        """The server, of a stack that has one to itself: it may be stopped and killed."""
        assert isinstance(self.postgres, EmbeddedPostgres), "ask for servers(as_deployed=True)"
        return self.postgres

    @property
    def gateway(self) -> Service:
        """The first gateway."""
        return next(s for s in self.services if s.name == "gateway")

    @property
    def scheduler(self) -> Service:
        """The first scheduler."""
        return next(s for s in self.services if s.name == "scheduler")

    @property
    def workers(self) -> list[Service]:
        """All workers."""
        return [s for s in self.services if s.name == "worker"]

    async def start(self, name: str, **settings: str) -> Service:
        """Starts `python -m podium_<name>` with PODIUM_ settings and waits until it is ready."""
        service = await self.spawn(name, **settings)
        await service.become_ready()
        return service

    async def spawn(self, name: str, **settings: str) -> Service:
        """Starts it without waiting for anything."""
        number = next(self.numbers)
        ready_file, log = self.directory / f"{name}-{number}.json", self.directory / f"{name}-{number}.log"
        environment = self.environment | {f"PODIUM_{k.upper()}": v for k, v in settings.items()}
        environment |= {"PODIUM_READY_FILE": str(ready_file), "PODIUM_PARENT_PID": str(os.getpid())}
        if name != "scheduler" and "PODIUM_SCHEDULER_ADDRESS" not in environment:
            environment["PODIUM_SCHEDULER_ADDRESS"] = self.scheduler.address
        service = Service(name, await self._run(f"podium_{name}", environment, log), {}, log, ready_file)
        self.services.append(service)
        return service

    async def _run(
        self, module: str, environment: Mapping[str, str], log: Path
    ) -> asyncio.subprocess.Process | nursery.Child:
        if isinstance(self.postgres, shared_postgres.Lent):
            return await asyncio.to_thread(nursery.fork, module, environment, log)
        with log.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, env=environment, stdout=output, stderr=output
            )

    async def close(self) -> None:
        """Stops what still runs, the schedulers last: the others say goodbye to them."""
        for last in (False, True):
            async with asyncio.TaskGroup() as group:
                for service in self.services:
                    if (service.name == "scheduler") is last:
                        group.create_task(_stopped(service))


async def _stopped(service: Service) -> None:
    with contextlib.suppress(ProcessLookupError):
        await service.stop()


@contextlib.asynccontextmanager
async def servers(directory: Path, *, as_deployed: bool = False) -> AsyncIterator[Stack]:
    """An empty, migrated ledger and Redis; no service yet.

    as_deployed: for tests that stop or kill Postgres, and for whoever measures: a durable server of the stack's own,
    and services for which Python is executed. The others share one server, and have a database of it, and their
    services are forked from a process that has imported them.
    """
    postgres = _own(directory / "pg") if as_deployed else shared_postgres.migrated()
    async with postgres as database, EmbeddedRedis(directory / "redis") as buffer:
        stack = Stack(directory, database, buffer, environment=_environment(database.url, buffer.local_url))
        try:
            yield stack
        finally:
            await stack.close()


@contextlib.asynccontextmanager
async def _own(directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(directory) as postgres:
        await migrate.upgrade(postgres.url)
        yield postgres


@contextlib.asynccontextmanager
async def fresh(shared: Stack, directory: Path) -> AsyncIterator[Stack]:
    """An empty, migrated ledger, and the Redis of `shared`, empty."""
    client = redis.Redis.from_url(shared.redis.url)
    await client.flushall()
    await client.aclose()
    async with shared_postgres.migrated() as database:
        stack = Stack(directory, database, shared.redis, environment=_environment(database.url, shared.redis.local_url))
        try:
            yield stack
        finally:
            await stack.close()


def _environment(postgres_url: str, redis_url: str) -> dict[str, str]:
    """What every service gets; nothing of Podium's from the outside."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PODIUM_")} | {
        "PODIUM_POSTGRES_URL": postgres_url,
        "PODIUM_REDIS_URL": redis_url,
        "PODIUM_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "PODIUM_JOIN_TOKEN": JOIN_TOKEN,
        "PODIUM_OPERATOR_TOKEN": OPERATOR_TOKEN,
        "PODIUM_BOOTSTRAP_APP_TOKEN": APP_TOKEN,
        "HF_HUB_OFFLINE": "1",
    }


@contextlib.asynccontextmanager
async def running(
    directory: Path, *, workers: int = 1, as_deployed: bool = False, **settings: str
) -> AsyncIterator[Stack]:
    """A whole stack; `settings` go to every service. as_deployed: see `servers`."""
    async with servers(directory, as_deployed=as_deployed) as stack:
        stack.environment |= {f"PODIUM_{k.upper()}": v for k, v in settings.items()}
        await stack.start("scheduler")
        await asyncio.gather(stack.start("gateway"), *(stack.start("worker") for _ in range(workers)))
        yield stack

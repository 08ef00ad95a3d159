"""The stack: start everything in order, keep it alive, end it in the opposite order.

Order of the end: the gateway refuses new calls, the workers give their batches back, the scheduler writes its
last word, Redis and Postgres go last. A second request to stop makes it short.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from podium_cli.stack import credentials as creds
from podium_cli.stack.environment import Environments
from podium_cli.stack.options import StackOptions
from podium_cli.stack.service import Report, Service, StackError
from podium_embedded import DataDirLock, EmbeddedError, EmbeddedPostgres, EmbeddedRedis, ServerProcess


class Stack:
    """One Podium on this machine. `report` gets a line for everything a person should know."""

    def __init__(self, options: StackOptions, report: Report) -> None:
        self.options = options
        self.postgres: EmbeddedPostgres | None = None
        self.redis: EmbeddedRedis | None = None
        self.scheduler: Service | None = None
        self.gateway: Service | None = None
        self.workers: list[Service] = []
        self.hurry = asyncio.Event()
        self._report = report
        self._lock = DataDirLock(options.data_dir / "podium.lock", f"podium up: {options.data_dir}")
        self._keepers: asyncio.Task[None] | None = None
        self._credentials: creds.Credentials | None = None

    @property
    def address(self) -> str:
        """The gateway's address."""
        return self._running(self.gateway).address

    @property
    def credentials(self) -> creds.Credentials:
        """The stack's tokens."""
        if self._credentials is None:
            raise StackError("the stack has not been started")
        return self._credentials

    async def start(self) -> None:
        """Starts everything and returns when it is ready. StackError or EmbeddedError when it cannot."""
        options = self.options
        options.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        self._lock.acquire()
        try:
            self._credentials = creds.Credentials.load_or_create(options.data_dir)
            postgres_url, redis_url = await self._start_servers()
            environments = Environments(options, self._credentials, postgres_url, redis_url, os.environ)
            await self._migrate(environments)
            await self._start_services(environments)
        except BaseException:
            await self.stop()
            raise
        creds.write_connection_file(options.data_dir, self.address, self._scheduler_address, self._credentials)
        self._keepers = asyncio.create_task(self._keep_all())

    async def watch(self) -> None:
        """Returns never; raises when something the stack cannot do without is gone for good."""
        if self._keepers is None:
            raise StackError("the stack has not been started")
        await asyncio.shield(self._keepers)

    async def stop(self) -> None:
        """Ends everything that runs, and waits for it."""
        if self._keepers is not None:
            self._keepers.cancel()
            await asyncio.gather(self._keepers, return_exceptions=True)
        creds.remove_connection_file(self.options.data_dir)
        await self._stop_together(self.gateway)
        await self._stop_together(*self.workers)
        await self._stop_together(self.scheduler)
        for server in (self.redis, self.postgres):
            if server is not None:
                await server.stop()
        self._lock.release()

    async def _stop_together(self, *services: Service | None) -> None:
        await asyncio.gather(*(service.stop(self.hurry) for service in services if service is not None))

    async def _start_servers(self) -> tuple[str, str]:
        """Embedded ones, unless we were given others; returns the URLs of Postgres and of Redis."""
        data = self.options.data_dir
        wanted: list[Coroutine[Any, Any, None]] = []
        if self.options.postgres_url is None:
            self.postgres = EmbeddedPostgres(data)
            wanted.append(self.postgres.start())
        if self.options.redis_url is None:
            self.redis = EmbeddedRedis(data)
            wanted.append(self.redis.start())
        if wanted:
            self._report("starting Postgres and Redis" if len(wanted) == 2 else "starting the embedded server")
        await _all(wanted)
        postgres_url = self.options.postgres_url or (self.postgres.url if self.postgres else "")
        redis_url = self.options.redis_url or (self.redis.local_url if self.redis else "")
        return postgres_url, redis_url

    async def _migrate(self, environments: Environments) -> None:
        self._report("bringing the database up to date")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "podium_scheduler", "migrate", env=environments.scheduler(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise StackError(f"the migration failed ({process.returncode}):\n{output.decode(errors='replace').strip()}")

    async def _start_services(self, environments: Environments) -> None:
        data, workers = self.options.data_dir, self.options.workers
        rest = f"{workers} worker{'' if workers == 1 else 's'}"
        if self.options.pods:
            rest += f", and at most {self.options.pods} pod{'' if self.options.pods == 1 else 's'} when there is work"
        self._report(f"starting the scheduler, the gateway and {rest}")
        self.scheduler = Service(
            "scheduler",
            "podium_scheduler",
            environments.scheduler(),
            data,
            listen_variables={"grpc": "PODIUM_SCHEDULER_LISTEN"},
        )
        await self.scheduler.start()
        address = self._scheduler_address
        self.gateway = Service(
            "gateway",
            "podium_gateway",
            environments.gateway(address),
            data,
            listen_variables={"grpc": "PODIUM_GATEWAY_LISTEN", "http": "PODIUM_GATEWAY_HTTP_LISTEN"},
        )
        self.workers = [
            Service(f"worker-{number}", "podium_worker", environments.worker(address), data, may_leave=True)
            for number in range(1, workers + 1)
        ]
        await _all([service.start() for service in (self.gateway, *self.workers)])

    @property
    def _scheduler_address(self) -> str:
        return self._running(self.scheduler).address

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for service in (self.scheduler, self.gateway, *self.workers):
                group.create_task(self._running(service).keep(self._report))
            for server in (self.postgres, self.redis):
                if server is not None:
                    group.create_task(self._keep_server(server))

    async def _keep_server(self, server: ServerProcess) -> None:
        """Starts an embedded server that ended again, on the same port: the services know it by that."""
        while True:
            code = await server.wait()
            self._report(f"{server.name} ended ({code}); starting it again (log: {server.log_file})")
            port = server.port
            await server.stop()
            await server.start(port)
            self._report(f"{server.name} is back (pid {server.pid})")

    @staticmethod
    def _running(service: Service | None) -> Service:
        if service is None:
            raise StackError("the stack has not been started")
        return service

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _all(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Runs them together; when one fails, waits for the others before raising its error, plain."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, StackError | EmbeddedError):
            raise result
    for result in results:
        if isinstance(result, BaseException):
            raise result

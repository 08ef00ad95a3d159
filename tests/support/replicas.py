"""Two schedulers, two gateways and three workers as real processes, each findable in the ledger by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import ledger_moves, stack

STEP_S = 240.0
SCHEDULERS = ("scheduler0", "scheduler1")
GATEWAYS = ("gateway0", "gateway1")
WORKERS = ("worker0", "worker1", "worker2")
_NAME_SETTING = {"scheduler": "replica_id", "worker": "hostname"}


@dataclass(slots=True)
class Replicas:
    """The stack and its processes by name: `scheduler0`, `worker2`."""

    running: stack.Stack
    named: dict[str, stack.Service] = field(default_factory=dict)

    async def start(self, name: str, **settings: str) -> stack.Service:
        """Starts one process under a name of its kind and waits until it is ready."""
        kind = name.rstrip("0123456789")
        if kind in _NAME_SETTING:
            settings[_NAME_SETTING[kind]] = name
        self.named[name] = await self.running.start(kind, **settings)
        return self.named[name]

    async def start_all(self, own: Mapping[str, Mapping[str, str]]) -> None:
        """Starts them all; `own`: settings of one process, by its name."""
        await asyncio.gather(*(self.start(name, **own.get(name, {})) for name in SCHEDULERS))
        self.running.environment["PODIUM_SCHEDULER_ADDRESS"] = self.addresses("scheduler")
        await asyncio.gather(*(self.start(name, **own.get(name, {})) for name in (*GATEWAYS, *WORKERS)))

    def of(self, kind: str) -> dict[str, stack.Service]:
        """Those of a kind."""
        return {name: service for name, service in self.named.items() if service.name == kind}

    def addresses(self, kind: str) -> str:
        """Where all of a kind listen, as settings take it."""
        return ",".join(dict.fromkeys(service.address for service in self.of(kind).values()))

    async def embed_while(
        self, texts: list[str], act: Callable[[], Awaitable[object]], at: float = 0.3, items_per_job: int = 50_000
    ) -> Embeddings:
        """Embeds the texts through all gateways; `act` happens once the given share has come back."""
        reached = asyncio.Event()

        def progress(call: object) -> None:
            if getattr(call, "items_done", 0) >= at * len(texts):
                reached.set()

        async with AsyncClient(self.addresses("gateway"), stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            embedding = asyncio.create_task(
                client.embed_texts(texts, workload="hash-384", progress=progress, items_per_job=items_per_job)
            )
            await reached.wait()
            await act()
            return await embedding


@asynccontextmanager
async def replicated(directory: Path, **settings: str) -> AsyncIterator[Replicas]:
    """All of it, ready, its ledger watched by `ledger_moves`; `settings` go to every service."""
    async with stack.servers(directory, as_deployed=True) as running:
        running.environment |= {f"PODIUM_{k.upper()}": v for k, v in settings.items()}
        await ledger_moves.watch(running)
        replicas = Replicas(running)
        await replicas.start_all({})
        yield replicas


def assert_exact(result: Embeddings, texts: list[str]) -> None:
    """Every text has exactly its own vector."""
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in texts], 384))

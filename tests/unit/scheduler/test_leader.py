"""The leader's loop: what a replica that no longer leads leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY

from podium_runtime import clock
from podium_scheduler.app import consumer_keeper, leader, queue_metrics, records

STEP_S = 10.0


class Leadership:
    """Leads until told otherwise."""

    def __init__(self) -> None:
        self.leads = False
        self.term = 0
        self.superseded = False

    async def attempt(self) -> bool:
        self.leads = not self.superseded
        return self.leads

    async def confirm(self) -> bool:
        self.leads = not self.superseded
        return self.leads

    async def resign(self) -> None:
        self.leads = False


class System:
    """What the gauges are read from: three batches of one workload wait."""

    def __init__(self) -> None:
        self.read = asyncio.Event()

    async def replicas(self, kind: str, **_: object) -> None: ...

    async def depths(self, workloads: Sequence[str] = ()) -> Any:
        return dict.fromkeys(workloads, 0) if workloads else [records.WorkloadDepth("hash-384", 3, None)]

    async def credits(self) -> dict[str, int]:
        return {}

    async def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        self.read.set()
        return {"RUNNING": 1}, {"LEASED": 1}


def _seen() -> list[float | None]:
    return [
        REGISTRY.get_sample_value("podium_queue_pending_batches", {"workload": "hash-384"}),
        REGISTRY.get_sample_value("podium_jobs", {"state": "RUNNING"}),
        REGISTRY.get_sample_value("podium_deliveries"),
    ]


async def test_gauges_of_the_whole_system_go_with_the_lead() -> None:
    """Else a sum over the replicas counts everything twice, the older half for ever."""
    leadership, system = Leadership(), System()
    fake: Any = system

    def loops_of_term(_: int) -> list[Any]:
        consumer_keeper.WAITING.set(5)
        return [queue_metrics.QueueMetrics(fake, fake, fake, ["hash-384"], clock.FakeClock())]

    forget = (queue_metrics.forget, consumer_keeper.forget)
    one = leader.Leader(leadership, fake, loops_of_term, forget)
    await one.run_once()
    async with asyncio.timeout(STEP_S):
        while _seen() != [3.0, 1.0, 5.0]:
            await system.read.wait()
            await asyncio.sleep(0)
    leadership.superseded = True
    await one.run_once()
    assert _seen() == [None, None, 0.0]
    await one.close()

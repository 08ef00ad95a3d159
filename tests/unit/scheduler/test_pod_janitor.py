"""Pods that are long over leave the ledger; those that nobody watches are told of."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import structlog
from prometheus_client import REGISTRY

from podium_runtime import clock, ids
from podium_scheduler.app import pod_janitor, records
from podium_scheduler.domain import pods
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel


class Rig:
    def __init__(self, *configured: str, retention: timedelta = timedelta(days=30)) -> None:
        self.time = clock.FakeClock()
        self.ids = ids.SequentialIds()
        self.ledger = PodLedgerModel(self.time)
        self.janitor = pod_janitor.PodJanitor(self.ledger, configured, retention)

    async def intend(self, provider: str) -> pods.Pod:
        made = self.ids.uuid4()
        (pod,) = await self.ledger.intend(
            [records.NewPod(made, pods.name_of("test", made), provider, "L4", 1, Decimal(1))]
        )
        return pod

    async def fail(self, pod: pods.Pod) -> None:
        await self.ledger.move([Move(pod.pod_id, State.INTENDED, State.FAILED, Reason.NOT_WANTED)])


def unwatched(provider: str) -> float | None:
    return REGISTRY.get_sample_value("podium_pods_unwatched", {"provider": provider})


async def test_a_pod_is_forgotten_when_jobs_of_its_time_are() -> None:
    rig = Rig("cloud")
    pod, alive = await rig.intend("cloud"), await rig.intend("cloud")
    await rig.fail(pod)
    rig.time.advance(30 * 86_400 - 1)
    await rig.janitor.run_once()
    assert pod.pod_id in rig.ledger.rows
    rig.time.advance(1)
    assert await rig.janitor.run_once() >= 60
    assert list(rig.ledger.rows) == [alive.pod_id]
    assert not await rig.ledger.history(pod.pod_id)


async def test_the_bill_of_today_keeps_its_pods_however_short_the_retention_is() -> None:
    rig = Rig("cloud", retention=timedelta(seconds=1))
    pod = await rig.intend("cloud")
    await rig.fail(pod)
    rig.time.advance(86_400)
    await rig.janitor.run_once()
    assert pod.pod_id in rig.ledger.rows


async def test_many_are_forgotten_in_bounded_steps() -> None:
    rig = Rig("cloud")
    for _ in range(501):
        await rig.fail(await rig.intend("cloud"))
    rig.time.advance(31 * 86_400)
    assert await rig.janitor.run_once() < 1
    assert len(rig.ledger.rows) == 1
    assert await rig.janitor.run_once() >= 60
    assert not rig.ledger.rows


async def test_a_pod_whose_provider_is_not_configured_is_told_of_once_and_counted_until_it_is_over() -> None:
    rig = Rig("cloud")
    mine, stranded = await rig.intend("cloud"), await rig.intend("gone")
    with structlog.testing.capture_logs() as said:
        await rig.janitor.run_once()
        await rig.janitor.run_once()
    told: list[Any] = [one for one in said if one["event"] == "pod_unwatched"]
    assert [(one["pod_id"], one["provider"]) for one in told] == [(str(stranded.pod_id), "gone")]
    assert unwatched("gone") == 1 and unwatched("cloud") is None
    await rig.fail(stranded)
    await rig.janitor.run_once()
    assert unwatched("gone") is None and mine.pod_id in rig.ledger.rows

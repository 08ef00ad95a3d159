"""Docker and Kubernetes where everything goes wrong at random: nothing escapes, nothing is made twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from podium_scheduler.app import providers
from podium_scheduler.app.providers import Order, Status
from tests.support import provider_rigs
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Misbehaviour, Operation
from tests.support.provider_rigs import CLUSTER, CLUSTERS, CloudControls, Rig

LIVES = 80
IMPATIENT_S = 0.5


class Opened:
    """A provider on its stand-in."""

    def __init__(self, rig: Rig) -> None:
        assert isinstance(rig.controls, CloudControls)
        self.provider = rig.provider
        self.cloud = rig.controls.cloud
        self.time = rig.controls.time

    async def order(self, number: int) -> Order:
        """Of a pod without GPUs."""
        name = f"{CLUSTER}{number:04d}"
        return Order(UUID(int=number), name, providers.Offer(self.provider.name, "", 0, 0.25), "i", ("c",), {"A": "b"})

    async def create(self, misbehaviour: Misbehaviour) -> providers.Listed:
        """A pod that goes wrong in this way."""
        self.cloud.script.add(Operation.CREATE, misbehaviour)
        return await self.provider.create(await self.order(1))


@pytest.fixture(params=CLUSTERS)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    async with provider_rigs.open_cloud(CLUSTERS[request.param], tmp_path, 20.0) as rig:
        yield Opened(rig)


async def test_a_pod_that_dies_is_listed_as_stopped_until_it_is_destroyed(opened: Opened) -> None:
    made = await opened.create(Misbehaviour(dies=600.0))
    opened.time.advance(599)
    assert [pod.status for pod in await opened.provider.list()] == [Status.RUNNING]
    opened.time.advance(1)
    assert [pod.status for pod in await opened.provider.list()] == [Status.STOPPED]
    await opened.provider.destroy(made.provider_pod_id)
    assert not await opened.provider.list()


async def test_a_pod_that_vanishes_is_neither_listed_nor_billed(opened: Opened) -> None:
    await opened.create(Misbehaviour(vanishes=600.0))
    opened.time.advance(1_200)
    assert not await opened.provider.list()
    assert opened.cloud.total_usd() == Decimal("0.25") / 6


async def test_a_stale_list_is_only_that(opened: Opened) -> None:
    assert not await opened.provider.list()
    made = await opened.create(stand_in.WELL)
    opened.cloud.script.add(Operation.LIST, Misbehaviour(lists_stale=True))
    assert [pod.name for pod in await opened.provider.list()] in ([], [made.name])
    assert [pod.name for pod in await opened.provider.list()] == [made.name]


async def test_whatever_goes_wrong_no_pod_escapes_who_lists_and_destroys(tmp_path: Path) -> None:
    # Side by side, for most of it is silence.
    async with asyncio.TaskGroup() as all_of_them:
        for name in CLUSTERS:
            all_of_them.create_task(escapes_nobody(name, tmp_path / name), name=name)


async def escapes_nobody(name: str, folder: Path) -> None:
    """And what promises that nothing was created keeps it."""
    plan = stand_in.Seeded(20261126, stand_in.rough(0.02))
    async with provider_rigs.open_cloud(CLUSTERS[name], folder, IMPATIENT_S, plan) as rig:
        opened = Opened(rig)
        for number in range(LIVES):
            opened.time.advance(5)
            order = await opened.order(number)
            try:
                await opened.provider.create(order)
            except providers.Ambiguous:
                pass
            except providers.ProviderError:
                assert order.name not in {pod.name for pod in opened.cloud.existing()}
        assert LIVES / 2 < len(opened.cloud.pods) < LIVES
        opened.time.advance(opened.provider.list_lag_s)
        for _ in range(LIVES):
            if opened.cloud.existing():
                await sweep(opened)
        assert not opened.cloud.existing()
        assert len({pod.name for pod in opened.cloud.pods.values()}) == len(opened.cloud.pods), "made twice"


async def sweep(opened: Opened) -> None:
    """Destroys what is listed, as far as it comes."""
    opened.time.advance(5)
    with contextlib.suppress(providers.ProviderError):
        for pod in await opened.provider.list():
            opened.time.advance(2)
            await opened.provider.destroy(pod.provider_pod_id)

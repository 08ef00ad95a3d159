"""The stand-ins of clouds: the contract that they enforce, how their pods go wrong, and what they bill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pydantic
import pytest

from podium_scheduler.adapters.providers import http
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Cloud, Offer, Order, Status
from tests.support import provider_rigs
from tests.support.clouds import digitalocean as digitalocean_cloud
from tests.support.clouds import runpod as runpod_cloud
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Misbehaviour, Operation
from tests.support.provider_rigs import CLOUDS, CLUSTER, CloudControls, Rig

LIVES = 80
IMPATIENT_S = 0.5
GPU = {"id": "NVIDIA L40S", "count": 1}
POD = {"name": "p", "image": "i", "gpu": GPU, "disk": 10}
DROPLET = {"name": "p", "size": "gpu-h100x1-80gb", "image": "gpu-h100x1-base"}
V1_POD = {"name": "p", "imageName": "i", "gpuTypeIds": ["NVIDIA L40S"], "cloudType": "SECURE"}


class Opened:
    """A provider on its stand-in."""

    def __init__(self, name: str, rig: Rig) -> None:
        assert isinstance(rig.controls, CloudControls)
        self.name = name
        self.provider = rig.provider
        self.cloud = rig.controls.cloud
        self.time = rig.controls.time
        self.boot = rig.controls.boot

    async def create(self, misbehaviour: Misbehaviour = stand_in.WELL, number: int = 1) -> providers.Listed:
        """A pod that goes wrong in this way."""
        self.cloud.script.add(Operation.CREATE, misbehaviour)
        return await self.provider.create(self.order(number))

    def order(self, number: int) -> Order:
        """Of what others have too."""
        gpu_type, gpu_count, price = self.cloud.foreign
        cloud = Cloud.NONE if self.name == "digitalocean" else Cloud.SECURE
        offer = Offer(self.provider.name, gpu_type, gpu_count, price, cloud=cloud)
        return Order(UUID(int=number), f"{CLUSTER}{number:04d}", offer, "i", (), {})


@pytest.fixture(params=CLOUDS)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    async with provider_rigs.open_cloud(CLOUDS[request.param], tmp_path, 20.0) as rig:
        yield Opened(request.param, rig)


@contextlib.asynccontextmanager
async def raw(cloud: stand_in.StandIn, base_url: str = "", key: str = "") -> AsyncIterator[http.Session]:
    """Calls that no provider makes."""
    secret = pydantic.SecretStr(key or cloud.credential)
    session = http.Session("the stand-in", base_url or cloud.base_url, secret, http.Patience())
    try:
        yield session
    finally:
        await session.close()


# --- pods that go wrong ---------------------------------------------------------------------------------------------


async def test_a_pod_that_never_boots_never_runs(opened: Opened) -> None:
    await opened.create(Misbehaviour(never_boots=True))
    opened.time.advance(86_400)
    [pod] = await opened.provider.list()
    # v1 only tells what is meant to run.
    assert pod.status is (Status.RUNNING if opened.name == "runpod_v1" else Status.PENDING)


async def test_a_pod_that_dies_is_listed_and_billed_until_it_is_destroyed(opened: Opened) -> None:
    made = await opened.create(Misbehaviour(dies=600.0))
    opened.time.advance(599)
    assert [pod.status for pod in await opened.provider.list()] == [Status.RUNNING]
    opened.time.advance(1)
    [pod] = await opened.provider.list()
    assert (pod.status, pod.price_usd_per_hour) == (Status.STOPPED, None)
    cost = opened.cloud.total_usd()
    opened.time.advance(3_600)
    assert opened.cloud.total_usd() > cost
    await opened.provider.destroy(made.provider_pod_id)
    assert not await opened.provider.list()


async def test_a_pod_that_vanishes_is_neither_listed_nor_billed(opened: Opened) -> None:
    await opened.create(Misbehaviour(vanishes=600.0))
    opened.time.advance(600)
    assert not await opened.provider.list()
    assert not opened.cloud.existing()
    cost = opened.cloud.total_usd()
    opened.time.advance(3_600)
    assert opened.cloud.total_usd() == cost > 0


async def test_a_pod_that_is_listed_late_exists_and_shows_within_the_promised_lag(opened: Opened) -> None:
    late = Misbehaviour(listed_late_s=opened.provider.list_lag_s)
    await opened.create(late)
    opened.time.advance(opened.provider.list_lag_s - 1)
    assert not await opened.provider.list()
    assert len(opened.cloud.existing()) == 1
    opened.time.advance(1)
    assert len(await opened.provider.list()) == 1


async def test_a_stale_list_shows_what_is_gone_and_not_what_is_new(opened: Opened) -> None:
    first = await opened.create(number=1)
    assert len(await opened.provider.list()) == 1
    await opened.provider.destroy(first.provider_pod_id)
    second = await opened.create(number=2)
    opened.cloud.script.add(Operation.LIST, Misbehaviour(lists_stale=True))
    assert [pod.provider_pod_id for pod in await opened.provider.list()] == [first.provider_pod_id]
    assert [pod.provider_pod_id for pod in await opened.provider.list()] == [second.provider_pod_id]


@pytest.mark.parametrize("name", ["runpod", "runpod_v1"])
async def test_a_pod_can_come_back_without_its_gpu(name: str, tmp_path: Path) -> None:
    async with provider_rigs.open_cloud(CLOUDS[name], tmp_path, 20.0) as rig:
        opened = Opened(name, rig)
        await opened.create(Misbehaviour(returns_without_gpu=600.0))
        await opened.boot()
        assert [pod.gpu_count for pod in await opened.provider.list()] == [1]
        opened.time.advance(600)
        assert [pod.gpu_count for pod in await opened.provider.list()] == [0]


async def test_a_pod_with_an_old_driver_says_so(tmp_path: Path) -> None:
    async with provider_rigs.open_cloud(CLOUDS["runpod"], tmp_path, 20.0) as rig:
        opened = Opened("runpod", rig)
        await opened.create(Misbehaviour(wrong_cuda=True))
        await opened.boot()
        assert [pod.detail for pod in await opened.provider.list()] == ["RUNNING, CUDA 11.8"]


# --- the bill -------------------------------------------------------------------------------------------------------


async def test_the_bill_is_exact_from_creation_to_deletion(opened: Opened) -> None:
    price = Decimal(str(opened.cloud.foreign[-1]))
    made = await opened.create(number=1)
    opened.time.advance(1_800.5)
    await opened.create(number=2)
    opened.time.advance(1_799.5)
    await opened.provider.destroy(made.provider_pod_id)
    opened.time.advance(0.25)
    first, second = opened.cloud.bill()
    assert (first.span.total_seconds(), first.usd) == (3_600.0, price)
    assert second.span.total_seconds() == 1_799.75
    assert opened.cloud.total_usd() == first.usd + second.usd
    assert second.usd == price * Decimal("1799.75") / 3_600


async def test_a_create_call_without_an_answer_is_billed(opened: Opened) -> None:
    with pytest.raises(providers.Ambiguous):
        await opened.create(Misbehaviour(fails_after_creating=True))
    opened.time.advance(60)
    assert [charge.name for charge in opened.cloud.bill()] == [f"{CLUSTER}0001"]
    assert opened.cloud.total_usd() > 0


# --- the contract ---------------------------------------------------------------------------------------------------


async def test_calls_say_who_they_are(opened: Opened) -> None:
    await opened.provider.list()
    assert [agent.partition("/")[0] for agent in opened.cloud.agents] == ["podium-scheduler"]


async def test_a_wrong_key_opens_nothing(opened: Opened) -> None:
    opened.cloud.credential = "another"
    for call in (opened.provider.offers(), opened.provider.list(), opened.provider.destroy("424242")):
        with pytest.raises(providers.Unauthorized):
            await call


async def test_a_call_too_many_is_told_when_to_come_again(opened: Opened) -> None:
    window = opened.cloud.quota.windows[0]
    opened.time.advance(10)
    while opened.cloud.quota.left(window):
        await opened.provider.list()
    with pytest.raises(providers.Throttled) as raised:
        await opened.provider.list()
    assert raised.value.retry_after_s == 50.0
    opened.time.advance(50)
    await opened.provider.list()


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("runpod", POD, 201),
        ("runpod", {**POD, "spot": True}, 422),
        ("runpod", {**POD, "gpu": {**GPU, "type": "x"}}, 422),
        ("runpod", {**POD, "env": {"A": 1}}, 422),
        ("runpod", {**POD, "disk": "10"}, 422),
        ("runpod", {**POD, "cloud": "ALL"}, 422),
        ("runpod", {key: POD[key] for key in POD if key != "name"}, 422),
        ("runpod", {key: POD[key] for key in POD if key != "disk"}, 400),
        ("runpod", {**POD, "cpu": {}}, 400),
        ("runpod", {**POD, "gpu": {"id": "NVIDIA L40S"}}, 400),
        ("runpod", {**POD, "gpu": {"id": "NVIDIA B200", "count": 1}}, 400),
        ("runpod", {**POD, "cloud": "COMMUNITY"}, 400),
        ("runpod_v1", V1_POD, 201),
        ("runpod_v1", {**V1_POD, "minVRAMPerGPU": 8}, 422),
        ("runpod_v1", {**V1_POD, "interruptible": True}, 500),
        ("runpod_v1", {**V1_POD, "cloudType": "ALL"}, 400),
        ("runpod_v1", {**V1_POD, "gpuTypeIds": ["NVIDIA B200"]}, 500),
        ("digitalocean", DROPLET, 202),
        ("digitalocean", {**DROPLET, "gpu": 1}, 422),
        ("digitalocean", {**DROPLET, "size": "gpu-x"}, 422),
        ("digitalocean", {**DROPLET, "image": "ubuntu"}, 422),
        ("digitalocean", {**DROPLET, "region": "ric1"}, 422),
        ("digitalocean", {**DROPLET, "user_data": "x" * ((64 << 10) + 1)}, 422),
        ("digitalocean", {key: DROPLET[key] for key in DROPLET if key != "image"}, 422),
    ],
)
async def test_create_bodies_are_held_to_the_contract(
    name: str, body: dict[str, Any], status: int, tmp_path: Path
) -> None:
    async with provider_rigs.open_cloud(CLOUDS[name], tmp_path, 20.0) as rig:
        cloud = Opened(name, rig).cloud
        base_url = cloud.base_url.removesuffix("/v2") + ("/v1" if name == "runpod_v1" else "/v2")
        path = "/droplets" if name == "digitalocean" else "/pods"
        async with raw(cloud, base_url) as session:
            answer = await session.call("POST", path, body=body)
        assert answer.status == status, answer.words
        assert len(cloud.existing()) == (1 if answer.is_good else 0)


async def test_runpods_list_has_cursors_and_refuses_wrong_ones(tmp_path: Path) -> None:
    async with provider_rigs.open_cloud(CLOUDS["runpod"], tmp_path, 20.0) as rig:
        opened = Opened("runpod", rig)
        for number in range(1, 9):
            await opened.create(number=number)
        opened.cloud.calls.clear()
        assert len(await opened.provider.list()) == 8
        assert len(opened.cloud.calls) == 3
        async with raw(opened.cloud) as session:
            assert (await session.call("GET", "/pods", query={"cursor": "?"})).status == 422


async def test_runpods_list_may_have_no_pages(tmp_path: Path) -> None:
    async with provider_rigs.open_cloud(CLOUDS["runpod"], tmp_path, 20.0) as rig:
        opened = Opened("runpod", rig)
        assert isinstance(opened.cloud, runpod_cloud.RunPod)
        opened.cloud.page_size = None
        for number in range(8):
            opened.cloud.add(f"pod{number}", f"{CLUSTER}{number}", *opened.cloud.foreign)
        assert len(await opened.provider.list()) == 8
        assert len(opened.cloud.calls) == 1


async def test_gpu_droplets_are_only_where_they_are_asked_for(tmp_path: Path) -> None:
    async with provider_rigs.open_cloud(CLOUDS["digitalocean"], tmp_path, 20.0) as rig:
        opened = Opened("digitalocean", rig)
        await opened.create()
        async with raw(opened.cloud) as session:
            plain = await session.call("GET", "/droplets")
            gpus = await session.call("GET", "/droplets", query={"type": "gpus"})
            both = await session.call("GET", "/droplets", query={"type": "gpus", "tag_name": "podium-test"})
        assert (plain.body["droplets"], len(gpus.body["droplets"]), both.status) == ([], 1, 422)
        assert gpus.body["droplets"][0]["tags"] == [CLUSTER.rstrip("-")]


async def test_a_pod_can_be_asked_for_alone(opened: Opened) -> None:
    made = await opened.create()
    base_url = opened.cloud.base_url.removesuffix("/v2") + ("/v1" if opened.name == "runpod_v1" else "/v2")
    path = f"/{'droplets' if opened.name == 'digitalocean' else 'pods'}/{made.provider_pod_id}"
    async with raw(opened.cloud, base_url) as session:
        before = await session.call("GET", path)
        await opened.provider.destroy(made.provider_pod_id)
        after = await session.call("GET", path)
    assert (before.status, after.status) == (200, 404)


async def test_the_action_of_a_droplet_completes(tmp_path: Path) -> None:
    async with provider_rigs.open_cloud(CLOUDS["digitalocean"], tmp_path, 20.0) as rig:
        opened = Opened("digitalocean", rig)
        async with raw(opened.cloud) as session:
            created = await session.call("POST", "/droplets", body=DROPLET)
            path = f"/actions/{created.body['links']['actions'][0]['id']}"
            before = await session.call("GET", path)
            await opened.boot()
            after = await session.call("GET", path)
    assert [one.body["action"]["status"] for one in (before, after)] == ["in-progress", "completed"]


class Deleting:
    """A plan under which pods are deleted between the pages of a list."""

    def __init__(self, times: int) -> None:
        self.cloud: stand_in.StandIn | None = None
        self.times = times
        self.lists = 0

    def next(self, operation: Operation) -> Misbehaviour:
        if operation is Operation.LIST:
            self.lists += 1
            if self.cloud and self.times and self.lists > 1:
                self.times -= 1
                self.cloud.delete(self.cloud.existing()[0])
        return stand_in.WELL


@pytest.mark.parametrize(("deletions", "settles"), [(1, True), (1_000, False)])
async def test_pages_that_move_meanwhile_are_read_again(deletions: int, settles: bool, tmp_path: Path) -> None:
    """A Droplet that moves up a page as another goes would be missed, and taken for lost."""
    plan = Deleting(deletions)
    async with provider_rigs.open_cloud(CLOUDS["digitalocean"], tmp_path, 20.0, plan) as rig:
        opened = Opened("digitalocean", rig)
        assert isinstance(opened.cloud, digitalocean_cloud.DigitalOcean)
        plan.cloud, opened.cloud.max_page = opened.cloud, 3
        for number in range(40):
            opened.cloud.add(str(number), f"{CLUSTER}{number}", *opened.cloud.foreign)
        if settles:
            listed = await opened.provider.list()
            assert {pod.name for pod in listed} == {pod.name for pod in opened.cloud.existing()}
        else:
            with pytest.raises(providers.Ambiguous, match="stand still"):
                await opened.provider.list()


async def test_the_same_seed_goes_wrong_in_the_same_way() -> None:
    odds = {Operation.CREATE: {Misbehaviour(no_capacity=True): 0.3, Misbehaviour(dies=60.0): 0.3}}
    first, second = (stand_in.Seeded(7, odds) for _ in range(2))
    rolled = [first.next(Operation.CREATE) for _ in range(200)]
    assert rolled == [second.next(Operation.CREATE) for _ in range(200)]
    assert {*rolled} == {stand_in.WELL, *odds[Operation.CREATE]}
    assert first.next(Operation.LIST) == stand_in.WELL


async def test_whatever_goes_wrong_no_pod_escapes_who_lists_and_destroys(tmp_path: Path) -> None:
    # Side by side, for most of it is silence.
    async with asyncio.TaskGroup() as all_of_them:
        for name in CLOUDS:
            all_of_them.create_task(escapes_nobody(name, tmp_path / name), name=name)


async def escapes_nobody(name: str, folder: Path) -> None:
    """And what promises that nothing was created keeps it."""
    plan = stand_in.Seeded(20261126, stand_in.rough(0.02))
    async with provider_rigs.open_cloud(CLOUDS[name], folder, IMPATIENT_S, plan) as rig:
        opened = Opened(name, rig)
        if isinstance(opened.cloud, runpod_cloud.RunPod):
            opened.cloud.page_size = 50
        for number in range(LIVES):
            opened.time.advance(5)
            try:
                await opened.provider.create(opened.order(number))
            except providers.Ambiguous:
                pass
            except providers.ProviderError:
                assert opened.order(number).name not in {pod.name for pod in opened.cloud.existing()}
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

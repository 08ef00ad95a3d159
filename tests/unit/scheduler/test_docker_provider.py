"""Pods as containers, against an engine on a socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pydantic
import pytest

from podium_runtime.clock import FakeClock
from podium_scheduler.adapters.providers import docker, http
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Offer, Order, Status, Stock
from tests.support.clouds.docker import Docker
from tests.support.clouds.stand_in import Misbehaviour, Operation

PREFIX = "podium-t-"
IMAGE = "registry.test/podium/worker:1"
CPU = Offer("docker", "", 0, 0.5, max_count=2)
GPU = Offer("docker", "NVIDIA L4", 1, 1.5)
Opened = tuple[docker.Docker, Docker]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    async with both() as opened:
        yield opened


@contextlib.asynccontextmanager
async def both(*, tcp: bool = False, engine: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Opened]:
    async with Docker(FakeClock(), **{"images": [IMAGE], **(engine or {})}) as stand_in:
        endpoint = stand_in.tcp_endpoint if tcp else stand_in.endpoint
        provider = docker.Docker(docker.Settings(PREFIX, (CPU, GPU), endpoint=endpoint, **settings))
        try:
            yield provider, stand_in
        finally:
            await provider.close()


def order(number: int = 1, offer: Offer = CPU, image: str = IMAGE) -> Order:
    return Order(UUID(int=number), f"{PREFIX}{number}", offer, image, ("serve",), {"PODIUM_JOIN_TOKEN": "once-only"})


async def pulled(provider: docker.Docker) -> None:
    """Waits for the pulls that are under way."""
    async with asyncio.timeout(30):
        await asyncio.wait(provider.pulls.values())


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_container_is_made_started_listed_and_removed(tcp: bool) -> None:
    async with both(tcp=tcp) as (provider, engine):
        made = await provider.create(order())
        assert [made] == list(await provider.list())
        assert (made.name, made.status, made.price_usd_per_hour) == (f"{PREFIX}1", Status.RUNNING, 0.5)
        assert made.create_time == engine.time.now()
        [container] = engine.existing()
        assert (
            container.body["HostConfig"] | {"AutoRemove": False, "RestartPolicy": {"Name": "no"}}
            == (container.body["HostConfig"])
        )
        assert container.body["Cmd"] == ["serve"]
        await provider.destroy(made.provider_pod_id)
        assert (await provider.list(), engine.existing()) == ([], [])


async def test_gpus_are_docker_s_choice_unless_they_are_named(opened: Opened) -> None:
    provider, engine = opened
    await provider.create(order(1, replace(GPU, gpu_count=2)))
    [container] = engine.existing()
    [request] = container.body["HostConfig"]["DeviceRequests"]
    assert request == {"Driver": "nvidia", "Capabilities": [["gpu"]], "Count": 2}


async def test_named_gpus_are_each_for_one_pod_at_a_time() -> None:
    async with both(gpus=("0", "1")) as (provider, engine):
        first, _ = [await provider.create(order(number, GPU)) for number in (1, 2)]
        given = [pod.body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for pod in engine.existing()]
        assert given == [["0"], ["1"]]
        assert [offer.stock for offer in await provider.offers()] == [Stock.UNKNOWN, Stock.NONE]
        with pytest.raises(providers.NoCapacity):
            await provider.create(order(3, GPU))
        assert (await provider.create(order(2, GPU))).status is Status.RUNNING, "it has its GPU already"
        await provider.destroy(first.provider_pod_id)
        await provider.create(order(3, GPU))
        assert engine.existing()[-1].body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["0"]


async def test_one_that_has_exited_holds_nothing() -> None:
    async with both(gpus=("0",)) as (provider, engine):
        engine.script.add(Operation.CREATE, Misbehaviour(dies=5.0))
        await provider.create(order(1, GPU))
        engine.time.advance(5.0)  # type: ignore[attr-defined]
        [stopped] = await provider.list()
        assert (stopped.status, stopped.detail) == (Status.STOPPED, "Exited (1) 2 seconds ago")
        await provider.create(order(2, GPU))


async def test_no_more_of_an_offer_than_it_says(opened: Opened) -> None:
    provider, engine = opened
    for number in (1, 2):
        await provider.create(order(number))
    with pytest.raises(providers.NoCapacity):
        await provider.create(order(3))
    assert len(engine.existing()) == 2


@pytest.mark.parametrize("trouble", ["cannot be selected", "unknown device"])
async def test_an_engine_without_the_gpus_refuses_and_keeps_nothing(trouble: str) -> None:
    gpus = None if trouble == "cannot be selected" else ("0",)
    async with both(engine={"gpus": gpus}, gpus=("7",)) as (provider, engine):
        with pytest.raises(providers.Refused):
            await provider.create(order(1, GPU))
        assert engine.existing() == []


async def test_a_refused_start_that_leaves_its_container_is_ambiguous() -> None:
    async with both(engine={"gpus": None}) as (provider, engine):
        engine.script.add(Operation.DESTROY, Misbehaviour(fails_before=True))
        with pytest.raises(providers.Ambiguous):
            await provider.create(order(1, GPU))
        assert [pod.status for pod in await provider.list()] == [Status.PENDING]


async def test_a_container_that_was_made_and_never_started_is_started_by_its_name(opened: Opened) -> None:
    provider, engine = opened
    engine.script.add(Operation.CREATE, Misbehaviour(fails_after_creating=True))
    with pytest.raises(providers.Ambiguous):
        await provider.create(order())
    assert [pod.status for pod in await provider.list()] == [Status.PENDING]
    assert (await provider.create(order())).status is Status.RUNNING
    assert len(engine.existing()) == 1


async def test_a_name_that_is_somebody_else_s_is_refused(opened: Opened) -> None:
    provider, engine = opened
    engine.add_foreign(f"{PREFIX}1")
    with pytest.raises(providers.Refused, match="another container"):
        await provider.create(order())
    assert len(engine.existing()) == 1


async def test_the_first_digits_of_an_id_and_names_destroy_nothing(opened: Opened) -> None:
    provider, engine = opened
    made = await provider.create(order())
    for almost in (made.provider_pod_id[:12], made.name, made.provider_pod_id[:1], "f" * 64):
        await provider.destroy(almost)
    assert len(engine.existing()) == 1


async def test_one_that_cannot_be_removed_is_listed_as_an_error(opened: Opened) -> None:
    provider, engine = opened
    made = await provider.create(order())
    engine.dead.add(made.provider_pod_id)
    with pytest.raises(providers.Ambiguous, match="device or resource busy"):
        await provider.destroy(made.provider_pod_id)
    assert [pod.status for pod in await provider.list()] == [Status.ERROR]


async def test_a_missing_image_is_refused_with_what_to_do(opened: Opened) -> None:
    provider, engine = opened
    with pytest.raises(providers.Refused, match="pull it there"):
        await provider.create(order(image="registry.test/other"))
    assert (engine.existing(), engine.pulls) == ([], [])


async def test_a_missing_image_is_pulled_if_it_may_be() -> None:
    image = "registry.test:5000/other"
    settings: dict[str, Any] = {"pull": True, "registry_auth": pydantic.SecretStr("password")}
    async with both(engine={"registry": [image]}, **settings) as (provider, engine):
        engine.may_pull.clear()
        for _ in range(2):
            with pytest.raises(providers.NoCapacity, match="is pulling"):
                await provider.create(order(image=image))
        engine.may_pull.set()
        await pulled(provider)
        assert (await provider.create(order(image=image))).status is Status.RUNNING
        assert engine.pulls == [{"fromImage": image, "tag": "latest", "auth": "password"}]
        with pytest.raises(providers.NoCapacity):
            await provider.create(order(2, image="registry.test/unknown:1"))
        await pulled(provider)
        with pytest.raises(providers.Refused, match="pull access denied"):
            await provider.create(order(2, image="registry.test/unknown:1"))
        assert "password" not in repr(vars(provider))


@pytest.mark.parametrize(
    ("versions", "spoken"), [(("1.24", "1.50"), "1.43"), (("1.44", "1.52"), "1.44"), (("1.43", "1.43"), "1.43")]
)
async def test_the_version_is_one_that_both_speak(versions: tuple[str, str], spoken: str) -> None:
    async with both(engine={"versions": versions}) as (provider, engine):
        await provider.create(order())
        assert {path.split("/")[1] for _, path in engine.calls} == {"version", f"v{spoken}"}


async def test_an_engine_that_is_too_old_is_refused() -> None:
    async with both(engine={"versions": ("1.12", "1.42")}) as (provider, _):
        with pytest.raises(providers.Refused, match=r"1\.42, which is too old"):
            await provider.list()


async def test_an_engine_that_is_not_there_is_unreachable() -> None:
    provider = docker.Docker(docker.Settings(PREFIX, (CPU,), endpoint="unix:///nowhere/docker.sock"))
    with pytest.raises(providers.Unreachable):
        await provider.create(order())
    await provider.close()


async def test_silence_after_the_request_is_ambiguous() -> None:
    async with both(patience=http.Patience(total_s=0.5)) as (provider, engine):
        engine.script.add(Operation.CREATE, Misbehaviour(times_out_after_creating=True))
        with pytest.raises(providers.Ambiguous):
            await provider.create(order())
        assert len(engine.existing()) == 1

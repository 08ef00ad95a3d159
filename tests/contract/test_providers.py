"""What every provider of pods owes the pod keeper, as app/providers.py promises it.

A provider joins by its entry in tests/support/provider_rigs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

import pytest
import structlog

from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Order, Status
from tests.support.clouds.stand_in import Operation
from tests.support.provider_rigs import CLUSTER, RIGS, Fault, Rig

JOIN_TOKEN = "join-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
PEM = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU'\"$(HOME) \\\n-----END CERTIFICATE-----\n"
ENVIRONMENT = {"PODIUM_JOIN_TOKEN": JOIN_TOKEN, "PODIUM_POD_ID": "7", "PODIUM_CA": PEM, "PODIUM_EMPTY": ""}
COMMAND = ("--devices", "0", "it's one argument")
IMAGE = "ghcr.io/podium/worker:1.2.3"
PATIENT_S = 20.0
"""Longer than any answer takes that comes at all."""
IMPATIENT_S = 0.5
FAULTS = [
    pytest.param(name, fault, id=f"{name}-{what}")
    for name in RIGS
    for what, fault in RIGS[name].faults.items()
    if not fault.misbehaviour.hangs
]
SILENT = [name for name in RIGS if any(fault.misbehaviour.hangs for fault in RIGS[name].faults.values())]
NOTHING_CREATED = (
    providers.NoCapacity,
    providers.Refused,
    providers.Unauthorized,
    providers.OutOfFunds,
    providers.Throttled,
    providers.Unreachable,
)


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stand-in speaks TLS, and the library for Kubernetes reads the machine's authorities for each client: 50 ms."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)


@pytest.fixture(params=RIGS)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with RIGS[request.param].open(tmp_path, PATIENT_S) as opened:
        yield opened


def opened_for(name: str, fault: Fault, folder: Path) -> AbstractAsyncContextManager[Rig]:
    """A rig that does not wait for what never comes."""
    return RIGS[name].open(folder, IMPATIENT_S if fault.misbehaviour.hangs else PATIENT_S)


async def order(rig: Rig, number: int = 1) -> Order:
    """Of the first offer that can be had."""
    offers = await rig.provider.offers()
    offer = next(one for one in offers if one.stock is not providers.Stock.NONE)
    return Order(UUID(int=number), f"{CLUSTER}{number:04d}", offer, IMAGE, COMMAND, ENVIRONMENT)


async def listed(rig: Rig) -> Sequence[Listed]:
    """What the list shows once whatever was asked for has come up."""
    await rig.controls.boot()
    return await rig.provider.list()


async def call(rig: Rig, operation: Operation, wanted: Order, pod_id: str) -> None:
    match operation:
        case Operation.OFFERS:
            await rig.provider.offers()
        case Operation.CREATE:
            await rig.provider.create(wanted)
        case Operation.LIST:
            await rig.provider.list()
        case Operation.DESTROY:
            await rig.provider.destroy(pod_id)


async def test_offers_have_prices_and_tell_themselves_apart(rig: Rig) -> None:
    offers = await rig.provider.offers()
    assert offers
    assert {offer.provider for offer in offers} == {rig.provider.name}
    assert len({offer.key for offer in offers}) == len(offers)
    assert all(offer.price_usd_per_hour > 0 and offer.gpu_count >= 0 for offer in offers)
    assert all(bool(offer.gpu_type) == bool(offer.gpu_count) for offer in offers)


async def test_a_pod_is_listed_under_its_name_and_comes_up(rig: Rig) -> None:
    wanted = await order(rig)
    made = await rig.provider.create(wanted)
    [found] = await listed(rig)
    assert (made.name, found.name) == (wanted.name, wanted.name)
    assert made.provider_pod_id == found.provider_pod_id
    assert found.status is Status.RUNNING, found.detail
    assert found.gpu_type in ("", wanted.offer.gpu_type)
    assert found.gpu_count in (None, wanted.offer.gpu_count)
    assert found.price_usd_per_hour in (None, pytest.approx(wanted.offer.price_usd_per_hour))


async def test_image_command_and_environment_reach_the_pod(rig: Rig) -> None:
    wanted = await order(rig)
    await rig.provider.create(wanted)
    await rig.controls.boot()
    inside = await rig.controls.inside(wanted.name)
    assert inside.image == IMAGE
    assert tuple(inside.command) == COMMAND
    assert {name: inside.environment.get(name) for name in ENVIRONMENT} == ENVIRONMENT


@pytest.mark.parametrize("name", RIGS)
async def test_a_name_that_is_created_twice_makes_no_pod_that_goes_unnoticed(name: str, tmp_path: Path) -> None:
    """Where names are not unique there are two pods, and the list shows both; elsewhere the first stays alone."""
    async with RIGS[name].open(tmp_path, PATIENT_S) as rig:
        wanted = await order(rig)
        first = await rig.provider.create(wanted)
        second = await rig.provider.create(wanted)
        pods = await listed(rig)
        assert [pod.name for pod in pods] == list(rig.controls.existing())
        expected = {first.provider_pod_id, second.provider_pod_id}
        assert {pod.provider_pod_id for pod in pods} == expected
        assert len(pods) == (1 if RIGS[name].names_are_unique else 2)
        for pod in pods:
            await rig.provider.destroy(pod.provider_pod_id)
        assert not await listed(rig)


async def test_a_destroyed_pod_is_gone_and_may_be_destroyed_again(rig: Rig) -> None:
    made = await rig.provider.create(await order(rig))
    await rig.controls.boot()
    await rig.provider.destroy(made.provider_pod_id)
    assert not await listed(rig)
    assert not rig.controls.existing()
    await rig.provider.destroy(made.provider_pod_id)


async def test_a_pod_may_be_destroyed_before_it_is_up(rig: Rig) -> None:
    made = await rig.provider.create(await order(rig))
    await rig.provider.destroy(made.provider_pod_id)
    assert not await listed(rig)
    assert not rig.controls.existing()


@pytest.mark.parametrize(
    "pod_id", ["0", "424242", "no-such-pod", "", ".", "../pods", "?tag_name=podium-test", "%2e%2e"]
)
async def test_what_is_not_there_is_destroyed_already_and_nothing_else_with_it(rig: Rig, pod_id: str) -> None:
    made = await rig.provider.create(await order(rig))
    await rig.provider.destroy(pod_id)
    assert [pod.provider_pod_id for pod in await listed(rig)] == [made.provider_pod_id]


async def test_pods_of_others_are_neither_listed_nor_swept(rig: Rig) -> None:
    others = ("somebody-elses", "podium-test", f"x-{CLUSTER}0001")
    for name in others:
        await rig.controls.add_foreign(name)
    await rig.provider.create(await order(rig))
    pods = await listed(rig)
    assert [pod.name for pod in pods] == [f"{CLUSTER}0001"]
    for pod in pods:
        await rig.provider.destroy(pod.provider_pod_id)
    assert sorted(rig.controls.existing()) == sorted(others)


async def test_every_one_of_many_is_listed(rig: Rig) -> None:
    wanted = [await order(rig, number) for number in range(1, 9)]
    made = {(await rig.provider.create(one)).provider_pod_id for one in wanted}
    pods = await listed(rig)
    assert sorted(pod.name for pod in pods) == [one.name for one in wanted]
    assert {pod.provider_pod_id for pod in pods} == made


class Failing:
    """A call that is about to fail, and what there was before it."""

    def __init__(self, rig: Rig, fault: Fault, wanted: Order, made: Listed) -> None:
        self.rig = rig
        self.fault = fault
        self._wanted = wanted
        self._made = made
        self._before = list(rig.controls.existing())
        rig.controls.misbehave(fault.operation, fault.misbehaviour)

    async def call(self) -> None:
        await call(self.rig, self.fault.operation, self._wanted, self._made.provider_pod_id)

    async def fails(self) -> None:
        """Makes it: the error is the one that was promised."""
        with pytest.raises(providers.ProviderError) as raised:
            await self.call()
        assert type(raised.value) is self.fault.error, self.fault
        assert raised.value.retry_after_s == self.fault.misbehaviour.throttled

    async def holds(self) -> None:
        """Where an error promises that nothing was created, nothing was; where it does not, the list knows."""
        controls = self.rig.controls
        if issubclass(self.fault.error, NOTHING_CREATED):
            assert controls.existing() == self._before, self.fault
        assert sorted(pod.name for pod in await listed(self.rig)) == sorted(controls.existing()), self.fault
        # The next call is none the worse for it.
        await self.call()


async def failing(rig: Rig, fault: Fault) -> Failing:
    return Failing(rig, fault, await order(rig), await rig.provider.create(await order(rig, 2)))


@pytest.mark.parametrize(("name", "fault"), FAULTS)
async def test_each_failure_is_what_it_says(name: str, fault: Fault, tmp_path: Path) -> None:
    async with opened_for(name, fault, tmp_path) as rig:
        one = await failing(rig, fault)
        await one.fails()
        await one.holds()


@pytest.mark.parametrize("name", SILENT)
async def test_each_silence_is_what_it_says(name: str, tmp_path: Path) -> None:
    """They are waited for side by side."""
    async with contextlib.AsyncExitStack() as opened:
        silent = [fault for fault in RIGS[name].faults.values() if fault.misbehaviour.hangs]
        all_of_them = [
            await failing(await opened.enter_async_context(opened_for(name, fault, tmp_path / str(number))), fault)
            for number, fault in enumerate(silent)
        ]
        await asyncio.gather(*(one.fails() for one in all_of_them))
        for one in all_of_them:
            await one.holds()


@pytest.mark.parametrize("name", [name for name, kind in RIGS.items() if kind.has_connection])
async def test_a_call_that_was_never_sent_is_unreachable(name: str, tmp_path: Path) -> None:
    async with RIGS[name].open(tmp_path, PATIENT_S) as rig:
        wanted = await order(rig)
        await rig.controls.cut()
        for operation in Operation:
            with pytest.raises(providers.Unreachable):
                await call(rig, operation, wanted, "424242")


@pytest.mark.parametrize("name", RIGS)
async def test_no_secret_is_in_any_log_error_or_repr(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    secrets = {JOIN_TOKEN, *PEM.splitlines()}

    async def fails(one: Failing) -> None:
        try:
            await one.call()
        except providers.ProviderError as error:
            told.extend((str(error), repr(error), "".join(traceback.format_exception(error))))

    with structlog.testing.capture_logs() as events, caplog.at_level(logging.DEBUG):
        async with contextlib.AsyncExitStack() as opened:
            silent = []
            for number, fault in enumerate(RIGS[name].faults.values()):
                rig = await opened.enter_async_context(opened_for(name, fault, tmp_path / str(number)))
                wanted = await order(rig)
                made = await rig.provider.create(wanted)
                told += map(repr, (rig.provider, vars(rig.provider), wanted, made, await rig.provider.list()))
                secrets |= {rig.credential} - {""}
                one = Failing(rig, fault, wanted, made)
                if fault.misbehaviour.hangs:
                    silent.append(one)
                else:
                    await fails(one)
            # Waited for side by side.
            await asyncio.gather(*map(fails, silent))
    told += [str(event) for event in events] + [caplog.text]
    for secret in secrets:
        assert not [text for text in told if secret in text]

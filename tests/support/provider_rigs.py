"""One rig for each provider, for the suite that all of them pass: the provider, and a hand on what it talks to.

A provider joins by an entry in RIGS: how it is opened, and which failures of a call it can have, each with the error
that app/providers.py promises for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import UUID

import pydantic

from podium_runtime.clock import FakeClock
from podium_scheduler.adapters.providers import digitalocean, docker, http, kubernetes, local, runpod, runpod_v1
from podium_scheduler.adapters.providers.local_records import MARK, Records, Snapshot
from podium_scheduler.app import providers
from tests.support.clouds import digitalocean as digitalocean_cloud
from tests.support.clouds import docker as docker_cloud
from tests.support.clouds import kubernetes as kubernetes_cloud
from tests.support.clouds import runpod as runpod_cloud
from tests.support.clouds import runpod_v1 as runpod_v1_cloud
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Misbehaviour, Operation

CLUSTER = "podium-test-"
"""What the names of the cluster's pods begin with."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What the container of a pod was given."""

    image: str
    command: Sequence[str]
    environment: Mapping[str, str]


class Controls(Protocol):
    """A hand on what a provider talks to."""

    def misbehave(self, operation: Operation, misbehaviour: Misbehaviour) -> None:
        """At the next call of this kind."""

    async def boot(self) -> None:
        """Lets pass the time in which a pod comes up."""

    def existing(self) -> Sequence[str]:
        """Names of all pods that exist, foreign ones too, listed or not."""

    async def add_foreign(self, name: str) -> None:
        """Somebody else's pod, on the same account."""

    async def inside(self, name: str) -> Inside:
        """What the only pod of this name was given."""

    async def cut(self) -> None:
        """From now on connections are refused."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A provider that is open, and what it talks to."""

    provider: providers.Provider
    controls: Controls
    credential: str = field(repr=False)
    """What must show up nowhere; empty for a provider without any."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A way in which a call can go wrong, and the promised error."""

    operation: Operation
    misbehaviour: Misbehaviour
    error: type[providers.ProviderError]


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider's entry."""

    open: Callable[[Path, float], AbstractAsyncContextManager[Rig]]
    """With a folder of its own, and the seconds that a call may take."""
    faults: Mapping[str, Fault] = field(default_factory=dict)
    has_connection: bool = True
    """Whether there is a connection that can be refused."""
    names_are_unique: bool = False
    """A second create of a name is answered with the first pod; else it makes a second pod."""


ProviderT = TypeVar("ProviderT", bound=providers.Provider)


@contextlib.asynccontextmanager
async def closing(provider: ProviderT) -> AsyncIterator[ProviderT]:
    """Gives back what it holds at the end."""
    try:
        yield provider
    finally:
        await provider.close()


# --- clouds by HTTP ---------------------------------------------------------------------------------------------------

_CREATES: Mapping[str, tuple[Misbehaviour, type[providers.ProviderError]]] = {
    "no capacity": (Misbehaviour(no_capacity=True), providers.NoCapacity),
    "refused": (Misbehaviour(refused=True), providers.Refused),
    "refused, with an echo": (Misbehaviour(echoes=True), providers.Refused),
    "500 after": (Misbehaviour(fails_after_creating=True), providers.Ambiguous),
    "silence after": (Misbehaviour(times_out_after_creating=True), providers.Ambiguous),
    "connection cut after": (Misbehaviour(breaks_after_creating=True), providers.Ambiguous),
    "unreadable answer": (Misbehaviour(garbles_after_creating=True), providers.Ambiguous),
}
_CALLS: Mapping[str, tuple[Misbehaviour, type[providers.ProviderError]]] = {
    "unauthorized": (Misbehaviour(unauthorized=True), providers.Unauthorized),
    "throttled": (Misbehaviour(throttled=7.0), providers.Throttled),
    "500": (Misbehaviour(fails_before=True), providers.Ambiguous),
    "silence": (Misbehaviour(times_out_before=True), providers.Ambiguous),
}
HTTP_FAULTS: Mapping[str, Fault] = {
    **{f"create: {name}": Fault(Operation.CREATE, *what) for name, what in {**_CREATES, **_CALLS}.items()},
    **{
        f"{operation.lower()}: {name}": Fault(operation, *what)
        for operation in (Operation.OFFERS, Operation.LIST, Operation.DESTROY)
        for name, what in _CALLS.items()
    },
    "offers: unreadable answer": Fault(
        Operation.OFFERS, Misbehaviour(garbles_after_creating=True), providers.Ambiguous
    ),
    "list: unreadable answer": Fault(Operation.LIST, Misbehaviour(garbles_after_creating=True), providers.Ambiguous),
    "destroy: 500 after": Fault(Operation.DESTROY, Misbehaviour(fails_after_creating=True), providers.Ambiguous),
}
_OUT_OF_FUNDS = {"create: out of funds": Fault(Operation.CREATE, Misbehaviour(out_of_funds=True), providers.OutOfFunds)}


@dataclass(frozen=True, slots=True)
class CloudKind:
    """A cloud that has a stand-in, and the provider that is made for it."""

    served: Callable[[FakeClock, stand_in.Plan | None], stand_in.StandIn]
    provider: Callable[[stand_in.StandIn, http.Patience], providers.Provider]
    inside: Callable[[stand_in.Pod, Path], Awaitable[Inside]]
    """What a pod's container was given; with a folder for a machine to be started in."""


@dataclass(frozen=True, slots=True)
class CloudControls:
    """Of a stand-in under a clock that the test moves."""

    cloud: stand_in.StandIn
    time: FakeClock
    look: Callable[[stand_in.Pod], Awaitable[Inside]]

    def misbehave(self, operation: Operation, misbehaviour: Misbehaviour) -> None:
        self.cloud.script.add(operation, misbehaviour)

    async def boot(self) -> None:
        self.time.advance(self.cloud.pace.provisioning_s + self.cloud.pace.starting_s)

    def existing(self) -> Sequence[str]:
        return [pod.name for pod in self.cloud.existing()]

    async def add_foreign(self, name: str) -> None:
        self.cloud.add_foreign(name)

    async def inside(self, name: str) -> Inside:
        [pod] = [pod for pod in self.cloud.existing() if pod.name == name]
        return await self.look(pod)

    async def cut(self) -> None:
        await self.cloud.close()


@contextlib.asynccontextmanager
async def open_cloud(
    kind: CloudKind,
    folder: Path,
    patience_s: float,
    plan: stand_in.Plan | None = None,
    time: FakeClock | None = None,
) -> AsyncIterator[Rig]:
    """A stand-in and its provider; without a plan it misbehaves as its controls say, without a `time` on its own."""
    time = time or FakeClock()
    async with kind.served(time, plan) as cloud:
        async with closing(kind.provider(cloud, http.Patience(total_s=patience_s))) as provider:
            controls = CloudControls(cloud, time, lambda pod: kind.inside(pod, folder / "machine"))
            yield Rig(provider, controls, cloud.credential)


def _runpod(cloud: stand_in.StandIn, patience: http.Patience) -> runpod.RunPod:
    key = pydantic.SecretStr(cloud.credential)
    return runpod.RunPod(runpod.Settings(key, CLUSTER, base_url=cloud.base_url, patience=patience))


def _runpod_v1(cloud: stand_in.StandIn, patience: http.Patience) -> runpod_v1.RunPodV1:
    key, v1_url = pydantic.SecretStr(cloud.credential), cloud.base_url.removesuffix("/v2") + "/v1"
    settings = runpod.Settings(key, CLUSTER, base_url=cloud.base_url, v1_url=v1_url, patience=patience)
    return runpod_v1.RunPodV1(settings)


def _digitalocean(cloud: stand_in.StandIn, patience: http.Patience) -> digitalocean.DigitalOcean:
    token = pydantic.SecretStr(cloud.credential)
    settings = digitalocean.Settings(token, CLUSTER, base_url=cloud.base_url, patience=patience)
    return digitalocean.DigitalOcean(settings)


async def _in_pod(pod: stand_in.Pod, folder: Path) -> Inside:
    return Inside(pod.body["image"], shlex.split(pod.body.get("args", "")), pod.body["env"])


async def _in_pod_of_v1(pod: stand_in.Pod, folder: Path) -> Inside:
    return Inside(pod.body["imageName"], pod.body.get("dockerStartCmd", ()), pod.body["env"])


async def _in_droplet(pod: stand_in.Pod, folder: Path) -> Inside:
    started = await digitalocean_cloud.run_user_data(pod.body["user_data"], folder)
    return Inside(started.options.image, started.options.command, started.environment)


CLOUDS: Mapping[str, CloudKind] = {
    "runpod": CloudKind(lambda time, plan: runpod_cloud.RunPod(time, plan=plan), _runpod, _in_pod),
    "runpod_v1": CloudKind(lambda time, plan: runpod_v1_cloud.RunPodV1(time, plan=plan), _runpod_v1, _in_pod_of_v1),
    "digitalocean": CloudKind(
        lambda time, plan: digitalocean_cloud.DigitalOcean(time, plan=plan), _digitalocean, _in_droplet
    ),
}


# --- clusters and machines of one's own -------------------------------------------------------------------------------

_OFFERS = (providers.Offer("", "NVIDIA-L4", 1, 0.5), providers.Offer("", "", 0, 0.25))


def _docker(cloud: stand_in.StandIn, patience: http.Patience) -> docker.Docker:
    assert isinstance(cloud, docker_cloud.Docker)
    offers = [replace(offer, provider="docker") for offer in _OFFERS]
    return docker.Docker(docker.Settings(CLUSTER, offers, endpoint=cloud.endpoint, patience=patience))


def _kubernetes(cloud: stand_in.StandIn, patience: http.Patience) -> kubernetes.Kubernetes:
    offers = [replace(offer, provider="kubernetes") for offer in _OFFERS]
    token = pydantic.SecretStr(cloud.credential)
    settings = kubernetes.Settings(
        CLUSTER, offers, api_url=cloud.base_url, token=token, page_size=50, patience=patience
    )
    return kubernetes.Kubernetes(settings)


async def _in_container(pod: stand_in.Pod, folder: Path) -> Inside:
    environment = dict(variable.split("=", 1) for variable in pod.body["Env"])
    return Inside(pod.body["Image"], pod.body["Cmd"], environment)


async def _in_pod_of_a_cluster(pod: stand_in.Pod, folder: Path) -> Inside:
    [container] = pod.body["spec"]["containers"]
    return Inside(container["image"], container["args"], pod.body[kubernetes_cloud.ENVIRONMENT])


CLUSTERS: Mapping[str, CloudKind] = {
    "docker": CloudKind(lambda time, plan: docker_cloud.Docker(time, plan=plan, images=None), _docker, _in_container),
    "kubernetes": CloudKind(
        lambda time, plan: kubernetes_cloud.Kubernetes(time, plan=plan, ends_in_s=0.0),
        _kubernetes,
        _in_pod_of_a_cluster,
    ),
}
# An engine has no credentials, no quotas and no price list. What it answers to a create call is not needed.
_NOT_OF_DOCKER = (providers.Unauthorized, providers.Throttled, providers.NoCapacity)
_DOCKER_FAULTS = {
    name: fault
    for name, fault in HTTP_FAULTS.items()
    if fault.operation is not Operation.OFFERS
    and fault.error not in _NOT_OF_DOCKER
    and not (fault.operation is Operation.CREATE and fault.misbehaviour.garbles_after_creating)
}


# --- processes --------------------------------------------------------------------------------------------------------

_STEP_S = 30.0
_TELLS = f"""
import json, os, sys, time
path = os.environ["{MARK}"] + ".inside"
with open(path + ".draft", "w") as file:
    json.dump({{"command": sys.argv[1:], "environment": dict(os.environ)}}, file)
os.rename(path + ".draft", path)
time.sleep(600)
"""


class _Machine(local.Local):
    """Remembers what it was told to destroy, and goes wrong once when told to."""

    def __init__(self, settings: local.Settings, time: FakeClock) -> None:
        super().__init__(settings, time)
        self.records = Records(settings.folder)
        self.destroyed: set[str] = set()
        self.next = stand_in.WELL

    async def create(self, order: providers.Order) -> providers.Listed:
        well, wrong = self._settings, self.next
        self.next = stand_in.WELL
        if wrong.no_capacity:
            self._settings = replace(well, max_count=0)
        if wrong.refused:
            self._settings = replace(well, program=("no-such-program",))
        try:
            return await super().create(order)
        finally:
            self._settings = well

    async def destroy(self, provider_pod_id: str) -> None:
        await super().destroy(provider_pod_id)
        self.destroyed.add(provider_pod_id)

    def living(self) -> list[str]:
        """Names of pods that have a process."""
        now = Snapshot()
        return [record.name for record in self.records.all() if self.records.living(record, now)]


@dataclass(frozen=True, slots=True)
class MachineControls:
    """Of processes: their time is the machine's, and passes by itself."""

    machine: _Machine

    def misbehave(self, operation: Operation, misbehaviour: Misbehaviour) -> None:
        assert operation is Operation.CREATE
        self.machine.next = misbehaviour

    async def boot(self) -> None:
        async with asyncio.timeout(_STEP_S):
            while not self._settled():  # noqa: ASYNC110 - processes announce nothing
                await asyncio.sleep(0.005)

    def existing(self) -> Sequence[str]:
        # Those that were told to end do so in a moment.
        deadline = time.monotonic() + _STEP_S
        while self.machine.destroyed.intersection(self.machine.living()) and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.machine.living()

    async def add_foreign(self, name: str) -> None:
        offer = (await self.machine.offers())[0]
        await self.machine.create(providers.Order(UUID(int=0), name, offer, "", (), {}))

    async def inside(self, name: str) -> Inside:
        record, told = self.machine.records.one(name), json.loads(self._told(name).read_text())
        assert record is not None
        return Inside(record.image, told["command"], told["environment"])

    async def cut(self) -> None:
        raise AssertionError("there is no connection")

    def end(self) -> None:
        """Every process, whoever it belongs to."""
        for name in self.machine.living():
            if (record := self.machine.records.one(name)) is not None:
                for process in self.machine.records.living(record, Snapshot()):
                    process.signal(signal.SIGKILL)

    def _settled(self) -> bool:
        living = self.machine.living()
        return not self.machine.destroyed.intersection(living) and all(self._told(name).exists() for name in living)

    def _told(self, name: str) -> Path:
        return Path(f"{self.machine.records.path(name)}.inside")


@contextlib.asynccontextmanager
async def _open_local(folder: Path, patience_s: float) -> AsyncIterator[Rig]:
    settings = local.Settings(
        folder=folder / "pods",
        prefix=CLUSTER,
        program=(sys.executable, "-I", "-S", "-c", _TELLS),
        max_count=16,
        price_usd_per_hour=0.25,
    )
    async with closing(_Machine(settings, FakeClock())) as machine:
        controls = MachineControls(machine)
        try:
            yield Rig(machine, controls, "")
        finally:
            controls.end()
            async with asyncio.timeout(_STEP_S):
                while machine.living() or machine.unreaped:
                    await machine.list()


_LOCAL_FAULTS = {
    "create: no capacity": Fault(Operation.CREATE, Misbehaviour(no_capacity=True), providers.NoCapacity),
    "create: refused": Fault(Operation.CREATE, Misbehaviour(refused=True), providers.Refused),
}


RIGS: dict[str, Kind] = {
    "runpod": Kind(functools.partial(open_cloud, CLOUDS["runpod"]), {**HTTP_FAULTS, **_OUT_OF_FUNDS}),
    "runpod_v1": Kind(functools.partial(open_cloud, CLOUDS["runpod_v1"]), {**HTTP_FAULTS, **_OUT_OF_FUNDS}),
    "digitalocean": Kind(functools.partial(open_cloud, CLOUDS["digitalocean"]), HTTP_FAULTS),
    "docker": Kind(functools.partial(open_cloud, CLUSTERS["docker"]), _DOCKER_FAULTS, names_are_unique=True),
    "kubernetes": Kind(functools.partial(open_cloud, CLUSTERS["kubernetes"]), HTTP_FAULTS, names_are_unique=True),
    "local": Kind(_open_local, _LOCAL_FAULTS, has_connection=False, names_are_unique=True),
}

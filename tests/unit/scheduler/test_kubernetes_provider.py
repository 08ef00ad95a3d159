"""Pods as pods of a cluster, against an API server on loopback."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pydantic
import pytest

from podium_runtime.clock import FakeClock
from podium_scheduler.adapters.providers import http, kubernetes, kubernetes_phases
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Offer, Order, Status
from tests.support.clouds.kubernetes import TOKEN, Fate, Kubernetes
from tests.support.clouds.stand_in import Misbehaviour, Operation

PREFIX = "podium-t-"
CPU = Offer("kubernetes", "", 0, 0.1)
GPU = Offer("kubernetes", "NVIDIA-L4", 2, 1.5, region="eu-1")
Opened = tuple[kubernetes.Kubernetes, Kubernetes]


@contextlib.asynccontextmanager
async def both(**settings: Any) -> AsyncIterator[Opened]:
    async with Kubernetes(FakeClock()) as cluster:
        # What a test sets stands, and the rest leads to the stand-in.
        defaults = {"api_url": cluster.base_url, "token": pydantic.SecretStr(TOKEN)}
        provider = kubernetes.Kubernetes(kubernetes.Settings(PREFIX, (CPU, GPU), **{**defaults, **settings}))
        try:
            yield provider, cluster
        finally:
            await provider.close()


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    async with both() as opened:
        yield opened


def order(number: int = 1, offer: Offer = GPU) -> Order:
    environment = {"PODIUM_JOIN_TOKEN": "only-once-0123456789"}
    return Order(UUID(int=number), f"{PREFIX}{number}", offer, "registry.test/worker:1", ("serve",), environment)


def pass_time(cluster: Kubernetes, seconds: float = 60.0) -> None:
    cluster.time.advance(seconds)  # type: ignore[attr-defined]


async def test_a_pod_is_made_with_all_that_it_needs(opened: Opened) -> None:
    provider, cluster = opened
    made = await provider.create(order())
    assert (made.status, made.price_usd_per_hour, made.gpu_type, made.gpu_count) == (
        Status.PENDING,
        1.5,
        "NVIDIA-L4",
        2,
    )
    [pod] = cluster.existing()
    metadata, spec = pod.body["metadata"], pod.body["spec"]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "podium"
    assert metadata["labels"]["podium/cluster"] == "podium-t"
    assert metadata["labels"]["podium/pod"] == str(UUID(int=1))
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert spec["terminationGracePeriodSeconds"] == 30
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4", "topology.kubernetes.io/region": "eu-1"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    [container] = spec["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}, "requests": {"ephemeral-storage": "40Gi"}}
    assert (container["image"], container["args"]) == ("registry.test/worker:1", ["serve"])
    pass_time(cluster)
    [running] = await provider.list()
    assert (running.status, running.provider_pod_id) == (Status.RUNNING, made.provider_pod_id)


async def test_a_pod_without_gpus_asks_for_none(opened: Opened) -> None:
    provider, cluster = opened
    await provider.create(order(offer=CPU))
    spec = cluster.existing()[0].body["spec"]
    assert (spec["nodeSelector"], spec["tolerations"]) == ({}, [])
    assert spec["containers"][0]["resources"]["limits"] == {}


async def test_the_operator_s_own_rules_are_kept() -> None:
    async with both(
        node_selector={"pool": "gpu"}, tolerations=("team",), service_account="podium-worker",
        image_pull_policy="Always", image_pull_secrets=("registry",), grace_s=90,
    ) as (provider, cluster):  # fmt: skip
        cluster.cluster.service_accounts = ("podium-worker",)
        await provider.create(order())
        spec = cluster.existing()[0].body["spec"]
    assert spec["nodeSelector"]["pool"] == "gpu"
    assert {"key": "team", "operator": "Exists"} in spec["tolerations"]
    assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("podium-worker", [{"name": "registry"}])
    assert (spec["containers"][0]["imagePullPolicy"], spec["terminationGracePeriodSeconds"]) == ("Always", 90)


async def test_the_environment_is_in_a_secret_that_goes_with_the_pod(opened: Opened) -> None:
    provider, cluster = opened
    made = await provider.create(order())
    assert cluster.environment(made.name) == order().environment
    assert "only-once" not in json.dumps(cluster.shape(cluster.existing()[0]))
    assert cluster.secrets[made.name]["immutable"] is True
    await provider.destroy(made.provider_pod_id)
    assert cluster.living_secrets() == {}


async def test_a_pod_that_lacks_its_environment_gets_it_by_its_name(opened: Opened) -> None:
    provider, cluster = opened
    await provider.create(order())
    cluster.secrets.clear()
    pass_time(cluster)
    [waiting] = await provider.list()
    assert (waiting.status, waiting.detail) == (
        Status.PENDING,
        f'CreateContainerConfigError: secret "{PREFIX}1" not found',
    )
    await provider.create(order())
    assert [pod.status for pod in await provider.list()] == [Status.RUNNING]
    assert len(cluster.existing()) == 1


@pytest.mark.parametrize(
    "misbehaviour",
    [
        Misbehaviour(fails_after_creating=True),
        Misbehaviour(breaks_after_creating=True),
        Misbehaviour(garbles_after_creating=True),
    ],
    ids=["500", "cut", "garbled"],
)
async def test_one_whose_making_had_no_clear_answer_comes_up_all_the_same(
    opened: Opened, misbehaviour: Misbehaviour
) -> None:
    provider, cluster = opened
    cluster.script.add(Operation.CREATE, misbehaviour)
    with pytest.raises(providers.Ambiguous):
        await provider.create(order())
    pass_time(cluster)
    assert [pod.status for pod in await provider.list()] == [Status.RUNNING]


@pytest.mark.parametrize(("status", "error"), [(403, providers.Refused), (429, providers.Throttled)])
async def test_one_that_may_have_no_secret_is_taken_back(
    opened: Opened, status: int, error: type[providers.ProviderError]
) -> None:
    provider, cluster = opened
    cluster.cluster.secrets_fail = status
    with pytest.raises(error, match="cannot create resource"):
        await provider.create(order())
    assert cluster.existing() == []


@pytest.mark.parametrize("taken_back", [True, False])
async def test_one_that_is_left_behind_without_its_secret_is_ambiguous(opened: Opened, taken_back: bool) -> None:
    provider, cluster = opened
    cluster.cluster.secrets_fail = 403 if taken_back else 500
    cluster.script.add(Operation.DESTROY, Misbehaviour(fails_before=True))
    with pytest.raises(providers.Ambiguous):
        await provider.create(order())
    assert [pod.name for pod in await provider.list()] == [f"{PREFIX}1"]


async def test_a_name_that_is_somebody_else_s_is_refused(opened: Opened) -> None:
    provider, cluster = opened
    cluster.add_foreign(f"{PREFIX}1")
    with pytest.raises(providers.Refused, match="another pod"):
        await provider.create(order())


async def test_a_quota_is_no_capacity_and_other_bans_are_refusals(opened: Opened) -> None:
    provider, cluster = opened
    cluster.cluster.quota = 0
    with pytest.raises(providers.NoCapacity, match="exceeded quota"):
        await provider.create(order())
    cluster.cluster.quota, cluster.cluster.service_accounts = None, ()
    with pytest.raises(providers.Refused, match="service account"):
        await provider.create(order())
    assert cluster.existing() == []


async def test_what_the_api_does_not_accept_is_refused(opened: Opened) -> None:
    provider, cluster = opened
    with pytest.raises(providers.Refused, match="RFC 1123"):
        await provider.create(replace(order(), name="Podium_1"))
    cluster.cluster.namespaces = ()
    with pytest.raises(providers.Refused, match='namespaces "podium" not found'):
        await provider.create(order())
    assert cluster.existing() == []


async def test_the_stand_in_minds_fields_that_pods_do_not_have(opened: Opened) -> None:
    _, cluster = opened
    body = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "y", "imagePolicy": "Never"}]}}
    url = f"{cluster.base_url}/api/v1/namespaces/podium/pods?fieldValidation=Strict"
    async with aiohttp.request("POST", url, json=body, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 400
        assert 'unknown field "spec.containers[0].imagePolicy"' in (await answer.json())["message"]


async def test_every_page_is_read_and_those_too_old_are_read_anew() -> None:
    async with both(page_size=2) as (provider, cluster):
        for number in range(1, 6):
            await provider.create(order(number))
        names = [f"{PREFIX}{number}" for number in range(1, 6)]
        assert [pod.name for pod in await provider.list()] == names
        cluster.tokens_expire = True
        assert [pod.name for pod in await provider.list()] == names


async def test_a_destroyed_pod_is_listed_until_its_processes_have_ended(opened: Opened) -> None:
    provider, cluster = opened
    made = await provider.create(order())
    pass_time(cluster)
    await provider.destroy(made.provider_pod_id)
    [ending] = await provider.list()
    assert ending.detail == "Is being deleted."
    await provider.destroy(made.provider_pod_id)
    pass_time(cluster, 2.0)
    assert (await provider.list(), cluster.existing()) == ((), [])


async def test_no_room_waits_and_no_fitting_node_is_an_error(opened: Opened) -> None:
    provider, cluster = opened
    cluster.script.add(Operation.CREATE, Misbehaviour(never_boots=True))
    for number in (1, 2):
        await provider.create(order(number))
    cluster.cluster.fates[f"{PREFIX}2"] = Fate(
        unschedulable="0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
    )
    pass_time(cluster)
    full, wrong = await provider.list()
    assert (full.status, wrong.status) == (Status.PENDING, Status.ERROR)
    assert "3 Insufficient nvidia.com/gpu" in full.detail
    assert "didn't match" in wrong.detail


async def test_images_nodes_and_ends_show(opened: Opened) -> None:
    provider, cluster = opened
    fates = {
        1: (Fate(waiting=("ImagePullBackOff", "Back-off")), Status.ERROR, "ImagePullBackOff: Back-off"),
        2: (Fate(evicted="The node was low on memory."), Status.ERROR, "Evicted: The node was low on memory."),
        3: (Fate(preempted=True), Status.ERROR, "PreemptionByScheduler"),
        4: (Fate(), Status.STOPPED, "Its container ended with exit code 1: Error"),
    }
    for number, (fate, _, _) in fates.items():
        cluster.cluster.fates[f"{PREFIX}{number}"] = fate
        cluster.script.add(Operation.CREATE, Misbehaviour(dies=50.0) if number == 4 else Misbehaviour())
        await provider.create(order(number))
    pass_time(cluster)
    assert [(pod.status, pod.detail) for pod in await provider.list()] == [fate[1:] for fate in fates.values()]


async def test_a_kubeconfig_leads_in_and_a_missing_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "config"
    async with both(api_url="", kubeconfig=str(file)) as (provider, cluster):
        with pytest.raises(providers.Unauthorized, match="no way into"):
            await provider.list()
        named = {
            "clusters": {"cluster": {"server": cluster.base_url}},
            "users": {"user": {"token": TOKEN}},
            "contexts": {"context": {"cluster": "it", "user": "it"}},
        }
        config: dict[str, Any] = {kind: [{"name": "it", **what}] for kind, what in named.items()}
        file.write_text(json.dumps({**config, "current-context": "it", "kind": "Config", "apiVersion": "v1"}))
        assert await provider.list() == ()


@pytest.mark.parametrize("settings", [{"api_url": ""}, {"ca_file": "/nowhere/ca.pem"}], ids=["no cluster", "no file"])
async def test_without_a_cluster_or_its_authority_there_is_no_way_in(settings: dict[str, str]) -> None:
    async with both(**settings) as (provider, _):
        with pytest.raises(providers.Unauthorized, match="no way into"):
            await provider.offers()


async def test_silence_is_ambiguous() -> None:
    async with both(patience=http.Patience(total_s=0.5)) as (provider, cluster):
        await provider.offers()
        cluster.script.add(Operation.DESTROY, Misbehaviour(times_out_before=True))
        with pytest.raises(providers.Ambiguous):
            await provider.destroy(f"{PREFIX}1")


# --- the scheduler's words -------------------------------------------------------------------------------------------

SELECTOR = "3 node(s) didn't match Pod's node affinity/selector"
TAINT = "1 node(s) had untolerated taint {team: research}"
NOT_READY = "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }"
TAIL = ". preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("reasons", "hopeless"),
    [
        (SELECTOR, True),
        (f"{TAINT}, {SELECTOR}", True),
        ("1 node(s) had untolerated taint(s) {team: research}", True),
        ("2 Insufficient nvidia.com/gpu", False),
        (f"2 Insufficient nvidia.com/gpu, {SELECTOR}", False),
        (f"{NOT_READY}, {SELECTOR}", False),
        ("1 node(s) were unschedulable", False),
        ("1 Too many pods", False),
    ],
)
def test_what_the_scheduler_s_message_means(reasons: str, hopeless: bool) -> None:
    assert kubernetes_phases.fits_no_node(f"0/4 nodes are available: {reasons}{TAIL}") is hopeless
    assert kubernetes_phases.fits_no_node(f"0/4 nodes are available: {reasons}.") is hopeless


def test_a_message_without_nodes_promises_nothing() -> None:
    assert not kubernetes_phases.fits_no_node("no nodes available to schedule pods")
    assert not kubernetes_phases.fits_no_node("")


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "podium-t-1"}, "status": status}


def test_where_nodes_come_on_demand_none_has_to_fit_yet() -> None:
    message = f"0/3 nodes are available: {SELECTOR}."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    waits = pod(phase="Pending", conditions=[condition])
    assert kubernetes_phases.judge(waits)[0] is Status.ERROR
    assert kubernetes_phases.judge(waits, nodes_on_demand=True) == (Status.PENDING, f"Unschedulable: {message}")


@pytest.mark.parametrize(
    ("status", "judged"),
    [
        ({}, (Status.PENDING, "")),
        ({"phase": "Running"}, (Status.RUNNING, "")),
        ({"phase": "Succeeded"}, (Status.STOPPED, "Succeeded")),
        ({"phase": "Unknown"}, (Status.ERROR, "Unknown")),
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, (Status.ERROR, "UnexpectedAdmissionError")),
    ],
)
def test_phases(status: dict[str, Any], judged: tuple[Status, str]) -> None:
    assert kubernetes_phases.judge(pod(**status)) == judged


@pytest.mark.parametrize(
    "reason", ["ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError", "CrashLoopBackOff"]
)
def test_a_container_that_cannot_be_made_is_an_error(reason: str) -> None:
    waiting = pod(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": reason}}}])
    assert kubernetes_phases.judge(waiting) == (Status.ERROR, reason)

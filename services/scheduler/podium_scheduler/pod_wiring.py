"""Wires what rents and watches pods: providers, the leader's loops over them, and what operators may do with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from podium.common.v1 import workload_pb2
from podium_runtime import clock, ids, supervision
from podium_scheduler import storage
from podium_scheduler.adapters import pods_file
from podium_scheduler.adapters.providers import local
from podium_scheduler.app import (
    autoscaler,
    draining,
    fleet_facts,
    job_costs,
    outlook,
    pod_keeper,
    pod_readiness,
    pods_of_operators,
    providers,
    tight_room,
    wakers,
)
from podium_scheduler.domain import pods
from podium_scheduler.domain.autoscaling import policy
from podium_scheduler.settings import SchedulerSettings

_CREDENTIALS = {"runpod": "runpod_api_key", "digitalocean": "digitalocean_token"}
_NONE = pydantic.SecretStr("")


class CredentialMissing(Exception):
    """The pods file names a provider whose credential is not set. The message is one line for people."""


@dataclass(slots=True)
class Fleet:
    """What this replica rents from, and how."""

    plan: pods_file.Plan
    renting: Sequence[providers.Provider]
    scheduler_address: str = ""
    """Set once the scheduler listens."""
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What pods have for it; a private key may be among it."""

    def order(
        self, pod: pods.Pod, token: str, workloads: Mapping[str, workload_pb2.Workload] | None = None
    ) -> providers.Order:
        """What to order for a pod. `workloads`: one of which it is for, unless it is for nobody in particular."""
        plan, rented_for = self.plan, (workloads or {}).get(pod.workload)
        return providers.Order(
            pod_id=pod.pod_id,
            name=pod.name,
            offer=fleet_facts.offer_of(pod),
            image=plan.image,
            command=plan.command,
            environment={
                **plan.environment,
                **self.tls,
                "PODIUM_SCHEDULER_ADDRESS": plan.scheduler_address or self.scheduler_address,
                "PODIUM_JOIN_TOKEN": token,
                "PODIUM_POD_ID": str(pod.pod_id),
            },
            disk_gb=plan.disk_gb,
            min_cuda_version=rented_for.needs.min_cuda_version if rented_for is not None else "",
        )

    async def close(self) -> None:
        """Gives back what the providers hold; no pod is touched."""
        for provider in self.renting:
            await provider.close()


def fleet(settings: SchedulerSettings, time: clock.Clock) -> Fleet | None:
    """What the settings ask for; None: nobody rents. Raises PodsFileError or CredentialMissing."""
    if settings.pods is None:
        return None
    plan = pods_file.load(settings.pods)
    # Before any provider is made: each holds connections.
    for name, setting in _CREDENTIALS.items():
        if getattr(plan.providers, name) is not None and getattr(settings, setting) is None:
            raise CredentialMissing(f"{settings.pods} names {name}: set PODIUM_{setting.upper()}")
    tls = pods_file.tls_environment(settings.pods, plan)
    return Fleet(plan, _providers(plan, settings, time), tls=tls)


def loops(
    fleet: Fleet,
    stores: storage.Stores,
    workloads: Mapping[str, workload_pb2.Workload],
    wake: wakers.Wakers,
    drains: draining.Draining,
    make: ids.Ids,
    show: outlook.Outlook,
    space: tight_room.TightRoom,
) -> list[supervision.Loop]:
    """The leader's, with `stores` that write under its term only. `show` learns what pods may come; `space`: for
    results."""
    plan, time = fleet.plan, clock.SystemClock()
    rules = pod_keeper.Rules(plan.watch.patience, plan.watch.orphans, plan.watch.interval_s)
    facts = fleet_facts.FleetFacts(
        stores.pods,
        stores.scaling,
        stores.sessions,
        stores.loads,
        stores.costs,
        workloads,
        stores.asked,
        job_costs.JobCosts(stores.costs),
        space,
    )
    on_offer = autoscaler.OfferWatch(fleet.renting, time)
    decides = autoscaler.Autoscaler(
        stores.pods, stores.scaling, facts, on_offer, drains, plan.policy, plan.cluster, make, time, wake, show=show
    )

    def order(pod: pods.Pod, token: str) -> providers.Order:
        return fleet.order(pod, token, workloads)

    keepers = [
        pod_keeper.PodKeeper(stores.pods, provider, order, make, time, rules, wake.keepers[provider.name])
        for provider in fleet.renting
    ]
    return [*keepers, pod_readiness.PodReadiness(stores.pods, stores.sessions, workloads), on_offer, decides]


def of_operators(
    fleet: Fleet | None, stores: storage.Stores, wake: wakers.Wakers, drains: draining.Draining, make: ids.Ids
) -> pods_of_operators.PodsOfOperators:
    """What operators may do; without a fleet they can look."""
    return pods_of_operators.PodsOfOperators(
        stores.pods,
        stores.scaling,
        {provider.name: provider for provider in fleet.renting} if fleet else {},
        drains,
        make,
        fleet.plan.cluster if fleet else "podium",
        fleet.plan.policy if fleet else policy.Policy(),
        wake,
    )


def _providers(plan: pods_file.Plan, settings: SchedulerSettings, time: clock.Clock) -> list[providers.Provider]:
    wanted, prefix = plan.providers, f"{plan.cluster}-"
    found: list[providers.Provider] = []
    if wanted.local is not None:
        found.append(local.Local(_local(wanted.local, prefix), time))
    return found + _over_http(plan, settings)


def _over_http(plan: pods_file.Plan, settings: SchedulerSettings) -> list[providers.Provider]:
    """Their HTTP client takes a fifth of a second to import, which only who rents from them shall pay."""
    wanted, prefix = plan.providers, f"{plan.cluster}-"
    found: list[providers.Provider] = []
    if wanted.docker is not None:
        from podium_scheduler.adapters.providers import docker

        offered = [offer.of("docker") for offer in wanted.docker.offers]
        fields = wanted.docker.model_dump(exclude={"offers"})
        found.append(docker.Docker(docker.Settings(prefix=prefix, offers=offered, **fields)))
    if wanted.kubernetes is not None:
        # And its client library a second.
        from podium_scheduler.adapters.providers import kubernetes

        offered = [offer.of("kubernetes") for offer in wanted.kubernetes.offers]
        fields = wanted.kubernetes.model_dump(exclude={"offers"})
        found.append(kubernetes.Kubernetes(kubernetes.Settings(prefix=prefix, offers=offered, **fields)))
    if wanted.runpod is not None:
        from podium_scheduler.adapters.providers import runpod, runpod_v1

        fields = wanted.runpod.model_dump(exclude={"api"})
        account = runpod.Settings(api_key=settings.runpod_api_key or _NONE, prefix=prefix, **fields)
        found.append(runpod_v1.RunPodV1(account) if wanted.runpod.api == "v1" else runpod.RunPod(account))
    if wanted.digitalocean is not None:
        from podium_scheduler.adapters.providers import digitalocean

        fields = wanted.digitalocean.model_dump()
        found.append(
            digitalocean.DigitalOcean(
                digitalocean.Settings(token=settings.digitalocean_token or _NONE, prefix=prefix, **fields)
            )
        )
    return found


def _local(wanted: pods_file.Local, prefix: str) -> local.Settings:
    return local.Settings(
        folder=wanted.folder or Path("pods"),
        prefix=prefix,
        environment=local.inheritable(os.environ),
        max_count=wanted.max_count,
        price_usd_per_hour=wanted.price_usd_per_hour,
    )

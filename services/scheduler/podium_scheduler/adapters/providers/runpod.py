"""RunPod, by its REST API v2.

A pod has no tag and a create call no key that would make it safe to repeat, so a pod is known by its name alone, and
names are not unique: a second create of a name is a second pod, and `list` shows both. A 400 is a broken rule or a
lack of machines, and only its text tells which. A container that exits is started again and billed on: nothing but
`destroy` ends a pod.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from podium_scheduler.adapters.providers import gpu_models, http, prefixes
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Cloud, Listed, Offer, Order, Status, Stock
from podium_scheduler.domain import versions

CAPACITY_TEXTS = (
    "no instances currently available",
    "no longer any instances available",
    "could not find any pods with required specifications",
    "does not have the resources to deploy your pod",
    "not enough free gpus on the host machine",
    "no available datacenter with requested resources",
)
"""In lower case. As third parties reported them: RunPod documents none."""
_MAX_PAGES = 1_000
_ID = re.compile(r"[A-Za-z0-9_-]+")
_STATUSES = {
    "PROVISIONING": Status.PENDING,
    "STARTING": Status.PENDING,
    "RUNNING": Status.RUNNING,
    "EXITED": Status.STOPPED,
    "ERROR": Status.ERROR,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How RunPod is used."""

    api_key: pydantic.SecretStr
    prefix: str
    """What the names of this cluster's pods begin with, and no other names on the account."""
    base_url: str = "https://api.runpod.io/v2"
    v1_url: str = "https://rest.runpod.io/v1"
    """Only for RunPodV1."""
    clouds: Sequence[Cloud] = (Cloud.SECURE, Cloud.COMMUNITY)
    gpu_types: Sequence[str] = ()
    """RunPod's ids; empty: all of NVIDIA's."""
    gpu_counts: Sequence[int] = (1,)
    """GPUs of a pod that are offered."""
    min_cuda_version: str = ""
    """What a host's driver must be good for, as "12.8"; empty: anything."""
    data_center_ids: Sequence[str] = ()
    """Empty: any."""
    list_lag_s: float = 120.0
    patience: http.Patience = field(default_factory=http.Patience)

    def __post_init__(self) -> None:
        prefixes.check(self.prefix)


class RunPod:
    """Rents pods by REST v2. Made inside the event loop that it is used in."""

    name = "runpod"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = http.Session("RunPod", settings.base_url, settings.api_key, settings.patience)

    @property
    def list_lag_s(self) -> float:
        return self._settings.list_lag_s

    async def offers(self) -> Sequence[Offer]:
        return await catalog(self._http, self._settings)

    async def create(self, order: Order) -> Listed:
        body = create_body(order, self._settings)
        answer = await self._http.call("POST", "/pods", body=body, hide=order.environment.values())
        if not answer.is_good:
            raise create_failure(answer)
        with answer.understood():
            return listed(answer.body)

    async def list(self) -> Sequence[Listed]:
        """Follows cursors where the server gives any; those that give none answer with all pods at once."""
        pods: dict[str, Listed] = {}
        query: dict[str, str] = {}
        for _ in range(_MAX_PAGES):
            answer = await self._http.call("GET", "/pods", query=query)
            if not answer.is_good:
                raise answer.failure()
            with answer.understood():
                pods |= {pod.provider_pod_id: pod for pod in ours(answer.body["pods"], self._settings.prefix, listed)}
                page = answer.body.get("pagination") or {}
                if not page.get("hasNextPage"):
                    return tuple(pods.values())
                query = {"cursor": page["nextCursor"]}
        raise providers.Ambiguous("the pages of RunPod's list have no end")

    async def destroy(self, provider_pod_id: str) -> None:
        await destroy(self._http, provider_pod_id)

    async def close(self) -> None:
        await self._http.close()


def create_body(order: Order, settings: Settings) -> dict[str, Any]:
    """The body of a create call. Disk and count always: without them RunPod answers with errors that mislead."""
    gpu: dict[str, Any] = {"id": order.offer.gpu_type, "count": order.offer.gpu_count}
    if least := least_cuda(order, settings):
        gpu["minCudaVersion"] = least
    body: dict[str, Any] = {
        "name": order.name,
        "image": order.image,
        "gpu": gpu,
        "cloud": order.offer.cloud.value,
        "disk": order.disk_gb,
        "env": dict(order.environment),
    }
    if order.command:
        body["args"] = shlex.join(order.command)
    if settings.data_center_ids:
        body["dataCenterIds"] = list(settings.data_center_ids)
    return body


def least_cuda(order: Order, settings: Settings) -> str:
    """What a host's driver must be good for: the newer of the order's and the settings'; empty: anything."""
    return max(order.min_cuda_version, settings.min_cuda_version, key=versions.parsed)


def create_failure(answer: http.Answer) -> providers.ProviderError:
    """The error of a create call that was not obeyed."""
    if answer.status == 400 and tells_of_capacity(answer.words):
        return answer.failure(providers.NoCapacity)
    return answer.failure()


def tells_of_capacity(words: str) -> bool:
    """Whether an error's text means that there is no machine."""
    return any(text in words.lower() for text in CAPACITY_TEXTS)


def listed(pod: Mapping[str, Any]) -> Listed:
    """A pod of v2. Raises what a shape that is not the documented one leads to."""
    status = _STATUSES.get(pod["status"], Status.PENDING)
    gpu = pod.get("gpu") or {}
    cuda = f", CUDA {pod['cudaVersion']}" if pod.get("cudaVersion") else ""
    return Listed(
        provider_pod_id=pod["id"],
        name=pod["name"],
        status=status,
        # A pod that has exited is said to cost nothing, and its disk costs on.
        price_usd_per_hour=None if status is Status.STOPPED else float(pod["cost"]),
        gpu_type=gpu.get("id", ""),
        # One that comes back from a stop may have lost its GPU.
        gpu_count=gpu.get("count", 0),
        create_time=http.time_of(pod.get("createdAt")),
        detail=f"{pod['status']}{cuda}",
    )


def ours(
    pods: Sequence[Mapping[str, Any]], prefix: str, read: Callable[[Mapping[str, Any]], Listed]
) -> Iterator[Listed]:
    """Those of the cluster that are still there, as `read` reads them."""
    for pod in pods:
        # v2 has a status, v1 a desired one.
        is_over = "TERMINATED" in (pod.get("status"), pod.get("desiredStatus"))
        if str(pod.get("name")).startswith(prefix) and not is_over:
            yield read(pod)


async def destroy(session: http.Session, provider_pod_id: str) -> None:
    """The same in v1 and v2. Raises ProviderError."""
    if not _ID.fullmatch(provider_pod_id):
        # No pod has such an id, and as a path it could mean anything.
        return
    answer = await session.call("DELETE", f"/pods/{provider_pod_id}")
    if not answer.is_good and answer.status != 404:
        raise answer.failure()


async def catalog(session: http.Session, settings: Settings) -> Sequence[Offer]:
    """What v2's catalog offers: a call for each cloud and count, since its stock is of one of each."""
    offers: list[Offer] = []
    for cloud in settings.clouds:
        for count in settings.gpu_counts:
            query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud.value, "count": str(count)}
            if settings.min_cuda_version:
                query["minCudaVersion"] = settings.min_cuda_version
            answer = await session.call("GET", "/catalog/gpus", query=query)
            if not answer.is_good:
                raise answer.failure()
            with answer.understood():
                offers += [
                    _offer(gpu, cloud, count) for gpu in answer.body["gpus"] if _fits(gpu, cloud, count, settings)
                ]
    return offers


def _fits(gpu: Mapping[str, Any], cloud: Cloud, count: int, settings: Settings) -> bool:
    side = cloud.value.lower()
    return bool(
        gpu[side]
        and gpu["price"].get(side)
        and count <= (gpu["maxCount"].get(side) or 0)
        and gpu["manufacturer"].lower() != "amd"
        and (not settings.gpu_types or gpu["id"] in settings.gpu_types)
    )


def _offer(gpu: Mapping[str, Any], cloud: Cloud, count: int) -> Offer:
    stock = str(gpu.get("availability"))
    return Offer(
        provider=RunPod.name,
        gpu_type=gpu["id"],
        gpu_count=count,
        price_usd_per_hour=float(gpu["price"][cloud.value.lower()]) * count,
        vram_bytes=int(gpu["memory"]) << 30,
        compute_capability=gpu_models.compute_capability(gpu["id"]),
        device_name=gpu["id"],
        cloud=cloud,
        stock=Stock(stock) if stock in Stock.__members__ else Stock.UNKNOWN,
    )

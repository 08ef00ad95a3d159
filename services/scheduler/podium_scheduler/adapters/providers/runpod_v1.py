"""RunPod, by its REST API v1, which is about to be retired: for accounts that cannot use v2 yet.

It has no catalog, so the offers are v2's. It says with a 500 that there is no machine, that the account is empty and
that it broke, and only the text tells which: a 500 with any other text is Ambiguous, and there were pods behind such
answers. Its list has no page and does not tell whether a pod has come up: what is meant to run is RUNNING.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from podium_scheduler.adapters.providers import http, runpod
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Offer, Order, Status
from podium_scheduler.domain import versions

_CUDA_VERSIONS = ("11.8", "12.0", "12.1", "12.2", "12.3", "12.4", "12.5", "12.6", "12.7", "12.8", "12.9", "13.0")
_FUNDS_TEXTS = ("balance", "insufficient funds")
_RETIRED_TEXTS = ("no longer offered",)
_STATUSES = {"RUNNING": Status.RUNNING, "EXITED": Status.STOPPED}


class RunPodV1:
    """Rents pods by REST v1. Made inside the event loop that it is used in."""

    name = runpod.RunPod.name

    def __init__(self, settings: runpod.Settings) -> None:
        self._settings = settings
        self._http = http.Session("RunPod v1", settings.v1_url, settings.api_key, settings.patience)
        self._catalog = http.Session("RunPod", settings.base_url, settings.api_key, settings.patience)

    @property
    def list_lag_s(self) -> float:
        return self._settings.list_lag_s

    async def offers(self) -> Sequence[Offer]:
        return await runpod.catalog(self._catalog, self._settings)

    async def create(self, order: Order) -> Listed:
        body = create_body(order, self._settings)
        answer = await self._http.call("POST", "/pods", body=body, hide=order.environment.values())
        if not answer.is_good:
            raise create_failure(answer)
        with answer.understood():
            return listed(answer.body)

    async def list(self) -> Sequence[Listed]:
        answer = await self._http.call("GET", "/pods")
        if not answer.is_good:
            raise answer.failure()
        with answer.understood():
            return tuple(runpod.ours(answer.body, self._settings.prefix, listed))

    async def destroy(self, provider_pod_id: str) -> None:
        await runpod.destroy(self._http, provider_pod_id)

    async def close(self) -> None:
        await self._http.close()
        await self._catalog.close()


def create_body(order: Order, settings: runpod.Settings) -> dict[str, Any]:
    """The body of a create call. What is not wanted is said: a volume of 20 GB and two open ports are the default."""
    body: dict[str, Any] = {
        "name": order.name,
        "imageName": order.image,
        "computeType": "GPU",
        "cloudType": order.offer.cloud.value,
        "gpuTypeIds": [order.offer.gpu_type],
        "gpuCount": order.offer.gpu_count,
        "containerDiskInGb": order.disk_gb,
        "volumeInGb": 0,
        "ports": [],
        "env": dict(order.environment),
    }
    if order.command:
        body["dockerStartCmd"] = list(order.command)
    if least := versions.parsed(runpod.least_cuda(order, settings)):
        body["allowedCudaVersions"] = [version for version in _CUDA_VERSIONS if versions.parsed(version) >= least]
    if settings.data_center_ids:
        body["dataCenterIds"] = list(settings.data_center_ids)
    return body


def create_failure(answer: http.Answer) -> providers.ProviderError:
    """The error of a create call that was not obeyed."""
    words = answer.words.lower()
    if runpod.tells_of_capacity(words):
        return answer.failure(providers.NoCapacity)
    if any(text in words for text in _FUNDS_TEXTS):
        return answer.failure(providers.OutOfFunds)
    if any(text in words for text in _RETIRED_TEXTS):
        return answer.failure(providers.Refused)
    return answer.failure()


def listed(pod: Mapping[str, Any]) -> Listed:
    """A pod of v1. Raises what a shape that is not the documented one leads to."""
    desired = pod["desiredStatus"]
    status = _STATUSES.get(desired, Status.PENDING)
    gpu = pod.get("gpu") or {}
    price = pod.get("adjustedCostPerHr") or pod["costPerHr"]
    return Listed(
        provider_pod_id=pod["id"],
        name=pod["name"],
        status=status,
        price_usd_per_hour=None if status is Status.STOPPED else float(price),
        gpu_type=gpu.get("id", ""),
        gpu_count=gpu.get("count", 0),
        detail=desired,
    )

"""RunPod's REST v1 on loopback, and v2's catalog beside it, which v1 lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from tests.support.clouds import runpod, stand_in
from tests.support.clouds.stand_in import Phase, Pod

_FIELDS = {
    "name", "imageName", "computeType", "cloudType", "gpuTypeIds", "gpuTypePriority", "gpuCount", "allowedCudaVersions",
    "dataCenterIds", "dataCenterPriority", "countryCodes", "containerDiskInGb", "volumeInGb", "volumeMountPath",
    "ports", "env", "dockerEntrypoint", "dockerStartCmd", "interruptible", "locked", "globalNetworking", "minRAMPerGPU",
    "minVCPUPerGPU", "minDiskBandwidthMBps", "minDownloadMbps", "minUploadMbps", "supportPublicIp", "networkVolumeId",
    "templateId", "containerRegistryAuthId",
}  # fmt: skip
_NOT_IN_V1 = ("B300", " MIG ")


class RunPodV1(runpod.RunPod):
    """v1. Its base_url is the catalog's, as the provider's settings have it."""

    @property
    def v1_url(self) -> str:
        """Of v1 itself."""
        return self.base_url.removesuffix("/v2") + "/v1"

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/v1/pods", self._create),
            web.get("/v1/pods", self._list),
            web.get("/v1/pods/{id}", self._get),
            web.delete("/v1/pods/{id}", self._delete),
            web.get("/v2/catalog/gpus", self._catalog),
        ]

    def problem(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.json_response({"error": words, "status": status}, status=status, headers=headers)

    def no_capacity(self) -> web.Response:
        return self.problem(500, f"create pod: {next(self._excuses).capitalize()}")

    def out_of_funds(self) -> web.Response:
        return self.problem(500, "create pod: Your balance is too low to deploy a pod")

    def limits(self) -> Mapping[str, str]:
        return {}

    async def _create(self, request: web.Request) -> web.Response:
        try:
            body = _checked(await request.json())
            cloud = body.get("cloudType", "SECURE")
            gpu = self._gpu({"id": body["gpuTypeIds"][0], "count": body.get("gpuCount", 1)}, cloud)
        except runpod.Breach as breach:
            return self.problem(breach.status, str(breach))
        if gpu.stock == "NONE":
            return self.no_capacity()
        count = body.get("gpuCount", 1)
        price = (gpu.secure if cloud == "SECURE" else gpu.community) or 0.0
        pod = self.add(
            f"pod{len(self.pods) + 1:08x}", body.get("name", "my pod"), gpu.id, count, price * count,
            body=body, misbehaviour=request[stand_in.MISBEHAVIOUR],
        )  # fmt: skip
        return web.json_response(self.shape(pod), status=201)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([self.shape(pod) for pod in self.shown(request[stand_in.MISBEHAVIOUR])])

    def shape(self, pod: Pod) -> dict[str, Any]:
        """A pod as v1 shows it."""
        now = self.time.now()
        stopped = pod.phase(now, self.pace) is Phase.STOPPED
        shape = {
            "id": pod.pod_id,
            "name": pod.name,
            "image": pod.body.get("imageName", ""),
            "desiredStatus": "EXITED" if stopped else "RUNNING",
            "costPerHr": str(pod.price_usd_per_hour),
            "adjustedCostPerHr": pod.price_usd_per_hour,
            "machineId": "m1",
            "publicIp": "",
            "portMappings": {},
            "env": pod.body.get("env", {}),
            "lastStartedAt": pod.create_time.isoformat(),
            "memoryInGb": 62,
            "vcpuCount": 16,
        }
        gpu = {"id": pod.gpu_type, "count": pod.gpu_count, "displayName": pod.gpu_type}
        return shape | ({"gpu": gpu} if pod.has_gpu(now) else {})


def _checked(body: Any) -> Mapping[str, Any]:
    """The body of a create call. Raises Breach."""
    if not isinstance(body, dict):
        raise runpod.Breach(400, "the body must be an object")
    if unknown := body.keys() - _FIELDS:
        raise runpod.Breach(422, f"unknown property {min(unknown)!r}")
    if "imageName" not in body and "templateId" not in body:
        raise runpod.Breach(400, "imageName is required")
    if body.get("interruptible"):
        raise runpod.Breach(500, "create pod: Spot pods are no longer offered")
    if body.get("cloudType", "SECURE") not in ("SECURE", "COMMUNITY"):
        raise runpod.Breach(400, "cloudType is SECURE or COMMUNITY")
    types = body.get("gpuTypeIds")
    if not types or any(part in types[0] for part in _NOT_IN_V1):
        raise runpod.Breach(400, "gpuTypeIds holds no known GPU type")
    return body

"""RunPod's REST v2 on loopback, as its OpenAPI file and third parties' reports have it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from podium_runtime import clock as clocks
from podium_scheduler.adapters.providers import runpod
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Operation, Phase, Pod

KEY = "rpa_0123456789abcdefghijklmnop"
WINDOWS = (
    stand_in.Window("minute", 60, 60),
    stand_in.Window("hour", 3_000, 3_600),
    stand_in.Window("day", 50_000, 86_400),
)
"""The examples of the specification; what the real ones are is not told."""
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str, "image": str, "gpu": dict, "cpu": dict, "cloud": str, "dataCenterIds": list, "disk": int,
    "mounts": dict, "ports": list, "env": dict, "args": str, "templateId": str, "registry": dict,
    "globalNetworking": bool, "startSsh": bool, "startJupyter": bool,
}  # fmt: skip
_GPU_FIELDS = {"id", "count", "allowedCudaVersions", "minCudaVersion"}
_STATUSES = {
    Phase.PROVISIONING: "PROVISIONING",
    Phase.STARTING: "STARTING",
    Phase.RUNNING: "RUNNING",
    Phase.STOPPED: "EXITED",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A line of the catalog. Prices in USD per hour; None: not in that cloud."""

    id: str
    memory_gb: int
    secure: float | None
    community: float | None
    stock: str = "HIGH"
    max_count: int = 8
    manufacturer: str = "Nvidia"


GPUS = (
    Gpu("NVIDIA GeForce RTX 4090", 24, 0.69, 0.34),
    Gpu("NVIDIA L40S", 48, 0.86, None, stock="LOW"),
    Gpu("NVIDIA H100 80GB HBM3", 80, 2.99, None, stock="MEDIUM"),
    Gpu("NVIDIA B200", 180, 5.99, None, stock="NONE"),
    Gpu("AMD Instinct MI300X OAM", 192, 2.49, None, manufacturer="AMD"),
)


class Breach(Exception):
    """What was sent breaks the contract."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class RunPod(stand_in.StandIn):
    """v2. `page_size`: pods on a page of the list, if it has pages."""

    prefix = "/v2"
    foreign = ("NVIDIA L40S", 1, 0.86)

    def __init__(
        self,
        time: clocks.Clock,
        *,
        credential: str = KEY,
        windows: Sequence[stand_in.Window] = WINDOWS,
        page_size: int | None = 3,
        gpus: Sequence[Gpu] = GPUS,
        **more: Any,
    ) -> None:
        super().__init__(time, credential=credential, windows=windows, **more)
        self.page_size = page_size
        self.gpus = {gpu.id: gpu for gpu in gpus}
        self._excuses = itertools.cycle(runpod.CAPACITY_TEXTS)

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/v2/pods", self._create),
            web.get("/v2/pods", self._list),
            web.get("/v2/pods/{id}", self._get),
            web.delete("/v2/pods/{id}", self._delete),
            web.get("/v2/catalog/gpus", self._catalog),
        ]

    def operation(self, request: web.Request) -> Operation | None:
        if "catalog" in request.path:
            return Operation.OFFERS
        if request.path.endswith("/pods"):
            return Operation.CREATE if request.method == "POST" else Operation.LIST
        return Operation.DESTROY if request.method == "DELETE" else None

    def problem(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
        body = {"title": "Problem", "status": status, "detail": words}
        return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")

    def no_capacity(self) -> web.Response:
        return self.problem(400, f"create pod: {next(self._excuses).capitalize()}. Try again later.")

    def limits(self) -> Mapping[str, str]:
        told = [(w, self.quota.left(w), round(self.quota.reset_s(w))) for w in self.quota.windows]
        return {
            "RateLimit": ", ".join(f'"{w.name}";r={left};t={reset}' for w, left, reset in told),
            "RateLimit-Policy": ", ".join(f'"{w.name}";q={w.calls};w={w.seconds}' for w, _, _ in told),
        }

    async def _create(self, request: web.Request) -> web.Response:
        try:
            body = checked(await request.json())
            gpu = self._gpu(body["gpu"], body.get("cloud", "SECURE"))
        except Breach as breach:
            return self.problem(breach.status, str(breach))
        if gpu.stock == "NONE":
            return self.no_capacity()
        count, secure = body["gpu"]["count"], body.get("cloud", "SECURE") == "SECURE"
        price = (gpu.secure if secure else gpu.community) or 0.0
        pod = self.add(
            f"pod{len(self.pods) + 1:08x}", body["name"], gpu.id, count, price * count,
            body=body, misbehaviour=request[stand_in.MISBEHAVIOUR],
        )  # fmt: skip
        return web.json_response(self.shape(pod), status=201)

    def _gpu(self, asked: Mapping[str, Any], cloud: str) -> Gpu:
        gpu = self.gpus.get(asked["id"])
        if gpu is None:
            raise Breach(400, f"unknown GPU type {asked['id']!r}")
        if "count" not in asked:
            # Untrue, and what the real one says.
            raise Breach(400, "There are no instances currently available")
        if asked["count"] > gpu.max_count or (gpu.secure if cloud == "SECURE" else gpu.community) is None:
            raise Breach(400, f"{asked['count']} x {gpu.id} cannot be had in {cloud}")
        return gpu

    async def _list(self, request: web.Request) -> web.Response:
        pods = self.shown(request[stand_in.MISBEHAVIOUR])
        if self.page_size is None:
            return web.json_response({"pods": [self.shape(pod) for pod in pods]})
        try:
            after = int(base64.urlsafe_b64decode(request.query.get("cursor", "MA==")))
        except ValueError:
            return self.problem(422, "The cursor is not valid.")
        rest = [pod for pod in pods if pod.number > after]
        page = rest[: self.page_size]
        more = len(rest) > len(page)
        cursor = base64.urlsafe_b64encode(str(page[-1].number).encode()).decode() if more else None
        return web.json_response(
            {
                "pods": [self.shape(pod) for pod in page],
                "pagination": {"nextCursor": cursor, "hasNextPage": more},
            }
        )

    async def _get(self, request: web.Request) -> web.Response:
        pod = self.find(request.match_info["id"])
        return web.json_response(self.shape(pod)) if pod else self.problem(404, "pod not found")

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self.find(request.match_info["id"])
        if pod is None:
            return self.problem(404, "pod not found")
        self.delete(pod)
        return web.Response(status=204)

    async def _catalog(self, request: web.Request) -> web.Response:
        query = request.query
        if (query.get("include") == "AVAILABILITY") != (query.get("product") == "POD"):
            return self.problem(400, "include=AVAILABILITY and product=POD go together")
        if "cudaVersions" in query and "minCudaVersion" in query:
            return self.problem(400, "cudaVersions or minCudaVersion")
        return web.json_response({"gpus": [catalog_line(gpu, "include" in query) for gpu in self.gpus.values()]})

    def shape(self, pod: Pod) -> dict[str, Any]:
        """A pod as v2 shows it."""
        now = self.time.now()
        phase = pod.phase(now, self.pace)
        wrong = pod.misbehaviour.wrong_cuda
        shape = {
            "id": pod.pod_id,
            "name": pod.name,
            "status": _STATUSES[phase],
            "actions": ["stop", "restart", "terminate"],
            "image": pod.body.get("image", ""),
            "args": pod.body.get("args", ""),
            "disk": pod.body.get("disk", 20),
            "mounts": {},
            "ports": pod.body.get("ports", []),
            "env": pod.body.get("env", {}),
            "registry": None,
            "cloud": pod.body.get("cloud", "SECURE"),
            "dataCenterId": None,
            "cudaVersion": ("11.8" if wrong else "13.0") if phase is Phase.RUNNING else None,
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 0 if phase is Phase.STOPPED else pod.price_usd_per_hour,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": None,
            "createdAt": pod.create_time.isoformat().replace("+00:00", "Z"),
            "startedAt": None,
        }
        return shape | ({"gpu": {"id": pod.gpu_type, "count": pod.gpu_count}} if pod.has_gpu(now) else {})


def checked(body: Any) -> Mapping[str, Any]:
    """The body of a create call. Raises Breach."""
    if not isinstance(body, dict):
        raise Breach(422, "the body must be an object")
    unknown = [*(body.keys() - _FIELDS.keys()), *(body.get("gpu", {}).keys() - _GPU_FIELDS)]
    if unknown:
        raise Breach(422, f"unknown property {unknown[0]!r}")
    for name, value in body.items():
        if not isinstance(value, _FIELDS[name]):
            raise Breach(422, f"{name} is of the wrong type")
    if "name" not in body:
        raise Breach(422, "name is required")
    if not all(isinstance(value, str) for value in body.get("env", {}).values()):
        raise Breach(422, "env is a map of strings")
    if ("gpu" in body) == ("cpu" in body):
        raise Breach(400, "exactly one of gpu and cpu")
    if ("image" not in body and "templateId" not in body) or body.get("disk", 0) < 1:
        raise Breach(400, "You must either provide a template id or pod configuration parameters")
    if body.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY"):
        raise Breach(422, "cloud is SECURE or COMMUNITY")
    if {"allowedCudaVersions", "minCudaVersion"} <= body.get("gpu", {}).keys():
        raise Breach(400, "allowedCudaVersions or minCudaVersion")
    return body


def catalog_line(gpu: Gpu, with_stock: bool) -> dict[str, Any]:
    """A GPU as v2's catalog shows it."""
    line = {
        "id": gpu.id,
        "name": gpu.id.removeprefix("NVIDIA "),
        "pool": "POOL",
        "manufacturer": gpu.manufacturer,
        "memory": gpu.memory_gb,
        "secure": gpu.secure is not None,
        "community": gpu.community is not None,
        "price": {"secure": gpu.secure, "community": gpu.community},
        "maxCount": {"secure": gpu.max_count, "community": gpu.max_count},
    }
    stock = {"availability": gpu.stock, "dataCenters": [], "cudaVersions": [{"version": "13.0", "available": True}]}
    return line | (stock if with_stock else {})

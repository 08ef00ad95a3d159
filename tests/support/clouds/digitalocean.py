"""DigitalOcean's API on loopback, as far as GPU Droplets need it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from podium_runtime import clock as clocks
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Operation, Phase, Pod

TOKEN = "dop_v1_0123456789abcdef0123456789abcdef"
WINDOWS = (stand_in.Window("minute", 250, 60), stand_in.Window("hour", 5_000, 3_600))
_FIELDS = {
    "name", "names", "region", "size", "image", "ssh_keys", "backups", "ipv6", "monitoring", "tags", "user_data",
    "volumes", "vpc_uuid", "public_networking", "private_networking", "with_droplet_agent",
}  # fmt: skip
_IMAGES = {"gpu-h100x1-base", "gpu-h100x8-base", "gpu-amd-base"}
_IDS = {401: "unauthorized", 403: "forbidden", 404: "not_found", 422: "unprocessable_entity", 429: "too_many_requests"}
_STATUSES = {Phase.PROVISIONING: "new", Phase.STARTING: "new", Phase.RUNNING: "active", Phase.STOPPED: "off"}
_FIRST_ID = 500_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """A kind of Droplet, at USD per hour."""

    slug: str
    price: float
    regions: Sequence[str]
    model: str = ""
    count: int = 0
    vram_gib: int = 0
    """Of all its GPUs together."""
    available: bool = True


SIZES = (
    Size("s-1vcpu-1gb", 0.00893, ("nyc1", "ams3")),
    Size("gpu-4000adax1-20gb", 0.76, ("nyc2", "tor1"), "nvidia_rtx4000_ada", 1, 20),
    Size("gpu-h100x1-80gb", 3.39, ("nyc2", "tor1", "ams3"), "nvidia_h100", 1, 80),
    Size("gpu-h100x8-640gb", 23.92, ("tor1",), "nvidia_h100", 8, 640, available=False),
    Size("gpu-h200x8-1128gb", 27.52, (), "nvidia_h200", 8, 1128),
    Size("gpu-b300x1-288gb-spot", 3.0, ("ric1",), "nvidia_b300", 1, 288),
    Size("gpu-mi300x1-192gb", 1.99, ("atl1",), "amd_mi300x", 1, 192),
)


class DigitalOcean(stand_in.StandIn):
    """Droplets and sizes."""

    prefix = "/v2"
    foreign = ("gpu-4000adax1-20gb", 1, 0.76)

    def __init__(
        self,
        time: clocks.Clock,
        *,
        credential: str = TOKEN,
        windows: Sequence[stand_in.Window] = WINDOWS,
        sizes: Sequence[Size] = SIZES,
        droplet_limit: int = 1_000,
        **more: Any,
    ) -> None:
        super().__init__(time, credential=credential, windows=windows, **more)
        self.sizes = {size.slug: size for size in sizes}
        self.droplet_limit = droplet_limit
        self.max_page = 200

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/v2/droplets", self._create),
            web.get("/v2/droplets", self._list),
            web.get("/v2/droplets/{id}", self._get),
            web.delete("/v2/droplets/{id}", self._delete),
            web.get("/v2/actions/{id}", self._action),
            web.get("/v2/sizes", self._sizes),
        ]

    def operation(self, request: web.Request) -> Operation | None:
        if request.path.endswith("/sizes"):
            return Operation.OFFERS
        if request.path.endswith("/droplets"):
            return Operation.CREATE if request.method == "POST" else Operation.LIST
        return Operation.DESTROY if request.method == "DELETE" else None

    def problem(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
        body = {"id": _IDS.get(status, "server_error"), "message": words, "request_id": "4d9d8375"}
        return web.json_response(body, status=status, headers=headers)

    def no_capacity(self) -> web.Response:
        return self.problem(422, "Size is not available in this region.")

    def limits(self) -> Mapping[str, str]:
        hour = self.quota.windows[-1]
        return {
            "ratelimit-limit": str(hour.calls),
            "ratelimit-remaining": str(self.quota.left(hour)),
            "ratelimit-reset": str(round(self.time.now().timestamp() + self.quota.reset_s(hour))),
        }

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        size = self.sizes.get(body.get("size", ""))
        wrong = self._wrong(body, size)
        if wrong or size is None:
            return self.problem(422, wrong)
        if not size.available or not size.regions or body.get("region", size.regions[0]) not in size.regions:
            return self.no_capacity()
        if len(self.existing()) >= self.droplet_limit:
            return self.problem(422, "creating this/these droplet(s) will exceed your droplet limit")
        pod = self.add(
            str(_FIRST_ID + len(self.pods)), body["name"], size.slug, size.count, size.price,
            body={"region": size.regions[0], **body}, misbehaviour=request[stand_in.MISBEHAVIOUR],
        )  # fmt: skip
        href = f"{self.base_url}/actions/{pod.pod_id}"
        links = {"actions": [{"id": int(pod.pod_id), "rel": "create", "href": href}]}
        return web.json_response({"droplet": self.shape(pod), "links": links}, status=202)

    def _wrong(self, body: Mapping[str, Any], size: Size | None) -> str:
        """What is wrong with the body of a create call; empty: nothing."""
        if unknown := body.keys() - _FIELDS:
            return f"{min(unknown)} is not a known attribute"
        if missing := {"name", "size", "image"} - body.keys():
            return f"{min(missing)} is required"
        if size is None:
            return "You specified an invalid size for Droplet creation."
        if body["image"] not in _IMAGES:
            return "You specified an invalid image for Droplet creation."
        if len(body.get("user_data", "").encode()) > 64 << 10:
            return "user_data is too long"
        return ""

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        if "type" in query and "tag_name" in query:
            return self.problem(422, "type cannot be combined with tag_name")
        gpus = query.get("type") == "gpus"
        pods = [pod for pod in self.shown(request[stand_in.MISBEHAVIOUR]) if (pod.gpu_count > 0) == gpus]
        if "tag_name" in query:
            pods = [pod for pod in pods if query["tag_name"] in pod.body.get("tags", [])]
        if "name" in query:
            pods = [pod for pod in pods if pod.name == query["name"]]
        return self._page(request, "droplets", [self.shape(pod) for pod in pods])

    async def _get(self, request: web.Request) -> web.Response:
        pod = self.find(request.match_info["id"])
        return web.json_response({"droplet": self.shape(pod)}) if pod else self._missing()

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self.find(request.match_info["id"])
        if pod is None:
            return self._missing()
        self.delete(pod)
        return web.Response(status=204)

    async def _action(self, request: web.Request) -> web.Response:
        pod = self.find(request.match_info["id"])
        if pod is None:
            return self._missing()
        made = pod.phase(self.time.now(), self.pace) is not Phase.PROVISIONING
        status = "completed" if made else "in-progress"
        return web.json_response({"action": {"id": int(pod.pod_id), "status": status, "type": "create"}})

    async def _sizes(self, request: web.Request) -> web.Response:
        return self._page(request, "sizes", [_size_shape(size) for size in self.sizes.values()])

    def _page(self, request: web.Request, key: str, elements: Sequence[Any]) -> web.Response:
        per_page, number = int(request.query.get("per_page", 20)), int(request.query.get("page", 1))
        if not 1 <= per_page <= 200:
            return self.problem(422, "per_page must be from 1 to 200")
        per_page = min(per_page, self.max_page)
        first = (number - 1) * per_page
        more = first + per_page < len(elements)
        pages = {"next": f"{self.base_url}/{key}?page={number + 1}&per_page={per_page}"} if more else {}
        body = {key: elements[first : first + per_page], "links": {"pages": pages}, "meta": {"total": len(elements)}}
        return web.json_response(body)

    def _missing(self) -> web.Response:
        return self.problem(404, "The resource you were accessing could not be found.")

    def shape(self, pod: Pod) -> dict[str, Any]:
        """A Droplet as the API shows it."""
        size = self.sizes[pod.gpu_type]
        shape = {
            "id": int(pod.pod_id),
            "name": pod.name,
            "status": _STATUSES[pod.phase(self.time.now(), self.pace)],
            "size_slug": size.slug,
            "region": {"slug": pod.body.get("region", "nyc1")},
            "image": {"slug": pod.body.get("image", "")},
            "tags": pod.body.get("tags", []),
            "networks": {"v4": [{"ip_address": "192.0.2.1", "type": "public"}]},
            "created_at": pod.create_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return shape | ({"gpu_info": _gpu_info(size)} if size.count else {})


def _size_shape(size: Size) -> dict[str, Any]:
    shape = {
        "slug": size.slug,
        "memory": 1024,
        "vcpus": 1,
        "disk": 25,
        "price_hourly": size.price,
        "regions": list(size.regions),
        "available": size.available,
    }
    return shape | ({"gpu_info": _gpu_info(size)} if size.count else {})


def _gpu_info(size: Size) -> dict[str, Any]:
    return {"count": size.count, "vram": {"amount": size.vram_gib, "unit": "gib"}, "model": size.model}


@dataclass(frozen=True, slots=True)
class Started:
    """What a machine's user data had docker run, and left behind."""

    options: argparse.Namespace
    environment: Mapping[str, str]
    is_on: bool


_DOCKER = """\
#!{python}
import json, os, pathlib, sys
if sys.argv[1] == "run":
    pathlib.Path({told!r}).write_text(json.dumps([sys.argv[2:], dict(os.environ)]))
sys.exit({code})
"""


async def run_user_data(script: str, folder: Path, *, docker_exits: int = 0) -> Started:
    """Runs it where there is nothing but what is part of bash, a docker that tells and a poweroff."""
    folder.mkdir(exist_ok=True)
    told, off = folder / "told", folder / "off"
    tools = {
        "docker": _DOCKER.format(python=sys.executable, told=str(told), code=docker_exits),
        "poweroff": f"#!{sys.executable}\nimport pathlib\npathlib.Path({str(off)!r}).touch()\n",
    }
    for name, text in tools.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o700)
    bash = shutil.which("bash")
    assert bash, "user data is a script for bash"
    machine = await asyncio.create_subprocess_exec(bash, "-c", script, env={"PATH": str(folder)})
    async with asyncio.timeout(30):
        await machine.wait()
    arguments, surroundings = json.loads(told.read_text())
    options = _docker_run().parse_args(arguments)
    return Started(options, {name: surroundings[name] for name in options.env}, not off.exists())


def _docker_run() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--detach", action="store_true")
    for option in ("--name", "--network", "--ipc", "--log-driver", "--gpus"):
        parser.add_argument(option, default="")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser

"""A Docker Engine on a unix socket and on loopback, as the reference of its API has it.

Like the real one it takes the first digits of an id, or a name, for a container, speaks a range of versions, and finds
out that it has no GPUs only when a container starts. Unlike the real one it minds fields that it does not know: there
they are ignored, and here they would be our mistake.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from podium_runtime import clock as clocks
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Operation, Phase, Pod

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_FIELDS = {"Image", "Env", "Cmd", "Entrypoint", "Labels", "HostConfig", "NetworkingConfig", "StopSignal", "StopTimeout"}
_HOST_FIELDS = {
    "AutoRemove", "RestartPolicy", "Init", "SecurityOpt", "DeviceRequests", "NetworkMode", "ShmSize", "Binds",
    "CapDrop", "CapAdd", "IpcMode", "Memory",
}  # fmt: skip
_DEVICE_FIELDS = {"Driver", "Count", "DeviceIDs", "Capabilities", "Options"}
_FILTERS = {"label", "name", "id", "status"}


class Docker(stand_in.StandIn):
    """`async with` serves it. `gpus`: indices of its GPUs; None: it was never told of NVIDIA."""

    foreign = ("", 0, 0.0)

    def __init__(
        self,
        time: clocks.Clock,
        *,
        gpus: Sequence[str] | None = ("0", "1"),
        images: Sequence[str] | None = (),
        registry: Sequence[str] = (),
        versions: tuple[str, str] = ("1.24", "1.50"),
        **more: Any,
    ) -> None:
        """`images` that are there (None: any), those of `registry` can be pulled; `versions` spoken, from and to."""
        more.setdefault("pace", stand_in.Pace(0.0, 0.0))
        super().__init__(time, credential="", **more)
        self.gpus = gpus
        self.images = None if images is None else set(images)
        self.registry = set(registry)
        self.versions = versions
        self.started: set[str] = set()
        self.dead: set[str] = set()
        """Ids of containers that the engine could not remove."""
        self.pulls: list[Mapping[str, str]] = []
        self.may_pull = asyncio.Event()
        """Cleared, the registry takes its time."""
        self.may_pull.set()
        # Not the test's own folder, whose path is too long for a socket.
        self._folder = tempfile.TemporaryDirectory()
        self._socket = Path(self._folder.name) / "docker.sock"

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await web.UnixSite(self._runner, self._socket).start()
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._folder.cleanup()
        await super().__aexit__(*raised)

    @property
    def endpoint(self) -> str:
        """By its socket."""
        return f"unix://{self._socket}"

    @property
    def tcp_endpoint(self) -> str:
        """By loopback."""
        return self.base_url.replace("http://", "tcp://")

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/version", self._version),
            web.post("/v{version}/containers/create", self._create),
            web.get("/v{version}/containers/json", self._list),
            web.post("/v{version}/containers/{id}/start", self._start),
            web.delete("/v{version}/containers/{id}", self._delete),
            web.post("/v{version}/images/create", self._pull),
        ]

    def operation(self, request: web.Request) -> Operation | None:
        if request.path.endswith("/containers/json"):
            return Operation.LIST
        if request.path.endswith("/containers/create"):
            return Operation.CREATE
        return Operation.DESTROY if request.method == "DELETE" else None

    def problem(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.json_response({"message": words}, status=400 if status == 422 else status, headers=headers)

    def no_capacity(self) -> web.Response:
        return self.problem(500, "no space left on device")

    async def _answer(self, request: web.Request, handler: stand_in.Handler) -> web.StreamResponse:
        version = request.match_info.get("version")
        if version is not None and not _number(self.versions[0]) <= _number(version) <= _number(self.versions[1]):
            return self.problem(400, f"client version {version} is not one of {self.versions}")
        # Whoever reaches the socket is let in.
        headers = {**request.headers, "Authorization": f"Bearer {self.credential}"}
        return await super()._answer(request.clone(headers=headers), handler)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"Version": "28.0.0", "MinAPIVersion": self.versions[0], "ApiVersion": self.versions[1]}
        )

    async def _create(self, request: web.Request) -> web.Response:
        body, name = await request.json(), request.query["name"]
        problem = self._problem_with(name, body)
        if problem is not None:
            return problem
        container_id = hashlib.sha256(f"{name} {len(self.pods)}".encode()).hexdigest()
        labels = body.get("Labels", {})
        self.add(
            container_id, name, labels.get("podium.gpu-type", ""), int(labels.get("podium.gpu-count", 0)),
            float(labels.get("podium.price-usd-per-hour", 0)), body=body, misbehaviour=request[stand_in.MISBEHAVIOUR],
        )  # fmt: skip
        return web.json_response({"Id": container_id, "Warnings": []}, status=201)

    def _problem_with(self, name: str, body: Mapping[str, Any]) -> web.Response | None:
        host = body.get("HostConfig", {})
        devices = host.get("DeviceRequests", [])
        assert set(body) <= _FIELDS and set(host) <= _HOST_FIELDS and all(set(one) <= _DEVICE_FIELDS for one in devices)
        if not _NAME.fullmatch(name):
            return self.problem(400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if any("Count" in one and "DeviceIDs" in one for one in devices):
            return self.problem(400, "cannot set both Count and DeviceIDs on device request")
        if any("=" not in one for one in body.get("Env", [])):
            return self.problem(400, "invalid environment variable")
        if self.images is not None and body["Image"] not in self.images:
            return self.problem(404, f"No such image: {body['Image']}")
        taken = [pod for pod in self.existing() if pod.name == name]
        if taken:
            words = f'Conflict. The container name "/{name}" is already in use by container "{taken[0].pod_id}".'
            return self.problem(409, words)
        return None

    async def _start(self, request: web.Request) -> web.Response:
        pod = self._matching(request.match_info["id"])
        if pod is None:
            return self.problem(404, f"No such container: {request.match_info['id']}")
        if pod.pod_id in self.started:
            return web.Response(status=304)
        for device in pod.body["HostConfig"].get("DeviceRequests", []):
            if self.gpus is None:
                return self.problem(
                    500, f'could not select device driver "{device["Driver"]}" with capabilities: [[gpu]]'
                )
            if not set(device.get("DeviceIDs", [])) <= set(self.gpus) or device.get("Count", 0) > len(self.gpus):
                return self.problem(500, "nvidia-container-cli: device error: unknown device: unknown")
        self.started.add(pod.pod_id)
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        filters = json.loads(request.query.get("filters", "{}"))
        if not set(filters) <= _FILTERS:
            return self.problem(400, "invalid filter")
        shown = [self.shape(pod) for pod in self.shown(request[stand_in.MISBEHAVIOUR])]
        if request.query.get("all") not in ("1", "true"):
            shown = [one for one in shown if one["State"] == "running"]
        return web.json_response([one for one in shown if _passes(one, filters)])

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self._matching(request.match_info["id"])
        if pod is None:
            return self.problem(404, f"No such container: {request.match_info['id']}")
        if pod.pod_id in self.dead:
            return self.problem(500, f"unable to remove filesystem for {pod.pod_id}: device or resource busy")
        if self.state(pod) == "running" and request.query.get("force") not in ("1", "true"):
            return self.problem(409, "cannot remove container: container is running: stop it or remove it forcefully")
        self.delete(pod)
        return web.Response(status=204)

    async def _pull(self, request: web.Request) -> web.Response:
        image = request.query["fromImage"]
        self.pulls.append({**request.query, "auth": request.headers.get("X-Registry-Auth", "")})
        await self.may_pull.wait()
        if image not in self.registry:
            return self.problem(404, f"pull access denied for {image}, repository does not exist")
        if self.images is not None:
            self.images.add(image)
        return web.Response(text='{"status":"Pulling"}\r\n{"status":"Done"}\r\n', content_type="application/json")

    def _matching(self, wanted: str) -> Pod | None:
        """By id, name, or the first digits of an id, if that is the only one."""
        found = [pod for pod in self.existing() if wanted in (pod.pod_id, pod.name)]
        found = found or [pod for pod in self.existing() if pod.pod_id.startswith(wanted)]
        return found[0] if len(found) == 1 else None

    def state(self, pod: Pod) -> str:
        """In the engine's words."""
        if pod.pod_id in self.dead:
            return "dead"
        if pod.pod_id not in self.started:
            return "created"
        return "exited" if pod.phase(self.time.now(), self.pace) is Phase.STOPPED else "running"

    def shape(self, pod: Pod) -> dict[str, Any]:
        """A line of the list."""
        status = {"exited": "Exited (1) 2 seconds ago", "created": "Created", "running": "Up 2 seconds", "dead": "Dead"}
        return {
            "Id": pod.pod_id,
            "Names": [f"/{pod.name}"],
            "Image": pod.body.get("Image", "scratch"),
            "Created": int(pod.create_time.timestamp()),
            "State": self.state(pod),
            "Status": status[self.state(pod)],
            # Go's nil map.
            "Labels": pod.body.get("Labels"),
        }


def _passes(line: Mapping[str, Any], filters: Mapping[str, Sequence[str]]) -> bool:
    labels = [f"{name}={value}" for name, value in (line["Labels"] or {}).items()]
    names = [*line["Names"], *(name.removeprefix("/") for name in line["Names"])]
    return (
        all(label in labels for label in filters.get("label", ()))
        and (not filters.get("name") or any(re.search(one, name) for one in filters["name"] for name in names))
        and (not filters.get("status") or line["State"] in filters["status"])
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

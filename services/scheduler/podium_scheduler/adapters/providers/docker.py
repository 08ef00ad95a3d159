"""Pods as containers of one Docker Engine, over its socket or TCP. Engine API 1.43 or newer.

A container's name is unique at an engine, and so is the key that makes a create call safe: a name that is taken is
resolved by looking at who has it. Docker gives GPUs to any container that asks; which are free is kept here, in labels,
so one scheduler alone must place GPU pods at an engine. It has no price list: the operator writes the offers. What is
in the environment can be read by whoever may use the engine (`docker inspect`); the join token in it works once. The
size of a container's disk is the engine's business, an order's `disk_gb` is not enforced.
Made inside the event loop that it is used in.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pydantic

from podium_scheduler.adapters.providers import answers, http, prefixes
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Offer, Order, Status, Stock

API_VERSION = (1, 43)
_STATUSES = {
    "created": Status.PENDING,
    "restarting": Status.PENDING,
    "running": Status.RUNNING,
    "paused": Status.STOPPED,
    "exited": Status.STOPPED,
    "removing": Status.STOPPED,
    "dead": Status.ERROR,
}
_IDLE = ("exited", "dead")
"""States of containers that hold no GPU."""
# Texts of a 500 to a start call that mean: never on this engine.
_NO_GPUS = ("could not select device driver", "nvidia-container-cli", "unknown device")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine is used."""

    prefix: str
    """What names of the cluster's pods begin with; also the value of their label."""
    offers: Sequence[Offer]
    """What the operator says that it can run, with prices. `max_count` is kept to."""
    endpoint: str = "unix:///var/run/docker.sock"
    """Or `tcp://host:port`."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """For TCP: with the client's certificate, by which the engine knows us."""
    gpus: Sequence[str] = ()
    """Indices or UUIDs of the engine's GPUs, each for one pod at a time. Empty: Docker picks, always the first ones."""
    network: str = ""
    """Empty: the engine's default."""
    pull: bool = False
    """Whether an image that is missing is pulled, its pods having no capacity meanwhile. If not, they are refused."""
    pull_s: float = 900.0
    """How long that may take, in seconds."""
    registry_auth: pydantic.SecretStr | None = None
    """X-Registry-Auth of the pull, for a private image."""
    patience: http.Patience = field(default_factory=http.Patience)

    def __post_init__(self) -> None:
        prefixes.check(self.prefix)


class Docker:
    """Containers."""

    name = "docker"
    list_lag_s = 10.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = _Engine(settings)
        self._one_at_a_time = asyncio.Lock()
        self.pulls: dict[str, asyncio.Task[None]] = {}
        """By image, those whose end nobody has looked at."""

    async def offers(self) -> Sequence[Offer]:
        """The operator's; those that there is no room for now have no stock."""
        containers = await self._containers()
        return [self._stocked(offer, containers) for offer in self._settings.offers]

    async def create(self, order: Order) -> Listed:
        """Creates and starts a container. A name that we have already is only started."""
        async with self._one_at_a_time:
            gpus = self._room(order.offer, await self._others(order))
            answer = await self._create(order, gpus)
            if answer.status == 404:
                raise self._missing(order.image)
            if answer.status != 409 and not answer.is_good:
                raise answer.failure()
            await self._start(order)
            return (await self._named(order)).listed

    async def list(self) -> Sequence[Listed]:
        """By label, stopped ones too. It has no pages."""
        return [container.listed for container in await self._containers()]

    async def destroy(self, provider_pod_id: str) -> None:
        """Kills and removes it with its volumes."""
        if all(container.listed.provider_pod_id != provider_pod_id for container in await self._containers()):
            # The engine takes the first digits of an id, or a name, for a container too: it could be anybody's.
            return
        answer = await self._remove(provider_pod_id)
        # 409: somebody's removal of it is under way.
        if not answer.is_good and answer.status not in (404, 409):
            raise answer.failure()

    async def close(self) -> None:
        for pull in self.pulls.values():
            pull.cancel()
        await asyncio.gather(*self.pulls.values(), return_exceptions=True)
        await self._engine.close()

    async def _others(self, order: Order) -> Sequence[_Container]:
        try:
            return [container for container in await self._containers() if container.listed.name != order.name]
        except providers.Ambiguous as error:
            # The question has no effect, and the create call was not sent yet.
            raise providers.Unreachable(str(error)) from None

    def _missing(self, image: str) -> providers.ProviderError:
        """Has it pulled, which takes far longer than a call may; an error tells how that stands."""
        if not self._settings.pull:
            return providers.Refused(f"Docker has no image {image}: pull it there, or let Podium pull images")
        pull = self.pulls.get(image)
        if pull is None:
            pull = self.pulls[image] = asyncio.create_task(self._engine.pull(image), name=f"pull of {image}")
        if not pull.done():
            return providers.NoCapacity(f"Docker is pulling {image}")
        del self.pulls[image]
        failure = pull.exception()
        if isinstance(failure, providers.ProviderError):
            return failure
        return providers.Refused(f"Docker pulled {image}, and does not have it")

    def _stocked(self, offer: Offer, containers: Sequence[_Container]) -> Offer:
        try:
            self._room(offer, containers)
        except providers.NoCapacity:
            return replace(offer, stock=Stock.NONE)
        return offer

    def _room(self, offer: Offer, containers: Sequence[_Container]) -> Sequence[str]:
        """GPUs for one more pod. Raises NoCapacity."""
        labels = [container.labels for container in containers if container.state not in _IDLE]
        alike = sum(one.get("podium.offer") == offer.key for one in labels)
        if offer.max_count is not None and alike >= offer.max_count:
            raise providers.NoCapacity(f"Docker may have {offer.max_count} pods of this offer, and has them")
        taken = {gpu for one in labels for gpu in one.get("podium.gpus", "").split(",")}
        free = [gpu for gpu in self._settings.gpus if gpu not in taken]
        if self._settings.gpus and len(free) < offer.gpu_count:
            raise providers.NoCapacity(f"{len(free)} of Docker's GPUs are free")
        return free[: offer.gpu_count]

    async def _create(self, order: Order, gpus: Sequence[str]) -> http.Answer:
        body = create_body(order, gpus, self._settings)
        hide = order.environment.values()
        return await self._engine.call("POST", "/containers/create", {"name": order.name}, body=body, hide=hide)

    async def _start(self, order: Order) -> None:
        """A container that will never start is taken back, and refused."""
        container_id = (await self._named(order)).listed.provider_pod_id
        with answers.made(order.name):
            answer = await self._engine.call("POST", f"/containers/{container_id}/start")
            if answer.is_good or answer.status == 304:
                return
            hopeless = answer.status < 500 or any(text in answer.words for text in _NO_GPUS)
            gone = hopeless and (await self._remove(container_id)).is_good
        raise answer.failure(providers.Refused if gone else providers.Ambiguous)

    async def _remove(self, container_id: str) -> http.Answer:
        return await self._engine.call("DELETE", f"/containers/{container_id}", {"force": "true", "v": "true"})

    async def _named(self, order: Order) -> _Container:
        """The container of an order. Raises Refused when the name is somebody else's."""
        with answers.made(order.name):
            found = await self._engine.containers({"name": [f"^/{order.name}$"]})
        if not found:
            raise providers.Ambiguous(f"Docker made {order.name}, and does not list it")
        if found[0].labels.get("podium.pod") != str(order.pod_id):
            raise providers.Refused(f"Docker has another container of the name {order.name}")
        return found[0]

    async def _containers(self) -> Sequence[_Container]:
        ours = await self._engine.containers({"label": [f"podium.cluster={self._settings.prefix}"]})
        return [container for container in ours if container.listed.name.startswith(self._settings.prefix)]


@dataclass(frozen=True, slots=True)
class _Container:
    """A line of the engine's list."""

    listed: Listed
    state: str
    labels: Mapping[str, str]


class _Engine:
    """Calls to the engine. Whoever reaches its socket may use it; there is no credential."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        endpoint = urllib.parse.urlsplit(settings.endpoint)
        connector: aiohttp.BaseConnector
        if endpoint.scheme == "unix":
            connector, self._base_url = aiohttp.UnixConnector(endpoint.path), "http://docker"
        else:
            connector = aiohttp.TCPConnector(ssl=settings.tls or True)
            self._base_url = f"{'https' if settings.tls else 'http'}://{endpoint.netloc}"
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        self._version = ""

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        hide: Iterable[str] = (),
    ) -> http.Answer:
        """One call of the API. Raises Unreachable, Ambiguous; Refused for an engine that is too old."""
        self._version = self._version or await self._negotiated()
        return await self._request(method, f"/v{self._version}{path}", query, body=body, hide=hide)

    async def containers(self, filters: Mapping[str, Sequence[str]]) -> Sequence[_Container]:
        """Those that pass all filters, whatever they are doing."""
        query = {"all": "true", "filters": json.dumps(filters)}
        answer = await self.call("GET", "/containers/json", query)
        if not answer.is_good:
            raise answer.failure()
        with answer.understood():
            return [_container(line) for line in answer.body]

    async def pull(self, image: str) -> None:
        """Whether it succeeded shows when the image is used: the engine tells of failures inside a good answer."""
        auth = self._settings.registry_auth
        headers = {"X-Registry-Auth": auth.get_secret_value()} if auth else {}
        path, query = f"/v{self._version}/images/create", {"fromImage": image}
        if "@" not in image and ":" not in image.rpartition("/")[2]:
            # Without a tag it would pull every one that there is.
            query["tag"] = "latest"
        try:
            answer = await self._request("POST", path, query, headers=headers, within_s=self._settings.pull_s)
        except providers.Ambiguous:
            raise providers.Unreachable(f"Docker could not pull {image} in {self._settings.pull_s:g} s") from None
        if not answer.is_good:
            raise answer.failure(providers.Refused if answer.status < 500 else providers.Unreachable)

    async def close(self) -> None:
        await self._session.close()

    async def _negotiated(self) -> str:
        """Our version, or the oldest that a newer engine still speaks."""
        answer = await self._request("GET", "/version")
        if not answer.is_good:
            raise answer.failure()
        with answer.understood():
            newest, oldest = (_version(answer.body[key]) for key in ("ApiVersion", "MinAPIVersion"))
        if newest < API_VERSION:
            raise providers.Refused(f"Docker speaks API {newest[0]}.{newest[1]}, which is too old")
        spoken = max(oldest, API_VERSION)
        return f"{spoken[0]}.{spoken[1]}"

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        hide: Iterable[str] = (),
        within_s: float | None = None,
    ) -> http.Answer:
        patience = self._settings.patience
        timeout = aiohttp.ClientTimeout(total=within_s or patience.total_s, connect=patience.connect_s)
        request = self._session.request(
            method, self._base_url + path, params=query, json=body, headers=headers, timeout=timeout
        )
        return await answers.answered(request, "Docker", f"{method} {path}", hide=hide)


def create_body(order: Order, gpus: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Of a create call. `gpus`: the ones it is given; none of them for any `gpu_count` of the first."""
    labels = {
        "podium.cluster": settings.prefix,
        "podium.pod": str(order.pod_id),
        "podium.offer": order.offer.key,
        "podium.gpu-type": order.offer.gpu_type,
        "podium.gpu-count": str(order.offer.gpu_count),
        "podium.price-usd-per-hour": repr(order.offer.price_usd_per_hour),
        "podium.gpus": ",".join(gpus),
    }
    host: dict[str, Any] = {
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        # Hands signals on and reaps what the worker's executors leave.
        "Init": True,
        "SecurityOpt": ["no-new-privileges"],
    }
    if order.offer.gpu_count:
        which = {"DeviceIDs": list(gpus)} if gpus else {"Count": order.offer.gpu_count}
        host["DeviceRequests"] = [{"Driver": "nvidia", "Capabilities": [["gpu"]], **which}]
    if settings.network:
        host["NetworkMode"] = settings.network
    body: dict[str, Any] = {
        "Image": order.image,
        "Env": [f"{name}={value}" for name, value in order.environment.items()],
        "Labels": labels,
        "HostConfig": host,
    }
    return body | ({"Cmd": list(order.command)} if order.command else {})


def _container(line: Mapping[str, Any]) -> _Container:
    labels: Mapping[str, str] = line["Labels"] or {}
    price, count = labels.get("podium.price-usd-per-hour"), labels.get("podium.gpu-count")
    listed = Listed(
        provider_pod_id=line["Id"],
        name=line["Names"][0].removeprefix("/") if line["Names"] else "",
        status=_STATUSES.get(line["State"], Status.PENDING),
        price_usd_per_hour=float(price) if price else None,
        gpu_type=labels.get("podium.gpu-type", ""),
        gpu_count=int(count) if count else None,
        create_time=datetime.fromtimestamp(line["Created"], UTC),
        detail=line["Status"],
    )
    return _Container(listed, line["State"], labels)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)

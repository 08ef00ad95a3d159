"""DigitalOcean's GPU Droplets: bare machines that cloud-init makes pods of.

A Droplet bears the cluster's tag, for people and their own sweeps. It is found by its name: the list of GPU Droplets
cannot be asked for by tag, and the one by tag may leave them out. Names are not unique: a second create of a name is a
second Droplet, and `list` shows both. A create call is only accepted; one that comes to nothing later stays "new". A
Droplet that is off is billed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from podium_scheduler.adapters.providers import cloud_init, gpu_models, http, prefixes
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Offer, Order, Status, Stock

_PAGE = 200
_MAX_PAGES = 1_000
_READINGS = 3
_MAX_USER_DATA_BYTES = 64 << 10
_CAPACITY_TEXTS = (
    "size is not available in this region",
    # It has room again when others are gone.
    "exceed your droplet limit",
)
_STATUSES = {
    "new": Status.PENDING,
    "active": Status.RUNNING,
    "off": Status.STOPPED,
    "archive": Status.STOPPED,
}
_DEVICE_NAMES = {
    "nvidia_rtx4000_ada": "NVIDIA RTX 4000 Ada Generation",
    "nvidia_rtx6000_ada": "NVIDIA RTX 6000 Ada Generation",
    "nvidia_l40s": "NVIDIA L40S",
    "nvidia_h100": "NVIDIA H100 80GB HBM3",
    "nvidia_h200": "NVIDIA H200",
    "nvidia_b300": "NVIDIA B300 SXM6 AC",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How DigitalOcean is used."""

    token: pydantic.SecretStr
    prefix: str
    """What the names of this cluster's Droplets begin with, and no other names on the account."""
    base_url: str = "https://api.digitalocean.com/v2"
    sizes: Sequence[str] = ()
    """Slugs; empty: every size with NVIDIA's GPUs that is not a spot size."""
    regions: Sequence[str] = ()
    """Empty: DigitalOcean chooses."""
    image: str = "gpu-h100x1-base"
    """Of machines with one GPU; despite its name for any of NVIDIA's."""
    image_of_many: str = "gpu-h100x8-base"
    """Of machines with several."""
    ssh_keys: Sequence[str] = ()
    """Ids or fingerprints, for people."""
    list_lag_s: float = 120.0
    patience: http.Patience = field(default_factory=http.Patience)

    def __post_init__(self) -> None:
        prefixes.check(self.prefix)

    @property
    def tag(self) -> str:
        """What every Droplet of the cluster bears."""
        return self.prefix.rstrip("-")


class DigitalOcean:
    """Rents GPU Droplets. Made inside the event loop that it is used in."""

    name = "digitalocean"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = http.Session("DigitalOcean", settings.base_url, settings.token, settings.patience)

    @property
    def list_lag_s(self) -> float:
        return self._settings.list_lag_s

    async def offers(self) -> Sequence[Offer]:
        offers: list[Offer] = []
        for answer in await self._pages("/sizes", "sizes", {}):
            with answer.understood():
                offers += [offer for size in answer.body["sizes"] for offer in offers_of(size, self._settings)]
        return offers

    async def create(self, order: Order) -> Listed:
        body = create_body(order, self._settings)
        answer = await self._http.call(
            "POST", "/droplets", body=body, hide=[*order.environment.values(), body["user_data"]]
        )
        if not answer.is_good:
            raise create_failure(answer)
        with answer.understood():
            return listed(answer.body["droplet"])

    async def list(self) -> Sequence[Listed]:
        found: dict[str, Listed] = {}
        for answer in await self._pages("/droplets", "droplets", {"type": "gpus"}):
            with answer.understood():
                for droplet in answer.body["droplets"]:
                    if str(droplet.get("name")).startswith(self._settings.prefix):
                        found[str(droplet["id"])] = listed(droplet)
        return tuple(found.values())

    async def destroy(self, provider_pod_id: str) -> None:
        if not (provider_pod_id.isascii() and provider_pod_id.isdigit()):
            # No Droplet has such an id, and as a path it could mean anything.
            return
        answer = await self._http.call("DELETE", f"/droplets/{provider_pod_id}")
        if not answer.is_good and answer.status != 404:
            raise _failure(answer)

    async def close(self) -> None:
        await self._http.close()

    async def _pages(self, path: str, key: str, query: Mapping[str, str]) -> Sequence[http.Answer]:
        """All pages, read again from the first if something came or went meanwhile: what moves up a page is missed."""
        for _ in range(_READINGS):
            pages = await self._reading(path, query)
            if len(pages) == 1:
                return pages
            with pages[-1].understood():
                totals = {page.body["meta"]["total"] for page in pages}
                if totals == {sum(len(page.body[key]) for page in pages)}:
                    return pages
        raise providers.Ambiguous(f"the pages of DigitalOcean's {path} would not stand still")

    async def _reading(self, path: str, query: Mapping[str, str]) -> Sequence[http.Answer]:
        pages: list[http.Answer] = []
        for number in range(1, _MAX_PAGES + 1):
            answer = await self._http.call("GET", path, query={**query, "per_page": str(_PAGE), "page": str(number)})
            if not answer.is_good:
                raise _failure(answer)
            pages.append(answer)
            with answer.understood():
                if not ((answer.body.get("links") or {}).get("pages") or {}).get("next"):
                    return pages
        raise providers.Ambiguous(f"the pages of DigitalOcean's {path} have no end")


def create_body(order: Order, settings: Settings) -> dict[str, Any]:
    """The body of a create call. Raises Refused for what cannot be said in user data."""
    try:
        script = cloud_init.script(order.image, order.command, order.environment, gpus=order.offer.gpu_count > 0)
    except ValueError as error:
        raise providers.Refused(f"no machine can be told this order: {error}") from None
    if len(script.encode()) > _MAX_USER_DATA_BYTES:
        raise providers.Refused(f"no machine can be told an order of more than {_MAX_USER_DATA_BYTES:,} bytes")
    body: dict[str, Any] = {
        "name": order.name,
        "size": order.offer.gpu_type,
        "image": settings.image if order.offer.gpu_count <= 1 else settings.image_of_many,
        "user_data": script,
        "tags": [settings.tag],
    }
    if order.offer.region:
        body["region"] = order.offer.region
    if settings.ssh_keys:
        body["ssh_keys"] = list(settings.ssh_keys)
    return body


def create_failure(answer: http.Answer) -> providers.ProviderError:
    """The error of a create call that was not obeyed."""
    if answer.status == 422 and any(text in answer.words.lower() for text in _CAPACITY_TEXTS):
        return answer.failure(providers.NoCapacity)
    return _failure(answer)


def _failure(answer: http.Answer) -> providers.ProviderError:
    # The token may not do this: it is the token's scopes that have to change.
    return answer.failure(providers.Unauthorized if answer.status == 403 else None)


def listed(droplet: Mapping[str, Any]) -> Listed:
    """A Droplet. Raises what a shape that is not the documented one leads to."""
    return Listed(
        provider_pod_id=str(int(droplet["id"])),
        name=droplet["name"],
        status=_STATUSES.get(droplet["status"], Status.PENDING),
        gpu_type=droplet["size_slug"],
        gpu_count=(droplet.get("gpu_info") or {}).get("count"),
        create_time=http.time_of(droplet.get("created_at")),
        detail=droplet["status"],
    )


def offers_of(size: Mapping[str, Any], settings: Settings) -> Sequence[Offer]:
    """One, or one for each region that is wanted. Raises what a shape that is not the documented one leads to."""
    gpu = size.get("gpu_info") or {}
    if not gpu.get("model", "").startswith("nvidia_") or not _is_wanted(size["slug"], settings):
        return ()
    # Available and nowhere: this account may not have it.
    regions = [region for region in settings.regions if region in size["regions"]] if settings.regions else [""]
    if not size["regions"] or not regions:
        return ()
    device = _DEVICE_NAMES.get(gpu["model"], "")
    return tuple(
        Offer(
            provider=DigitalOcean.name,
            gpu_type=size["slug"],
            gpu_count=gpu["count"],
            price_usd_per_hour=float(size["price_hourly"]),
            vram_bytes=_vram_bytes(gpu),
            compute_capability=gpu_models.compute_capability(device),
            device_name=device,
            region=region,
            stock=Stock.UNKNOWN if size["available"] else Stock.NONE,
        )
        for region in regions
    )


def _is_wanted(slug: str, settings: Settings) -> bool:
    return slug in settings.sizes if settings.sizes else not slug.endswith("-spot")


def _vram_bytes(gpu: Mapping[str, Any]) -> int:
    """Of one GPU: what is told is of all of them together."""
    vram = gpu.get("vram") or {}
    if vram.get("unit") != "gib":
        return 0
    return (int(vram["amount"]) << 30) // max(1, int(gpu["count"]))

"""DigitalOcean's Droplets: what is sent, what its answers mean, and what a machine does first."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pydantic
import pytest

from podium_scheduler.adapters.providers import cloud_init, digitalocean, http
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Offer, Order, Status, Stock
from tests.support.clouds import digitalocean as cloud

SETTINGS = digitalocean.Settings(pydantic.SecretStr("dop_v1_token"), "podium-a-")
OFFER = Offer("digitalocean", "gpu-h100x1-80gb", 1, 3.39)
ENVIRONMENT = {"PODIUM_JOIN_TOKEN": "a b'c$(id)`id`\"\\", "PODIUM_CA": "line 1\nline 2\n", "EMPTY": ""}
ORDER = Order(UUID(int=1), "podium-a-1", OFFER, "worker:1", ("--devices", "0 1", "it's"), ENVIRONMENT)


def size(**changes: Any) -> dict[str, Any]:
    return {
        "slug": "gpu-h100x8-640gb",
        "price_hourly": 23.92,
        "regions": ["nyc2", "tor1"],
        "available": True,
        "gpu_info": {"count": 8, "vram": {"amount": 640, "unit": "gib"}, "model": "nvidia_h100"},
        **changes,
    }


def test_a_create_call_bears_the_tag_and_leaves_the_region_open() -> None:
    body = digitalocean.create_body(ORDER, SETTINGS)
    assert body.pop("user_data").startswith("#!/bin/bash\n")
    assert body == {
        "name": "podium-a-1",
        "size": "gpu-h100x1-80gb",
        "image": "gpu-h100x1-base",
        "tags": ["podium-a"],
    }


def test_a_create_call_names_the_region_of_its_offer_and_the_keys_of_people() -> None:
    settings = digitalocean.Settings(pydantic.SecretStr("dop_v1_token"), "podium-a-", ssh_keys=("ab:cd",))
    offer = Offer("digitalocean", "gpu-h100x8-640gb", 8, 23.92, region="tor1")
    body = digitalocean.create_body(Order(UUID(int=1), "podium-a-1", offer, "worker:1", (), {}), settings)
    assert (body["region"], body["image"], body["ssh_keys"]) == ("tor1", "gpu-h100x8-base", ["ab:cd"])


@pytest.mark.parametrize("environment", [{"BIG": "x" * (64 << 10)}, {"not a name": "x"}, {"A;poweroff": "x"}])
def test_what_user_data_cannot_say_is_refused_unsent(environment: dict[str, str]) -> None:
    with pytest.raises(providers.Refused):
        digitalocean.create_body(Order(UUID(int=1), "podium-a-1", OFFER, "worker:1", (), environment), SETTINGS)


def test_vram_is_of_one_gpu_and_the_price_of_all() -> None:
    [offer] = digitalocean.offers_of(size(), SETTINGS)
    assert (offer.gpu_count, offer.vram_bytes, offer.price_usd_per_hour) == (8, 80 << 30, 23.92)
    assert (offer.device_name, offer.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert (offer.region, offer.stock) == ("", Stock.UNKNOWN)


def test_wanted_regions_are_an_offer_each() -> None:
    settings = digitalocean.Settings(pydantic.SecretStr("dop_v1_token"), "podium-a-", regions=("tor1", "ams3"))
    assert [offer.region for offer in digitalocean.offers_of(size(), settings)] == ["tor1"]
    assert not digitalocean.offers_of(size(regions=["nyc2"]), settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"regions": []},
        {"gpu_info": None},
        {"gpu_info": {"count": 1, "model": "amd_mi300x"}},
        {"slug": "gpu-b300x1-288gb-spot"},
    ],
)
def test_what_cannot_be_had_or_used_is_not_offered(changes: dict[str, Any]) -> None:
    assert not digitalocean.offers_of(size(**changes), SETTINGS)


def test_a_size_that_is_out_of_stock_says_so() -> None:
    [offer] = digitalocean.offers_of(size(available=False), SETTINGS)
    assert offer.stock is Stock.NONE


def test_a_size_that_is_named_is_taken_as_it_is() -> None:
    settings = digitalocean.Settings(pydantic.SecretStr("dop_v1_token"), "podium-a-", sizes=("gpu-b300x1-288gb-spot",))
    assert digitalocean.offers_of(size(slug="gpu-b300x1-288gb-spot"), settings)
    assert not digitalocean.offers_of(size(), settings)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (422, "Size is not available in this region.", providers.NoCapacity),
        (422, "creating this/these droplet(s) will exceed your droplet limit", providers.NoCapacity),
        (422, "You specified an invalid size for Droplet creation.", providers.Refused),
        (401, "Unable to authenticate you", providers.Unauthorized),
        (403, "You are not authorized to perform this operation", providers.Unauthorized),
        (429, "Too many requests", providers.Throttled),
        (500, "Server Error", providers.Ambiguous),
    ],
)
def test_a_422_is_a_broken_rule_or_a_lack_of_machines(
    status: int, words: str, kind: type[providers.ProviderError]
) -> None:
    answer = http.Answer("POST /droplets of DigitalOcean", status, {}, words)
    assert type(digitalocean.create_failure(answer)) is kind


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("new", Status.PENDING),
        ("active", Status.RUNNING),
        ("off", Status.STOPPED),
        ("archive", Status.STOPPED),
        ("something new", Status.PENDING),
    ],
)
def test_states_of_a_droplet(status: str, expected: Status) -> None:
    droplet = {
        "id": 7,
        "name": "podium-a-1",
        "status": status,
        "size_slug": "gpu-h100x1-80gb",
        "created_at": "2026-11-20T10:00:00Z",
    }
    found = digitalocean.listed(droplet)
    assert (found.status, found.detail, found.provider_pod_id) == (expected, status, "7")
    assert found.create_time == datetime(2026, 11, 20, 10, tzinfo=UTC)


async def test_a_machine_runs_the_image_with_all_that_it_was_told(tmp_path: Path) -> None:
    script = cloud_init.script(ORDER.image, ORDER.command, ORDER.environment, gpus=True)
    started = await cloud.run_user_data(script, tmp_path)
    assert started.environment == ENVIRONMENT
    assert (started.options.image, tuple(started.options.command)) == (ORDER.image, ORDER.command)
    assert (started.options.gpus, started.options.network, started.options.ipc) == ("all", "host", "host")


@pytest.mark.parametrize("docker_exits", [0, 1])
async def test_a_machine_whose_worker_is_gone_turns_itself_off(docker_exits: int, tmp_path: Path) -> None:
    script = cloud_init.script(ORDER.image, ORDER.command, ORDER.environment, gpus=False)
    started = await cloud.run_user_data(script, tmp_path, docker_exits=docker_exits)
    assert not started.is_on
    assert not started.options.gpus

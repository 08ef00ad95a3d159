"""RunPod's REST v1: its own names, and a 500 that can mean four things."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pydantic
import pytest

from podium_scheduler.adapters.providers import http, runpod, runpod_v1
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Cloud, Offer, Order, Status

SETTINGS = runpod.Settings(pydantic.SecretStr("rpa_key"), "podium-a-")
OFFER = Offer("runpod", "NVIDIA L40S", 2, 1.72, cloud=Cloud.SECURE)
ORDER = Order(UUID(int=1), "podium-a-1", OFFER, "worker:1", ("--devices", "0 1"), {"PODIUM_POD_ID": "1"})


def test_a_create_call_asks_for_no_volume_no_port_and_no_spot() -> None:
    assert runpod_v1.create_body(ORDER, SETTINGS) == {
        "name": "podium-a-1",
        "imageName": "worker:1",
        "computeType": "GPU",
        "cloudType": "SECURE",
        "gpuTypeIds": ["NVIDIA L40S"],
        "gpuCount": 2,
        "containerDiskInGb": 40,
        "volumeInGb": 0,
        "ports": [],
        "env": {"PODIUM_POD_ID": "1"},
        "dockerStartCmd": ["--devices", "0 1"],
    }


def test_the_least_cuda_version_is_a_list_of_all_from_there() -> None:
    settings = runpod.Settings(pydantic.SecretStr("rpa_key"), "podium-a-", min_cuda_version="12.8")
    assert runpod_v1.create_body(ORDER, settings)["allowedCudaVersions"] == ["12.8", "12.9", "13.0"]
    newer = replace(ORDER, min_cuda_version="12.9")
    assert runpod_v1.create_body(newer, settings)["allowedCudaVersions"] == ["12.9", "13.0"]


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (500, "create pod: There are no instances currently available", providers.NoCapacity),
        (500, "create pod: This machine does not have the resources to deploy your pod", providers.NoCapacity),
        (500, "create pod: Your balance is too low", providers.OutOfFunds),
        (500, "create pod: Spot pods are no longer offered", providers.Refused),
        (500, "create pod: internal error", providers.Ambiguous),
        (502, "", providers.Ambiguous),
        (400, "bad request", providers.Refused),
        (401, "", providers.Unauthorized),
        (429, "", providers.Throttled),
    ],
)
def test_only_the_text_of_a_500_tells_what_it_is(status: int, words: str, kind: type[providers.ProviderError]) -> None:
    answer = http.Answer("POST /pods of RunPod v1", status, {}, words)
    assert type(runpod_v1.create_failure(answer)) is kind


def test_prices_are_text_or_adjusted() -> None:
    pod = {"id": "a", "name": "podium-a-1", "desiredStatus": "RUNNING", "costPerHr": "0.74", "gpu": {"count": 1}}
    assert runpod_v1.listed(pod).price_usd_per_hour == 0.74
    assert runpod_v1.listed({**pod, "adjustedCostPerHr": 0.69}).price_usd_per_hour == 0.69
    stopped = runpod_v1.listed({**pod, "desiredStatus": "EXITED"})
    assert (stopped.status, stopped.price_usd_per_hour) == (Status.STOPPED, None)

"""RunPod's REST v2: what is sent, and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pydantic
import pytest

from podium_scheduler.adapters.providers import gpu_models, http, runpod
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Cloud, Offer, Order, Status

SETTINGS = runpod.Settings(pydantic.SecretStr("rpa_key"), "podium-a-")
OFFER = Offer("runpod", "NVIDIA L40S", 2, 1.72, cloud=Cloud.COMMUNITY)
ORDER = Order(UUID(int=1), "podium-a-1", OFFER, "worker:1", ("--devices", "0 1"), {"PODIUM_POD_ID": "1"}, disk_gb=60)
POD: Mapping[str, Any] = {
    "id": "abc123",
    "name": "podium-a-1",
    "status": "RUNNING",
    "gpu": {"id": "NVIDIA L40S", "count": 2},
    "cost": 1.72,
    "cudaVersion": "12.8",
    "createdAt": "2026-11-20T10:00:00Z",
}


def answered(status: int, words: str = "", retry_after_s: float | None = None) -> http.Answer:
    return http.Answer("POST /pods of RunPod", status, {}, words, retry_after_s)


def test_a_create_call_says_all_that_must_be_said_and_no_more() -> None:
    assert runpod.create_body(ORDER, SETTINGS) == {
        "name": "podium-a-1",
        "image": "worker:1",
        "gpu": {"id": "NVIDIA L40S", "count": 2},
        "cloud": "COMMUNITY",
        "disk": 60,
        "env": {"PODIUM_POD_ID": "1"},
        "args": "--devices '0 1'",
    }


def test_hosts_can_be_limited_by_driver_and_place() -> None:
    settings = runpod.Settings(
        pydantic.SecretStr("rpa_key"), "podium-a-", min_cuda_version="12.8", data_center_ids=("EU-RO-1",)
    )
    body = runpod.create_body(ORDER, settings)
    assert body["gpu"]["minCudaVersion"] == "12.8"
    assert body["dataCenterIds"] == ["EU-RO-1"]


def test_an_order_may_ask_for_a_newer_driver_than_all_do() -> None:
    settings = runpod.Settings(pydantic.SecretStr("rpa_key"), "podium-a-", min_cuda_version="12.8")
    for asked, least in (("12.10", "12.10"), ("12.4", "12.8"), ("", "12.8")):
        body = runpod.create_body(replace(ORDER, min_cuda_version=asked), settings)
        assert body["gpu"]["minCudaVersion"] == least
    assert runpod.create_body(replace(ORDER, min_cuda_version="12.4"), SETTINGS)["gpu"]["minCudaVersion"] == "12.4"


@pytest.mark.parametrize("text", runpod.CAPACITY_TEXTS)
def test_a_400_that_tells_of_capacity_is_a_lack_of_it(text: str) -> None:
    failure = runpod.create_failure(answered(400, f"Create pod: {text.capitalize()}; please try again"))
    assert type(failure) is providers.NoCapacity


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, providers.Refused),
        (401, providers.Unauthorized),
        (402, providers.OutOfFunds),
        (403, providers.Refused),
        (404, providers.Refused),
        (409, providers.Refused),
        (422, providers.Refused),
        (429, providers.Throttled),
        (500, providers.Ambiguous),
        (503, providers.Ambiguous),
        (524, providers.Ambiguous),
        (302, providers.Ambiguous),
    ],
)
def test_statuses_are_what_they_are_documented_to_be(status: int, kind: type[providers.ProviderError]) -> None:
    failure = runpod.create_failure(answered(status, "something", 12.0))
    assert type(failure) is kind
    assert failure.retry_after_s == 12.0
    assert str(failure) == f"POST /pods of RunPod was answered {status}: something"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("PROVISIONING", Status.PENDING),
        ("STARTING", Status.PENDING),
        ("RUNNING", Status.RUNNING),
        ("EXITED", Status.STOPPED),
        ("ERROR", Status.ERROR),
        ("SOMETHING_NEW", Status.PENDING),
    ],
)
def test_states_of_a_pod(status: str, expected: Status) -> None:
    pod = runpod.listed({**POD, "status": status})
    assert pod.status is expected
    assert pod.detail.startswith(status)


def test_a_pod_is_read_whole() -> None:
    pod = runpod.listed(POD)
    assert (pod.provider_pod_id, pod.name) == ("abc123", "podium-a-1")
    assert (pod.gpu_type, pod.gpu_count, pod.price_usd_per_hour) == ("NVIDIA L40S", 2, 1.72)
    assert pod.create_time == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert pod.detail == "RUNNING, CUDA 12.8"


def test_a_pod_that_lost_its_gpu_has_none() -> None:
    assert runpod.listed({name: value for name, value in POD.items() if name != "gpu"}).gpu_count == 0


def test_a_pod_that_has_exited_does_not_cost_nothing() -> None:
    """Its disk is billed on, and RunPod says 0."""
    assert runpod.listed({**POD, "status": "EXITED", "cost": 0}).price_usd_per_hour is None


def test_what_has_ended_or_is_of_others_is_not_ours() -> None:
    pods = [
        POD,
        {**POD, "id": "b", "status": "TERMINATED"},
        {**POD, "id": "c", "name": "podium-ab-1"},
        # A shape that cannot be read is no reason to see none of ours, if it is of others.
        {"id": "d", "name": None},
        {"id": "e"},
    ]
    assert [pod.provider_pod_id for pod in runpod.ours(pods, "podium-a-", runpod.listed)] == ["abc123"]


@pytest.mark.parametrize("prefix", ["", "-", "podium", "Podium-", "p*-"])
def test_a_prefix_that_takes_in_others_is_not_one(prefix: str) -> None:
    with pytest.raises(ValueError, match="ends in -"):
        runpod.Settings(pydantic.SecretStr("rpa_key"), prefix)


def test_the_key_is_in_no_repr() -> None:
    assert "rpa_key" not in repr(SETTINGS)


@pytest.mark.parametrize(
    ("device", "capability"),
    [
        ("NVIDIA GeForce RTX 3090 Ti", "8.6"),
        ("NVIDIA GeForce RTX 4080 SUPER", "8.9"),
        ("NVIDIA GeForce RTX 5090", "12.0"),
        ("NVIDIA A40", "8.6"),
        ("NVIDIA A30", "8.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("NVIDIA L4", "8.9"),
        ("NVIDIA L40S", "8.9"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA H200 NVL", "9.0"),
        ("NVIDIA B200", "10.0"),
        ("NVIDIA B300 SXM6 AC", "10.3"),
        ("NVIDIA RTX A4500", "8.6"),
        ("NVIDIA RTX 4000 SFF Ada Generation", "8.9"),
        ("NVIDIA RTX 5000 Ada Generation", "8.9"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0"),
        ("NVIDIA RTX PRO 4500 Blackwell", "12.0"),
        ("Tesla V100-PCIE-16GB", "7.0"),
        ("NVIDIA X1000", ""),
    ],
)
def test_what_gpus_can_compute(device: str, capability: str) -> None:
    assert gpu_models.compute_capability(device) == capability

"""OperatorService's calls about pods over real gRPC: what is checked, and what comes back."""

from __future__ import annotations

import base64
import functools
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_runtime import auth, channels, errors, statuses
from podium_scheduler.app import providers, records
from podium_scheduler.domain import pods
from podium_scheduler.domain.pods import State
from tests.support.operator_pods_rig import TOKEN, Rig, served

pb = operator_pb2
NIL = str(uuid.UUID(int=0))
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Called:
    """The rig, and the calls of the service over it."""

    rig: Rig
    call: Any


@pytest.fixture
async def service() -> AsyncIterator[Called]:
    rig = Rig()
    async with served(rig.use_cases()) as address, channels.open_channel(address) as channel:
        yield Called(rig, Caller(channel))


class Caller:
    """The stub, with the operator's token on every call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = operator_pb2_grpc.OperatorServiceStub(channel)

    def __getattr__(self, name: str) -> Callable[[Message], Awaitable[Any]]:
        return functools.partial(getattr(self._stub, name), metadata=auth.authorization(TOKEN))


async def refused(call: Awaitable[object]) -> errors.PodiumError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return statuses.from_rpc_error(caught.value)


async def fields(call: Awaitable[object]) -> list[str]:
    error = await refused(call)
    assert isinstance(error, errors.InvalidArgument), error
    return [v.field for v in error.violations]


def test_every_state_and_every_reason_has_its_number() -> None:
    states = {name.removeprefix("POD_STATE_") for name in pb.PodState.keys()}
    assert states == {*pods.State, "UNSPECIFIED"}
    reasons = {name.removeprefix("POD_REASON_") for name in pb.PodReason.keys()}
    assert reasons == {*pods.Reason, "UNSPECIFIED"} - {"NONE"}


async def test_a_pod_is_shown_with_the_times_of_its_stages_and_its_history(service: Called) -> None:
    pod = await service.rig.pod_in(State.DRAINING, step_s=10.0)
    answer = await service.call.GetPod(pb.GetPodRequest(pod_id=str(pod.pod_id)))
    shown = answer.pod
    assert (shown.pod_id, shown.worker_id) == (str(pod.pod_id), str(pod.worker_id))
    assert (shown.provider, shown.provider_pod_id) == ("runpod", pod.provider_pod_id)
    assert (shown.gpu_type, shown.gpu_count, shown.cloud, shown.region) == ("NVIDIA L4", 1, "SECURE", "")
    assert (shown.state, shown.cause, shown.reason) == (pb.POD_STATE_DRAINING, pb.POD_REASON_IDLE, "idle for 30 s")
    assert shown.price_usd_per_hour == 0.43
    names = ("create", "call", "listed", "registered", "ready", "drain")
    came = [getattr(shown, f"{name}_time").ToDatetime(UTC) - START for name in names]
    assert came == [timedelta(seconds=s) for s in (0, 10, 20, 30, 31, 41)]
    assert not any(shown.HasField(f"{name}_time") for name in ("destroy", "end", "worker_gone"))
    assert [event.state for event in answer.history] == [
        pb.POD_STATE_INTENDED, pb.POD_STATE_CREATING, pb.POD_STATE_STARTING, pb.POD_STATE_READY, pb.POD_STATE_DRAINING,
    ]  # fmt: skip
    assert answer.history[0].reason == "an operator asked for it"
    assert (answer.history[3].cause, answer.history[4].cause) == (pb.POD_REASON_UNSPECIFIED, pb.POD_REASON_IDLE)
    service.rig.ledger.workers_gone[uuid.UUID(shown.worker_id)] = START
    answer = await service.call.GetPod(pb.GetPodRequest(pod_id=str(pod.pod_id)))
    assert answer.pod.worker_gone_time.ToDatetime(UTC) == START


async def test_pods_are_listed_by_page_and_by_state(service: Called) -> None:
    made = [await service.rig.pod_in(state) for state in (State.READY, State.FAILED, State.INTENDED)]
    names = [pod.name for pod in reversed(made)]
    request = pb.ListPodsRequest(page_size=1)
    first = await service.call.ListPods(request)
    request.page_token = first.next_page_token
    second = await service.call.ListPods(request)
    assert ([p.name for p in first.pods], [p.name for p in second.pods]) == ([names[0]], [names[2]])
    assert second.next_page_token == ""
    both = [pb.POD_STATE_FAILED, pb.POD_STATE_READY]
    found = await service.call.ListPods(pb.ListPodsRequest(states=both, page_size=1))
    assert [p.name for p in found.pods] == [names[1]]
    again = pb.ListPodsRequest(states=both[::-1], page_size=1, page_token=found.next_page_token)
    assert [p.name for p in (await service.call.ListPods(again)).pods] == [names[2]]
    assert await fields(service.call.ListPods(pb.ListPodsRequest(page_token=found.next_page_token))) == ["page_token"]


@pytest.mark.parametrize(
    "position",
    [
        ["2026-01-01T00:00:00", NIL],
        ["0001-01-01T00:00:00+23:59", NIL],
        ["2026-01-01T00:00:00+00:00", "no uuid"],
        ["yesterday", NIL],
        ["2026-01-01T00:00:00+00:00"],
        [1, NIL],
    ],
)
async def test_a_forged_place_is_no_token(service: Called, position: list[object]) -> None:
    token = base64.urlsafe_b64encode(json.dumps([["pods"], position]).encode()).decode()
    assert await fields(service.call.ListPods(pb.ListPodsRequest(page_token=token))) == ["page_token"]


async def test_states_that_there_are_not_are_named_by_their_place(service: Called) -> None:
    request = pb.ListPodsRequest(states=[1, 0, 99], page_size=1_001)  # type: ignore[list-item]
    assert await fields(service.call.ListPods(request)) == ["page_size", "states[1]", "states[2]"]


@pytest.mark.parametrize("name", ["GetPod", "DrainPod", "DestroyPod"])
async def test_a_bad_id_is_a_bad_request_and_an_unknown_one_is_not_found(service: Called, name: str) -> None:
    request = getattr(pb, f"{name}Request")
    assert await fields(getattr(service.call, name)(request(pod_id="12"))) == ["pod_id"]
    error = await refused(getattr(service.call, name)(request(pod_id=NIL)))
    assert (type(error), error.reason) == (errors.NotFound, "POD_NOT_FOUND")


async def test_spawn_drain_destroy(service: Called) -> None:
    request = pb.SpawnPodRequest(provider="runpod", gpu_type="NVIDIA L4", request_id=str(uuid.uuid4()))
    spawned = (await service.call.SpawnPod(request)).pod
    assert (spawned.state, spawned.gpu_count) == (pb.POD_STATE_INTENDED, 1)
    assert (await service.call.SpawnPod(request)).pod == spawned
    there = await service.rig.ledger.pod(uuid.UUID(spawned.pod_id))
    assert there is not None
    await service.rig.bring(there, State.READY)
    drained = (await service.call.DrainPod(pb.DrainPodRequest(pod_id=spawned.pod_id))).pod
    assert (drained.state, drained.cause) == (pb.POD_STATE_DRAINING, pb.POD_REASON_OPERATOR)
    assert [str(worker_id) for worker_id in service.rig.drains.asked] == [drained.worker_id]
    destroyed = (await service.call.DestroyPod(pb.DestroyPodRequest(pod_id=spawned.pod_id))).pod
    assert (destroyed.state, destroyed.reason) == (pb.POD_STATE_DESTROYING, "an operator ended it")
    assert (await service.call.SpawnPod(request)).pod.state == pb.POD_STATE_DESTROYING


async def test_a_bad_order_is_told_field_by_field(service: Called) -> None:
    assert await fields(service.call.SpawnPod(pb.SpawnPodRequest())) == ["provider", "request_id"]
    order = pb.SpawnPodRequest(provider="\x00", gpu_count=(1 << 32) - 1, request_id=NIL)
    assert await fields(service.call.SpawnPod(order)) == ["provider"]
    order.provider = "runpod"
    assert await fields(service.call.SpawnPod(order)) == ["gpu_count"]
    order.gpu_type = "x" * 100_000
    assert await fields(service.call.SpawnPod(order)) == ["gpu_type"]


async def test_a_provider_that_is_no_use_is_no_internal_error(service: Called) -> None:
    order = pb.SpawnPodRequest(provider="runpod", request_id=NIL)
    service.rig.market.fails = providers.Unauthorized("the key is not accepted")
    error = await refused(service.call.SpawnPod(order))
    assert (type(error), error.reason) == (errors.FailedPrecondition, "PROVIDER_UNAUTHORIZED")
    assert error.message == "runpod: the key is not accepted"
    service.rig.market.fails = providers.Throttled("slow down")
    service.rig.market.fails.retry_after_s = 17.0
    error = await refused(service.call.SpawnPod(order))
    assert isinstance(error, errors.Unavailable)
    assert error.retry_after_s == 17.0


async def test_limits_are_read_and_set(service: Called) -> None:
    answer = await service.call.GetAutoscaling(pb.GetAutoscalingRequest())
    assert list(answer.providers) == ["runpod"]
    assert answer.autoscaling == pb.Autoscaling(max_pods=5, max_usd_per_hour=4)
    wanted = pb.Autoscaling(paused=True, min_pods=3, max_pods=10_000, max_usd_per_day=0.000001)
    answer = await service.call.SetAutoscaling(pb.SetAutoscalingRequest(autoscaling=wanted))
    assert answer.autoscaling == wanted
    assert service.rig.scaling.set == records.ScalingLimits(True, 3, 10_000, None, Decimal("0.000001"))
    assert (await service.call.GetAutoscaling(pb.GetAutoscalingRequest())).autoscaling == wanted


@pytest.mark.parametrize(
    ("limits", "bad"),
    [
        (pb.Autoscaling(min_pods=2, max_pods=1), ["min_pods"]),
        (pb.Autoscaling(max_pods=10_001), ["max_pods"]),
        (pb.Autoscaling(min_pods=(1 << 32) - 1, max_pods=(1 << 32) - 1), ["max_pods"]),
        (pb.Autoscaling(max_usd_per_hour=-0.1), ["max_usd_per_hour"]),
        (pb.Autoscaling(max_usd_per_hour=float("nan")), ["max_usd_per_hour"]),
        (pb.Autoscaling(max_usd_per_day=float("inf")), ["max_usd_per_day"]),
        (pb.Autoscaling(max_usd_per_day=1e6), ["max_usd_per_day"]),
        (pb.Autoscaling(max_usd_per_day=1e-7), ["max_usd_per_day"]),
        (pb.Autoscaling(min_pods=1, max_usd_per_hour=-1), ["min_pods", "max_usd_per_hour"]),
    ],
)
async def test_limits_that_make_no_sense_are_not_set(service: Called, limits: pb.Autoscaling, bad: list[str]) -> None:
    found = await fields(service.call.SetAutoscaling(pb.SetAutoscalingRequest(autoscaling=limits)))
    assert found == [f"autoscaling.{field}" for field in bad]
    assert service.rig.scaling.set is None


async def test_limits_have_to_be_there(service: Called) -> None:
    assert await fields(service.call.SetAutoscaling(pb.SetAutoscalingRequest())) == ["autoscaling"]


async def test_decisions_are_told_in_words_with_their_times(service: Called) -> None:
    pod_id = uuid.UUID(int=7)
    service.rig.scaling.said = [
        records.Decision("minilm", "Spawn", "40 s of work fill 1 pod", None, START),
        records.Decision("old-model", "Wait", "nothing presses", None, START),
        records.Decision("minilm", "Drain", "idle for 30 s", pod_id, START + timedelta(seconds=90)),
    ]
    service.rig.scaling.set = records.ScalingLimits(paused=True)
    answer = await service.call.ExplainQueue(pb.ExplainQueueRequest(workload="minilm"))
    assert list(answer.reasons) == [
        "autoscaling is paused: no pod is rented, and none retired",
        f"2026-01-01T00:01:30Z Drain {pod_id}: idle for 30 s",
        "2026-01-01T00:00:00Z Spawn: 40 s of work fill 1 pod",
    ]
    # A workload that the registry has no longer is explained as long as there is something to say.
    assert len((await service.call.ExplainQueue(pb.ExplainQueueRequest(workload="old-model"))).reasons) == 2
    error = await refused(service.call.ExplainQueue(pb.ExplainQueueRequest(workload="no-such")))
    assert (type(error), error.reason) == (errors.NotFound, "WORKLOAD_NOT_FOUND")
    for bad in ("", "No Name"):
        assert await fields(service.call.ExplainQueue(pb.ExplainQueueRequest(workload=bad))) == ["workload"]

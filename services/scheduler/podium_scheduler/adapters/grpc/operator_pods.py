"""The calls of OperatorService about pods and the autoscaler: checks and translates, the use cases do the rest."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from uuid import UUID

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_runtime import errors
from podium_runtime.grpc_server import Context
from podium_scheduler.adapters.grpc import convert
from podium_scheduler.adapters.grpc.operator_requests import Check, page_token
from podium_scheduler.app import pods_of_operators, records
from podium_scheduler.domain import offers, pods

MAX_PODS = 10_000
MAX_USD = 1_000_000
_MIN_USD = 1e-6
"""What the ledger keeps of a dollar."""


class PodCalls(operator_pb2_grpc.OperatorServiceServicer):
    """The calls about pods. `workloads` are those that can be explained before anything has been decided."""

    def __init__(self, pods: pods_of_operators.PodsOfOperators, workloads: Collection[str]) -> None:
        self._pods = pods
        self._explainable = frozenset(workloads)

    async def ListPods(self, request: operator_pb2.ListPodsRequest, context: Context) -> operator_pb2.ListPodsResponse:
        check = Check()
        size = check.page_size(request.page_size)
        states = _states(check, request.states)
        listing = ("pods", *sorted(states))
        before = _place(check, check.page_token(request.page_token, *listing))
        check.done()
        found, after = await self._pods.page(states, before, size)
        token = page_token([after[0].isoformat(), str(after[1])], *listing) if after else ""
        return operator_pb2.ListPodsResponse(pods=[_pod(pod) for pod in found], next_page_token=token)

    async def GetPod(self, request: operator_pb2.GetPodRequest, context: Context) -> operator_pb2.GetPodResponse:
        pod, history = await self._pods.get(_pod_id(request.pod_id))
        return operator_pb2.GetPodResponse(pod=_pod(pod), history=[_event(event) for event in history])

    async def SpawnPod(self, request: operator_pb2.SpawnPodRequest, context: Context) -> operator_pb2.SpawnPodResponse:
        check = Check()
        if not request.provider:
            check.bad("provider", "is required")
        request_id = check.uuid("request_id", request.request_id)
        check.done()
        wanted = pods_of_operators.Wanted(request.provider, request.gpu_type, request.gpu_count, request_id)
        return operator_pb2.SpawnPodResponse(pod=_pod(await self._pods.spawn(wanted)))

    async def DrainPod(self, request: operator_pb2.DrainPodRequest, context: Context) -> operator_pb2.DrainPodResponse:
        return operator_pb2.DrainPodResponse(pod=_pod(await self._pods.drain(_pod_id(request.pod_id))))

    async def DestroyPod(
        self, request: operator_pb2.DestroyPodRequest, context: Context
    ) -> operator_pb2.DestroyPodResponse:
        return operator_pb2.DestroyPodResponse(pod=_pod(await self._pods.destroy(_pod_id(request.pod_id))))

    async def GetAutoscaling(
        self, request: operator_pb2.GetAutoscalingRequest, context: Context
    ) -> operator_pb2.GetAutoscalingResponse:
        limits = await self._pods.limits()
        return operator_pb2.GetAutoscalingResponse(autoscaling=_autoscaling(limits), providers=self._pods.providers)

    async def SetAutoscaling(
        self, request: operator_pb2.SetAutoscalingRequest, context: Context
    ) -> operator_pb2.SetAutoscalingResponse:
        limits = await self._pods.set_limits(_limits(request))
        return operator_pb2.SetAutoscalingResponse(autoscaling=_autoscaling(limits))

    async def ExplainQueue(
        self, request: operator_pb2.ExplainQueueRequest, context: Context
    ) -> operator_pb2.ExplainQueueResponse:
        workload = request.workload
        check = Check()
        check.workload(workload)
        if not workload:
            check.bad("workload", "is required")
        check.done()
        found = await self._pods.explain(workload)
        if workload not in self._explainable and all(one.workload != workload for one in found.decisions):
            raise errors.NotFound(f"there is no workload {workload}", reason="WORKLOAD_NOT_FOUND")
        return operator_pb2.ExplainQueueResponse(reasons=[*found.remarks, *map(_sentence, found.decisions)])


def _pod_id(text: str) -> UUID:
    return convert.uuid(text, "pod_id")


def _states(check: Check, values: Sequence[operator_pb2.PodState]) -> frozenset[pods.State]:
    """States to filter by."""
    found = set()
    for number, value in enumerate(values):
        try:
            found.add(pods.State(operator_pb2.PodState.Name(value).removeprefix("POD_STATE_")))
        except ValueError:
            check.bad(f"states[{number}]", f"{value} is no state of a pod")
    return frozenset(found)


def _place(check: Check, position: list[str] | None) -> pods_of_operators.Position | None:
    if position is None:
        return None
    try:
        moment, pod_id = position
        # Tokens are not signed: a time without a zone, or at the end of time, must not get any further.
        if (created := datetime.fromisoformat(moment)).tzinfo is not None:
            return created.astimezone(UTC), UUID(pod_id)
    except (ValueError, OverflowError):
        pass
    check.bad("page_token", "is no token of this listing; start again without one")
    return None


def _limits(request: operator_pb2.SetAutoscalingRequest) -> records.ScalingLimits:
    """Raises errors.InvalidArgument."""
    check, wanted = Check(), request.autoscaling
    if not request.HasField("autoscaling"):
        check.bad("autoscaling", "is required")
    if wanted.max_pods > MAX_PODS:
        check.bad("autoscaling.max_pods", f"must be at most {MAX_PODS:,}")
    if wanted.min_pods > wanted.max_pods:
        check.bad("autoscaling.min_pods", "must be at most max_pods")
    for field in ("max_usd_per_hour", "max_usd_per_day"):
        amount = getattr(wanted, field)
        if not (amount == 0 or (math.isfinite(amount) and _MIN_USD <= amount < MAX_USD)):
            check.bad(f"autoscaling.{field}", f"must be 0 for no limit, or {_MIN_USD:f} to below {MAX_USD:,}")
    check.done()
    return records.ScalingLimits(
        paused=wanted.paused,
        min_pods=wanted.min_pods,
        max_pods=wanted.max_pods,
        usd_per_hour=pods.usd(wanted.max_usd_per_hour) if wanted.max_usd_per_hour else None,
        usd_per_day=pods.usd(wanted.max_usd_per_day) if wanted.max_usd_per_day else None,
    )


def _autoscaling(limits: records.ScalingLimits) -> operator_pb2.Autoscaling:
    return operator_pb2.Autoscaling(
        paused=limits.paused,
        min_pods=limits.min_pods,
        max_pods=limits.max_pods,
        max_usd_per_hour=float(limits.usd_per_hour or 0),
        max_usd_per_day=float(limits.usd_per_day or 0),
    )


def _pod(pod: pods.Pod) -> operator_pb2.Pod:
    return operator_pb2.Pod(
        pod_id=str(pod.pod_id),
        name=pod.name,
        provider=pod.provider,
        provider_pod_id=pod.provider_pod_id,
        state=f"POD_STATE_{pod.state.value}",
        reason=pod.detail,
        cause=_cause(pod.reason),
        gpu_type=pod.gpu_type,
        gpu_count=pod.gpu_count,
        price_usd_per_hour=float(pod.price_usd_per_hour),
        worker_id=str(pod.worker_id or ""),
        workload=pod.workload,
        cloud="" if pod.cloud == offers.Cloud.NONE else pod.cloud,
        region=pod.region,
        create_time=convert.timestamp(pod.create_time),
        call_time=convert.timestamp(pod.call_time),
        listed_time=convert.timestamp(pod.listed_time),
        registered_time=convert.timestamp(pod.registered_time),
        ready_time=convert.timestamp(pod.ready_time),
        drain_time=convert.timestamp(pod.drain_time),
        destroy_time=convert.timestamp(pod.destroy_time),
        end_time=convert.timestamp(pod.end_time),
        last_seen_time=convert.timestamp(pod.last_seen_time),
        worker_gone_time=convert.timestamp(pod.worker_gone_time),
    )


def _event(event: pods.Event) -> operator_pb2.PodEvent:
    return operator_pb2.PodEvent(
        time=convert.timestamp(event.time),
        state=f"POD_STATE_{event.state.value}",
        reason=event.detail,
        cause=_cause(event.reason),
    )


def _cause(reason: pods.Reason) -> str:
    return f"POD_REASON_{'UNSPECIFIED' if reason is pods.Reason.NONE else reason.value}"


def _sentence(decision: records.Decision) -> str:
    """As "2026-11-26T07:30:00Z Spawn: 1,200 items wait"."""
    when = f"{decision.time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} " if decision.time else ""
    of = f" {decision.pod_id}" if decision.pod_id else ""
    return f"{when}{decision.kind}{of}: {decision.reason}"

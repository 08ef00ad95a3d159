"""`podium pods`: rented machines, what became of them, and the autoscaler's limits."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf import timestamp_pb2

from podium.operator.v1 import operator_pb2
from podium_cli import exits, fleet, operator, output

pods = typer.Typer(help="Rented machines: list, rent and end them, and set the autoscaler's limits.")
PodId = Annotated[str, typer.Argument(metavar="POD_ID", help="From `podium pods`; its beginning is enough.")]

_STATES = [name.removeprefix("POD_STATE_") for name in operator_pb2.PodState.keys()[1:]]
_STAGES = (
    ("intended", "create_time"),
    ("create call", "call_time"),
    ("listed", "listed_time"),
    ("registered", "registered_time"),
    ("ready", "ready_time"),
    ("drain", "drain_time"),
    ("destroy call", "destroy_time"),
    ("gone", "end_time"),
)


def listed(states: Sequence[str], *, pages: int | None = None) -> list[operator_pb2.Pod]:
    """Pods in these states (none named: in any that is not final), newest first; all pages unless told how many."""
    found: list[operator_pb2.Pod] = []
    request = operator_pb2.ListPodsRequest(page_size=operator.PAGE, states=[f"POD_STATE_{name}" for name in states])
    for _ in itertools.count() if pages is None else range(pages):
        page = operator.call("ListPods", request, operator_pb2.ListPodsResponse)
        found += page.pods
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    return found


@pods.callback(invoke_without_command=True)
def list_pods(
    context: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help=f"Only this state; may be repeated. {', '.join(_STATES)}.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those whose life is over, too.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """List pods whose life is not over, newest first; with --json one pod a line.

    A pod is named by the beginning of its id; the other commands take that.
    """
    if context.invoked_subcommand is not None:
        return
    wanted = [one.upper() for one in state or ()]
    if unknown := [one for one in wanted if one not in _STATES]:
        raise exits.BadInput(f"--state {unknown[0]}: is none of {', '.join(_STATES)}")
    found = listed(wanted or (_STATES if everything else ()))
    if as_json:
        for one in found:
            output.print_json(one)
        return
    names, workers = (fleet.short_ids(ids) for ids in ([p.pod_id for p in found], [p.worker_id for p in found]))
    output.print_table(
        ("POD", "STATE", "PROVIDER", "GPU", "#USD/H", "CREATED", "WORKER", "WHY"),
        (
            (
                name, _state(one.state), one.provider, _gpu(one), f"{one.price_usd_per_hour:,.2f}",
                _when(one.create_time), worker, one.reason,
            )
            for one, name, worker in zip(found, names, workers, strict=True)
        ),
        empty="no pods",
        folds="WHY",
    )  # fmt: skip


@pods.command("get")
def get_pod(pod_id: PodId, as_json: output.AsJson = False) -> None:
    """Show a pod, and how long each stage of its life took; with --json its history too."""
    answer = _get(pod_id)
    if as_json:
        output.print_json(answer)
        return
    width = max(len(name) for name, _ in _STAGES) + 2
    for name, value in _card(answer.pod):
        output.say(f"{name:<{width}}{value}")
    output.print_table(("STAGE", "TIME", "#AFTER"), _stages(answer.pod), empty="")


@pods.command("history")
def show_history(pod_id: PodId, as_json: output.AsJson = False) -> None:
    """Show what became of a pod, oldest first; with --json one step a line."""
    history = _get(pod_id).history
    if as_json:
        for one in history:
            output.print_json(one)
        return
    rows = ((_when(one.time), _state(one.state), _cause(one.cause), one.reason) for one in history)
    output.print_table(("TIME", "STATE", "CAUSE", "WHY"), rows, empty="no history", folds="WHY")


@pods.command("spawn")
def spawn_pod(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="As `podium pods limits` names them.")],
    gpu_type: Annotated[str, typer.Option(help="As the provider names it. Default: the cheapest.")] = "",
    gpus: Annotated[int, typer.Option(min=0, max=1024, help="GPUs. 0: the fewest on offer.")] = 0,
    request_id: Annotated[
        str | None, typer.Option(help="UUID; the same one again shows the first pod and rents no other.")
    ] = None,
    as_json: output.AsJson = False,
) -> None:
    """Rent a pod. The autoscaler gives it back, like any other, when it has had nothing to do for a while."""
    request = operator_pb2.SpawnPodRequest(
        provider=provider, gpu_type=gpu_type, gpu_count=gpus, request_id=request_id or str(uuid.uuid4())
    )
    _tell(operator.call("SpawnPod", request, operator_pb2.SpawnPodResponse).pod, as_json)


@pods.command("drain")
def drain_pod(pod_id: PodId, as_json: output.AsJson = False) -> None:
    """Let a pod's worker finish what it has, then destroy the pod. One without a worker is destroyed at once."""
    request = operator_pb2.DrainPodRequest(pod_id=_whole_id(pod_id))
    _tell(operator.call("DrainPod", request, operator_pb2.DrainPodResponse).pod, as_json)


@pods.command("destroy")
def destroy_pod(pod_id: PodId, as_json: output.AsJson = False) -> None:
    """Destroy a pod now. What its worker has in hand goes to others."""
    request = operator_pb2.DestroyPodRequest(pod_id=_whole_id(pod_id))
    _tell(operator.call("DestroyPod", request, operator_pb2.DestroyPodResponse).pod, as_json)


@pods.command("limits")
def limits_command(
    min_pods: Annotated[int | None, typer.Option(min=0, max=10_000, help="Fewest pods to keep.")] = None,
    max_pods: Annotated[int | None, typer.Option(min=0, max=10_000, help="Most pods to have at once.")] = None,
    usd_per_hour: Annotated[float | None, typer.Option(min=0, help="Most dollars an hour. 0: no limit.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0, help="Most dollars a day. 0: no limit.")] = None,
    as_json: output.AsJson = False,
) -> None:
    """Show the autoscaler's limits, or change those that are named."""
    now = operator.call("GetAutoscaling", operator_pb2.GetAutoscalingRequest(), operator_pb2.GetAutoscalingResponse)
    limits = now.autoscaling
    named = {
        "min_pods": min_pods, "max_pods": max_pods, "max_usd_per_hour": usd_per_hour, "max_usd_per_day": usd_per_day,
    }  # fmt: skip
    changes = {name: value for name, value in named.items() if value is not None}
    for name, value in changes.items():
        setattr(limits, name, value)
    _show_limits(_set(limits) if changes else limits, now.providers, as_json)


@pods.command("pause")
def pause_autoscaler(as_json: output.AsJson = False) -> None:
    """Let the autoscaler rest: no pod is rented and none retired. Budgets hold."""
    _pause(True, as_json)


@pods.command("resume")
def resume_autoscaler(as_json: output.AsJson = False) -> None:
    """Let the autoscaler go on."""
    _pause(False, as_json)


def _pause(paused: bool, as_json: bool) -> None:
    now = operator.call("GetAutoscaling", operator_pb2.GetAutoscalingRequest(), operator_pb2.GetAutoscalingResponse)
    now.autoscaling.paused = paused
    _show_limits(_set(now.autoscaling), now.providers, as_json)


def _set(limits: operator_pb2.Autoscaling) -> operator_pb2.Autoscaling:
    request = operator_pb2.SetAutoscalingRequest(autoscaling=limits)
    return operator.call("SetAutoscaling", request, operator_pb2.SetAutoscalingResponse).autoscaling


def _show_limits(limits: operator_pb2.Autoscaling, providers: Sequence[str], as_json: bool) -> None:
    if as_json:
        output.print_json(operator_pb2.GetAutoscalingResponse(autoscaling=limits, providers=providers))
        return
    state = "off: no provider is configured" if not providers else "paused" if limits.paused else "on"
    output.say(f"autoscaling  {state}")
    output.say(f"providers    {', '.join(providers) or '-'}")
    output.say(f"pods         {limits.min_pods:,} to {limits.max_pods:,}")
    output.say(f"per hour     {_limit(limits.max_usd_per_hour)}")
    output.say(f"per day      {_limit(limits.max_usd_per_day)}")


def _limit(usd: float) -> str:
    return f"${usd:,.2f}" if usd else "no limit"


def _get(given: str) -> operator_pb2.GetPodResponse:
    request = operator_pb2.GetPodRequest(pod_id=_whole_id(given))
    return operator.call("GetPod", request, operator_pb2.GetPodResponse)


def _whole_id(given: str) -> str:
    """The id that begins so, of a pod that lives or else of one of the newest. Raises BadInput."""
    try:
        return str(uuid.UUID(given))
    except ValueError:
        pass
    for states, pages in (((), None), (_STATES, 1)):
        found = [one.pod_id for one in listed(states, pages=pages) if one.pod_id.startswith(given)]
        if len(found) > 1:
            raise exits.BadInput(f"{given}: {len(found)} pods have ids that begin so")
        if found:
            return found[0]
    raise exits.BadInput(f"{given}: no pod has an id that begins so")


def _tell(pod: operator_pb2.Pod, as_json: bool) -> None:
    if as_json:
        output.print_json(pod)
    else:
        output.say(f"{pod.pod_id}: {_state(pod.state)}, {_gpu(pod)} at ${pod.price_usd_per_hour:,.2f}/h")


def _card(pod: operator_pb2.Pod) -> Iterator[tuple[str, str]]:
    """What there is to say of a pod, but its times."""
    yield "pod", pod.pod_id
    yield "name", pod.name
    yield "provider", f"{pod.provider} {pod.provider_pod_id}".rstrip()
    yield "state", " ".join(filter(None, (_state(pod.state), _cause(pod.cause))))
    if pod.reason:
        yield "why", pod.reason
    yield "gpu", ", ".join(filter(None, (_gpu(pod), pod.cloud.lower(), pod.region)))
    yield "price", f"${pod.price_usd_per_hour:,.2f}/h"
    if pod.workload:
        yield "workload", pod.workload
    if pod.worker_id:
        gone = f", without a session since {_when(pod.worker_gone_time)}" if pod.HasField("worker_gone_time") else ""
        yield "worker", pod.worker_id + gone
    if pod.HasField("last_seen_time"):
        yield "last seen", _when(pod.last_seen_time)


def _stages(pod: operator_pb2.Pod) -> Iterator[tuple[str, str, str]]:
    """Those that it came to, each with the time since the one before."""
    came = [(name, getattr(pod, field)) for name, field in _STAGES if pod.HasField(field)]
    came.sort(key=lambda stage: _moment(stage[1]))
    before: datetime | None = None
    for name, time in came:
        moment = _moment(time)
        after = f"{(moment - before).total_seconds():,.1f} s" if before else ""
        yield name, _when(time), after
        before = moment


def _state(state: operator_pb2.PodState) -> str:
    return operator_pb2.PodState.Name(state).removeprefix("POD_STATE_")


def _cause(cause: operator_pb2.PodReason) -> str:
    return operator_pb2.PodReason.Name(cause).removeprefix("POD_REASON_") if cause else ""


def _gpu(pod: operator_pb2.Pod) -> str:
    return f"{pod.gpu_count} x {pod.gpu_type}" if pod.gpu_type else "CPU"


def _when(time: timestamp_pb2.Timestamp) -> str:
    return output.time_text(_moment(time))


def _moment(time: timestamp_pb2.Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC)

"""`podium apps`, `workers`, `queues`, `failures` and `requeue`: what operators do, over OperatorService."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from google.protobuf.message import Message

import podium_client
from podium.common.v1 import job_pb2
from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_cli import output
from podium_client import retry, rpc

Response = TypeVar("Response", bound=Message)
PAGE = 1000

apps = typer.Typer(no_args_is_help=True, help="Client applications and their tokens.")
AppName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the app.")]


def _call(method: str, request: Message, answer: type[Response]) -> Response:
    endpoint = podium_client.resolve_endpoint(prefix="operator_")
    metadata = (("authorization", f"Bearer {endpoint.token}"),) if endpoint.token else ()

    async def run() -> Response:
        async with rpc.open_channel(endpoint) as channel:
            stub = operator_pb2_grpc.OperatorServiceStub(channel)
            unary: Callable[..., Awaitable[Response]] = getattr(stub, method)
            patience = retry.Patience(podium_client.RetryPolicy(connect_for_s=5.0, retry_for_s=20.0))
            try:
                return await retry.call(patience, lambda: unary(request, metadata=metadata))
            except podium_client.PodiumError as error:
                raise rpc.with_origin(error, endpoint) from error.__cause__

    response = asyncio.run(run())
    if not isinstance(response, answer):
        raise podium_client.ProtocolError(f"{method} answered with {type(response).__name__}")
    return response


@apps.command("create")
def create_app(
    name: AppName,
    weight: Annotated[int, typer.Option(min=1, max=1000, help="Share of the fleet relative to other apps.")] = 1,
    max_waiting_items: Annotated[int, typer.Option(min=0, help="Most items that may wait; 0 for no limit.")] = 0,
    as_json: output.AsJson = False,
) -> None:
    """Create an app."""
    app = operator_pb2.App(app_id=name, weight=weight, max_waiting_items=max_waiting_items)
    request = operator_pb2.CreateAppRequest(app=app)
    made = _call("CreateApp", request, operator_pb2.CreateAppResponse).app
    if as_json:
        output.print_json(made)
    else:
        output.say(f"{made.app_id}: created, weight {made.weight}; next: podium apps token {made.app_id}")


@apps.command("token")
def create_token(
    name: AppName,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Issue a token for an app. It is shown this once."""
    request = operator_pb2.CreateAppTokenRequest(app_id=name, description=description)
    made = _call("CreateAppToken", request, operator_pb2.CreateAppTokenResponse)
    if as_json:
        output.print_json(made)
        return
    output.note(f"token {made.token_id} of {name}; it is shown this once:")
    output.say(made.token)


@apps.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="From `podium apps token`.")],
    as_json: output.AsJson = False,
) -> None:
    """Revoke a token. Gateways stop honouring it within a minute."""
    request = operator_pb2.RevokeAppTokenRequest(token_id=token_id)
    _call("RevokeAppToken", request, operator_pb2.RevokeAppTokenResponse)
    if as_json:
        output.print_json({"revoked": token_id})
    else:
        output.say(f"{token_id}: revoked")


@apps.command("list")
def list_apps(as_json: output.AsJson = False) -> None:
    """List apps; with --json one object a line."""
    found: list[operator_pb2.App] = []
    request = operator_pb2.ListAppsRequest(page_size=PAGE)
    while True:
        page = _call("ListApps", request, operator_pb2.ListAppsResponse)
        found += page.apps
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if as_json:
        for one in found:
            output.print_json(one)
        return
    rows = ((one.app_id, str(one.weight), f"{one.max_waiting_items:,}") for one in found)
    output.print_table(("APP", "#WEIGHT", "#MAX WAITING ITEMS"), rows, empty="no apps")


workers = typer.Typer(help="Connected workers: list them, or let one finish and leave.")


@workers.command("drain")
def drain_worker(
    worker_id: Annotated[str, typer.Argument(metavar="WORKER_ID", help="From `podium workers`.")],
    as_json: output.AsJson = False,
) -> None:
    """Let a worker finish what it has and end. It gets nothing new from now on."""
    request = operator_pb2.DrainWorkerRequest(worker_id=worker_id)
    worker = _call("DrainWorker", request, operator_pb2.DrainWorkerResponse).worker
    if as_json:
        output.print_json(worker)
    else:
        output.say(f"{worker.worker_id}: drains, {len(worker.status.in_hand)} batches in hand")


@workers.callback(invoke_without_command=True)
def list_workers(context: typer.Context, as_json: output.AsJson = False) -> None:
    """List connected workers; with --json one object a line."""
    if context.invoked_subcommand is not None:
        return
    found: list[operator_pb2.Worker] = []
    request = operator_pb2.ListWorkersRequest(page_size=PAGE)
    while True:
        page = _call("ListWorkers", request, operator_pb2.ListWorkersResponse)
        found += page.workers
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if as_json:
        for one in found:
            output.print_json(one)
        return
    output.print_table(
        ("WORKER", "HOST", "VERSION", "DEVICES", "REPLICA", "STATE"),
        (
            (
                one.worker_id, one.hostname, one.version, ", ".join(d.name for d in one.devices), one.replica_id,
                _state_of(one),
            )
            for one in found
        ),
        empty="no workers are connected",
    )  # fmt: skip


def _state_of(worker: operator_pb2.Worker) -> str:
    """What an operator should know first."""
    if worker.quarantine_reason:
        return f"quarantined: {worker.quarantine_reason}"
    faulted = [d for d in worker.status.devices if d.state == worker_pb2.DEVICE_STATE_FAULTED]
    if faulted:
        return "; ".join(f"device {d.index} faulted: {d.reason}" for d in faulted)
    state = "draining" if worker.status.draining else "serving"
    refused = [w for w in worker.status.workloads if w.unavailable_reason]
    return "; ".join([state, *(f"cannot serve {w.workload}: {w.unavailable_reason}" for w in refused)])


def queues_command(as_json: output.AsJson = False) -> None:
    """List the queue of each workload; with --json one object a line."""
    queues = _call("ListQueues", operator_pb2.ListQueuesRequest(), operator_pb2.ListQueuesResponse).queues
    if as_json:
        for one in queues:
            output.print_json(one)
        return
    output.print_table(
        ("WORKLOAD", "#PENDING", "#QUEUED", "#LEASED", "#OLDEST", "#CREDITS", "#WORKERS"),
        (
            (
                one.workload, f"{one.batches_pending:,}", f"{one.batches_queued:,}", f"{one.batches_leased:,}",
                f"{one.oldest_age.ToTimedelta().total_seconds():,.1f} s", str(one.credits), str(one.workers),
            )
            for one in queues
        ),
        empty="no queues",
    )  # fmt: skip


def failures_command(
    workload: Annotated[str, typer.Option("--workload", "-w", help="Only this workload.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="Most failures to show.")] = 100,
    as_json: output.AsJson = False,
) -> None:
    """List batches that were given up, newest first; with --json one object a line."""
    request = operator_pb2.ListFailuresRequest(workload=workload, page_size=limit)
    found = _call("ListFailures", request, operator_pb2.ListFailuresResponse).failures
    if as_json:
        for one in found:
            output.print_json(one)
        return
    output.print_table(
        ("#BATCH", "APP", "JOB", "WORKLOAD", "ITEMS", "#ATTEMPTS", "FAILED", "REASON", "MESSAGE"),
        (
            (
                str(one.batch_id), one.app_id, one.job_id, one.workload,
                f"{one.first_item}..{one.first_item + one.item_count - 1}", str(one.attempt),
                one.finish_time.ToJsonString(), _reason(one.reason), one.message,
            )
            for one in found
        ),
        empty="no failed batches",
    )  # fmt: skip


def _reason(reason: job_pb2.BatchFailureReason) -> str:
    return job_pb2.BatchFailureReason.Name(reason).removeprefix("BATCH_FAILURE_REASON_")


def requeue_command(
    batch_ids: Annotated[list[int], typer.Argument(metavar="BATCH_ID...", help="From `podium failures`.")],
    as_json: output.AsJson = False,
) -> None:
    """Put failed batches back into the queue, with all their attempts before them."""
    for batch_id in batch_ids:
        request = operator_pb2.RequeueBatchRequest(batch_id=batch_id)
        _call("RequeueBatch", request, operator_pb2.RequeueBatchResponse)
        if as_json:
            output.print_json({"requeued": batch_id})
        else:
            output.say(f"{batch_id}: waits again")

"""`podium apps`, `queues`, `stats`, `failures` and `requeue`: what operators do, over OperatorService."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from google.protobuf.message import Message

import podium_client
from podium.common.v1 import job_pb2
from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_cli import output
from podium_client import retry, rpc

Response = TypeVar("Response", bound=Message)
PAGE = 1000

apps = typer.Typer(no_args_is_help=True, help="Client applications and their tokens.")
AppName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the app.")]


def call(method: str, request: Message, answer: type[Response]) -> Response:
    """One call of OperatorService, at PODIUM_OPERATOR_ADDRESS or where `podium up` says. PodiumError."""
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
    made = call("CreateApp", request, operator_pb2.CreateAppResponse).app
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
    made = call("CreateAppToken", request, operator_pb2.CreateAppTokenResponse)
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
    call("RevokeAppToken", request, operator_pb2.RevokeAppTokenResponse)
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
        page = call("ListApps", request, operator_pb2.ListAppsResponse)
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


def queues_command(as_json: output.AsJson = False) -> None:
    """List the queue of each workload; with --json one object a line."""
    queues = call("ListQueues", operator_pb2.ListQueuesRequest(), operator_pb2.ListQueuesResponse).queues
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


def stats_command(as_json: output.AsJson = False) -> None:
    """Show what is going on, and what pods have cost today (UTC)."""
    stats = call("GetStats", operator_pb2.GetStatsRequest(), operator_pb2.GetStatsResponse)
    if as_json:
        output.print_json(stats)
        return
    output.say(f"jobs         {stats.jobs_active:,} active, {stats.items_waiting:,} items not done")
    output.say(f"workers      {stats.workers:,}")
    output.say(f"leader       {stats.leader_replica_id or '-'}")
    output.say(f"spent today  ${stats.usd_today:,.2f}, of which ${stats.usd_unattributed_today:,.2f} for no job")


def failures_command(
    workload: Annotated[str, typer.Option("--workload", "-w", help="Only this workload.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="Most failures to show.")] = 100,
    as_json: output.AsJson = False,
) -> None:
    """List batches that were given up, newest first; with --json one object a line."""
    request = operator_pb2.ListFailuresRequest(workload=workload, page_size=limit)
    found = call("ListFailures", request, operator_pb2.ListFailuresResponse).failures
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
        call("RequeueBatch", request, operator_pb2.RequeueBatchResponse)
        if as_json:
            output.print_json({"requeued": batch_id})
        else:
            output.say(f"{batch_id}: waits again")

"""`podium consume`: everything of an app that finishes, one line for each delivery."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

import podium_client
from podium_cli import output
from podium_cli.connection import connection_of


def consume_command(
    context: typer.Context,
    group: Annotated[str, typer.Option("--group", "-g", help="Consumer group; its consumers share the results.")],
    window: Annotated[
        int, typer.Option(min=1, max=1000, help="Deliveries to hold without acknowledging.")
    ] = podium_client.DEFAULT_WINDOW,
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Only this workload.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="End after so many deliveries; 0: go on.")] = 0,
    as_json: output.AsJson = False,
) -> None:
    """Print what finishes, with --json one object a line, vectors included, and acknowledge what was printed.

    A line is written before its delivery is acknowledged, so none is lost; after an interrupt the last may come again.
    """
    with connection_of(context).client() as client:
        with closing(client.consume(group=group, window=window, workload=workload)) as deliveries:
            for number, delivery in enumerate(deliveries, 1):
                _tell(delivery, as_json)
                client.ack(delivery)
                if number == limit:
                    return


def _tell(delivery: podium_client.Delivery, as_json: bool) -> None:
    if isinstance(delivery, podium_client.JobDelivery):
        job = delivery.job
        if as_json:
            output.print_json({"job": job})
            return
        succeeded, lost = job.progress.items_succeeded, job.progress.items_failed
        output.say(f"{job.job_id} {job.state}: {succeeded:,} succeeded, {lost:,} failed")
    elif as_json:
        output.print_json(
            {
                "job_id": delivery.job_id,
                "first_item": delivery.first_item,
                "item_count": delivery.item_count,
                "keys": delivery.keys,
                "errors": delivery.errors,
                "dimension": delivery.dimension,
                "dtype": delivery.dtype,
                "rows": delivery.rows.tolist(),
                "vectors": delivery.vectors.tolist(),
            }
        )
    else:
        last = delivery.first_item + delivery.item_count - 1
        failed = f", {len(delivery.errors):,} failed: {delivery.errors[0].reason}" if delivery.errors else ""
        output.say(f"{delivery.job_id} items {delivery.first_item:,} to {last:,}{failed}")

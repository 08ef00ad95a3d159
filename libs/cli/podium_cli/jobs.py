"""`podium jobs`, `job`, `watch`, `cancel`, `results` and `workloads`."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

import podium_client
from podium_cli import exits, output
from podium_cli.connection import connection_of
from podium_cli.submit import parse_labels, tell_summary

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]


def jobs_command(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="pending, running, completed, cancelled, expired.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Only this workload.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: output.AsJson = False,
) -> None:
    """List jobs, newest first; with --json one object a line."""
    try:
        states = [podium_client.JobState(one.upper()) for one in state or []]
    except ValueError as error:
        names = ", ".join(one.lower() for one in podium_client.JobState)
        raise exits.BadInput(f"--state: one of {names} is needed") from error
    with connection_of(context).client() as client:
        found = client.jobs(states=states, labels=parse_labels(label), workload=workload, page_size=min(limit, 1000))
        listed = list(islice(found, limit))
    if as_json:
        for job in listed:
            output.print_json(job)
        return
    output.print_table(
        ("JOB", "WORKLOAD", "STATE", "#DONE", "#ITEMS", "#FAILED", "CREATED"),
        (
            (
                job.job_id, job.workload, job.state, f"{job.progress.items_done:,}",
                f"{job.progress.items_total:,}", f"{job.progress.items_failed:,}", output.time_text(job.create_time),
            )
            for job in listed
        ),
        empty="no jobs",
    )  # fmt: skip


def job_command(context: typer.Context, job_id: JobId, as_json: output.AsJson = False) -> None:
    """Show one job."""
    with connection_of(context).client() as client:
        _tell(client.job(job_id), as_json)


def watch_command(context: typer.Context, job_id: JobId, as_json: output.AsJson = False) -> None:
    """Follow a job to its end; with --json one object for each change."""
    last: podium_client.Job | None = None
    with connection_of(context).client() as client:
        if as_json:
            for last in client.watch(job_id):
                output.print_json(last)
        else:
            with output.ItemsBar(job_id, None) as bar:
                for last in client.watch(job_id):
                    bar.update_job(last)
    if last is None:
        return
    if not as_json:
        _tell(last, as_json)
    if last.state is not podium_client.JobState.COMPLETED or last.progress.items_failed:
        raise typer.Exit(exits.ITEMS_FAILED)


def cancel_command(context: typer.Context, job_id: JobId, as_json: output.AsJson = False) -> None:
    """Cancel what is left of a job."""
    with connection_of(context).client() as client:
        _tell(client.cancel(job_id), as_json)


def results_command(
    context: typer.Context,
    job_id: JobId,
    out: Annotated[Path, typer.Option("--out", "-o", help="PATH.npy, .parquet or .jsonl.")],
    release: Annotated[
        bool, typer.Option("--release", help="Let the service delete the results once the file is on disk.")
    ] = False,
    as_json: output.AsJson = False,
) -> None:
    """Write the results of one job into a file, waiting for those not ready."""
    sink = podium_client.open_sink(out)
    started = time.monotonic()
    with connection_of(context).client() as client, output.ItemsBar(job_id, None) as bar:
        summary = client.fetch_to(sink, job_id, release=release, progress=bar.update)
    tell_summary(summary, out, time.monotonic() - started, as_json)


def workloads_command(context: typer.Context, as_json: output.AsJson = False) -> None:
    """List what jobs may name."""
    with connection_of(context).client() as client:
        found = client.workloads()
    if as_json:
        output.print_json({"workloads": found})
        return
    output.print_table(
        ("WORKLOAD", "KIND", "#DIMENSION", "TRUNCATED TO", "DTYPES", "MODEL", "LIMITS", "DESCRIPTION"),
        (
            (
                one.name, "/".join(one.modalities), str(one.dimension), ", ".join(map(str, one.truncated_dimensions)),
                ", ".join(one.dtypes), f"{one.model_name}@{one.revision}", _limits_text(one), one.description,
            )
            for one in found
        ),
        empty="no workloads",
    )  # fmt: skip


def _limits_text(workload: podium_client.Workload) -> str:
    texts = f"{output.size_text(workload.max_text_bytes)} a text" if "text" in workload.modalities else ""
    pixels = f", {workload.max_image_pixels / 1e6:,.0f} Mpx" if workload.max_image_pixels else ""
    images = f"{output.size_text(workload.max_image_bytes)}{pixels} an image" if "image" in workload.modalities else ""
    return "; ".join(filter(None, (texts, images)))


def _tell(job: podium_client.Job, as_json: bool) -> None:
    if as_json:
        output.print_json(job)
        return
    counters = job.progress
    lines = {
        "job": job.job_id,
        "workload": job.workload,
        "state": str(job.state),
        "vectors": f"{f'{job.dimensions} ' if job.dimensions else ''}{job.dtype}",
        "priority": str(job.priority),
        "items": f"{counters.items_total:,} ({counters.items_succeeded:,} succeeded, {counters.items_failed:,} failed, "
        f"{counters.items_truncated:,} truncated)",
        "batches": f"{counters.batches_finished:,} of {counters.batches_total:,} finished",
        "computed": _computed_text(job),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "created": output.time_text(job.create_time),
        "started": output.time_text(job.start_time),
        "finished": output.time_text(job.finish_time),
        "results": _results_text(job),
        "budget": f"${job.budget_usd:,.2f}" if job.budget_usd is not None else "",
        "cost": f"${job.cost_usd:,.4f} for {job.gpu_seconds:,.1f} GPU-seconds" if job.gpu_seconds else "",
    }
    for name, value in lines.items():
        if value:
            output.say(f"{name:<9} {value}")


def _computed_text(job: podium_client.Job) -> str:
    """Of a job whose identical items are computed once: how many were not."""
    counters = job.progress
    if not job.deduplicated:
        return ""
    return f"{counters.items_deduplicated:,} of {counters.items_total:,} were not, identical ones being known"


def _results_text(job: podium_client.Job) -> str:
    if job.results_released:
        return "released"
    until = f" until {output.time_text(job.expire_time)}" if job.expire_time else ""
    return f"kept{until}"

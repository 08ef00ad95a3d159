"""`podium submit`: a file of texts in, a file of vectors out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

import podium_client
from podium_cli import exits, output
from podium_cli.connection import connection_of
from podium_cli.inputs import Format, Input


def parse_labels(given: list[str] | None) -> dict[str, str]:
    """Labels from K=V options."""
    labels = {}
    for one in given or []:
        key, separator, value = one.partition("=")
        if not separator or not key:
            raise exits.BadInput(f"--label {one}: KEY=VALUE is needed")
        labels[key] = value
    return labels


def submit_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="JSON lines, CSV or plain lines; - reads stdin.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Name of a workload (see `podium workloads`).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PATH.npy, .parquet or .jsonl.")] = None,
    format: Annotated[Format, typer.Option(help="auto: by the file's suffix, else plain lines.")] = Format.AUTO,
    text_field: Annotated[
        str | None, typer.Option("--text-field", "--column", help="Field or column of the text. Default: text.")
    ] = None,
    key_field: Annotated[str | None, typer.Option(help="Field or column of a unique key of the item.")] = None,
    skip_blank: Annotated[bool, typer.Option("--skip-blank", help="Leave out rows without text.")] = False,
    input_type: Annotated[str | None, typer.Option(help="query or passage, for asymmetric models.")] = None,
    priority: Annotated[int | None, typer.Option(min=1, max=5, help="1 is soonest. Default: 3.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    run: Annotated[str | None, typer.Option(help="Name that keeps this run apart from others over the input.")] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Jobs in flight.")] = 4,
    items_per_job: Annotated[int, typer.Option(min=1, max=50_000, help="Items in one job.")] = 8192,
    detach: Annotated[bool, typer.Option("--detach", help="Submit, print the jobs and end.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Embed the texts of FILE with a progress bar; run it again after an interruption and it goes on where
    it was."""
    if detach == (out is not None):
        raise exits.BadInput("give either --out FILE or --detach")
    if input_type not in (None, "query", "passage"):
        raise exits.BadInput(f"--input-type {input_type}: query or passage is needed")
    order = _Order(
        source=Input(file, format, text_field, key_field, skip_blank),
        workload=workload,
        input_type=cast(Literal["query", "passage"] | None, input_type),
        priority=priority,
        labels=parse_labels(label),
        run=run,
        items_per_job=items_per_job,
    )
    with connection_of(context).client() as client:
        try:
            if out is None:
                _tell_jobs(order.submit(client), as_json)
            else:
                order.embed(client, out, in_flight, as_json)
        except podium_client.InvalidInput as error:
            raise _at_line(error, order.source) from error


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be embedded, and how."""

    source: Input
    workload: str
    input_type: Literal["query", "passage"] | None
    priority: int | None
    labels: dict[str, str]
    run: str | None
    items_per_job: int

    def submit(self, client: podium_client.Client) -> list[podium_client.Job]:
        """The jobs, without waiting for their results."""
        return client.submit_texts(
            self.source.texts(),
            workload=self.workload,
            input_type=self.input_type,
            keys=self.source.keys(),
            priority=self.priority,
            labels=self.labels,
            run=self.run,
            items_per_job=self.items_per_job,
        )

    def embed(self, client: podium_client.Client, out: Path, in_flight: int, as_json: bool) -> None:
        """The vectors, into a file, with a progress bar."""
        sink = podium_client.open_sink(out)
        started = time.monotonic()
        with output.ItemsBar(self.workload, self.source.count()) as bar:
            summary = client.embed_texts_to(
                sink,
                self.source.texts(),
                workload=self.workload,
                input_type=self.input_type,
                keys=self.source.keys(),
                priority=self.priority,
                labels=self.labels,
                run=self.run,
                max_jobs_in_flight=in_flight,
                items_per_job=self.items_per_job,
                progress=bar.update,
            )
        if self.source.skipped:
            output.note(f"{self.source.name}: {self.source.skipped:,} rows without text were left out")
        tell_summary(summary, out, time.monotonic() - started, as_json)


def _at_line(error: podium_client.InvalidInput, source: Input) -> Exception:
    """The same error with the line of the input, when it is about an item."""
    for violation in error.violations:
        line = source.line_of(violation.index) if violation.index is not None else None
        if line is not None:
            more = f" (and {len(error.violations) - 1:,} more)" if len(error.violations) > 1 else ""
            return exits.BadInput(f"{source.name}:{line}: {violation.field}: {violation.description}{more}")
    return error


def _tell_jobs(jobs: list[podium_client.Job], as_json: bool) -> None:
    if as_json:
        output.print_json({"jobs": jobs})
        return
    for job in jobs:
        output.say(f"{job.job_id}  {job.progress.items_total:,} items")


def tell_summary(summary: podium_client.Summary, out: Path, seconds: float, as_json: bool) -> None:
    """Say what was written, and end with 1 when items failed."""
    rate = summary.items / seconds if seconds > 0 else 0.0
    if as_json:
        figures = {"out": str(out), "seconds": round(seconds, 3), "items_per_second": round(rate, 1)}
        output.print_json({**output.plain(summary), **figures})
    else:
        model = f" by {summary.provenance.model_name}@{summary.provenance.revision}" if summary.provenance else ""
        output.say(
            f"{out}: {summary.succeeded:,} vectors of {summary.dimension}{model}, {seconds:.1f} s, {rate:,.0f} items/s"
        )
        if summary.truncated:
            output.note(f"{summary.truncated:,} texts were longer than the model reads and were truncated")
    if summary.failed:
        first = summary.errors[0]
        place = f" (all in {out}.errors.jsonl)" if out.suffix == ".npy" else ""
        exits.say_error(
            f"{summary.failed:,} of {summary.items:,} items failed{place}; the first: item {first.index}: "
            f"{first.reason}: {first.message}"
        )
        raise typer.Exit(exits.ITEMS_FAILED)

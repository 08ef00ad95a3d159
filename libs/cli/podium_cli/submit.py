"""`podium submit`: a file of texts, or images, in; a file of vectors out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypedDict, cast

import typer

import podium_client
from podium_cli import exits, output
from podium_cli.connection import connection_of
from podium_cli.images import Folder, ImageInput
from podium_cli.inputs import STDIN, Format, Input, Source, check_name
from podium_client.encodings import DTYPES

Images = Annotated[
    bool | None,
    typer.Option("--images/--texts", help="What FILE holds. Default: images if the workload takes only these."),
]
ItemField = Annotated[
    str | None,
    typer.Option(
        "--text-field", "--image-field", "--column", help="Field or column of the item. Default: text; url or path."
    ),
]


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
    file: Annotated[str, typer.Argument(help="JSON lines, CSV or plain lines; - reads stdin; or a folder of images.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Name of a workload (see `podium workloads`).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PATH.npy, .parquet or .jsonl.")] = None,
    images: Images = None,
    format: Annotated[Format, typer.Option(help="auto: by the file's suffix, else plain lines.")] = Format.AUTO,
    item_field: ItemField = None,
    key_field: Annotated[str | None, typer.Option(help="Field or column of a unique key of the item.")] = None,
    skip_blank: Annotated[
        bool, typer.Option("--skip-blank", help="Leave out empty rows and empty image files.")
    ] = False,
    input_type: Annotated[str | None, typer.Option(help="query or passage, for asymmetric models.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16, int8 or binary. Default: float32.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Truncate the vectors to so many elements.")] = None,
    deduplicate: Annotated[
        bool,
        typer.Option("--deduplicate", help="Compute identical texts or files once, here and in other such runs."),
    ] = False,
    priority: Annotated[int | None, typer.Option(min=1, max=5, help="1 is soonest. Default: 3.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    run: Annotated[str | None, typer.Option(help="Name that keeps this run apart from others over the input.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1_000_000, help="USD that rented pods may cost for each job of --items-per-job items."
        ),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Jobs in flight.")] = 4,
    items_per_job: Annotated[int, typer.Option(min=1, max=50_000, help="Items in one job.")] = 8192,
    detach: Annotated[bool, typer.Option("--detach", help="Submit, print the jobs and end.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Embed the texts or images of FILE with a progress bar; run it again after an interruption and it goes on where
    it was.

    A list of images has one URL (http, https, s3) or local path a row; a relative path begins at the list's folder.
    Of a folder, all image files are taken, each with its path as its key. Local files are sent inline.
    """
    if detach == (out is not None):
        raise exits.BadInput("give either --out FILE or --detach")
    if input_type not in (None, "query", "passage"):
        raise exits.BadInput(f"--input-type {input_type}: query or passage is needed")
    if dtype not in (None, *DTYPES):
        raise exits.BadInput(f"--dtype {dtype}: one of {', '.join(DTYPES)} is needed")
    sink = podium_client.open_sink(out) if out is not None else None
    check_name(file)
    with connection_of(context).client() as client:
        source = _Listing(file, format, item_field, key_field, skip_blank).source(client, workload, images)
        how = _How(
            workload=workload, keys=source.keys(), priority=priority, labels=parse_labels(label),
            dimensions=dimensions, dtype=dtype, deduplicate=deduplicate, run=run, budget_usd=budget,
            items_per_job=items_per_job,
        )  # fmt: skip
        order = _Order(client, source, cast(Literal["query", "passage"] | None, input_type), how)
        try:
            if out is None or sink is None:
                _tell_jobs(order.submit(), as_json)
            else:
                order.embed(sink, out, in_flight, as_json)
        except podium_client.InvalidInput as error:
            raise _at_place(error, source) from error


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the command line says about the input."""

    file: str
    format: Format
    item_field: str | None
    key_field: str | None
    skip_blank: bool

    def source(self, client: podium_client.Client, workload: str, images: bool | None) -> Source:
        """Texts or images: as told, else what a folder holds, else what the workload takes."""
        if self.file != STDIN and Path(self.file).is_dir() and images is not False:
            if self.item_field or self.key_field or self.format is not Format.AUTO:
                raise exits.BadInput(f"{self.file}: is a folder; --format and the fields are for lists of images")
            return Folder(self.file, self.skip_blank)
        if images is None:
            images = [one.modalities for one in client.workloads() if one.name == workload] == [("image",)]
        kind = ImageInput if images else Input
        return kind(self.file, self.format, self.item_field, self.key_field, self.skip_blank)


class _How(TypedDict):
    """What is the same for texts and images, and for both ways to submit them."""

    workload: str
    keys: Iterator[str] | None
    priority: int | None
    labels: dict[str, str]
    dimensions: int | None
    dtype: podium_client.Dtype | None
    deduplicate: bool
    run: str | None
    budget_usd: float | None
    items_per_job: int


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be embedded, and how."""

    client: podium_client.Client
    source: Source
    input_type: Literal["query", "passage"] | None
    how: _How

    def __post_init__(self) -> None:
        if self.source.kind == "images" and self.input_type is not None:
            raise exits.BadInput("--input-type: is for texts")

    def submit(self) -> list[podium_client.Job]:
        """The jobs, without waiting for their results."""
        items = self.source.items()
        if self.source.kind == "images":
            return self.client.submit_images(items, **self.how)
        return self.client.submit_texts(items, input_type=self.input_type, **self.how)

    def embed(self, sink: podium_client.Sink, out: Path, in_flight: int, as_json: bool) -> None:
        """The vectors, into a file, with a progress bar."""
        started = time.monotonic()
        with output.ItemsBar(self.how["workload"], self.source.count()) as bar:
            summary = self._embed(sink, in_flight, bar.update)
        for what in self.source.left_out():
            output.note(f"{self.source.name}: {what}")
        tell_summary(summary, out, time.monotonic() - started, as_json)

    def _embed(
        self, sink: podium_client.Sink, in_flight: int, progress: Callable[[podium_client.CallProgress], None]
    ) -> podium_client.Summary:
        client, items = self.client, self.source.items()
        if self.source.kind == "images":
            return client.embed_images_to(sink, items, max_jobs_in_flight=in_flight, progress=progress, **self.how)
        return client.embed_texts_to(
            sink, items, input_type=self.input_type, max_jobs_in_flight=in_flight, progress=progress, **self.how
        )


def _at_place(error: podium_client.InvalidInput, source: Source) -> Exception:
    """The same error with the line of the input, or the name of the file, when it is about an item."""
    for violation in error.violations:
        place = source.place_of(violation.index) if violation.index is not None else None
        if place is not None:
            more = f" (and {len(error.violations) - 1:,} more)" if len(error.violations) > 1 else ""
            said = f"{violation.field}: {violation.description}{more}"
            return exits.BadInput(said if place in said else f"{place}: {said}")
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
        encoded = f" {summary.dtype}" if summary.dtype != "float32" else ""
        model = f" by {summary.provenance.model_name}@{summary.provenance.revision}" if summary.provenance else ""
        vectors = f"{summary.succeeded:,} vectors of {summary.dimension}{encoded}{model}"
        output.say(f"{out}: {vectors}, {seconds:.1f} s, {rate:,.0f} items/s")
        if summary.truncated:
            output.note(f"{summary.truncated:,} texts were longer than the model reads and were truncated")
    if summary.failed:
        first = summary.errors[0]
        key = f" ({first.key})" if first.key else ""
        place = f" (all in {out}.errors.jsonl)" if out.suffix == ".npy" else ""
        exits.say_error(
            f"{summary.failed:,} of {summary.items:,} items failed{place}; the first: item {first.index}{key}: "
            f"{first.reason}: {first.message}"
        )
        raise typer.Exit(exits.ITEMS_FAILED)

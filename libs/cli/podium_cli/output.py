"""What the command prints: tables and lines for people, JSON for scripts; only results go to stdout."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn
from rich.table import Table
from rich.text import Text

import podium_client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, and nothing else, on stdout.")]


def plain(value: Any) -> Any:
    """A dataclass, proto message, time or enum as what JSON knows."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str, folds: str | None = None) -> None:
    """A table, or the line `empty` when there are no rows. Numbers are those columns that begin with "#". Where the
    terminal is too narrow, the column `folds` gives way; None: all of them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.lstrip("#"),
            justify="right" if column.startswith("#") else "left",
            overflow="fold",
            no_wrap=folds is not None and column != folds,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if table.row_count:
        # Piped output has no width of its own, and a wrapped id would be of no use to grep.
        console = Console() if sys.stdout.isatty() else Console(width=200)
        console.print(table)
    else:
        sys.stderr.write(empty + "\n")


def say(text: str) -> None:
    """A line for people, on stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A remark, on stderr."""
    sys.stderr.write(text + "\n")


def time_text(time: datetime | None) -> str:
    """Local time to the second; empty for None."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time is not None else ""


def size_text(size: int) -> str:
    """Bytes in binary units, to three digits."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.3g} {unit}"


class RateColumn(ProgressColumn):
    """Items a second over the last half minute."""

    def render(self, task: Task) -> Text:
        """The rate."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} items/s" if speed else "- items/s", style="progress.data.speed")


class ItemsBar:
    """The progress bar on stderr; silent when stderr is no terminal. The callback may come from any thread."""

    def __init__(self, description: str, total: int | None) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            RateColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            EtaColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._known_total = total
        self._task = self._bar.add_task(description, total=total, counts="waiting")

    def __enter__(self) -> ItemsBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, now: podium_client.CallProgress) -> None:
        """Show how far the call is."""
        total = self._known_total if now.items_total is None else now.items_total
        counts = f"{now.items_done:,}/{total:,}" if total is not None else f"{now.items_done:,}"
        if now.items_failed:
            counts += f", {now.items_failed:,} failed"
        self._bar.update(self._task, completed=now.items_done, total=total, counts=counts)

    def update_job(self, job: podium_client.Job) -> None:
        """Show how far a job is."""
        counters = job.progress
        counts = f"{job.state} {counters.items_done:,}/{counters.items_total:,}"
        if counters.items_failed:
            counts += f", {counters.items_failed:,} failed"
        self._bar.update(self._task, completed=counters.items_done, total=counters.items_total, counts=counts)

"""What embed calls are given, and what becomes of it: job specifications, feeds of parts, sinks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar

from podium.common.v1.item_pb2 import EmbeddingOptions
from podium_client.embedding import ProgressCallback
from podium_client.errors import ItemsFailed
from podium_client.feed import PartFeed
from podium_client.items import TEXTS, Kind
from podium_client.parts import JobSpec, cut
from podium_client.results import Embeddings
from podium_client.sinks import Sink, open_sink

T = TypeVar("T")
Target = str | os.PathLike[str] | Sink
InputType = Literal["query", "passage"]


class How(TypedDict):
    """What the embed calls have in common, for texts and for images."""

    workload: str
    keys: Iterable[str] | None
    priority: int | None
    labels: Mapping[str, str] | None
    deduplicate: bool
    run: str | None
    budget_usd: float | None
    items_per_job: int
    bytes_per_job: int


class Flow(TypedDict):
    """How an embed call runs; nothing of it changes what comes out."""

    max_jobs_in_flight: int
    release: bool
    progress: ProgressCallback | None


def checked(inputs: Iterable[T], kind: Kind[T]) -> Iterable[T]:
    """The inputs. Raises TypeError for a single one, which is iterable too."""
    if isinstance(inputs, str | bytes | os.PathLike):
        what = "str" if kind is TEXTS else "images"
        raise TypeError(f"{kind.name}: a list or iterable of {what} is needed, not a single {type(inputs).__name__}")
    return inputs


def length(inputs: Iterable[Any]) -> int | None:
    """How many there are, where that is known before they are read."""
    return len(inputs) if isinstance(inputs, Sequence) else None


def sink_of(target: Target) -> Sink:
    """The sink itself, or the one that a file's name asks for. Raises ConfigurationError."""
    return open_sink(target) if isinstance(target, str | os.PathLike) else target


def spec_of(options: EmbeddingOptions, how: How) -> JobSpec:
    """What all jobs of a call have in common."""
    return JobSpec(
        how["workload"], options, how["priority"], how["labels"], how["run"], how["deduplicate"], how["budget_usd"]
    )


def feed_of(kind: Kind[T], inputs: Iterable[T], how: How) -> PartFeed:
    """The inputs in parts of a job each. Raises TypeError."""
    bounds = {"max_items": how["items_per_job"], "max_bytes": how["bytes_per_job"]}
    return PartFeed(cut(checked(inputs, kind), how["keys"], kind=kind, **bounds))


def raise_if_failed(result: Embeddings) -> None:
    """Raises ItemsFailed, which carries the result, when any item failed."""
    if result.errors:
        first = result.errors[0]
        raise ItemsFailed(
            f"{len(result.errors):,} of {len(result):,} items failed; the first: item {first.index}: "
            f"{first.reason}: {first.message}",
            result,
        )

"""Jobs and workloads as the service tells them: frozen values, translated from the wire once."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from podium.common.v1 import item_pb2, job_pb2, workload_pb2
from podium_client.encodings import Dtype, dtype_from_wire, dtype_to_wire


class JobState(enum.StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def final(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobState.COMPLETED, JobState.CANCELLED, JobState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters of one job. Items with an outcome: `items_succeeded + items_failed`."""

    items_total: int
    items_succeeded: int
    items_failed: int
    items_truncated: int
    items_released: int
    batches_total: int
    batches_finished: int
    items_deduplicated: int = 0
    """Items whose vector was not computed for this job, because an identical item's was there."""

    @property
    def items_done(self) -> int:
        """Items that have their vector or their typed error."""
        return self.items_succeeded + self.items_failed


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted SubmitBatch call. Times are UTC, None when not reached."""

    job_id: str
    request_id: str
    workload: str
    state: JobState
    priority: int
    labels: Mapping[str, str]
    progress: Progress
    create_time: datetime | None
    start_time: datetime | None
    finish_time: datetime | None
    deadline: datetime | None
    expire_time: datetime | None
    results_released: bool
    results_expired: bool
    """Whether some results were removed before anybody read them: their retention had ended."""
    modality: str = "text"
    dtype: Dtype = "float32"
    dimensions: int | None = None
    """Elements that the vectors are truncated to; None: all of the workload's."""
    gpu_seconds: float = 0.0
    """Of rented pods that it has to answer for, its share of loads and idle time included. Only `job` tells."""
    cost_usd: float = 0.0
    """What they cost so far."""
    budget_usd: float | None = None
    """The most that they may cost for it; None: it has no bound of its own."""
    deduplicated: bool = False
    """Whether identical items are computed once."""

    @property
    def readable_from_start(self) -> bool:
        """Whether every result of the job can be (or will be able to be) read."""
        gone = self.results_released or self.results_expired or self.progress.items_released > 0
        return not gone and self.state not in (JobState.CANCELLED, JobState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Workload:
    """One entry of the service's registry. Limits are of one item: UTF-8 bytes of a text, bytes of an inline image,
    pixels of a decoded one; 0: none."""

    name: str
    description: str
    modalities: tuple[str, ...]
    dimension: int
    max_text_bytes: int
    model_name: str
    revision: str
    backend: str
    normalized: bool
    max_tokens: int
    max_image_bytes: int = 0
    max_image_pixels: int = 0
    dtypes: tuple[str, ...] = ("float32",)
    """Element types that a job may ask for."""
    truncated_dimensions: tuple[int, ...] = ()
    """Lengths to which vectors may be truncated."""
    accepts_token_ids: bool = False
    """Whether texts may be given as token ids of the model's own tokenizer."""


def _time(message: job_pb2.Job, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


def job_from_proto(message: job_pb2.Job) -> Job:
    """Translate a job; a state that this SDK does not know is an error of versions and raises ValueError."""
    counters = message.progress
    return Job(
        job_id=message.job_id,
        request_id=message.request_id,
        workload=message.workload,
        state=JobState(job_pb2.JobState.Name(message.state).removeprefix("JOB_STATE_")),
        priority=message.priority,
        labels=dict(message.labels),
        progress=Progress(
            items_total=counters.items_total,
            items_succeeded=counters.items_succeeded,
            items_failed=counters.items_failed,
            items_truncated=counters.items_truncated,
            items_released=counters.items_released,
            batches_total=counters.batches_total,
            batches_finished=counters.batches_finished,
            items_deduplicated=counters.items_deduplicated,
        ),
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        finish_time=_time(message, "finish_time"),
        deadline=_time(message, "deadline"),
        expire_time=_time(message, "expire_time"),
        results_released=message.results_released,
        results_expired=message.results_expired,
        modality=_modality(message.modality) if message.modality else "text",
        dtype=_dtype(message.options),
        dimensions=message.options.dimensions if message.options.HasField("dimensions") else None,
        gpu_seconds=message.cost.gpu_seconds,
        cost_usd=message.cost.usd,
        deduplicated=message.deduplicated,
        budget_usd=message.budget_usd if message.HasField("budget_usd") else None,
    )


def _dtype(options: item_pb2.EmbeddingOptions) -> Dtype:
    if not options.HasField("dtype"):
        return "float32"
    dtype = dtype_from_wire(options.dtype)
    if dtype is None:
        raise ValueError(f"dtype {options.dtype} is not known to this SDK")
    return dtype


def _modality(number: workload_pb2.Modality) -> str:
    return workload_pb2.Modality.Name(number).removeprefix("MODALITY_").lower()


def state_to_proto(state: JobState | str) -> job_pb2.JobState:
    """The wire's name of a state, given in any case. ValueError when there is no such state."""
    return cast(job_pb2.JobState, job_pb2.JobState.Value(f"JOB_STATE_{JobState(str(state).upper())}"))


def workload_from_proto(message: workload_pb2.Workload) -> Workload:
    """Translate a registry entry."""
    return Workload(
        name=message.name,
        description=message.description,
        modalities=tuple(map(_modality, message.modalities)),
        dimension=message.dimension,
        max_text_bytes=message.limits.max_text_bytes,
        model_name=message.model.model_name,
        revision=message.model.revision,
        backend=message.model.backend,
        normalized=message.model.normalized,
        max_tokens=message.model.max_tokens,
        max_image_bytes=message.limits.max_image_bytes,
        max_image_pixels=message.limits.max_image_pixels,
        dtypes=tuple(dtype for n in message.dtypes if (dtype := dtype_from_wire(n))) or ("float32",),
        truncated_dimensions=tuple(message.truncated_dimensions),
        accepts_token_ids=message.accepts_token_ids,
    )


def embedding_options(
    input_type: str | None = None, dimensions: int | None = None, dtype: str | None = None
) -> item_pb2.EmbeddingOptions:
    """Options of a job. `input_type`: "query", "passage" or None; `dtype`: one of encodings.DTYPES or None for
    float32. ValueError for anything else."""
    options = item_pb2.EmbeddingOptions()
    if input_type is not None:
        if input_type.lower() not in ("query", "passage"):
            raise ValueError(f'input_type: "query", "passage" or None, not {input_type!r}')
        name = f"INPUT_TYPE_{input_type.upper()}"
        options.input_type = cast(workload_pb2.InputType, workload_pb2.InputType.Value(name))
    if dimensions is not None:
        if dimensions < 1:
            raise ValueError(f"dimensions: at least 1, not {dimensions}")
        options.dimensions = dimensions
    # Left unset for float32, said or not: the same call has to derive the same request id.
    if dtype is not None and (number := dtype_to_wire(dtype)) != workload_pb2.DTYPE_FLOAT32:
        options.dtype = number
    return options

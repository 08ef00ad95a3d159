"""Jobs and workloads as the service tells them: frozen values, translated from the wire once."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from podium.common.v1 import item_pb2, job_pb2, workload_pb2


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

    @property
    def readable_from_start(self) -> bool:
        """Whether every result of the job can be (or will be able to be) read."""
        gone = self.results_released or self.results_expired or self.progress.items_released > 0
        return not gone and self.state not in (JobState.CANCELLED, JobState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Workload:
    """One entry of the service's registry. Bytes are UTF-8 bytes of one text."""

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
        ),
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        finish_time=_time(message, "finish_time"),
        deadline=_time(message, "deadline"),
        expire_time=_time(message, "expire_time"),
        results_released=message.results_released,
        results_expired=message.results_expired,
    )


def state_to_proto(state: JobState | str) -> job_pb2.JobState:
    """The wire's name of a state, given in any case. ValueError when there is no such state."""
    return cast(job_pb2.JobState, job_pb2.JobState.Value(f"JOB_STATE_{JobState(str(state).upper())}"))


def workload_from_proto(message: workload_pb2.Workload) -> Workload:
    """Translate a registry entry."""
    return Workload(
        name=message.name,
        description=message.description,
        modalities=tuple(workload_pb2.Modality.Name(m).removeprefix("MODALITY_").lower() for m in message.modalities),
        dimension=message.dimension,
        max_text_bytes=message.limits.max_text_bytes,
        model_name=message.model.model_name,
        revision=message.model.revision,
        backend=message.model.backend,
        normalized=message.model.normalized,
        max_tokens=message.model.max_tokens,
    )


def embedding_options(input_type: str | None, dimensions: int | None = None) -> item_pb2.EmbeddingOptions:
    """Options of a job. `input_type`: "query", "passage" or None. ValueError for anything else."""
    options = item_pb2.EmbeddingOptions()
    if input_type is not None:
        if input_type.lower() not in ("query", "passage"):
            raise ValueError(f'input_type: "query", "passage" or None, not {input_type!r}')
        name = f"INPUT_TYPE_{input_type.upper()}"
        options.input_type = cast(workload_pb2.InputType, workload_pb2.InputType.Value(name))
    if dimensions is not None:
        options.dimensions = dimensions
    return options

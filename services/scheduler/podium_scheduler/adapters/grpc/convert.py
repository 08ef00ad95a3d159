"""Records to and from the wire."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from podium.common.v1 import item_pb2, job_pb2, workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_runtime import errors
from podium_scheduler.app import records
from podium_scheduler.domain import jobs


def job(record: records.Job) -> job_pb2.Job:
    """A job as clients see it."""
    return job_pb2.Job(
        job_id=str(record.job_id),
        request_id=str(record.request_id),
        workload=record.workload,
        state=f"JOB_STATE_{record.state.value}",
        priority=record.priority,
        labels=dict(record.labels),
        options=item_pb2.EmbeddingOptions.FromString(record.options),
        progress=job_pb2.JobProgress(
            items_total=record.item_count,
            items_succeeded=record.items_succeeded,
            items_failed=record.items_failed,
            items_truncated=record.items_truncated,
            batches_total=record.batch_count,
            batches_finished=record.batches_finished,
            items_released=record.items_released,
            items_deduplicated=record.items_deduplicated,
        ),
        create_time=timestamp(record.create_time),
        start_time=timestamp(record.start_time),
        finish_time=timestamp(record.finish_time),
        deadline=timestamp(record.deadline),
        expire_time=timestamp(record.expire_time),
        results_released=record.items_released == record.item_count,
        modality=workload_pb2.Modality.Name(record.modality),
        results_expired=record.results_expired,
        budget_usd=None if record.budget_micro_usd is None else record.budget_micro_usd / 1e6,
        deduplicated=record.dedupe_scope is not None,
    )


def batch(record: records.Batch) -> scheduler_pb2.Batch:
    """A batch as gateways see it."""
    reason = record.failure_reason
    return scheduler_pb2.Batch(
        first_item=record.first_item,
        item_count=record.item_count,
        state=f"BATCH_STATE_{record.state.value}",
        failure_reason=f"BATCH_FAILURE_REASON_{reason.value}" if reason else None,
        failure_message=record.failure_message,
        attempt=record.attempt,
    )


def delivery(record: records.Delivery) -> scheduler_pb2.Delivery:
    """A delivery as gateways see it."""
    return scheduler_pb2.Delivery(
        delivery=record.delivery_id,
        job_id=str(record.job_id),
        batch=batch(record.batch) if record.batch else None,
        job=job(record.job) if record.job else None,
    )


def new_job(request: scheduler_pb2.AdmitJobRequest) -> records.NewJob:
    """A job to admit. Raises errors.InvalidArgument."""
    return records.NewJob(
        app_id=request.app_id,
        request_id=uuid(request.request_id, "request_id"),
        payload_digest=request.payload_digest,
        workload=request.workload,
        modality=_known(workload_pb2.Modality, request.modality, "modality"),
        priority=request.priority,
        labels=dict(request.labels),
        options=request.options.SerializeToString(deterministic=True),
        completion_window=request.completion_window.ToTimedelta() if request.HasField("completion_window") else None,
        traceparent=request.traceparent,
        budget_micro_usd=round(request.budget_usd * 1_000_000) if request.HasField("budget_usd") else None,
        batches=tuple(
            records.NewBatch(
                b.first_item,
                b.item_count,
                b.payload,
                _known(item_pb2.PayloadEncoding, b.payload_encoding, f"batches[{number}].payload_encoding"),
                *((b.identities.hashes, b.identities.SerializeToString()) if request.deduplicate else ()),
            )
            for number, b in enumerate(request.batches)
        ),
        deduplicate=request.deduplicate,
    )


def _known(enum: EnumTypeWrapper, value: int, field: str) -> int:
    """What we could not pass on to a worker must not get into the ledger. Raises errors.InvalidArgument."""
    if value == 0 or value not in enum.values():
        raise errors.InvalidArgument([errors.Violation(field, f"{value} is none that this version knows")])
    return value


def job_state(value: job_pb2.JobState) -> jobs.State:
    """A state to filter by. Raises errors.InvalidArgument."""
    try:
        return jobs.State(job_pb2.JobState.Name(value).removeprefix("JOB_STATE_"))
    except ValueError:
        raise errors.InvalidArgument([errors.Violation("states", f"{value} is no state of a job")]) from None


def uuid(text: str, field: str) -> UUID:
    """Raises errors.InvalidArgument."""
    try:
        return UUID(text)
    except ValueError:
        raise errors.InvalidArgument([errors.Violation(field, "must be a UUID")]) from None


def timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    """None stays unset."""
    if moment is None:
        return None
    converted = timestamp_pb2.Timestamp()
    converted.FromDatetime(moment)
    return converted


def duration(seconds: float) -> duration_pb2.Duration:
    """A span, to the nanosecond."""
    converted = duration_pb2.Duration()
    converted.FromNanoseconds(round(seconds * 1e9))
    return converted

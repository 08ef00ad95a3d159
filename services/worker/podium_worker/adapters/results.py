"""From computed vectors to the frames that travel: checked, cut into chunks, summed, serialized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import duration_pb2

from podium.common.v1 import result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.app import backend
from podium_worker.domain import chunks

# A unit vector's length in float32 is off by less than this, whatever its dimension.
NORM_TOLERANCE = 1e-3
_POOLING = {
    "mean": workload_pb2.POOLING_MEAN,
    "cls": workload_pb2.POOLING_CLS,
    "none": workload_pb2.POOLING_NONE,
}


class BadVectors(Exception):
    """The backend returned what no client may see: wrong shape, or lengths that are not one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A computed batch: float32 vectors, shape (item_count, dimension), and the items that have none."""

    vectors: npt.NDArray[np.float32]
    keys: Sequence[str]
    truncations: Sequence[backend.Truncated]
    out_of_memory: frozenset[int]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a batch spent."""

    wait_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Packed:
    """Serialized WorkerFrames of one batch, the BatchDone last."""

    frames: list[bytes]
    failed_items: int
    not_finite: bool = False
    """Whether an item failed for a NaN or an infinity."""


def provenance(model: backend.Model, description: backend.Description) -> result_pb2.Provenance:
    """What made the vectors."""
    return result_pb2.Provenance(
        model_name=model.model_name,
        revision=model.revision,
        dimension=model.dimension,
        dtype=workload_pb2.DTYPE_FLOAT32,
        pooling=_POOLING[description.pooling],
        normalized=description.normalized,
        precision=description.precision,
        backend=model.backend,
    )


def pack(
    assign: worker_pb2.Assign,
    outcome: Outcome,
    made_by: result_pb2.Provenance,
    timing: Timing,
    *,
    token_count: int,
    max_chunk_bytes: int,
) -> Packed:
    """Chunks and BatchDone of one batch. Raises BadVectors; items with a NaN or an infinity only fail themselves."""
    reasons = _failed_items(assign, outcome, made_by)
    frames = []
    spans = chunks.cut(assign.item_count, made_by.dimension * 4, max_chunk_bytes)
    for index, span in enumerate(spans):
        chunk = _chunk(assign, outcome, reasons, span)
        chunk.provenance.CopyFrom(made_by)
        chunk.chunk_index = index
        chunk.last_in_batch = index == len(spans) - 1
        frame = worker_pb2.WorkerFrame(chunk=worker_pb2.BatchChunk(lease=assign.lease, chunk=chunk))
        frames.append(frame.SerializeToString())
    done = worker_pb2.BatchDone(
        lease=assign.lease,
        chunk_count=len(spans),
        compute_duration=_duration(timing.compute_s),
        wait_duration=_duration(timing.wait_s),
        token_count=token_count,
    )
    frames.append(worker_pb2.WorkerFrame(done=done).SerializeToString())
    not_finite = result_pb2.ITEM_ERROR_REASON_NOT_FINITE in reasons.values()
    return Packed(frames, failed_items=len(reasons), not_finite=not_finite)


def _failed_items(
    assign: worker_pb2.Assign, outcome: Outcome, made_by: result_pb2.Provenance
) -> dict[int, result_pb2.ItemErrorReason]:
    """Item index in the batch -> why it has no vector. Raises BadVectors when the whole matrix is wrong."""
    vectors = outcome.vectors
    if vectors.shape != (assign.item_count, made_by.dimension) or vectors.dtype != np.float32:
        raise BadVectors(
            f"The backend made {vectors.dtype} {vectors.shape}, not float32 ({assign.item_count}, {made_by.dimension})."
        )
    reasons = dict.fromkeys(outcome.out_of_memory, result_pb2.ITEM_ERROR_REASON_OUT_OF_MEMORY)
    # One pass: the squared length is finite only if every element is (and none overflows).
    squares = np.einsum("ij,ij->i", vectors, vectors)
    suspects = np.flatnonzero(~np.isfinite(squares)).tolist()
    for index in suspects:
        if index not in reasons and not np.isfinite(vectors[index]).all():
            reasons[index] = result_pb2.ITEM_ERROR_REASON_NOT_FINITE
    if made_by.normalized:
        off = np.abs(np.sqrt(squares) - 1.0) > NORM_TOLERANCE
        off[list(reasons)] = False
        if off.any():
            index = int(np.flatnonzero(off)[0])
            raise BadVectors(f"Item {index} of the batch has length {squares[index] ** 0.5:.6f}, not 1.")
    return reasons


def _chunk(
    assign: worker_pb2.Assign,
    outcome: Outcome,
    reasons: dict[int, result_pb2.ItemErrorReason],
    span: chunks.Span,
) -> result_pb2.ResultChunk:
    failed = sorted(index for index in reasons if span.start <= index < span.stop)
    rows = outcome.vectors[span.start : span.stop]
    if failed:
        rows = np.delete(rows, [index - span.start for index in failed], axis=0)
    vectors = rows.astype("<f4", copy=False).tobytes()
    return result_pb2.ResultChunk(
        job_id=assign.job_id,
        first_item=assign.first_item + span.start,
        item_count=span.stop - span.start,
        vectors=vectors,
        count=len(rows),
        dimension=outcome.vectors.shape[1],
        dtype=workload_pb2.DTYPE_FLOAT32,
        crc32c=google_crc32c.value(vectors),
        errors=[_item_error(assign.first_item + index, reasons[index]) for index in failed],
        truncations=[
            result_pb2.Truncation(
                item_index=assign.first_item + cut.index, token_count=cut.token_count, max_tokens=cut.max_tokens
            )
            for cut in outcome.truncations
            if span.start <= cut.index < span.stop
        ],
        keys=outcome.keys[span.start : span.stop],
        batch_first_item=assign.first_item,
        attempt=assign.lease.attempt,
    )


_MESSAGES = {
    result_pb2.ITEM_ERROR_REASON_NOT_FINITE: "The model gave a vector with a NaN or an infinity.",
    result_pb2.ITEM_ERROR_REASON_OUT_OF_MEMORY: "The item alone does not fit into the device's memory.",
}


def _item_error(item_index: int, reason: result_pb2.ItemErrorReason) -> result_pb2.ItemError:
    return result_pb2.ItemError(item_index=item_index, reason=reason, message=_MESSAGES[reason])


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration

"""From computed vectors to the frames that travel: checked, encoded, cut into chunks, summed, serialized.

Two steps, for they belong to two threads. `examine` is cheap and says whether the device is to be trusted, which
whoever computes has to know before it goes on; `pack` copies and encodes, while the device computes the next batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import duration_pb2

from podium.common.v1 import result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import protowire
from podium_worker.adapters import known, rows
from podium_worker.app import backend
from podium_worker.domain import chunks, encodings, problems

# A unit vector's length in float32 is off by less than this, whatever its dimension.
NORM_TOLERANCE = 1e-3
REASONS: Mapping[problems.Reason, result_pb2.ItemErrorReason] = {
    problems.Reason.TOO_LARGE: result_pb2.ITEM_ERROR_REASON_TOO_LARGE,
    problems.Reason.URL_NOT_ALLOWED: result_pb2.ITEM_ERROR_REASON_URL_NOT_ALLOWED,
    problems.Reason.FETCH_FAILED: result_pb2.ITEM_ERROR_REASON_FETCH_FAILED,
    problems.Reason.UNDECODABLE: result_pb2.ITEM_ERROR_REASON_UNDECODABLE,
    problems.Reason.POISON: result_pb2.ITEM_ERROR_REASON_POISON,
    problems.Reason.UNKNOWN_TOKEN: result_pb2.ITEM_ERROR_REASON_UNKNOWN_TOKEN,
}
"""How the contract calls what becomes of an item before it reaches a device."""
_POOLING = {
    "mean": workload_pb2.POOLING_MEAN,
    "cls": workload_pb2.POOLING_CLS,
    "none": workload_pb2.POOLING_NONE,
}
_DTYPES = {
    encodings.Dtype.FLOAT32: workload_pb2.DTYPE_FLOAT32,
    encodings.Dtype.FLOAT16: workload_pb2.DTYPE_FLOAT16,
    encodings.Dtype.INT8: workload_pb2.DTYPE_INT8,
    encodings.Dtype.BINARY: workload_pb2.DTYPE_BINARY,
}
_CHUNK_OF_FRAME = worker_pb2.WorkerFrame.CHUNK_FIELD_NUMBER
_LEASE_OF_BATCH = worker_pb2.BatchChunk.LEASE_FIELD_NUMBER
_CHUNK_OF_BATCH = worker_pb2.BatchChunk.CHUNK_FIELD_NUMBER
_VECTORS = result_pb2.ResultChunk.VECTORS_FIELD_NUMBER
Bytes = npt.NDArray[np.uint8]
_NOT_FINITE = "The model gave a vector with a NaN or an infinity."
_LEFT_OUT = "An identical item is being computed elsewhere."
_OUT_OF_MEMORY = "The item alone does not fit into the device's memory."


class BadVectors(Exception):
    """The backend returned what no client may see: wrong shape, or lengths that are not one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A computed batch: float32 vectors, shape (rows, dimension), one for each item that `failures` does not name.

    `out_of_memory`, `truncations` and `unread` count rows: only texts are truncated, and they all come to the device.
    """

    vectors: npt.NDArray[np.float32]
    keys: Sequence[str]
    truncations: Sequence[backend.Truncated] = ()
    out_of_memory: frozenset[int] = frozenset()
    failures: Sequence[problems.ItemFailure] = ()
    """Items that never came to the device."""
    unread: Sequence[problems.ItemFailure] = ()
    """Items that have a row, which is not theirs."""


class _Error(NamedTuple):
    reason: result_pb2.ItemErrorReason
    message: str


@dataclass(frozen=True, slots=True)
class Examined:
    """Vectors that may leave: finite, and of unit length where they are to be."""

    vectors: npt.NDArray[np.float32]
    places: npt.NDArray[np.intp]
    """Item in the batch of each vector, ascending."""
    errors: Mapping[int, _Error]
    """Item in the batch -> why it has no vector."""
    not_finite: bool
    """Whether an item failed for a NaN or an infinity, which may be its own fault or the device's."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a batch spent. `fetch_s` is None for texts."""

    wait_s: float
    compute_s: float
    fetch_s: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a result says beside its vectors."""

    assign: worker_pb2.Assign
    made_by: result_pb2.Provenance
    encoding: encodings.Encoding
    timing: Timing
    keys: Sequence[str] = ()
    truncations: Sequence[backend.Truncated] = ()
    token_count: int = 0
    plan: known.Plan | None = None
    """Of a batch of which not all was computed: the other items' outcomes are added when it is packed."""


class AnotherModel(Exception):
    """Known vectors came that something else has made than what this worker makes."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Serialized WorkerFrames of one batch, the BatchDone last."""

    frames: list[bytes]
    failed_items: int
    truncated_items: int = 0


def provenance(model: backend.Model, description: backend.Description) -> result_pb2.Provenance:
    """What made the vectors, before anything is said of their encoding."""
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


def examine(item_count: int, outcome: Outcome, made_by: result_pb2.Provenance) -> Examined:
    """What of a batch of `item_count` items may leave. Raises BadVectors when the whole matrix is wrong.

    Items with a NaN or an infinity only fail themselves.
    """
    vectors = outcome.vectors
    errors = {one.index: _Error(REASONS[one.reason], one.message) for one in outcome.failures}
    places = np.delete(np.arange(item_count), list(errors))
    if vectors.shape != (len(places), made_by.dimension) or vectors.dtype != np.float32:
        raise BadVectors(
            f"The backend made {vectors.dtype} {vectors.shape}, not float32 ({len(places)}, {made_by.dimension})."
        )
    # One pass: the squared length is finite only if every element is (and none overflows).
    squares = np.einsum("ij,ij->i", vectors, vectors)
    bad = dict.fromkeys(outcome.out_of_memory, _Error(result_pb2.ITEM_ERROR_REASON_OUT_OF_MEMORY, _OUT_OF_MEMORY))
    bad |= {one.index: _Error(REASONS[one.reason], one.message) for one in outcome.unread}
    lost = [
        row
        for row in np.flatnonzero(~np.isfinite(squares)).tolist()
        if row not in bad and not np.isfinite(vectors[row]).all()
    ]
    bad |= dict.fromkeys(lost, _Error(result_pb2.ITEM_ERROR_REASON_NOT_FINITE, _NOT_FINITE))
    if bad:
        kept = np.delete(np.arange(len(places)), list(bad))
        errors |= {int(places[row]): error for row, error in bad.items()}
        vectors, places, squares = vectors[kept], places[kept], squares[kept]
    if made_by.normalized:
        _check_lengths(squares, places)
    return Examined(vectors, places, errors, not_finite=bool(lost))


def pack(examined: Examined, batch: Batch, max_chunk_bytes: int) -> Packed:
    """Chunks and BatchDone of one batch; `max_chunk_bytes` bounds the encoded vectors of a chunk.

    Of a batch with a plan: of all its items. Raises AnotherModel, and payloads.BadPayload for known rows that are none.
    """
    encoded, places, errors = _encode(examined, batch)
    truncations = batch.truncations
    if batch.plan is not None:
        encoded, places, errors = _completed(batch, batch.plan, encoded, places, errors)
        told = batch.assign.known.truncations
        truncations = known.truncations(batch.plan, truncations, told, batch.assign.first_item)
    frames = []
    spans = chunks.cut(batch.assign.item_count, batch.encoding.row_bytes, max_chunk_bytes)
    bounds = np.searchsorted(places, [span.start for span in spans] + [batch.assign.item_count]).tolist()
    for index, span in enumerate(spans):
        chunk, vectors = _chunk(batch, errors, truncations, span, encoded[bounds[index] : bounds[index + 1]])
        chunk.chunk_index = index
        chunk.last_in_batch = index == len(spans) - 1
        frames.append(_framed(batch.assign.lease, chunk, vectors))
    frames.append(worker_pb2.WorkerFrame(done=_done(batch, len(spans))).SerializeToString())
    return Packed(frames, failed_items=len(errors), truncated_items=len(truncations))


def pack_call(examined: Examined, batch: Batch) -> result_pb2.ResultChunk:
    """The one chunk of an interactive call."""
    encoded, _, errors = _encode(examined, batch)
    chunk, vectors = _chunk(batch, errors, batch.truncations, chunks.Span(0, batch.assign.item_count), encoded)
    chunk.vectors = vectors.tobytes()
    chunk.last_in_batch, chunk.attempt = True, 1
    return chunk


def _encode(
    examined: Examined, batch: Batch
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.intp], Mapping[int, _Error]]:
    """Rows as the batch wants them, the item of each, and why the others have none."""
    made = rows.make(examined.vectors, batch.encoding, normalized=batch.made_by.normalized)
    encoded, places, errors = made.encoded, examined.places, dict(examined.errors)
    if made.lost:
        kept = np.delete(np.arange(len(places)), list(made.lost))
        for row, message in made.lost.items():
            errors[int(places[row])] = _Error(result_pb2.ITEM_ERROR_REASON_NOT_FINITE, message)
        encoded, places = encoded[kept], places[kept]
    return encoded, places, errors


def _completed(
    batch: Batch,
    plan: known.Plan,
    encoded: npt.NDArray[np.generic],
    places: npt.NDArray[np.intp],
    errors: Mapping[int, _Error],
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.intp], dict[int, _Error]]:
    """Rows, their items and the errors of a whole batch, from those of the items that were computed."""
    given = batch.assign.known
    if given.vectors and given.provenance != _provenance(batch):
        raise AnotherModel("The known vectors of the batch were made by something else than what this worker makes.")
    all_rows = known.spread(plan, encoded, places, known.rows(given, batch.encoding.row_bytes))
    found = {item: errors[computed] for item, computed in all_rows.sources.items()}
    found |= dict.fromkeys(all_rows.left_out, _Error(result_pb2.ITEM_ERROR_REASON_LEFT_OUT, _LEFT_OUT))
    return all_rows.encoded, all_rows.places, found


def _provenance(batch: Batch) -> result_pb2.Provenance:
    made_by = result_pb2.Provenance()
    made_by.CopyFrom(batch.made_by)
    made_by.dimension, made_by.dtype = batch.encoding.dimensions, _DTYPES[batch.encoding.dtype]
    return made_by


def _check_lengths(squares: npt.NDArray[np.float32], places: npt.NDArray[np.intp]) -> None:
    off = np.flatnonzero(np.abs(np.sqrt(squares) - 1.0) > NORM_TOLERANCE)
    if len(off):
        row = int(off[0])
        raise BadVectors(f"Item {places[row]} of the batch has length {squares[row] ** 0.5:.6f}, not 1.")


def _framed(lease: worker_pb2.Lease, chunk: result_pb2.ResultChunk, vectors: Bytes) -> bytes:
    """The serialized WorkerFrame with this chunk and these vectors, which are copied once, here.

    The vectors are the chunk's first field, so that whoever reads it finds them without looking at the others.
    """
    rest, names = chunk.SerializeToString(), lease.SerializeToString()
    head = protowire.opening(_VECTORS, vectors.nbytes)
    inner = protowire.opening(_CHUNK_OF_BATCH, len(head) + vectors.nbytes + len(rest))
    outer = protowire.opening(_LEASE_OF_BATCH, len(names)) + names + inner
    size = len(outer) + len(head) + vectors.nbytes + len(rest)
    return b"".join((protowire.opening(_CHUNK_OF_FRAME, size), outer, head, vectors.data, rest))


def _chunk(
    batch: Batch,
    errors: Mapping[int, _Error],
    truncations: Sequence[backend.Truncated],
    span: chunks.Span,
    encoded: npt.NDArray[np.generic],
) -> tuple[result_pb2.ResultChunk, Bytes]:
    """A chunk without its vectors, and these as bytes."""
    assign, encoding = batch.assign, batch.encoding
    vectors: Bytes = np.ascontiguousarray(encoded).reshape(-1).view(np.uint8)
    chunk = result_pb2.ResultChunk(
        job_id=assign.job_id,
        first_item=assign.first_item + span.start,
        item_count=span.stop - span.start,
        count=len(encoded),
        dimension=encoding.dimensions,
        dtype=_DTYPES[encoding.dtype],
        crc32c=google_crc32c.value(vectors),
        errors=[
            result_pb2.ItemError(
                item_index=assign.first_item + index, reason=errors[index].reason, message=errors[index].message
            )
            for index in sorted(index for index in errors if span.start <= index < span.stop)
        ],
        truncations=[
            result_pb2.Truncation(
                item_index=assign.first_item + cut.index, token_count=cut.token_count, max_tokens=cut.max_tokens
            )
            for cut in truncations
            if span.start <= cut.index < span.stop
        ],
        keys=batch.keys[span.start : span.stop],
        provenance=_provenance(batch),
        batch_first_item=assign.first_item,
        attempt=assign.lease.attempt,
    )
    return chunk, vectors


def _done(batch: Batch, chunk_count: int) -> worker_pb2.BatchDone:
    timing = batch.timing
    return worker_pb2.BatchDone(
        lease=batch.assign.lease,
        chunk_count=chunk_count,
        compute_duration=_duration(timing.compute_s),
        wait_duration=_duration(timing.wait_s),
        token_count=batch.token_count,
        fetch_duration=None if timing.fetch_s is None else _duration(timing.fetch_s),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration

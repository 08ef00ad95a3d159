"""Outcomes: what one chunk of a result stream holds, and what a whole call returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from podium.common.v1 import job_pb2, result_pb2, workload_pb2
from podium_client.encodings import BoolMatrix, Dtype, FloatMatrix, Layout, Matrix, dtype_from_wire, to_float32, unpack
from podium_client.errors import ProtocolError

_Bytes = bytes | npt.NDArray[np.uint8]
BoolVector = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one item has no vector. `index`: position in the caller's input; `reason`: stable, upper case."""

    index: int
    reason: str
    message: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Truncation:
    """An item of which the model read only the first `max_tokens` of its `token_count` tokens."""

    index: int
    token_count: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the vectors."""

    model_name: str
    revision: str
    dimension: int
    dtype: str
    pooling: str
    normalized: bool
    precision: str
    backend: str


@dataclass(frozen=True, slots=True)
class ResultChunk:
    """Outcomes of `item_count` consecutive items, from index `first_item` in the job.

    `vectors`: (rows, width) as `layout` says (float32 unless asked otherwise), read-only, one row for each item that
    succeeded, in item order; none when the whole chunk failed, and `layout` may then be None. `errors` and
    `truncations` are indexed by the item's position in the job. `cursor`: the place just after this chunk.
    """

    first_item: int
    item_count: int
    vectors: npt.NDArray[Any]
    errors: tuple[ItemError, ...]
    truncations: tuple[Truncation, ...]
    keys: tuple[str, ...]
    provenance: Provenance | None
    cursor: str
    attempt: int = 0
    layout: Layout | None = None

    @property
    def dimension(self) -> int:
        """Elements of a vector; 0 without a layout."""
        return self.layout.dimension if self.layout is not None else 0

    @property
    def dtype(self) -> Dtype:
        """How the vectors are encoded."""
        return self.layout.dtype if self.layout is not None else "float32"

    def to_float32(self) -> FloatMatrix:
        """(rows, dimension) float32: see podium_client.encodings.to_float32."""
        return to_float32(self.vectors, self.layout) if self.layout is not None else self.vectors

    @property
    def end_item(self) -> int:
        """Index just after the last covered item."""
        return self.first_item + self.item_count

    def ok(self) -> BoolVector:
        """(item_count,) bool: which covered items have a row."""
        mask = np.ones(self.item_count, dtype=np.bool_)
        if self.errors:
            mask[[error.index - self.first_item for error in self.errors]] = False
        return mask

    def since(self, index: int) -> ResultChunk:
        """The same chunk without the items before `index`; used when a redelivery overlaps what is there."""
        skipped = index - self.first_item
        if skipped <= 0:
            return self
        rows = int(np.count_nonzero(self.ok()[:skipped]))
        return replace(
            self,
            first_item=index,
            item_count=self.item_count - skipped,
            vectors=self.vectors[rows:],
            errors=tuple(e for e in self.errors if e.index >= index),
            truncations=tuple(t for t in self.truncations if t.index >= index),
            keys=self.keys[skipped:],
        )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of a whole input, in input order.

    `vectors`: (n, dimension) float32, C-contiguous; with another dtype, (n, width) as podium_client.Layout says. The
    row of a failed item is all zeros and its `ok` is False: look at `ok` or `errors` before trusting a row. `ok`: (n,)
    bool. `keys`: the caller's keys, None without keys. `jobs`: ids of the jobs it came from. `layout`: None means
    float32. Behaves as its `vectors` in NumPy functions, indexing and len().
    """

    vectors: Matrix
    ok: BoolVector
    errors: tuple[ItemError, ...] = ()
    truncations: tuple[Truncation, ...] = ()
    keys: tuple[str, ...] | None = None
    provenance: Provenance | None = None
    jobs: tuple[str, ...] = ()
    layout: Layout | None = None

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.vectors, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        row: npt.NDArray[Any] = self.vectors[place]
        return row

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter(self.vectors)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of `vectors`: (items, dimension), or (items, bytes of a row) when they are binary."""
        return (self.vectors.shape[0], self.vectors.shape[1])

    @property
    def dimension(self) -> int:
        """Elements of a vector, however they are packed."""
        return self._layout.dimension

    @property
    def dtype(self) -> Dtype:
        """How the vectors are encoded."""
        return self._layout.dtype

    @property
    def _layout(self) -> Layout:
        return self.layout if self.layout is not None else Layout(self.vectors.shape[1])

    def unpack(self) -> Matrix | BoolMatrix:
        """(n, dimension): binary vectors as bool, True where the element was above 0; others as they are."""
        return unpack(self.vectors, self._layout)

    def to_float32(self) -> FloatMatrix:
        """(n, dimension) float32, whatever the encoding: int8 and binary vectors with unit length, float32 ones
        without a copy. Rows of failed items are zeros."""
        wide = to_float32(self.vectors, self._layout)
        if self._layout.dtype == "binary":
            wide[~self.ok] = 0
        return wide


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call that wrote into a sink did. `errors`: the first 1,000 failed items; the sink has them
    all."""

    items: int
    succeeded: int
    failed: int
    truncated: int
    dimension: int
    jobs: tuple[str, ...]
    provenance: Provenance | None
    errors: tuple[ItemError, ...] = field(default=())
    dtype: Dtype = "float32"


def provenance_from_proto(message: result_pb2.Provenance) -> Provenance:
    """Translate the provenance of a chunk."""
    return Provenance(
        model_name=message.model_name,
        revision=message.revision,
        dimension=message.dimension,
        dtype=workload_pb2.Dtype.Name(message.dtype).removeprefix("DTYPE_").lower(),
        pooling=workload_pb2.Pooling.Name(message.pooling).removeprefix("POOLING_").lower(),
        normalized=message.normalized,
        precision=message.precision,
        backend=message.backend,
    )


def _layout(chunk: result_pb2.ResultChunk, vectors: _Bytes) -> Layout | None:
    dtype = dtype_from_wire(chunk.dtype)
    if dtype is None:
        if chunk.count == 0 and not len(vectors):
            return None
        raise ProtocolError(f"items from {chunk.first_item}: dtype {chunk.dtype} is not known to this SDK")
    return Layout(chunk.dimension, dtype)


def _matrix(chunk: result_pb2.ResultChunk, layout: Layout | None, vectors: _Bytes) -> Matrix:
    if layout is None:
        return np.empty((0, 0), dtype=np.float32)
    expected = chunk.count * layout.row_bytes
    if len(vectors) != expected:
        raise ProtocolError(
            f"items from {chunk.first_item}: {len(vectors):,} bytes of vectors, {chunk.count} rows of "
            f"{layout.dimension} {layout.dtype} are {expected:,}"
        )
    if google_crc32c.value(vectors) != chunk.crc32c:
        raise ProtocolError(f"items from {chunk.first_item}: CRC32C of the vectors does not match")
    rows = np.frombuffer(vectors, dtype=layout.numpy).reshape(chunk.count, layout.width)
    if not rows.flags.aligned:
        # Whoever computes with them would pay for it many times over.
        rows = rows.copy()
        rows.setflags(write=False)
    if layout.padding_mask and (rows[:, -1] & layout.padding_mask).any():
        raise ProtocolError(f"items from {chunk.first_item}: bits beyond the {layout.dimension} elements are set")
    return rows


def chunk_from_proto(chunk: result_pb2.ResultChunk, cursor: str, vectors: _Bytes | None = None) -> ResultChunk:
    """Decode a chunk without copying its `vectors` (None: the message's own). ProtocolError when it contradicts
    itself."""
    if vectors is None:
        vectors = chunk.vectors
    end = chunk.first_item + chunk.item_count
    if chunk.item_count == 0 or chunk.count + len(chunk.errors) != chunk.item_count:
        raise ProtocolError(
            f"items from {chunk.first_item}: {chunk.count} vectors and {len(chunk.errors)} errors for "
            f"{chunk.item_count} items"
        )
    failed = [error.item_index for error in chunk.errors]
    if failed and (len(set(failed)) != len(failed) or min(failed) < chunk.first_item or max(failed) >= end):
        raise ProtocolError(f"items from {chunk.first_item}: errors outside the chunk or twice for one item")
    if chunk.keys and len(chunk.keys) != chunk.item_count:
        raise ProtocolError(f"items from {chunk.first_item}: {len(chunk.keys)} keys, {chunk.item_count} items")
    keys, layout = tuple(chunk.keys), _layout(chunk, vectors)
    return ResultChunk(
        first_item=chunk.first_item,
        item_count=chunk.item_count,
        vectors=_matrix(chunk, layout, vectors),
        errors=tuple(
            ItemError(
                index=e.item_index,
                reason=result_pb2.ItemErrorReason.Name(e.reason).removeprefix("ITEM_ERROR_REASON_"),
                message=e.message,
                key=keys[e.item_index - chunk.first_item] if keys else None,
            )
            for e in chunk.errors
        ),
        truncations=tuple(Truncation(t.item_index, t.token_count, t.max_tokens) for t in chunk.truncations),
        keys=keys,
        provenance=provenance_from_proto(chunk.provenance) if chunk.HasField("provenance") else None,
        cursor=cursor,
        attempt=chunk.attempt,
        layout=layout,
    )


def failure_from_proto(failure: result_pb2.BatchFailure, cursor: str) -> ResultChunk:
    """A batch that failed as a whole, as a chunk in which every item has the batch's error."""
    reason = job_pb2.BatchFailureReason.Name(failure.reason).removeprefix("BATCH_FAILURE_REASON_")
    end = failure.first_item + failure.item_count
    return ResultChunk(
        first_item=failure.first_item,
        item_count=failure.item_count,
        vectors=np.empty((0, 0), dtype=np.float32),
        errors=tuple(ItemError(i, reason, failure.message) for i in range(failure.first_item, end)),
        truncations=(),
        keys=(),
        provenance=None,
        cursor=cursor,
    )


def fill(rows: Matrix, ok: BoolVector, chunk: ResultChunk, offset: int = 0) -> None:
    """Put a chunk's vectors into `rows` (n, width, of its layout) and its outcomes into `ok` (n,), zero before;
    `offset` is the index in the job of row 0. Rows of failed items are left as they are."""
    start, end = chunk.first_item - offset, chunk.end_item - offset
    if not chunk.errors:
        rows[start:end] = chunk.vectors
        ok[start:end] = True
    elif len(chunk.vectors):
        mask = chunk.ok()
        rows[start:end][mask] = chunk.vectors
        ok[start:end] = mask

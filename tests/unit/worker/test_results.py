"""From vectors to frames."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest

from podium.common.v1 import result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import results
from podium_worker.app import backend

MODEL = backend.Model("toy", "hash", dimension=4, model_name="toy", revision="1", normalized=True)
MADE_BY = results.provenance(MODEL, backend.Description("mean", normalized=True, precision="float32"))
LEASE = worker_pb2.Lease(batch_id=5, lease_token=b"t" * 16, attempt=2)
ASSIGN = worker_pb2.Assign(lease=LEASE, job_id="job", first_item=100, item_count=5)


def _units(rows: int) -> npt.NDArray[Any]:
    return np.tile(np.full(4, 0.5, dtype=np.float32), (rows, 1))


def _pack(
    vectors: npt.NDArray[Any], *, starved: frozenset[int] = frozenset(), max_bytes: int = 1 << 20
) -> results.Packed:
    keys = ["a", "b", "c", "d", "e"]
    outcome = results.Outcome(vectors, keys, [backend.Truncated(3, 900, 256)], starved)
    timing = results.Timing(wait_s=0.5, compute_s=1.25)
    return results.pack(ASSIGN, outcome, MADE_BY, timing, token_count=77, max_chunk_bytes=max_bytes)


def _chunks(packed: results.Packed) -> list[result_pb2.ResultChunk]:
    return [worker_pb2.WorkerFrame.FromString(frame).chunk.chunk for frame in packed.frames[:-1]]


def test_a_vector_with_a_nan_fails_its_item_alone() -> None:
    vectors = _units(5)
    vectors[1, 2] = np.nan
    vectors[4, 0] = np.inf
    packed = _pack(vectors)
    (chunk,) = _chunks(packed)
    assert packed.failed_items == 2
    assert [(e.item_index, e.reason) for e in chunk.errors] == [
        (101, result_pb2.ITEM_ERROR_REASON_NOT_FINITE),
        (104, result_pb2.ITEM_ERROR_REASON_NOT_FINITE),
    ]
    assert (chunk.item_count, chunk.count, len(chunk.vectors)) == (5, 3, 3 * 16)
    assert chunk.crc32c == google_crc32c.value(chunk.vectors)
    assert list(chunk.keys) == ["a", "b", "c", "d", "e"]
    assert chunk.attempt == 2


def test_items_without_memory_are_named() -> None:
    vectors = _units(5)
    vectors[2] = np.nan
    (chunk,) = _chunks(_pack(vectors, starved=frozenset({2})))
    assert [e.reason for e in chunk.errors] == [result_pb2.ITEM_ERROR_REASON_OUT_OF_MEMORY]


def test_chunks_are_cut_between_items() -> None:
    packed = _pack(_units(5), max_bytes=40)
    chunks = _chunks(packed)
    assert [(c.first_item, c.item_count, c.chunk_index, c.last_in_batch) for c in chunks] == [
        (100, 2, 0, False),
        (102, 2, 1, False),
        (104, 1, 2, True),
    ]
    assert [[t.item_index for t in c.truncations] for c in chunks] == [[], [103], []]
    assert all(c.provenance.pooling == workload_pb2.POOLING_MEAN for c in chunks)
    done = worker_pb2.WorkerFrame.FromString(packed.frames[-1]).done
    assert (done.chunk_count, done.token_count, done.compute_duration.ToMilliseconds()) == (3, 77, 1250)


@pytest.mark.parametrize("wrong", [_units(4), _units(5).astype(np.float64), _units(5)[:, :3], _units(5) * 1.01])
def test_wrong_shapes_and_lengths_never_leave(wrong: npt.NDArray[Any]) -> None:
    with pytest.raises(results.BadVectors):
        _pack(wrong)

"""From vectors to frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest

from podium.common.v1 import result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import results, rows
from podium_worker.app import backend
from podium_worker.domain import encodings, problems

MODEL = backend.Model("toy", "hash", dimension=4, model_name="toy", revision="1", normalized=True)
MADE_BY = results.provenance(MODEL, backend.Description("mean", normalized=True, precision="float32"))
LEASE = worker_pb2.Lease(batch_id=5, lease_token=b"t" * 16, attempt=2)
ASSIGN = worker_pb2.Assign(lease=LEASE, job_id="job", first_item=100, item_count=5)


def _units(rows: int) -> npt.NDArray[Any]:
    return np.tile(np.full(4, 0.5, dtype=np.float32), (rows, 1))


def _pack(
    vectors: npt.NDArray[Any],
    *,
    starved: frozenset[int] = frozenset(),
    failures: Sequence[problems.ItemFailure] = (),
    encoding: encodings.Encoding | None = None,
    made_by: result_pb2.Provenance = MADE_BY,
    fetch_s: float | None = None,
    max_bytes: int = 1 << 20,
) -> results.Packed:
    keys, truncations = ["a", "b", "c", "d", "e"], [backend.Truncated(3, 900, 256)]
    outcome = results.Outcome(vectors, keys, truncations, starved, failures)
    timing = results.Timing(wait_s=0.5, compute_s=1.25, fetch_s=fetch_s)
    examined = results.examine(ASSIGN.item_count, outcome, made_by)
    encoding = encoding or encodings.Encoding(4)
    batch = results.Batch(ASSIGN, made_by, encoding, timing, keys, truncations, token_count=77)
    return results.pack(examined, batch, max_bytes)


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


RAW = results.provenance(MODEL, backend.Description("none", normalized=False, precision="float32"))
BROKEN = problems.ItemFailure(1, problems.Reason.UNDECODABLE, "It is no image.")
AWAY = problems.ItemFailure(3, problems.Reason.FETCH_FAILED, "https://host/b.jpg answered 404 Not Found.")


def test_every_reason_of_an_image_has_its_name_in_the_contract() -> None:
    for reason, number in results.REASONS.items():
        assert result_pb2.ItemErrorReason.Name(number) == f"ITEM_ERROR_REASON_{reason.value}"
    assert set(results.REASONS) == set(problems.Reason)


def test_rows_are_those_of_the_items_that_came_to_the_device() -> None:
    vectors = np.diag([1.0, -1.0, 1.0]).astype(np.float32) @ np.eye(4, dtype=np.float32)[[1, 2, 3]]
    vectors[1, 0] = np.nan
    packed = _pack(vectors, failures=[BROKEN, AWAY], max_bytes=2 * 16)
    chunks = _chunks(packed)
    assert [(c.first_item, c.item_count, c.count) for c in chunks] == [(100, 2, 1), (102, 2, 0), (104, 1, 1)]
    rows_sent = np.frombuffer(b"".join(c.vectors for c in chunks), "<f4").reshape(-1, 4)
    np.testing.assert_array_equal(rows_sent, vectors[[0, 2]])
    assert [(e.item_index, e.reason, e.message) for c in chunks for e in c.errors] == [
        (101, result_pb2.ITEM_ERROR_REASON_UNDECODABLE, BROKEN.message),
        (102, result_pb2.ITEM_ERROR_REASON_NOT_FINITE, "The model gave a vector with a NaN or an infinity."),
        (103, result_pb2.ITEM_ERROR_REASON_FETCH_FAILED, AWAY.message),
    ]
    assert packed.failed_items == 3
    assert all(c.crc32c == google_crc32c.value(c.vectors) for c in chunks)


def test_out_of_memory_counts_the_rows_that_came_to_the_device() -> None:
    (chunk,) = _chunks(_pack(_units(3), failures=[BROKEN, AWAY], starved=frozenset({1})))
    assert [e.item_index for e in chunk.errors] == [101, 102, 103]
    assert chunk.errors[1].reason == result_pb2.ITEM_ERROR_REASON_OUT_OF_MEMORY


def test_a_batch_whose_items_all_failed_is_a_result_too() -> None:
    failures = [problems.ItemFailure(n, problems.Reason.TOO_LARGE, "Too many pixels.") for n in range(5)]
    packed = _pack(np.empty((0, 4), np.float32), failures=failures, fetch_s=2.5)
    (chunk,) = _chunks(packed)
    assert (chunk.item_count, chunk.count, chunk.vectors, len(chunk.errors)) == (5, 0, b"", 5)
    done = worker_pb2.WorkerFrame.FromString(packed.frames[-1]).done
    assert (done.chunk_count, done.fetch_duration.ToMilliseconds()) == (1, 2500)


def test_texts_have_no_fetch_duration() -> None:
    assert not worker_pb2.WorkerFrame.FromString(_pack(_units(5)).frames[-1]).done.HasField("fetch_duration")


@pytest.mark.parametrize("wrong", [_units(5), _units(2)])
def test_a_vector_for_an_item_that_has_none_never_leaves(wrong: npt.NDArray[Any]) -> None:
    with pytest.raises(results.BadVectors):
        _pack(wrong, failures=[BROKEN, AWAY])


@pytest.mark.parametrize(
    ("dtype", "number", "row_bytes"),
    [
        (encodings.Dtype.FLOAT32, workload_pb2.DTYPE_FLOAT32, 12),
        (encodings.Dtype.FLOAT16, workload_pb2.DTYPE_FLOAT16, 6),
        (encodings.Dtype.INT8, workload_pb2.DTYPE_INT8, 3),
        (encodings.Dtype.BINARY, workload_pb2.DTYPE_BINARY, 1),
    ],
)
def test_chunks_say_how_they_are_encoded_and_are_cut_by_it(
    dtype: encodings.Dtype, number: workload_pb2.Dtype, row_bytes: int
) -> None:
    chunks = _chunks(_pack(_units(5), encoding=encodings.Encoding(3, dtype), max_bytes=2 * row_bytes))
    assert [c.count for c in chunks] == [2, 2, 1]
    for chunk in chunks:
        assert (chunk.dtype, chunk.dimension, len(chunk.vectors)) == (number, 3, chunk.count * row_bytes)
        assert (chunk.provenance.dtype, chunk.provenance.dimension) == (number, 3)
        assert chunk.crc32c == google_crc32c.value(chunk.vectors)
    # What is shared by all batches of the model has not changed.
    assert (MADE_BY.dtype, MADE_BY.dimension) == (workload_pb2.DTYPE_FLOAT32, 4)


def test_what_float16_cannot_hold_fails_its_item_and_no_device() -> None:
    vectors = _units(5)
    vectors[2, 1], vectors[4, 3] = 70_000.0, 65_504.0
    outcome = results.Outcome(vectors, ())
    assert not results.examine(5, outcome, RAW).not_finite
    packed = _pack(vectors, made_by=RAW, encoding=encodings.Encoding(4, encodings.Dtype.FLOAT16))
    (chunk,) = _chunks(packed)
    assert [(e.item_index, e.reason, e.message) for e in chunk.errors] == [
        (102, result_pb2.ITEM_ERROR_REASON_NOT_FINITE, "An element of the vector is too large for float16.")
    ]
    assert packed.failed_items == 1
    sent = np.frombuffer(chunk.vectors, "<f2").reshape(4, 4)
    np.testing.assert_array_equal(sent, vectors[[0, 1, 3, 4]].astype("<f2"))


def test_what_cannot_be_encoded_is_named_by_its_item_not_by_its_row() -> None:
    vectors = _units(3)
    vectors[1, 0] = 1e6
    float16 = encodings.Encoding(4, encodings.Dtype.FLOAT16)
    (chunk,) = _chunks(_pack(vectors, made_by=RAW, failures=[BROKEN, AWAY], encoding=float16))
    # Rows 0, 1, 2 are items 0, 2, 4.
    assert [(e.item_index, e.reason) for e in chunk.errors] == [
        (101, result_pb2.ITEM_ERROR_REASON_UNDECODABLE),
        (102, result_pb2.ITEM_ERROR_REASON_NOT_FINITE),
        (103, result_pb2.ITEM_ERROR_REASON_FETCH_FAILED),
    ]
    assert chunk.count == 2


def test_a_vector_whose_beginning_is_zero_cannot_be_cut() -> None:
    vectors = _units(5)
    vectors[3] = [0, 0, 0, 1]
    (chunk,) = _chunks(_pack(vectors, encoding=encodings.Encoding(3)))
    assert [(e.item_index, e.message) for e in chunk.errors] == [
        (103, "The first 3 elements of the vector are all zero: they have no direction.")
    ]
    # Where no length was promised nothing has to be done.
    (chunk,) = _chunks(_pack(vectors, made_by=RAW, encoding=encodings.Encoding(3)))
    assert (chunk.count, len(chunk.errors)) == (5, 0)


def test_a_truncated_row_is_a_unit_vector_again_before_it_is_encoded() -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(50, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0, :32] *= 1e-30
    made = rows.make(vectors, encodings.Encoding(32), normalized=True).encoded
    plain = vectors[1:, :32] / np.linalg.norm(vectors[1:, :32], axis=1, keepdims=True)
    np.testing.assert_allclose(made[1:], plain, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(made.astype(np.float64), axis=1), 1.0, atol=1e-6)
    half = rows.make(vectors, encodings.Encoding(32, encodings.Dtype.FLOAT16), normalized=True).encoded
    np.testing.assert_array_equal(half, made.astype("<f2"))
    as_they_are = rows.make(vectors, encodings.Encoding(32), normalized=False).encoded
    np.testing.assert_array_equal(as_they_are, vectors[:, :32])


def test_int8_keeps_the_direction_and_fills_the_range() -> None:
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(100, 384)).astype(np.float32)
    vectors[3] = 0
    made = rows.make(vectors, encodings.Encoding(384, encodings.Dtype.INT8), normalized=False).encoded
    assert made.dtype == np.int8
    assert not made[3].any()
    others = np.delete(np.arange(100), 3)
    assert (np.abs(made[others].astype(int)).max(axis=1) == 127).all()
    largest = np.abs(vectors[others]).max(axis=1, keepdims=True)
    np.testing.assert_array_equal(made[others], np.rint(vectors[others] / largest * np.float32(127)))
    back, true = made[others].astype(np.float64), vectors[others].astype(np.float64)
    cosines = (back * true).sum(axis=1) / np.linalg.norm(back, axis=1) / np.linalg.norm(true, axis=1)
    assert cosines.min() > 0.9999


def test_bits_are_set_above_zero_the_first_element_highest() -> None:
    vectors = np.array([[1, -1, 0, 1, -0.0, 2, -3, 4, 5, -6]], dtype=np.float32)
    made = rows.make(vectors, encodings.Encoding(10, encodings.Dtype.BINARY), normalized=False).encoded
    assert made.tobytes() == bytes([0b10010101, 0b10000000])


@pytest.mark.parametrize("dtype", list(encodings.Dtype))
def test_no_rows_are_no_bytes(dtype: encodings.Dtype) -> None:
    made = rows.make(np.empty((0, 4), np.float32), encodings.Encoding(3, dtype), normalized=True)
    assert (made.encoded.tobytes(), made.lost) == (b"", {})

"""Batches of which not all is computed: the same frames as if all had been."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import known, payloads, results, rows, wire
from podium_worker.adapters.hash_backend import PICTURE, hash_vectors
from podium_worker.adapters.session import messages
from podium_worker.app import backend
from podium_worker.domain import encodings, problems
from tests.support import executor_front
from tests.support.executor_front import Front

MODEL = backend.Model("toy", "hash", dimension=8, model_name="toy", revision="1")
MADE_BY = results.provenance(MODEL, backend.Description("none", normalized=False, precision="float32"))
LEFT_OUT = known.LEFT_OUT
ENCODINGS = [
    encodings.Encoding(8),
    encodings.Encoding(3),
    encodings.Encoding(8, encodings.Dtype.INT8),
    encodings.Encoding(5, encodings.Dtype.BINARY),
    encodings.Encoding(8, encodings.Dtype.FLOAT16),
]

DTYPES = {
    encodings.Dtype.FLOAT32: workload_pb2.DTYPE_FLOAT32,
    encodings.Dtype.FLOAT16: workload_pb2.DTYPE_FLOAT16,
    encodings.Dtype.INT8: workload_pb2.DTYPE_INT8,
    encodings.Dtype.BINARY: workload_pb2.DTYPE_BINARY,
}


def packed_sources(sources: Sequence[int]) -> bytes:
    return np.array(sources, dtype="<i4").tobytes()


def assign(
    sources: Sequence[int], vectors: bytes = b"", made_by: result_pb2.Provenance | None = None
) -> worker_pb2.Assign:
    given = worker_pb2.KnownItems(sources=packed_sources(sources), vectors=vectors, provenance=made_by)
    lease = worker_pb2.Lease(batch_id=5, lease_token=b"t" * 16, attempt=1)
    return worker_pb2.Assign(lease=lease, job_id="job", first_item=100, item_count=len(sources), known=given)


def as_asked(encoding: encodings.Encoding) -> result_pb2.Provenance:
    made_by = result_pb2.Provenance()
    made_by.CopyFrom(MADE_BY)
    made_by.dimension, made_by.dtype = encoding.dimensions, DTYPES[encoding.dtype]
    return made_by


def pack(
    of: worker_pb2.Assign,
    outcome: results.Outcome,
    encoding: encodings.Encoding = ENCODINGS[0],
    *,
    planned: bool = True,
    max_bytes: int = 1 << 20,
) -> results.Packed:
    plan = known.plan(of) if planned else None
    count = len(plan.computed) if plan else of.item_count
    examined = results.examine(count, outcome, MADE_BY)
    timing = results.Timing(wait_s=0.0, compute_s=1.0)
    batch = results.Batch(of, MADE_BY, encoding, timing, outcome.keys, outcome.truncations, plan=plan)
    return results.pack(examined, batch, max_bytes)


def chunks(packed: results.Packed) -> list[result_pb2.ResultChunk]:
    return [worker_pb2.WorkerFrame.FromString(frame).chunk.chunk for frame in packed.frames[:-1]]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_the_frames_are_those_of_a_batch_that_was_computed_as_a_whole(encoding: encodings.Encoding) -> None:
    texts = [b"a", b"b", b"a", b"c", b"d", b"b", b"c"]
    vectors = hash_vectors(texts, 8)
    there = rows.make(vectors[[4, 3]], encoding, normalized=False).encoded.tobytes()
    of = assign([0, 1, 0, -2, -1, 1, -2], there, as_asked(encoding))
    keys = list("gfedcba")
    whole = pack(of, results.Outcome(vectors, keys), encoding, planned=False, max_bytes=40)
    part = pack(of, results.Outcome(vectors[[0, 1]], keys), encoding, max_bytes=40)
    assert part.frames == whole.frames


def test_twins_share_an_error_and_what_is_left_out_says_so() -> None:
    of = assign([0, 1, 0, LEFT_OUT, 1])
    failure = problems.ItemFailure(0, problems.Reason.UNDECODABLE, "It is no image.")
    packed = pack(of, results.Outcome(hash_vectors([b"b"], 8), (), failures=[failure]))
    (chunk,) = chunks(packed)
    undecodable, left_out = result_pb2.ITEM_ERROR_REASON_UNDECODABLE, result_pb2.ITEM_ERROR_REASON_LEFT_OUT
    assert [(e.item_index, e.reason) for e in chunk.errors] == [
        (100, undecodable), (102, undecodable), (103, left_out),
    ]  # fmt: skip
    assert chunk.vectors == np.tile(hash_vectors([b"b"], 8), (2, 1)).tobytes()
    assert packed.failed_items == 3


def test_a_truncation_is_told_of_every_twin_and_of_what_was_known() -> None:
    of = assign([0, -1, 2, 2], hash_vectors([b"x"], 8).tobytes(), as_asked(ENCODINGS[0]))
    of.known.truncations.add(item_index=101, token_count=70, max_tokens=64)
    cut = backend.Truncated(1, 900, 64)
    packed = pack(of, results.Outcome(hash_vectors([b"a", b"b"], 8), (), [cut]))
    (chunk,) = chunks(packed)
    assert [(t.item_index, t.token_count) for t in chunk.truncations] == [(101, 70), (102, 900), (103, 900)]
    assert packed.truncated_items == 3


def test_vectors_of_another_model_are_not_mixed_in() -> None:
    other = as_asked(ENCODINGS[0])
    other.precision = "bfloat16"
    of = assign([0, -1], hash_vectors([b"x"], 8).tobytes(), other)
    with pytest.raises(results.AnotherModel):
        pack(of, results.Outcome(hash_vectors([b"a"], 8), ()))


@pytest.mark.parametrize(
    ("sources", "vectors"),
    [([1, 0], b""), ([0, 2], b""), ([0, -2], bytes(32)), ([0, -1], bytes(31)), ([-1, -1], b"")],
)
def test_a_plan_that_cannot_be_is_refused(sources: list[int], vectors: bytes) -> None:
    of = assign(sources, vectors, as_asked(ENCODINGS[0]))
    with pytest.raises(payloads.BadPayload):
        count = sum(source == item for item, source in enumerate(sources))
        pack(of, results.Outcome(hash_vectors([b"a"] * count, 8), ()))
    of.known.sources = of.known.sources[:-1]
    with pytest.raises(payloads.BadPayload):
        known.plan(of)


def test_the_front_counts_what_is_to_be_computed() -> None:
    assert messages.assignment_of(assign([0, 0, -1, LEFT_OUT, 4])).to_compute == 2
    assert messages.assignment_of(worker_pb2.Assign(item_count=3)).to_compute == 3


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with executor_front.running() as running:
        running.load(executor_front.workload())
        yield running


def known_items(sources: Sequence[int], vectors: bytes = b"") -> worker_pb2.KnownItems:
    made_by = result_pb2.Provenance(
        model_name="toy", revision="1", dimension=8, dtype=workload_pb2.DTYPE_FLOAT32, precision="float32",
        pooling=workload_pb2.POOLING_NONE, backend="hash",
    )  # fmt: skip
    return worker_pb2.KnownItems(sources=packed_sources(sources), vectors=vectors, provenance=made_by)


def provenance_of(front: Front) -> result_pb2.Provenance:
    front.texts("first", ["a"])
    return front.result("first").chunks[0].provenance


def test_an_executor_computes_the_rest_alone(front: Front) -> None:
    texts = ["a", "b", "a", "known", "b"]
    given = known_items([0, 1, 0, -1, 1], hash_vectors([b"known"], 8).tobytes())
    given.provenance.CopyFrom(provenance_of(front))
    front.texts("batch", texts, known=given)
    result = front.result("batch")
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in texts], 8))
    assert result.header["items"] == 2
    assert list(result.chunks[0].keys) == [f"k-{text}" for text in texts]


def test_half_of_a_batch_keeps_its_places(front: Front) -> None:
    given = known_items([-1, 1, 1], hash_vectors([b"c"], 8).tobytes())
    given.provenance.CopyFrom(provenance_of(front))
    front.texts("half", ["a", "b", "c", "d", "d"], item_count=3, payload_offset=2, known=given)
    np.testing.assert_array_equal(front.result("half").vectors, hash_vectors([b"c", b"d", b"d"], 8))


def test_nothing_to_compute_needs_no_device(front: Front) -> None:
    given = known_items([-1, -1], hash_vectors([b"a"], 8).tobytes())
    given.provenance.CopyFrom(provenance_of(front))
    front.texts("whole", ["a", "a"], known=given)
    result = front.result("whole")
    np.testing.assert_array_equal(result.vectors, hash_vectors([b"a", b"a"], 8))
    assert result.header["items"] == 0
    assert wire.Kind.COMPUTING.name not in front.kinds("whole")


def test_pictures_are_there_for_what_is_computed_alone(front: Front) -> None:
    shown = np.random.default_rng(3).integers(0, 256, (2, PICTURE.height, PICTURE.width, 3), dtype=np.uint8)
    items = [item_pb2.ImageItem(key=f"k-{n}") for n in range(4)]
    payload = item_pb2.ImageItems(items=items).SerializeToString()
    error = (result_pb2.ITEM_ERROR_REASON_UNDECODABLE, "It is no image.")
    given = known_items([0, -1, 2, 0], hash_vectors([b"known"], 8).tobytes())
    given.provenance.CopyFrom(provenance_of(front))
    front.images("pictures", shown, errors=[(1, *error)], item_count=4, payload=payload, known=given)
    (chunk,) = front.result("pictures").chunks
    expected = hash_vectors([shown[0].tobytes(), b"known", shown[0].tobytes()], 8)
    assert chunk.vectors == expected.tobytes()
    assert [(e.item_index, e.reason) for e in chunk.errors] == [(102, error[0])]
    assert list(chunk.keys) == ["k-0", "k-1", "k-2", "k-3"]

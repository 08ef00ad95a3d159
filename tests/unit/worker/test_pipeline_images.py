"""Batches of images in the executor, with the `hash` backend and real shared memory."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from podium.common.v1 import item_pb2, job_pb2, result_pb2, workload_pb2
from podium_worker.adapters import wire
from podium_worker.adapters.hash_backend import PICTURE, hash_vectors
from tests.support import executor_front
from tests.support.executor_front import Front

UNDECODABLE = (result_pb2.ITEM_ERROR_REASON_UNDECODABLE, "It is no image.")
FETCH_FAILED = (result_pb2.ITEM_ERROR_REASON_FETCH_FAILED, "The server is away.")
# Three bytes of one colour; the fault is looked for in the picture's bytes.
POISON = "XYZ"


def pictures(count: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, PICTURE.height, PICTURE.width, 3), dtype=np.uint8)


def expected(shown: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return hash_vectors([picture.tobytes() for picture in shown], 8)


@pytest.fixture(scope="module")
def shared() -> Iterator[Front]:
    with executor_front.running() as running:
        running.load(executor_front.workload())
        yield running


@pytest.fixture
def front(shared: Front) -> Front:
    """One process for all of them: no test leaves anything behind."""
    shared.forget()
    return shared


def test_pictures_are_read_where_they_are(front: Front) -> None:
    shown = pictures(5)
    front.images("batch", shown, offset=4096)
    result = front.result("batch")
    np.testing.assert_array_equal(result.vectors, expected(shown))
    assert [list(chunk.keys) for chunk in result.chunks] == [[f"k-{index}" for index in range(5)]]
    assert result.done.fetch_duration.ToMilliseconds() == 1500
    assert result.header["fetch_s"] == 1.5
    assert {"wait_s", "prepare_s", "compute_s", "pack_s", "idle_s"} <= result.header.keys()


def test_texts_of_the_same_model_have_no_fetch_duration(front: Front) -> None:
    front.texts("batch", ["a"])
    assert not front.result("batch").done.HasField("fetch_duration")


def test_failures_keep_their_place_and_their_words(front: Front) -> None:
    shown = pictures(6)
    front.images("batch", shown, errors=[(0, *UNDECODABLE), (3, *FETCH_FAILED)], max_chunk_bytes=2 * 32)
    result = front.result("batch")
    np.testing.assert_array_equal(result.vectors, expected(shown[[1, 2, 4, 5]]))
    assert result.errors == [(100, "UNDECODABLE", "It is no image."), (103, "FETCH_FAILED", "The server is away.")]
    assert [(chunk.item_count, chunk.count) for chunk in result.chunks] == [(2, 1), (2, 1), (2, 2)]
    assert (result.header["items"], result.header["items_failed"]) == (4, 2)


def test_a_batch_without_any_picture_never_comes_to_the_device(front: Front) -> None:
    front.images("batch", pictures(2), errors=[(0, *UNDECODABLE), (1, *UNDECODABLE)])
    result = front.result("batch")
    assert [reason for _, reason, _ in result.errors] == ["UNDECODABLE", "UNDECODABLE"]
    assert (result.vectors.shape, result.header["compute_s"], result.header["items"]) == ((0, 8), 0.0, 0)
    assert front.kinds("batch") == ["PREPARING", "RESULT"]
    # How long the device has waited is told by the next one that comes to it.
    assert result.header["idle_s"] == 0.0
    front.images("next", pictures(1))
    assert front.result("next").header["idle_s"] > 0.0


@pytest.mark.parametrize(
    ("errors", "options"),
    [
        ([], item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_FLOAT16, dimensions=4)),
        ([(1, *UNDECODABLE)], item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_BINARY)),
    ],
)
def test_images_are_encoded_as_the_job_asks(
    front: Front, errors: list[tuple[int, int, str]], options: item_pb2.EmbeddingOptions
) -> None:
    shown = pictures(3)
    front.images("batch", shown, errors=errors, options=options)
    result = front.result("batch")
    whole = expected(np.delete(shown, [one[0] for one in errors], axis=0))
    if options.HasField("dimensions"):
        wanted, said = whole[:, :4].astype("<f2").tobytes(), (workload_pb2.DTYPE_FLOAT16, 4)
    else:
        wanted, said = np.packbits(whole > 0, axis=1).tobytes(), (workload_pb2.DTYPE_BINARY, 8)
    (chunk,) = result.chunks
    assert chunk.vectors == wanted
    assert (chunk.dtype, chunk.dimension) == said
    assert (chunk.provenance.dtype, chunk.provenance.dimension) == said


def test_pictures_of_another_size_or_beyond_the_memory_fail_their_batch(front: Front) -> None:
    front.images("size", np.zeros((1, 4, 4, 3), np.uint8))
    failed = front.hear(wire.Kind.FAILED, key="size").header
    assert failed["message"] == "ValueError: pictures of 4 x 4 came to a model of another size"
    front.images("place", pictures(1), offset=executor_front.ARENA_BYTES - 64)
    assert front.hear(wire.Kind.FAILED, key="place").header["reason"] == job_pb2.BATCH_FAILURE_REASON_INTERNAL
    front.images("fine", pictures(1))
    front.result("fine")


def test_modalities_that_a_workload_does_not_take_are_bad_payloads(front: Front) -> None:
    for name, modality in (("texts", executor_front.TEXT), ("images", executor_front.IMAGE)):
        only = executor_front.workload(name)
        del only.modalities[:]
        only.modalities.append(modality)
        told = front.load(only)
        assert (told.header["picture"] is None) == (name == "texts")
    front.images("no images", pictures(1), "texts")
    front.texts("no texts", ["a"], "images")
    for key, message in (("no images", "Workload 'texts' takes no images."), ("no texts", "... no texts.")):
        failed = front.hear(wire.Kind.FAILED, key=key).header
        assert failed["reason"] == job_pb2.BATCH_FAILURE_REASON_BAD_PAYLOAD
        assert failed["message"].endswith(message.removeprefix("..."))


def test_a_suspect_batch_of_images_has_no_company(front: Front) -> None:
    front.images("before", pictures(2))
    # The second half of a batch whose executor died: its pictures and keys are its own, its place is remembered.
    front.images("half", pictures(2, seed=2), payload_offset=2, offset=1024)
    front.images("after", pictures(2), offset=2048)
    np.testing.assert_array_equal(front.result("half").vectors, expected(pictures(2, seed=2)))
    front.result("after")
    told = [(frame.kind.name, frame.header["key"]) for frame in front.heard if "key" in frame.header]
    assert told.index(("RESULT", "before")) < told.index(("PREPARING", "half"))
    assert told.index(("RESULT", "half")) < told.index(("PREPARING", "after"))


def test_a_call_of_which_no_picture_came_costs_the_batch_beside_it_nothing() -> None:
    with executor_front.running(PODIUM_FAULT_DELAY_S="0.1") as slow:
        slow.load(executor_front.workload())
        slow.images("first", pictures(16))
        slow.result("first")
        shown, asked = pictures(64), pictures(9, seed=2)
        slow.images("batch", shown)
        slow.hear(wire.Kind.COMPUTING, key="batch")
        # Both wait for the same micro-batch, which has no room for nine.
        slow.call_images("call-1", pictures(1), [(0, *UNDECODABLE)], offset=100_000)
        slow.call_images("call-2", asked, offset=200_000)
        nothing, answer = slow.answer("call-1"), slow.answer("call-2")
        assert nothing is not None and answer is not None
        assert [error.item_index for error in nothing.chunk.errors] == [0]
        assert answer.chunk.vectors == expected(asked).tobytes()
        np.testing.assert_array_equal(slow.result("batch").vectors, expected(shown))


def test_a_poison_picture_kills_the_process_that_computes_it() -> None:
    shown = pictures(3)
    shown[1] = np.frombuffer(POISON.encode(), np.uint8)
    with executor_front.running(PODIUM_FAULT_POISON=POISON * 3) as front:
        front.load(executor_front.workload())
        front.images("batch", shown)
        with pytest.raises(EOFError):
            front.result("batch")
        assert front.kinds("batch") == ["PREPARING", "COMPUTING"]
        assert front.process.wait(executor_front.STEP_S) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("load", []),
        ("prepare", ["PREPARING"]),
        ("compute", ["PREPARING", "COMPUTING"]),
        ("send", ["PREPARING", "COMPUTING"]),
    ],
)
def test_a_process_dies_once_in_each_stage(tmp_path: Path, stage: str, told: list[str]) -> None:
    fault, shown = f"{stage}:{tmp_path / 'died'}", pictures(3)
    with executor_front.running(PODIUM_FAULT_STAGE=fault) as front:
        with pytest.raises(EOFError):
            front.load(executor_front.workload())
            front.images("batch", shown)
            front.result("batch")
        assert front.kinds("batch") == told
        assert front.process.wait(executor_front.STEP_S) == -signal.SIGKILL
    with executor_front.running(PODIUM_FAULT_STAGE=fault) as front:
        front.load(executor_front.workload())
        front.images("batch", shown)
        np.testing.assert_array_equal(front.result("batch").vectors, expected(shown))

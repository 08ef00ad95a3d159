"""Interactive calls in an executor, in a process of its own: ahead of batches, together, and dropped in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import wire
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import executor_front
from tests.support.executor_front import Front
from tests.unit.worker.test_pipeline import ODD, SLOW, WAITS, odd

HASH = executor_front.workload("w")
MOST_TURNS = 240


@pytest.fixture
def front() -> Iterator[Front]:
    with executor_front.running(ODD) as running:
        yield running


@pytest.fixture
def slow() -> Iterator[Front]:
    """Computes micro-batches of 16 hashes, each in 50 ms."""
    with executor_front.running(PODIUM_FAULT_DELAY_S="0.05") as running:
        running.load(HASH)
        yield running


def _rows(answer: worker_pb2.EmbedAnswer | None) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    assert answer is not None
    return np.frombuffer(answer.chunk.vectors, "<f4").reshape(-1, answer.chunk.dimension)


def test_an_answer_is_what_a_batch_would_hold(front: Front) -> None:
    front.load(odd())
    front.texts("batch", ["a", "bb"])
    front.call("call-7", ["a", "bb"])
    answer, batch = front.answer("call-7"), front.result("batch")
    assert answer is not None
    assert (answer.call_id, answer.chunk.item_count, answer.chunk.last_in_batch) == (7, 2, True)
    assert answer.chunk.vectors == batch.chunks[0].vectors
    assert answer.chunk.crc32c == batch.chunks[0].crc32c
    assert answer.chunk.provenance == batch.chunks[0].provenance
    assert list(answer.chunk.keys) == ["k-a", "k-bb"]
    assert list(answer.token_counts) == [1, 1]
    assert front.kinds("call-7") == ["EMBEDDED"]
    assert front.hear(wire.Kind.EMBEDDING).header["keys"] == ["call-7"]


def test_calls_go_between_the_micro_batches_of_a_batch(slow: Front) -> None:
    slow.texts("batch", [f"t{n}" for n in range(320)])
    slow.hear(wire.Kind.COMPUTING, key="batch")
    for number in range(3):
        slow.call(f"call-{number}", [f"q{number}"])
        expected = hash_vectors([f"q{number}".encode()], 8)
        assert (_rows(slow.answer(f"call-{number}")) == expected).all()
    assert "RESULT" not in slow.kinds("batch")
    result = slow.result("batch")
    assert (result.vectors == hash_vectors([f"t{n}".encode() for n in range(320)], 8)).all()
    # 20 micro-batches; what the calls took is not the batch's.
    assert result.header["compute_s"] == pytest.approx(1.0, rel=0.3)


def test_calls_that_wait_ride_along_in_the_next_micro_batch(slow: Front) -> None:
    texts = [f"t{n}" for n in range(96)]
    # What a micro-batch takes is known from then on, whether the calls come before the first of the batch or after it.
    slow.texts("first", texts[:16])
    slow.result("first")
    slow.texts("batch", texts)
    slow.hear(wire.Kind.COMPUTING, key="batch")
    for number in range(2):
        slow.call(f"call-{number}", [f"q{number}", "q"])
    answers = [slow.answer(f"call-{number}") for number in range(2)]
    result = slow.result("batch")
    for number, answer in enumerate(answers):
        assert (_rows(answer) == hash_vectors([f"q{number}".encode(), b"q"], 8)).all()
        assert answer is not None
        # Two rows of sixteen, of 50 ms.
        assert answer.compute_duration.ToMilliseconds() < 25
    assert (result.vectors == hash_vectors([text.encode() for text in texts], 8)).all()


def test_a_call_rides_along_in_the_first_micro_batch_of_the_next_batch(slow: Front) -> None:
    slow.texts("first", [f"t{n}" for n in range(16)])
    slow.hear(wire.Kind.COMPUTING, key="first")
    slow.texts("next", [f"u{n}" for n in range(15)])
    slow.hear(wire.Kind.PREPARING, key="next")
    slow.call("call-1", ["q"])
    answer = slow.answer("call-1")
    assert slow.result("next").vectors.shape == (15, 8)
    assert (_rows(answer) == hash_vectors([b"q"], 8)).all()


def test_a_batch_keeps_its_share_while_calls_of_another_workload_wait_all_the_time(slow: Front) -> None:
    """Calls that cannot ride along take the device for themselves."""
    slow.load(executor_front.workload("other"))
    waiting = deque(f"call-{number}" for number in range(3))
    for key in waiting:
        slow.call(key, ["q"], name="other")
    # 20 micro-batches.
    slow.texts("batch", [f"t{n}" for n in range(320)])
    turns = 0
    while "RESULT" not in slow.kinds("batch") and turns < MOST_TURNS:
        slow.answer(waiting.popleft())
        turns += 1
        waiting.append(f"call-{turns + 2}")
        slow.call(waiting[-1], ["q"], name="other")
    for key in waiting:
        slow.answer(key)
    assert slow.result("batch").vectors.shape == (320, 8)
    # Three calls a turn at most. They have one second, 20 turns, and then as many as the batch has micro-batches: 120
    # calls; the rest is leeway for a busy machine.
    assert turns < MOST_TURNS, "the batch came last"


def test_what_a_batch_fails_with_in_company_is_nobodys_fault(front: Front) -> None:
    """The call computes nothing, and neither the batch nor the other call suffers for it."""
    front.load(odd())
    front.texts("batch", ["a", "bb", SLOW, "a", "bb"])
    front.hear(wire.Kind.COMPUTING, key="batch")
    front.call("call-1", ["error"])
    front.call("call-2", ["a"])
    broken, fine = front.answer("call-1"), front.answer("call-2")
    assert broken is not None and fine is not None
    assert broken.failure.reason == worker_pb2.EMBED_FAILURE_REASON_INTERNAL
    assert fine.chunk.count == 1
    assert front.result("batch").vectors.shape == (5, 8)
    assert "FAILED" not in front.kinds("batch")


def test_riders_whose_rows_nobody_may_see_are_looked_at_by_themselves(front: Front) -> None:
    front.load(odd())
    front.texts("batch", ["a", SLOW, "a", "bb"])
    front.hear(wire.Kind.COMPUTING, key="batch")
    front.call("call-1", ["long"])
    front.call("call-2", ["nan", "a"])
    long, partly = front.answer("call-1"), front.answer("call-2")
    assert long is not None and partly is not None
    assert long.failure.retryable
    assert [e.item_index for e in partly.chunk.errors] == [0]
    assert front.result("batch").vectors.shape == (4, 8)


def test_riders_of_a_batch_that_is_cancelled_are_answered(front: Front) -> None:
    front.load(odd())
    front.texts("batch", ["a", "bb", WAITS])
    front.hear(wire.Kind.COMPUTING, key="batch")
    front.call("call-1", ["a"])
    front.say(wire.Kind.CANCEL, {"key": "batch"})
    answer = front.answer("call-1")
    assert answer is not None and answer.chunk.count == 1


def test_a_batch_that_the_front_wants_alone_has_no_company(slow: Front) -> None:
    slow.texts("batch", [f"t{n}" for n in range(64)], alone=True)
    slow.hear(wire.Kind.COMPUTING, key="batch")
    slow.call("call-1", ["q"])
    assert slow.answer("call-1") is not None
    kinds = [(frame.kind.name, frame.header.get("key")) for frame in slow.heard]
    assert kinds.index(("RESULT", "batch")) < kinds.index(("EMBEDDED", "call-1"))


def test_calls_that_wait_go_through_the_model_together_whatever_their_encodings(slow: Front) -> None:
    slow.call("call-0", ["first"])
    slow.hear(wire.Kind.EMBEDDING)
    int8 = item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_INT8)
    short = item_pb2.EmbeddingOptions(dimensions=4)
    slow.call("call-1", ["a", "b"], options=int8)
    slow.call("call-2", ["c"], options=short)
    one, two = slow.answer("call-1"), slow.answer("call-2")
    assert slow.hear(wire.Kind.EMBEDDING).header["keys"] == ["call-1", "call-2"]
    assert one is not None and two is not None
    assert (one.chunk.dtype, len(one.chunk.vectors)) == (workload_pb2.DTYPE_INT8, 16)
    assert (two.chunk.dimension, len(two.chunk.vectors)) == (4, 16)


def test_other_workloads_have_their_own_turn(slow: Front) -> None:
    slow.load(executor_front.workload("other", dimension=6))
    slow.call("call-0", ["first"])
    slow.hear(wire.Kind.EMBEDDING)
    slow.call("call-1", ["a"])
    slow.call("call-2", ["a"], name="other")
    slow.call("call-3", ["b"])
    assert [_rows(slow.answer(f"call-{n}")).shape for n in range(4)] == [(1, 8), (1, 8), (1, 6), (1, 8)]
    told = [frame.header["keys"] for frame in slow.heard if frame.kind is wire.Kind.EMBEDDING]
    assert told[-2:] == [["call-1", "call-3"], ["call-2"]]


def test_what_is_dropped_or_late_never_comes_to_the_device(front: Front) -> None:
    front.load(odd())
    # Nobody keeps a suspect batch company, so that these wait.
    front.texts("suspect", [WAITS], attempt=2)
    front.hear(wire.Kind.COMPUTING, key="suspect")
    front.call("call-1", ["a"])
    front.call("call-2", ["b"], left_s=0.0)
    front.call("call-3", ["c"])
    front.say(wire.Kind.DROP_EMBED, {"key": "call-1"})
    front.say(wire.Kind.CANCEL, {"key": "suspect"})
    assert front.answer("call-1") is None
    assert front.answer("call-2") is None
    assert front.answer("call-3") is not None
    told = [frame.header["keys"] for frame in front.heard if frame.kind is wire.Kind.EMBEDDING]
    assert told == [["call-3"]]


def test_the_neighbours_of_a_bad_call_do_not_suffer(front: Front) -> None:
    front.load(odd())
    front.texts("suspect", [WAITS], attempt=2)
    front.hear(wire.Kind.COMPUTING, key="suspect")
    front.call("call-1", ["fine"])
    front.call("call-2", ["error"])
    front.call("call-3", ["nan", "a"])
    front.call("call-4", ["a"], payload=b"\xff")
    front.say(wire.Kind.CANCEL, {"key": "suspect"})
    fine, broken, partly, unreadable = (front.answer(f"call-{n}") for n in (1, 2, 3, 4))
    assert fine is not None and broken is not None and partly is not None and unreadable is not None
    assert fine.chunk.count == 1
    assert (broken.failure.reason, broken.failure.retryable) == (worker_pb2.EMBED_FAILURE_REASON_INTERNAL, True)
    assert [e.item_index for e in partly.chunk.errors] == [0]
    assert (unreadable.failure.reason, unreadable.failure.retryable) == (
        worker_pb2.EMBED_FAILURE_REASON_BAD_PAYLOAD,
        False,
    )


def test_a_model_that_is_not_here_is_not_loaded_for_a_call(front: Front) -> None:
    front.load(odd())
    front.call("call-1", ["a"], name="other")
    answer = front.answer("call-1")
    assert answer is not None
    assert (answer.failure.reason, answer.failure.retryable) == (worker_pb2.EMBED_FAILURE_REASON_NOT_RESIDENT, True)


def test_vectors_that_no_client_may_see_are_a_failure(front: Front) -> None:
    front.load(odd())
    front.call("call-1", ["long"])
    answer = front.answer("call-1")
    assert answer is not None
    assert answer.failure.retryable

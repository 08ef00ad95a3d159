"""The executor's pipeline, in a process of its own: what it says, in which order, and what it goes on after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from podium.common.v1 import item_pb2, job_pb2, workload_pb2
from podium_worker.adapters import wire
from tests.support import executor_front
from tests.support.executor_front import Front

ODD = "tests.support.odd_executor"
WAITS = "until cancelled"
SLOW = "slow"


def odd(name: str = "w", *, revision: str = "1") -> workload_pb2.Workload:
    return executor_front.workload(name, normalized=True, revision=revision, backend="odd")


@pytest.fixture
def front() -> Iterator[Front]:
    with executor_front.running(ODD) as running:
        yield running


def test_a_load_tells_what_the_model_is(front: Front) -> None:
    told = front.load(odd()).header
    assert {name: told[name] for name in ("memory_bytes", "budget", "precision")} == {
        "memory_bytes": 1000, "budget": 64, "precision": "float32",
    }  # fmt: skip
    seen = {"height": 4, "width": 6, "edge": 4, "resize": "shortest", "interpolation": "bicubic", "fill": 0}
    assert told["picture"] == seen
    # A process that died arrived at this one.
    assert front.load(odd("other"), budget=16).header["budget"] == 16


def test_the_next_batch_is_prepared_and_results_travel_while_the_device_computes(front: Front) -> None:
    front.load(odd())
    front.texts("first", ["a"])
    front.texts("long one", [WAITS])
    front.texts("third", ["abc"])
    front.hear(wire.Kind.COMPUTING, key="long one")
    front.hear(wire.Kind.PREPARING, key="third")
    front.result("first")
    assert front.kinds("long one") == ["PREPARING", "COMPUTING"]
    front.say(wire.Kind.CANCEL, {"key": "long one"})
    front.hear(wire.Kind.DROPPED, key="long one")
    result = front.result("third")
    assert front.kinds("third") == ["PREPARING", "COMPUTING", "RESULT"]
    assert result.vectors.argmax(axis=1).tolist() == [3]


def test_a_suspect_batch_has_no_company(front: Front) -> None:
    front.load(odd())
    front.texts("busy", [WAITS])
    front.texts("suspect", ["a"], attempt=2)
    front.texts("after", ["a"])
    front.hear(wire.Kind.COMPUTING, key="busy")
    front.say(wire.Kind.CANCEL, {"key": "busy"})
    front.result("after")
    told = [(frame.kind.name, frame.header["key"]) for frame in front.heard if "key" in frame.header]
    assert told.index(("DROPPED", "busy")) < told.index(("PREPARING", "suspect"))
    assert told.index(("RESULT", "suspect")) < told.index(("PREPARING", "after"))


def test_what_was_taken_back_is_not_begun(front: Front) -> None:
    front.load(odd())
    front.texts("busy", [WAITS])
    front.hear(wire.Kind.COMPUTING, key="busy")
    for key in ("prepared", "waiting", "and waiting", "last"):
        front.texts(key, ["a"])
    front.hear(wire.Kind.PREPARING, key="and waiting")
    for key in ("prepared", "waiting", "busy", "long gone"):
        front.say(wire.Kind.CANCEL, {"key": key})
    front.result("last")
    assert front.kinds("prepared") == ["PREPARING"]
    assert front.kinds("busy") == ["PREPARING", "COMPUTING", "DROPPED"]


def test_a_model_is_closed_once_what_was_begun_with_it_is_done(front: Front) -> None:
    front.load(odd())
    front.texts("busy", [WAITS])
    front.texts("prepared", ["a"])
    front.hear(wire.Kind.PREPARING, key="prepared")
    front.say(wire.Kind.UNLOAD, {"workload": "w"})
    front.say(wire.Kind.LOAD, {"now": True, "budget": 0}, odd("other").SerializeToString())
    front.hear(wire.Kind.COMPUTING, key="busy")
    front.say(wire.Kind.CANCEL, {"key": "busy"})
    gone = front.hear(wire.Kind.UNLOADED, workload="w")
    # Nothing is left of it, and nothing was loaded before it made room.
    assert gone.header["unreturned_bytes"] == 0
    assert front.kinds("prepared") in (["PREPARING", "COMPUTING", "RESULT"], ["PREPARING", "COMPUTING"])
    assert not [f for f in front.heard if f.kind is wire.Kind.LOADING and f.header["workload"] == "other"]
    front.hear(wire.Kind.LOADED, workload="other")
    # It comes again with its next batch.
    front.texts("again", ["ab"])
    front.hear(wire.Kind.LOADED, workload="w")
    assert front.result("again").vectors.argmax(axis=1).tolist() == [2]


def test_nothing_else_is_computed_while_a_model_is_loaded(front: Front) -> None:
    """What it measures on the device is its own."""
    front.load(odd())
    front.texts("busy", [WAITS])
    front.hear(wire.Kind.COMPUTING, key="busy")
    front.texts("other", ["a"], name="other")
    front.say(wire.Kind.LOAD, {"now": True, "budget": 0}, odd("next").SerializeToString())
    front.texts("unknown", ["a"], name="unknown")
    front.hear(wire.Kind.PREPARING, key="other")
    front.say(wire.Kind.CANCEL, {"key": "busy"})
    front.hear(wire.Kind.LOADED, workload="next")
    told = [(frame.kind.name, frame.header.get("key", frame.header.get("workload"))) for frame in front.heard]
    assert told.index(("DROPPED", "busy")) < told.index(("LOADING", "next"))


def test_a_model_that_comes_back_with_a_batch_keeps_its_smaller_budget(front: Front) -> None:
    front.load(odd())
    front.texts("tight", ["starved"])
    front.result("tight")
    front.say(wire.Kind.UNLOAD, {"workload": "w"})
    front.hear(wire.Kind.UNLOADED, workload="w")
    front.texts("again", ["a"])
    assert front.hear(wire.Kind.LOADED, workload="w").header["budget"] == 32


def test_a_model_that_comes_back_with_a_batch_is_measured_anew(front: Front) -> None:
    first = front.load(odd(revision="measured")).header["budget"]
    front.say(wire.Kind.UNLOAD, {"workload": "w"})
    front.hear(wire.Kind.UNLOADED, workload="w")
    front.texts("again", ["a"])
    assert front.hear(wire.Kind.LOADED, workload="w").header["budget"] > first


def test_what_is_not_loaded_can_be_unloaded(front: Front) -> None:
    front.say(wire.Kind.UNLOAD, {"workload": "never heard of"})
    front.hear(wire.Kind.UNLOADED, workload="never heard of")


def test_another_specification_closes_the_old_model(front: Front) -> None:
    front.load(odd())
    front.load(odd(revision="2"))
    front.say(wire.Kind.UNLOAD, {"workload": "none"})
    assert front.hear(wire.Kind.UNLOADED).header["unreturned_bytes"] == 1
    assert [f.kind.name for f in front.heard].count("UNLOADED") == 1
    front.texts("batch", ["a"])
    assert front.result("batch").chunks[0].provenance.revision == "2"


def test_a_smaller_budget_is_told_once(front: Front) -> None:
    front.load(odd())
    front.texts("tight", ["a", "starved", "b"])
    result = front.result("tight")
    assert [(index, reason) for index, reason, _ in result.errors] == [(101, "OUT_OF_MEMORY")]
    assert result.header["items_failed"] == 1
    front.texts("easy", ["a"])
    front.result("easy")
    assert [f.header["budget"] for f in front.heard if f.kind is wire.Kind.BUDGET] == [32]


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(front: Front) -> None:
    for revision, reason in (
        ("no-load", "There are no files."),
        ("no-pictures", "The backend 'odd' of workload 'no-pictures' takes no images."),
    ):
        spec = odd(revision, revision=revision)
        front.say(wire.Kind.LOAD, {"now": True, "budget": 0}, spec.SerializeToString())
        assert front.hear(wire.Kind.UNAVAILABLE, workload=revision).header["reason"] == reason
    front.texts("batch", ["a"], "no-load")
    failed = front.hear(wire.Kind.FAILED, key="batch").header
    assert (failed["reason"], failed["retryable"]) == (job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE, True)
    front.say(wire.Kind.UNLOAD, {"workload": "no-pictures"})
    assert front.hear(wire.Kind.UNLOADED).header["unreturned_bytes"] == 0


def test_a_device_that_computes_nonsense_is_faulty_at_the_load(front: Front) -> None:
    front.say(wire.Kind.LOAD, {"now": True, "budget": 0}, odd(revision="sick").SerializeToString())
    assert front.hear(wire.Kind.FAULTY).header["reason"] == "its vectors hold a NaN or an infinity"


@pytest.mark.parametrize(
    ("text", "reason", "retryable", "after"),
    [
        ("long", job_pb2.BATCH_FAILURE_REASON_BAD_RESULT, True, "CHECKED"),
        ("error", job_pb2.BATCH_FAILURE_REASON_INTERNAL, True, "CHECKED"),
        ("lost", job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE, True, "RESULT"),
    ],
)
def test_a_batch_that_fails_is_told_and_forgotten(
    front: Front, text: str, reason: int, retryable: bool, after: str
) -> None:
    front.load(odd())
    front.texts("bad", ["a", text])
    front.texts("good", ["a"])
    failed = front.hear(wire.Kind.FAILED, key="bad").header
    assert (failed["reason"], failed["retryable"]) == (reason, retryable)
    front.hear(wire.Kind[after])
    if after != "RESULT":
        front.result("good")


def test_items_without_a_finite_vector_are_data_when_the_canary_passes(front: Front) -> None:
    front.load(odd())
    front.texts("batch", ["a", "nan", "abc"])
    result = front.result("batch")
    assert [(index, reason) for index, reason, _ in result.errors] == [(101, "NOT_FINITE")]
    assert result.vectors.argmax(axis=1).tolist() == [1, 3]


def test_what_the_workload_does_not_allow_is_a_bad_payload(front: Front) -> None:
    front.load(odd())
    front.texts("cut", ["a"], options=item_pb2.EmbeddingOptions(dimensions=3))
    failed = front.hear(wire.Kind.FAILED, key="cut").header
    assert (failed["reason"], failed["retryable"]) == (job_pb2.BATCH_FAILURE_REASON_BAD_PAYLOAD, False)
    assert failed["message"] == "Vectors of workload 'w' are not cut to 3 elements."

"""Models that the front believes to be loaded, or waits for: none is waited for in vain, whatever became of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podium_worker.adapters import wire
from podium_worker.app import ports
from podium_worker.domain import leases, pictures
from tests.support import executor_front
from tests.unit.worker import test_images_in_hand as images
from tests.unit.worker import test_residents as texts

CHANGED = replace(images.IMAGES, spec=b"changed")
OTHER_SIZE = ports.Facts(0.1, picture=pictures.Picture(4, 4, 4))


def replace_process(rig: images.Rig | texts.Rig, device: int = 0) -> None:
    rig.executors[device].up = False
    rig.worker.executor_lost(device)
    rig.executors[device].up = True
    rig.executors[device].said.clear()
    rig.worker.executor_up(device)
    rig.worker.executor_ready(device)


def test_a_model_whose_specification_has_changed_is_loaded_anew_for_the_next_images() -> None:
    rig = images.Rig()
    rig.worker.welcome([CHANGED], [], 1 << 20)
    assert tuple(rig.worker.view().devices[0].resident) == ()
    assert rig.executors[0].said == [("unload", "images"), ("know", "images")]
    rig.assign(1)
    assert rig.executors[0].said[-1] == ("load", "images")
    rig.worker.loaded(0, "images", images.FACTS)
    assert rig.intake.bodies == [b"body"]


def test_what_is_told_of_a_specification_that_has_changed_meanwhile_is_not_believed() -> None:
    rig = images.Rig(loaded=False)
    lease = rig.assign(1)
    rig.worker.loading(0, "images")
    rig.worker.welcome([CHANGED], [lease], 1 << 20)
    assert rig.executors[0].said == [("load", "images"), ("unload", "images"), ("load", "images")]
    rig.worker.loaded(0, "images", OTHER_SIZE)
    assert rig.intake.bodies == []
    rig.worker.loaded(0, "images", images.FACTS)
    assert rig.intake.bodies == [b"body"]


def test_pictures_made_for_another_specification_come_to_no_device() -> None:
    rig = images.Rig()
    lease = rig.assign(1)
    rig.worker.welcome([CHANGED], [lease], 1 << 20)
    rig.executors[0].said.clear()
    rig.intake.finish(lease)
    assert rig.told() == [(1, "WORKER_LOST", True)]
    assert rig.intake.dropped == [lease.key]
    assert rig.executors[0].said == []


def test_images_of_a_workload_that_is_offered_no_more_are_handed_back() -> None:
    rig = images.Rig(loaded=False)
    lease = rig.assign(1)
    rig.worker.welcome([], [lease], 1 << 20)
    rig.worker.tick(0.5)
    assert rig.told() == [(1, "WORKER_LOST", True)]


def test_images_for_a_model_without_eyes_fail_for_good() -> None:
    rig = images.Rig(loaded=False)
    rig.assign(1)
    rig.worker.loaded(0, "images", ports.Facts(0.1))
    ((_, failure),) = rig.outbox.failures
    assert (failure.reason, failure.retryable) == ("BAD_PAYLOAD", False)


def test_images_whose_model_has_no_room_in_the_next_process_are_handed_back() -> None:
    rig = texts.Rig()
    lease = leases.Lease(1, bytes(16), 1)
    rig.worker.assign(ports.Assignment(lease, "a", 10, b"body", images=True))
    assert rig.said() == [("load", "a")]
    rig.worker.desire(["b"])
    replace_process(rig)
    assert rig.said() == [("load", "b"), ("know", "a"), ("know", "c")]
    rig.worker.tick(0.5)
    assert [(lease, failure.handed_back) for lease, failure in rig.outbox.failures] == [(lease, True)]


def test_images_are_not_kept_for_a_process_that_cannot_be_started() -> None:
    rig = images.Rig(loaded=False)
    rig.assign(1)
    rig.executors[0].up = False
    for _ in range(4):
        rig.worker.executor_lost(0)
        rig.worker.tick(0.5)
    assert rig.told() == []
    rig.worker.executor_lost(0)
    rig.worker.tick(0.5)
    assert rig.told() == [(1, "WORKER_LOST", True)]


def test_a_process_that_is_replaced_for_its_memory_did_not_die_of_the_load() -> None:
    rig = images.Rig(loaded=False)
    rig.assign(1)
    rig.worker.unloaded(0, "other", 1 << 30)
    assert not rig.executors[0].up
    # Said before the signal came.
    rig.worker.loading(0, "images")
    replace_process(rig)
    assert rig.told() == []
    assert ("load", "images") in rig.executors[0].said


@pytest.mark.parametrize("take_back", ["cancel", "fence"])
def test_a_batch_that_is_taken_back_leaves_no_model_that_is_loading_for_ever(take_back: str) -> None:
    rig = texts.Rig()
    lease = rig.assign("a")
    if take_back == "cancel":
        rig.worker.cancel(lease)
    else:
        rig.worker.fence()
    # An executor that drops a batch loads nothing for it; so it is asked, and its answer is the end of it.
    assert rig.said() == [("assign", lease.key), ("cancel", lease.key), ("load", "a")]


def test_a_batch_taken_back_after_its_specification_has_changed_leaves_no_such_model_either() -> None:
    rig = texts.Rig()
    lease = rig.assign("a")
    rig.worker.welcome([replace(texts.A, spec=b"changed"), texts.B, texts.C], [lease], 1 << 20)
    rig.said()
    rig.worker.cancel(lease)
    assert rig.said() == [("cancel", lease.key), ("unload", "a"), ("load", "a")]
    # The executor may have dropped the batch, and then both of its answers are about the new specification.
    rig.loaded("a")
    rig.loaded("a")
    assert tuple(rig.worker.view().devices[0].resident) == ("a",)


def test_an_executor_loads_nothing_for_what_was_taken_back_and_answers_whoever_asks_it_to() -> None:
    with executor_front.running("tests.support.odd_executor") as front:
        front.load(executor_front.workload(normalized=True, backend="odd"))
        front.texts("busy", ["until cancelled"])
        # A suspect waits for those before it, and keeps what comes after it from being begun.
        front.texts("suspect", ["a"], attempt=2)
        other = executor_front.workload("other", normalized=True, backend="odd")
        front.say(wire.Kind.LOAD, {"now": False, "budget": 0}, other.SerializeToString())
        front.texts("taken back", ["a"], "other")
        front.hear(wire.Kind.COMPUTING, key="busy")
        for key in ("taken back", "busy"):
            front.say(wire.Kind.CANCEL, {"key": key})
        front.texts("last", ["a"])
        front.result("last")
        assert [frame.header["workload"] for frame in front.heard if frame.kind is wire.Kind.LOADING] == ["w"]
        front.load(other)
        assert front.kinds("taken back") == []


def test_a_load_that_was_asked_for_and_does_not_begin_ends_the_process() -> None:
    rig = texts.Rig()
    rig.worker.desire(["a"])
    for _ in range(121):
        rig.worker.tick(0.5)
    assert not rig.up()


def test_a_device_out_of_service_hears_of_a_changed_specification_too() -> None:
    rig = texts.Rig()
    rig.worker.faulty(0, "a", "a NaN")
    replace_process(rig)
    rig.said()
    rig.worker.welcome([texts.A, replace(texts.B, spec=b"changed"), texts.C], [], 1 << 20)
    assert rig.said() == [("know", "b")]


def test_a_model_that_cannot_be_loaded_here_waits_for_the_sibling_that_is_being_replaced() -> None:
    rig = texts.Rig(executors=2)
    rig.executors[1].up = False
    rig.worker.executor_lost(1)
    rig.worker.desire(["a"])
    rig.worker.unavailable(0, "a", "no memory")
    assert {offer.unavailable for offer in rig.worker.view().offers} == {""}
    rig.executors[1].up = True
    rig.worker.executor_up(1)
    assert ("load", "a") in rig.said(1)


def test_a_model_whose_loads_kill_the_process_leaves_the_device_to_others() -> None:
    rig = texts.Rig(capacity=100)
    rig.worker.desire(["a", "b"])
    for _ in range(3):
        assert ("load", "a") in rig.said()
        rig.worker.loading(0, "a")
        replace_process(rig)
    said = rig.said()
    assert ("load", "a") not in said and ("load", "b") in said
    assert rig.credits()["a"] == 0 and rig.credits()["b"] > 0


def test_a_model_that_computes_nothing_is_loaded_anew_when_it_is_tried_again() -> None:
    rig = texts.Rig()
    rig.loaded("a")
    rig.worker.unavailable(0, "a", "no memory left to compute")
    assert rig.said() == [("unload", "a")]
    rig.clock.advance(301)
    rig.worker.tick(0.5)
    assert rig.said() == [("load", "a")]
    rig.loaded("a")
    assert rig.credits()["a"] > 0

"""Interactive calls in the worker's front, with executors in the test's memory."""

from __future__ import annotations

from podium_worker.app import calls, ports
from tests.unit.worker import test_images_in_hand as images
from tests.unit.worker.test_worker import Rig

FACTS = ports.Facts(0.1)


def _warm(rig: Rig, *devices: int) -> Rig:
    for device in devices:
        rig.worker.loading(device, "texts")
        rig.worker.loaded(device, "texts", FACTS)
        rig.executors[device].said.clear()
    return rig


def _call(rig: Rig | images.Rig, number: int, *, left_s: float = 10.0, workload: str = "texts") -> None:
    deadline = rig.clock.monotonic() + left_s
    rig.worker.calls.take(ports.Call(number, workload, 1, b"body", workload == "images", deadline))


def _large(rig: Rig, number: int, nbytes: int) -> None:
    rig.worker.calls.take(ports.Call(number, "texts", 1, bytes(nbytes), False, rig.clock.monotonic() + 10.0))


def _reasons(rig: Rig | images.Rig) -> list[tuple[int, str, bool]]:
    return [(number, f.reason, f.retryable) for number, f in rig.outbox.call_failures]


def test_a_call_goes_to_the_device_with_the_fewest_and_its_answer_back() -> None:
    rig = _warm(Rig(2), 0, 1)
    _call(rig, 7)
    _call(rig, 8)
    assert [executor.said for executor in rig.executors] == [[("embed", "call-1")], [("embed", "call-2")]]
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.01, b"frame")
    assert rig.outbox.urged == [b"frame"]
    # Late, or of an earlier session.
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.01, b"frame")
    assert rig.outbox.urged == [b"frame"]


def test_a_call_never_loads_a_model() -> None:
    rig = Rig()
    _call(rig, 1)
    assert _reasons(rig) == [(1, "NOT_RESIDENT", True)]


def test_a_worker_has_calls_of_so_many_bytes_and_sends_the_others_elsewhere() -> None:
    rig = _warm(Rig(), 0)
    _large(rig, 1, calls.MOST_BYTES - 10)
    _large(rig, 2, 11)
    assert _reasons(rig) == [(2, "BUSY", True)]
    _large(rig, 3, 10)
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.01, b"frame")
    rig.worker.calls.drop(3)
    # One alone may have any size.
    _large(rig, 4, calls.MOST_BYTES + 1)
    _large(rig, 5, 1)
    assert _reasons(rig) == [(2, "BUSY", True), (5, "BUSY", True)]
    assert [key for what, key in rig.executors[0].said if what == "embed"] == ["call-1", "call-2", "call-3"]


def test_a_draining_worker_takes_none_and_waits_for_those_it_has() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1)
    rig.worker.begin_drain()
    _call(rig, 2)
    assert _reasons(rig) == [(2, "NOT_RESIDENT", True)]
    assert not rig.worker.calls.emptied.is_set()
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.01, b"frame")
    assert rig.worker.calls.emptied.is_set()


def test_a_dropped_call_is_told_to_the_executor_and_its_answer_is_nobodys() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1)
    rig.worker.calls.drop(1)
    rig.worker.calls.drop(1)
    assert rig.executors[0].said == [("embed", "call-1"), ("drop_embed", "call-1")]
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.0, b"")
    assert not rig.outbox.urged and not rig.outbox.call_failures


def test_the_end_of_a_session_ends_its_calls_and_numbers_begin_anew() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1)
    rig.worker.calls.end_session()
    _call(rig, 1)
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.1, b"of the old session")
    rig.worker.calls.answered(0, "call-2", "texts", 1, 0.1, b"of the new one")
    assert rig.outbox.urged == [b"of the new one"]


def test_a_lost_executor_fails_its_calls() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1)
    rig.worker.calls.lost(0)
    rig.worker.executor_lost(0)
    assert _reasons(rig) == [(1, "EXECUTOR_LOST", True)]


def test_what_dies_of_a_call_accuses_no_batch() -> None:
    rig = _warm(Rig(), 0)
    lease = rig.assign(1)
    rig.worker.computing(0, lease.key)
    _call(rig, 1)
    rig.worker.calls.begun(0, ["call-1"])
    rig.worker.calls.lost(0)
    rig.worker.executor_lost(0)
    assert [(failure.reason, failure.handed_back) for _, failure in rig.outbox.failures] == [("WORKER_LOST", True)]


def test_what_dies_after_a_call_was_answered_accuses_the_batch() -> None:
    rig = _warm(Rig(), 0)
    lease = rig.assign(1)
    rig.worker.computing(0, lease.key)
    _call(rig, 1)
    rig.worker.calls.begun(0, ["call-1"])
    rig.worker.calls.answered(0, "call-1", "texts", 1, 0.01, b"frame")
    rig.worker.executor_lost(0)
    assert [failure.reason for _, failure in rig.outbox.failures] == ["EXECUTOR_CRASHED"]


def test_what_died_in_company_has_none_when_it_comes_again() -> None:
    """Or a batch that kills could do so for as long as calls ride along with it."""
    rig = _warm(Rig(), 0)
    told = rig.executors[0].alone
    lease = rig.assign(1)
    rig.assign(2)
    rig.worker.computing(0, lease.key)
    _call(rig, 1)
    rig.worker.calls.begun(0, ["call-1"])
    rig.worker.calls.lost(0)
    rig.worker.executor_lost(0)
    assert len(rig.outbox.failures) == 2 and told == []
    _warm(rig, 0)
    for number in (1, 2):
        rig.assign(number)
    assert told == [lease.key]


def test_a_call_that_stands_still_is_found_out_and_the_batch_is_handed_back() -> None:
    rig = _warm(Rig(), 0)
    lease = rig.assign(1)
    rig.worker.computing(0, lease.key)
    _call(rig, 1)
    rig.worker.calls.begun(0, ["call-1"])
    for _ in range(59):
        rig.worker.tick(1.0)
    assert ("kill", "") not in rig.executors[0].said
    rig.worker.tick(1.0)
    rig.worker.tick(1.0)
    assert ("kill", "") in rig.executors[0].said
    assert _reasons(rig) == [(1, "EXECUTOR_LOST", True)]
    assert [(failure.reason, failure.handed_back) for _, failure in rig.outbox.failures] == [("WORKER_LOST", True)]


def test_a_call_alone_is_work_to_move_on() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1)
    for _ in range(62):
        rig.worker.tick(1.0)
    assert not rig.executors[0].up


def test_a_call_whose_time_is_over_is_not_passed_on() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1, left_s=0.0)
    assert rig.executors[0].said == []
    assert rig.worker.calls.emptied.is_set()


def test_images_are_taken_in_first() -> None:
    rig = images.Rig()
    rig.executors[0].said.clear()
    _call(rig, 1, workload="images")
    rig.assign(1)
    assert rig.intake.urgent == [True, False]
    assert rig.executors[0].said == []
    done, _ = rig.intake.begun.pop("call-1")
    done("call-1", ports.Taken(b"keys", images.PICTURE, 0, 192, (), 0.5, 100))
    assert rig.executors[0].said == [("embed", "call-1")]
    assert "call-1" not in rig.intake.dropped
    rig.worker.calls.answered(0, "call-1", "images", 1, 0.01, b"frame")
    assert "call-1" in rig.intake.dropped


def test_images_that_cannot_be_read_fail_the_call() -> None:
    rig = images.Rig()
    _call(rig, 1, workload="images")
    _, failed = rig.intake.begun.pop("call-1")
    failed("call-1", "BAD_PAYLOAD", "No.")
    assert _reasons(rig) == [(1, "BAD_PAYLOAD", False)]


def test_a_model_with_calls_is_busy() -> None:
    rig = _warm(Rig(), 0)
    _call(rig, 1)
    assert rig.worker.calls.workloads_on(0) == {"texts"}

"""Executors that do not move, and devices whose canary fails: who is blamed, who goes on, and what comes back when."""

from __future__ import annotations

import dataclasses

import pytest

from podium_worker.app import ports
from podium_worker.domain import devices, leases, progress
from tests.unit.worker.test_worker import WORKLOAD, Rig

LIMIT = progress.Limits().work_s
OTHER = ports.Workload("images", devices.Needs("hash"), dimension=4, spec=b"other", load_limit_s=100.0)


class Watched(Rig):
    """A rig whose time is watched in steps of a second."""

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            self.worker.tick(1.0)

    def killed(self, device: int = 0) -> bool:
        return ("kill", "") in self.executors[device].said

    def told(self) -> dict[int, ports.Failure]:
        return {lease.batch_id: failure for lease, failure in self.outbox.failures}

    def compute(self, number: int) -> leases.Lease:
        lease = self.assign(number)
        self.worker.preparing(0, lease.key)
        self.worker.computing(0, lease.key)
        return lease

    def replace_process(self, device: int = 0) -> None:
        self.worker.executor_lost(device)
        self.executors[device].up = True
        self.worker.executor_up(device)
        self.worker.executor_ready(device)


def test_a_batch_that_does_not_move_is_blamed_and_those_around_it_are_not() -> None:
    rig = Watched()
    stuck = rig.compute(1)
    prepared, waiting = rig.assign(2), rig.assign(3)
    rig.worker.preparing(0, prepared.key)
    rig.pass_time(LIMIT - 1)
    assert not rig.killed()
    rig.pass_time(2)
    assert rig.killed()
    told = rig.told()
    assert (told[stuck.batch_id].reason, told[stuck.batch_id].handed_back) == ("EXECUTOR_HUNG", False)
    assert told[prepared.batch_id].handed_back and told[waiting.batch_id].handed_back
    assert rig.worker.view().devices[0].state == "FAULTED"
    assert rig.credits() == 0
    rig.replace_process()
    assert rig.worker.view().devices[0].state == "IDLE"
    assert rig.credits() > 0


def test_a_slow_batch_is_not_taken_for_a_hang() -> None:
    rig = Watched()
    slow = rig.compute(1)
    for _ in range(10):
        rig.pass_time(LIMIT - 1)
        rig.worker.progressed(0, slow.key, "texts", 1, b"")
    assert not rig.killed()
    rig.finish(slow)
    assert rig.outbox.sent == [b"chunk", b"done"]


def test_what_other_stages_do_does_not_speak_for_a_stuck_device() -> None:
    rig = Watched()
    stuck = rig.compute(1)
    for number in range(2, 80):
        rig.pass_time(1)
        bad = rig.assign(number)
        rig.worker.preparing(0, bad.key)
        rig.worker.failed(0, bad.key, ports.Failure("BAD_PAYLOAD", "no texts", retryable=False))
    assert rig.killed()
    assert rig.told()[stuck.batch_id].reason == "EXECUTOR_HUNG"


def test_a_cancelled_batch_that_is_stuck_is_found_and_nobody_else_blamed() -> None:
    rig = Watched()
    stuck = rig.compute(1)
    rig.worker.cancel(stuck)
    innocent = rig.assign(2)
    rig.worker.preparing(0, innocent.key)
    rig.pass_time(LIMIT + 1)
    assert rig.killed()
    assert rig.told() == {innocent.batch_id: dataclasses.replace(rig.told()[innocent.batch_id], handed_back=True)}


def test_an_idle_executor_may_be_silent_for_ever() -> None:
    rig = Watched()
    rig.pass_time(10 * LIMIT)
    lease = rig.compute(1)
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.finish(lease)
    # Finished and not acknowledged: the executor owes nothing any more.
    rig.pass_time(10 * LIMIT)
    assert not rig.killed()


def test_a_stopped_executor_is_found_by_what_waits_for_it_and_blames_nobody() -> None:
    rig = Watched()
    waiting = rig.assign(1)
    rig.pass_time(LIMIT + 1)
    assert rig.killed()
    assert rig.told()[waiting.batch_id].handed_back


def test_a_process_that_never_listens_is_replaced() -> None:
    rig = Watched()
    rig.worker.executor_lost(0)
    rig.worker.executor_up(0)
    rig.pass_time(LIMIT + 1)
    assert not rig.killed()
    rig.pass_time(progress.Limits().load_s)
    assert rig.killed()


@pytest.mark.parametrize(("workload", "limit_s"), [(WORKLOAD, 600.0), (OTHER, 100.0)])
def test_a_hung_load_has_its_own_limit_and_takes_no_other_batch_with_it(
    workload: ports.Workload, limit_s: float
) -> None:
    rig = Watched()
    rig.worker.welcome([WORKLOAD, OTHER], [], 1 << 20)
    waits_for_model = rig.assign(1, workload.name)
    rig.worker.preparing(0, waits_for_model.key)
    rig.worker.loading(0, workload.name)
    other = rig.assign(2, "texts" if workload is OTHER else "images")
    rig.pass_time(limit_s - 1)
    assert not rig.killed()
    rig.pass_time(2)
    assert rig.killed()
    told = rig.told()
    assert told[waits_for_model.batch_id].reason == "MODEL_UNAVAILABLE"
    assert told[other.batch_id].handed_back
    offers = {offer.workload: offer for offer in rig.worker.view().offers}
    assert f"{limit_s:g} s" in offers[workload.name].unavailable
    assert offers["texts" if workload is OTHER else "images"].unavailable == ""


def test_a_failed_canary_takes_the_device_out_and_it_returns_when_healthy() -> None:
    rig = Watched(executors=2)
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    batch = rig.assign(1)
    rig.worker.computing(0, batch.key)
    rig.worker.faulty(0, "texts", "its vectors hold a NaN or an infinity")
    assert rig.killed(0) and not rig.killed(1)
    assert rig.told()[batch.batch_id].handed_back
    view = rig.worker.view().devices[0]
    assert (view.state, view.reason) == (
        "FAULTED", "The canary of workload 'texts' failed: its vectors hold a NaN or an infinity",
    )  # fmt: skip
    rig.replace_process()
    assert rig.worker.view().devices[0].state == "FAULTED"
    # The sibling goes on alone.
    sibling = rig.assign(2)
    assert ("assign", sibling.key) in rig.executors[1].said

    rig.executors[0].said.clear()
    rig.pass_time(devices.fault_pause_s(1) - 1)
    assert ("load", "texts") not in rig.executors[0].said
    rig.pass_time(2)
    assert rig.executors[0].said.count(("load", "texts")) == 1
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    assert rig.worker.view().devices[0].state == "READY"


def test_a_device_that_keeps_failing_rests_longer_each_time() -> None:
    assert [devices.fault_pause_s(n) for n in (1, 2, 3, 50)] == [5.0, 10.0, 20.0, 300.0]


def test_a_refused_result_asks_for_the_canary() -> None:
    rig = Watched()
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    lease = rig.assign(1)
    rig.finish(lease)
    rig.worker.cancel(lease, refused=True)
    assert rig.executors[0].said[-1] == ("check", "texts")
    assert rig.worker.in_hand() == ()


def test_a_check_is_told_when_every_loaded_model_has_passed() -> None:
    rig = Watched(executors=2)
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.worker.loaded(1, "texts", ports.Facts(0.1))
    rig.worker.desire([], check=3)
    rig.worker.desire([], check=3)
    assert [executor.said.count(("check", "texts")) for executor in rig.executors] == [1, 1]
    rig.worker.checked(0, "texts")
    assert rig.worker.view().checked == 0
    rig.worker.checked(1, "texts")
    assert rig.worker.view().checked == 3


def test_a_check_waits_for_the_only_device_to_be_sound() -> None:
    rig = Watched()
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.worker.desire([], check=3)
    rig.worker.faulty(0, "texts", "two computations of the same texts differ")
    rig.worker.executor_lost(0)
    assert rig.worker.view().checked == 0
    rig.executors[0].up = True
    rig.worker.executor_up(0)
    assert rig.worker.view().checked == 0
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    assert rig.worker.view().checked == 3


def test_a_device_that_is_out_of_service_does_not_keep_its_siblings_idle() -> None:
    rig = Watched(executors=2)
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.worker.loaded(1, "texts", ports.Facts(0.1))
    rig.worker.desire([], check=3)
    rig.worker.checked(0, "texts")
    rig.worker.faulty(1, "texts", "two computations of the same texts differ")
    assert rig.worker.view().checked == 0
    rig.worker.executor_lost(1)
    assert rig.worker.view().checked == 3
    assert rig.credits() > 0


def test_a_check_that_never_ends_is_found_although_nothing_is_in_hand() -> None:
    rig = Watched()
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.worker.desire([], check=3)
    rig.pass_time(LIMIT + 1)
    assert rig.killed()
    rig.replace_process()
    # The process that owed the answer has gone; the next one shows its models' soundness when it loads them.
    assert rig.worker.view().checked == 3


def test_a_check_does_not_wait_for_a_model_that_is_offered_no_more() -> None:
    rig = Watched(executors=2)
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.worker.loaded(1, "texts", ports.Facts(0.1))
    rig.worker.desire([], check=3)
    rig.worker.checked(0, "texts")
    rig.worker.unavailable(1, "texts", "Its files have changed.")
    assert rig.worker.view().checked == 3

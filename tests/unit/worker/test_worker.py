"""The worker's use cases with executors, a way out and a clock in the test's memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from podium_runtime.clock import FakeClock
from podium_worker.app import ports
from podium_worker.app.worker import Worker
from podium_worker.domain import credits, devices, health, leases, residency


class FakeExecutor:
    """Writes down what it is told."""

    def __init__(self, index: int = 0) -> None:
        self.device = devices.Device(index, "cpu", "CPU")
        self.up = True
        self.said: list[tuple[str, str]] = []
        self.budgets: list[int] = []
        self.alone: list[str] = []
        """Batches that were to have no company."""

    def know(self, workload: ports.Workload, *, load_now: bool, budget: int = 0) -> None:
        self.said.append(("load" if load_now else "know", workload.name))
        self.budgets.append(budget)

    def unload(self, workload: str) -> None:
        self.said.append(("unload", workload))

    def assign(self, assignment: ports.Assignment, max_chunk_bytes: int, taken: ports.Taken | None = None) -> None:
        self.said.append(("assign", assignment.lease.key))
        self.alone += [assignment.lease.key] if assignment.alone else []

    def cancel(self, key: str) -> None:
        self.said.append(("cancel", key))

    def embed(self, key: str, call: ports.Call, left_s: float, taken: ports.Taken | None = None) -> None:
        self.said.append(("embed", key))

    def drop_embed(self, key: str) -> None:
        self.said.append(("drop_embed", key))

    def check(self, workload: str) -> None:
        self.said.append(("check", workload))

    def kill(self) -> None:
        self.up = False
        self.said.append(("kill", ""))


class FakeOutbox:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.failures: list[tuple[leases.Lease, ports.Failure]] = []
        self.urged: list[bytes] = []
        self.call_failures: list[tuple[int, ports.CallFailure]] = []

    def frames(self, serialized: Sequence[bytes]) -> None:
        self.sent += serialized

    def failed(self, lease: leases.Lease, failure: ports.Failure) -> None:
        self.failures.append((lease, failure))

    def urgent(self, serialized: bytes) -> None:
        self.urged.append(serialized)

    def embed_failed(self, call_id: int, failure: ports.CallFailure) -> None:
        self.call_failures.append((call_id, failure))


class Deaf:
    """Counts nothing."""

    def batch_done(self, workload: str, items: int, result: ports.Result) -> None: ...
    def batch_acknowledged(self, workload: str, ack_s: float) -> None: ...
    def batch_failed(self, workload: str, failure: ports.Failure) -> None: ...
    def call_done(self, workload: str, items: int, seconds: float) -> None: ...
    def model_loaded(self, workload: str, seconds: float) -> None: ...
    def model_unavailable(self, workload: str) -> None: ...
    def items_computed(self, workload: str, items: int) -> None: ...
    def batch_dropped(self, workload: str) -> None: ...
    def executor_lost(self, device: int, *, hung: bool) -> None: ...
    def canary(self, workload: str, *, passed: bool) -> None: ...
    def model_unloaded(self, workload: str) -> None: ...
    def device_read(self, reading: health.Reading) -> None: ...


WORKLOAD = ports.Workload("texts", devices.Needs("hash"), dimension=4, spec=b"spec")


PICKY = ports.Workload("picky", devices.Needs("hash", min_compute_capability="8.0"), dimension=4, spec=b"spec")


class Rig:
    """A worker that has been welcomed."""

    def __init__(self, executors: int = 1) -> None:
        self.clock = FakeClock()
        self.outbox = FakeOutbox()
        self.executors = [FakeExecutor(index) for index in range(executors)]
        self.worker = Worker(self.outbox, Deaf(), self.clock, limits=credits.Limits(), backends=["hash"])
        self.worker.attach(self.executors)
        for index in range(executors):
            self.worker.executor_up(index)
            self.worker.executor_ready(index)
        self.worker.welcome([WORKLOAD], [], 1 << 20)

    def assign(self, number: int, workload: str = "texts") -> leases.Lease:
        lease = leases.Lease(number, bytes([number]) * 16, 1)
        self.worker.assign(ports.Assignment(lease, workload, 10, b"body"))
        return lease

    def finish(self, lease: leases.Lease, *, compute_s: float = 0.1) -> None:
        frames = [b"chunk", b"done"]
        self.worker.finished(0, lease.key, ports.Result(frames, "texts", 10, 0, 0, 50, 0.0, 0.0, compute_s, 0.0))

    def credits(self) -> int:
        return self.worker.view().offers[0].credits


def test_a_result_is_sent_kept_and_forgotten_after_its_ack() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.worker.computing(0, lease.key)
    assert rig.worker.view().devices[0].state == "BUSY"
    rig.finish(lease)
    assert rig.outbox.sent == [b"chunk", b"done"]
    assert rig.worker.in_hand() == (lease,)
    rig.worker.acknowledge(lease)
    assert rig.worker.in_hand() == ()
    assert rig.worker.emptied.is_set()


def test_a_crash_blames_what_was_computed_and_hands_back_the_rest() -> None:
    rig = Rig()
    computed, waiting, finished = rig.assign(1), rig.assign(2), rig.assign(3)
    rig.worker.computing(0, computed.key)
    rig.finish(finished)
    rig.executors[0].up = False
    rig.worker.executor_lost(0)
    told = {lease.batch_id: failure for lease, failure in rig.outbox.failures}
    assert (told[computed.batch_id].reason, told[computed.batch_id].handed_back) == ("EXECUTOR_CRASHED", False)
    assert told[waiting.batch_id].handed_back
    assert rig.worker.in_hand() == (finished,)
    assert rig.credits() == 0


def test_a_welcome_sends_again_what_is_resumed_and_drops_the_rest() -> None:
    rig = Rig()
    finished, running, lost = rig.assign(1), rig.assign(2), rig.assign(3)
    rig.finish(finished)
    rig.outbox.sent.clear()
    rig.worker.welcome([WORKLOAD], [finished, running], 1 << 20)
    assert rig.outbox.sent == [b"chunk", b"done"]
    assert rig.worker.in_hand() == (finished, running)
    assert ("cancel", lost.key) in rig.executors[0].said


@pytest.mark.parametrize("how", ["the leases were dropped", "the executor died"])
def test_what_is_resumed_and_not_here_any_more_is_handed_back(how: str) -> None:
    rig = Rig()
    told_in_hello = rig.assign(1), rig.assign(2)
    rig.worker.computing(0, told_in_hello[0].key)
    if how == "the leases were dropped":
        rig.worker.fence()
    else:
        rig.worker.executor_lost(0)
    rig.outbox.failures.clear()
    rig.worker.welcome([WORKLOAD], told_in_hello, 1 << 20)
    assert [(lease, failure.handed_back) for lease, failure in rig.outbox.failures] == [
        (lease, True) for lease in told_in_hello
    ]


def test_fencing_drops_everything() -> None:
    rig = Rig()
    rig.finish(rig.assign(1))
    rig.assign(2)
    rig.worker.fence()
    assert rig.worker.in_hand() == ()


def test_batches_are_spread_over_the_devices() -> None:
    rig = Rig(executors=2)
    for number in range(1, 5):
        rig.assign(number)
    counts = [sum(kind == "assign" for kind, _ in executor.said) for executor in rig.executors]
    assert counts == [2, 2]
    assert rig.credits() == 4


def test_a_draining_worker_offers_nothing_and_takes_nothing() -> None:
    rig = Rig()
    kept = rig.assign(1)
    rig.worker.begin_drain()
    assert rig.credits() == 0
    late = rig.assign(2)
    assert rig.outbox.failures == [(late, ports.Failure("WORKER_LOST", "This worker is draining.", handed_back=True))]
    rig.worker.end_drain()
    assert rig.outbox.failures[-1][0] == kept and rig.outbox.failures[-1][1].handed_back


def test_a_missing_model_is_tried_again_later() -> None:
    rig = Rig()
    rig.worker.unavailable(0, "texts", "No such folder.")
    assert rig.worker.view().offers[0].unavailable == "No such folder."
    assert rig.credits() == 0
    lease = rig.assign(1)
    assert rig.outbox.failures[0][0] == lease
    assert rig.outbox.failures[0][1].reason == "MODEL_UNAVAILABLE"
    rig.clock.advance(299)
    rig.worker.tick(0.5)
    assert ("load", "texts") not in rig.executors[0].said
    rig.clock.advance(2)
    rig.worker.tick(0.5)
    assert ("load", "texts") in rig.executors[0].said
    rig.worker.loaded(0, "texts", ports.Facts(1.5))
    assert rig.credits() == 2
    assert rig.worker.view().offers[0].load_s == 1.5


def test_desired_models_are_loaded_ahead_and_after_a_respawn() -> None:
    rig = Rig()
    rig.worker.desire(["texts", "unknown"])
    assert rig.executors[0].said.count(("load", "texts")) == 1
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    rig.worker.desire(["texts"])
    assert rig.executors[0].said.count(("load", "texts")) == 1
    rig.worker.executor_lost(0)
    rig.worker.executor_up(0)
    assert rig.executors[0].said[-1] == ("load", "texts")


def test_credits_follow_the_measured_batch_time() -> None:
    rig = Rig()
    assert rig.credits() == 2
    lease = rig.assign(1)
    rig.finish(lease, compute_s=0.05)
    rig.worker.acknowledge(lease)
    assert rig.credits() == 11
    assert rig.worker.view().offers[0].items_per_s == pytest.approx(200)


def test_only_what_matters_wakes_the_heartbeat() -> None:
    rig = Rig()
    rig.worker.changed.clear()
    lease = rig.assign(1)
    rig.worker.preparing(0, lease.key)
    rig.worker.computing(0, lease.key)
    assert not rig.worker.changed.is_set()
    rig.worker.begin_drain()
    assert rig.worker.changed.is_set()


def test_a_crash_loop_is_told_as_a_fault_and_slowed_down() -> None:
    rig = Rig()
    for deaths in range(1, 6):
        rig.worker.executor_up(0)
        assert rig.worker.executor_lost(0) == deaths
    assert rig.worker.view().devices[0].state == "FAULTED"


def test_a_bisection_is_no_fault_but_what_never_ends_is() -> None:
    rig = Rig()

    def die_of(number: int) -> int:
        rig.worker.executor_up(0)
        rig.worker.executor_ready(0)
        rig.worker.computing(0, rig.assign(number).key)
        return rig.worker.executor_lost(0)

    assert [die_of(number) for number in range(12)] == [1] * 12
    assert rig.worker.view().devices[0].state != "FAULTED"
    assert [die_of(number) for number in range(12, 17)] == [1, 2, 3, 4, 5]
    assert rig.worker.view().devices[0].state == "FAULTED"
    rig.worker.executor_up(0)
    rig.worker.executor_ready(0)
    rig.finish(rig.assign(17))
    assert rig.worker.view().devices[0].state != "FAULTED"
    assert die_of(18) == 1


def test_a_batch_that_waited_for_a_model_is_not_to_blame_for_its_load() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.worker.preparing(0, lease.key)
    rig.worker.loading(0, "texts")
    rig.worker.executor_lost(0)
    ((told, failure),) = rig.outbox.failures
    assert (told, failure.reason, failure.handed_back) == (lease, "MODEL_UNAVAILABLE", False)


def test_a_model_that_one_device_cannot_load_is_served_by_its_sibling_and_tried_again_later() -> None:
    rig = Rig(executors=2)
    rig.worker.loaded(1, "texts", ports.Facts(0.1))
    rig.worker.unavailable(0, "texts", "There is no memory left on the device.")
    assert rig.worker.view().offers[0].unavailable == ""
    assert rig.credits() == credits.Limits().minimum
    for number in (1, 2, 3):
        lease = rig.assign(number)
        assert rig.executors[1].said[-1] == ("assign", lease.key)
    rig.worker.desire(["texts"])
    rig.worker.executor_lost(0)
    rig.worker.executor_up(0)
    rig.worker.executor_ready(0)
    assert ("load", "texts") not in rig.executors[0].said
    rig.clock.advance(301)
    rig.worker.tick(0.5)
    assert ("load", "texts") in rig.executors[0].said
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    assert rig.credits() == 2 * credits.Limits().minimum


def test_a_model_that_no_device_can_load_is_offered_no_more() -> None:
    rig = Rig(executors=2)
    for device in (0, 1):
        rig.worker.unavailable(device, "texts", f"No memory on device {device}.")
    assert rig.worker.view().offers[0].unavailable == "No memory on device 1."
    assert rig.credits() == 0
    rig.worker.loaded(0, "texts", ports.Facts(0.1))
    assert rig.credits() == credits.Limits().minimum


def test_what_a_device_can_serve_is_judged_anew_once_it_is_known() -> None:
    rig = Rig()
    unknown = devices.Device(0, "", "", torch_name="cuda:0", trouble="The driver cannot reach it.")
    for device, reason in (
        (unknown, ""),
        (devices.Device(0, "GPU-0", "T4", 16, "7.5", "cuda:0"), "No device here has compute capability 8.0."),
        (devices.Device(0, "GPU-0", "L4", 24, "8.9", "cuda:0"), ""),
    ):
        rig.executors[0].device = device
        rig.worker.identified(0, residency.Capacity(device.vram_bytes, device.vram_bytes))
        rig.worker.welcome([PICKY], [], 1 << 20)
        assert rig.worker.view().offers[0].unavailable == reason

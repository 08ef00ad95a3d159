"""The worker's devices with bounded memory: who is loaded where, and who makes room."""

from __future__ import annotations

from podium_runtime.clock import FakeClock
from podium_worker.app import ports
from podium_worker.app.worker import Worker
from podium_worker.domain import credits, devices, health, leases, residency
from tests.unit.worker.test_worker import Deaf, FakeExecutor, FakeOutbox

A, B, C = (
    ports.Workload(name, devices.Needs("hash", vram_bytes=6), dimension=4, spec=name.encode())
    for name in ("a", "b", "c")
)


class Rig:
    """A worker whose devices hold one model each."""

    def __init__(self, executors: int = 1, capacity: int = 10) -> None:
        self.clock = FakeClock()
        self.outbox = FakeOutbox()
        self.executors = [FakeExecutor(index) for index in range(executors)]
        self.worker = Worker(self.outbox, Deaf(), self.clock, limits=credits.Limits(), backends=["hash"])
        self.worker.attach(self.executors, dict.fromkeys(range(executors), residency.Capacity(capacity, capacity)))
        for index in range(executors):
            self.worker.executor_up(index)
            self.worker.executor_ready(index)
        self.worker.welcome([A, B, C], [], 1 << 20)
        self._number = 0
        for executor in self.executors:
            executor.said.clear()

    def loaded(self, workload: str, device: int = 0, *, seconds: float = 1.0, budget: int = 0) -> None:
        self.worker.loading(device, workload)
        self.worker.loaded(device, workload, ports.Facts(seconds, memory_bytes=6, budget=budget))

    def assign(self, workload: str) -> leases.Lease:
        self._number += 1
        lease = leases.Lease(self._number, bytes([self._number]) * 16, 1)
        self.worker.assign(ports.Assignment(lease, workload, 10, b"body"))
        return lease

    def finish(self, lease: leases.Lease, workload: str, device: int = 0) -> None:
        self.worker.computing(device, lease.key)
        self.worker.finished(device, lease.key, ports.Result([b"done"], workload, 10, 0, 0, 50, 0.0, 0.0, 0.1, 0.0))

    def credits(self) -> dict[str, int]:
        return {offer.workload: offer.credits for offer in self.worker.view().offers}

    def up(self) -> bool:
        return self.executors[0].up

    def said(self, device: int = 0) -> list[tuple[str, str]]:
        said, self.executors[device].said = self.executors[device].said, []
        return said


def test_what_does_not_fit_is_offered_once_the_other_is_idle() -> None:
    rig = Rig()
    assert all(rig.credits().values())
    lease = rig.assign("a")
    assert rig.credits() == {"a": 2, "b": 0, "c": 0}
    rig.loaded("a")
    rig.finish(lease, "a")
    assert rig.credits()["b"] == 0
    rig.clock.advance(residency.IDLE_S)
    assert rig.credits()["b"] > 0


def test_a_batch_of_another_workload_evicts_what_is_idle_before_it_is_given() -> None:
    rig = Rig()
    rig.loaded("a")
    rig.clock.advance(residency.IDLE_S)
    lease = rig.assign("b")
    assert rig.said() == [("unload", "a"), ("assign", lease.key)]
    assert tuple(rig.worker.view().devices[0].resident) == ()


def test_what_is_wanted_is_loaded_in_order_until_the_device_is_full() -> None:
    rig = Rig(capacity=12)
    rig.worker.desire(["b", "a", "c"])
    assert rig.said() == [("load", "b"), ("load", "a")]


def test_a_wanted_model_replaces_one_that_nobody_wants_at_once() -> None:
    rig = Rig()
    rig.loaded("a")
    rig.worker.desire(["b"])
    assert rig.said() == [("unload", "a"), ("load", "b")]


def test_what_is_in_the_way_of_a_wanted_model_gets_no_more_batches_and_then_goes() -> None:
    rig = Rig()
    rig.loaded("a")
    lease = rig.assign("a")
    rig.said()
    rig.worker.desire(["b"])
    assert rig.said() == []
    assert rig.credits()["a"] == 0
    rig.finish(lease, "a")
    rig.worker.acknowledge(lease)
    rig.worker.tick(0.5)
    assert rig.said() == [("unload", "a"), ("load", "b")]


def test_of_two_wanted_models_each_device_gets_one() -> None:
    rig = Rig(executors=2)
    rig.worker.desire(["a", "b"])
    assert (rig.said(0), rig.said(1)) == ([("load", "a")], [("load", "b")])


def test_a_second_copy_makes_room_for_a_wanted_model_that_is_nowhere() -> None:
    rig = Rig(executors=2)
    rig.loaded("a", 0)
    rig.loaded("a", 1)
    rig.worker.desire(["a", "b"])
    said = [rig.said(0), rig.said(1)]
    assert sorted(said) == [[], [("unload", "a"), ("load", "b")]]


def test_batches_that_come_together_throw_out_nothing_that_is_wanted() -> None:
    rig = Rig(executors=2)
    rig.worker.desire(["a", "b"])
    rig.loaded("a", 0)
    rig.loaded("b", 1)
    leases_of_a = [rig.assign("a"), rig.assign("a")]
    assert rig.credits() == {"a": 2, "b": 2, "c": 0}
    assert rig.said(0) == [("load", "a"), *(("assign", lease.key) for lease in leases_of_a)]
    assert rig.said(1) == [("load", "b")]


def test_a_copy_takes_the_place_of_what_nobody_wants() -> None:
    rig = Rig(executors=2)
    rig.loaded("a", 0)
    rig.loaded("b", 1)
    rig.worker.desire(["a"])
    rig.assign("a")
    lease = rig.assign("a")
    assert rig.said(1) == [("unload", "b"), ("assign", lease.key)]


def test_a_wanted_model_goes_where_an_unwanted_one_is_in_its_way() -> None:
    """Not where there is most room: `a` would have to be loaded again elsewhere."""
    rig = Rig(executors=2)
    rig.worker.attach(rig.executors, {0: residency.Capacity(11, 11), 1: residency.Capacity(10, 10)})
    for index in (0, 1):
        rig.worker.executor_ready(index)
    rig.loaded("a", 0)
    rig.loaded("b", 1)
    lease = rig.assign("b")
    rig.said(1)
    rig.worker.desire(["c", "a"])
    assert rig.credits() == {"a": 2, "b": 0, "c": 0}
    rig.finish(lease, "b", 1)
    rig.worker.tick(0.5)
    assert (rig.said(0), rig.said(1)) == ([], [("unload", "b"), ("load", "c")])


def test_a_fresh_process_loads_first_what_no_other_device_holds() -> None:
    rig = Rig(executors=2)
    rig.worker.desire(["a", "b"])
    rig.loaded("a", 0)
    rig.loaded("b", 1)
    rig.said(1)
    rig.worker.executor_lost(1)
    rig.worker.executor_up(1)
    assert [what for what in rig.said(1) if what[0] == "load"] == [("load", "b")]


def test_memory_that_a_process_keeps_ends_it_when_it_has_no_batch() -> None:
    rig = Rig()
    rig.loaded("a")
    lease = rig.assign("a")
    rig.worker.unloaded(0, "c", 1 << 30)
    assert rig.up()
    assert rig.credits() == {"a": 0, "b": 0, "c": 0}
    rig.finish(lease, "a")
    assert not rig.up()
    assert rig.worker.executor_lost(0) == 1
    assert rig.worker.view().devices[0].state == "BOOTING"
    assert [f for _, f in rig.outbox.failures] == []


def test_a_little_that_a_process_keeps_is_no_reason() -> None:
    rig = Rig()
    rig.worker.unloaded(0, "a", 1 << 20)
    assert rig.up()


def test_a_smaller_budget_is_remembered_over_the_life_of_the_process() -> None:
    rig = Rig()
    rig.worker.desire(["a"])
    rig.loaded("a")
    rig.worker.budget(0, "a", 512)
    assert rig.worker.view().devices[0].resident["a"].budget == 512
    rig.worker.executor_lost(0)
    rig.executors[0].budgets.clear()
    rig.worker.executor_up(0)
    assert rig.executors[0].budgets == [512, 0, 0]


def test_what_was_measured_beside_a_neighbour_is_measured_anew_when_it_has_gone() -> None:
    rig = Rig(capacity=12)
    rig.worker.desire(["a", "b"])
    rig.loaded("a", budget=4096)
    rig.loaded("b", budget=8)
    rig.worker.budget(0, "a", 512)
    assert _next_budgets(rig) == {"a": 512, "b": 8, "c": 0}, "of a process that only died"
    rig.loaded("a", budget=512)
    rig.loaded("b", budget=8)
    rig.said()
    rig.worker.desire(["c"])
    assert rig.said() == [("unload", "a"), ("load", "c")]
    rig.loaded("c", budget=4096)
    assert _next_budgets(rig) == {"a": 512, "b": 0, "c": 4096}


def _next_budgets(rig: Rig) -> dict[str, int]:
    """What the device's next process is told about each workload."""
    rig.said()
    rig.executors[0].budgets.clear()
    rig.worker.executor_lost(0)
    rig.worker.executor_up(0)
    return dict(zip((name for _, name in rig.said()), rig.executors[0].budgets, strict=True))


READING = health.Reading(index=0, uuid="GPU-0")


def test_a_device_out_of_order_loses_its_batches_and_its_sibling_goes_on() -> None:
    rig = Rig(executors=2, capacity=0)
    first, second = rig.assign("a"), rig.assign("a")
    sick = health.Verdict(health.Health.FAULTED, "XID 79: the GPU has fallen off the bus.", xids=(79,))
    rig.worker.device_read(0, READING, sick)
    assert [(lease, failure.handed_back) for lease, failure in rig.outbox.failures] == [(first, True)]
    assert rig.worker.in_hand() == (second,)
    shown = rig.worker.view().devices[0]
    assert (shown.state, shown.reason, shown.xids) == ("FAULTED", sick.reason, (79,))
    rig.worker.executor_lost(0)
    rig.executors[0].up = True
    rig.worker.executor_up(0)
    rig.worker.executor_ready(0)
    third = rig.assign("a")
    assert ("assign", third.key) in rig.said(1)


def test_a_device_that_is_well_again_loads_what_is_wanted() -> None:
    rig = Rig()
    rig.worker.desire(["a"])
    rig.loaded("a")
    rig.said()
    rig.worker.device_read(0, READING, health.Verdict(health.Health.FAULTED, "lost"))
    rig.worker.executor_lost(0)
    rig.executors[0].up = True
    rig.worker.executor_up(0)
    rig.worker.executor_ready(0)
    assert ("load", "a") not in rig.said()
    assert set(rig.credits().values()) == {0}
    rig.worker.device_read(0, READING, health.Verdict())
    assert ("load", "a") in rig.said()
    assert rig.credits()["a"] > 0


def test_a_hot_device_finishes_what_it_has_and_gets_no_more() -> None:
    rig = Rig()
    rig.loaded("a")
    lease = rig.assign("a")
    rig.worker.device_read(0, READING, health.Verdict(health.Health.COOLING, "95 degrees"))
    assert rig.worker.view().devices[0].state == "COOLING"
    assert rig.credits()["a"] == 0
    assert rig.up()
    rig.finish(lease, "a")
    assert rig.outbox.sent == [b"done"]
    rig.worker.device_read(0, READING, health.Verdict())
    assert rig.credits()["a"] > 0


def test_two_workloads_in_turn_are_swapped_by_the_wish_and_not_by_each_batch() -> None:
    rig = Rig()
    rig.loaded("a")
    for _ in range(3):
        for name, other in (("b", "a"), ("a", "b")):
            rig.worker.desire([name, other])
            assert rig.said() == [("unload", other), ("load", name)]
            rig.loaded(name)
            lease = rig.assign(name)
            assert rig.credits()[other] == 0
            rig.finish(lease, name)
            rig.worker.acknowledge(lease)
            rig.said()

"""Image batches in the worker's hand: taken in by the front, then given to an executor."""

from __future__ import annotations

from collections.abc import Callable

from podium_runtime.clock import FakeClock
from podium_worker.app import ports
from podium_worker.app.worker import Worker
from podium_worker.domain import credits, devices, leases, pictures
from tests.unit.worker.test_worker import Deaf, FakeExecutor, FakeOutbox

PICTURE = pictures.Picture(8, 8, 8)
FACTS = ports.Facts(0.1, picture=PICTURE)
IMAGES = ports.Workload(
    "images", devices.Needs("hash"), dimension=4, spec=b"spec", max_image_bytes=1000, max_image_pixels=2000
)


class FakeIntake:
    """Ends an intake when the test says so."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[Callable[[str, ports.Taken], None], Callable[[str, str, str], None]]] = {}
        self.bodies: list[bytes] = []
        self.urgent: list[bool] = []
        self.dropped: list[str] = []

    def begin(
        self, key: str, body: bytes, picture: pictures.Picture, *, max_pixels: int, max_bytes: int,
        done: Callable[[str, ports.Taken], None], failed: Callable[[str, str, str], None], urgent: bool = False,
    ) -> None:  # fmt: skip
        assert (picture, max_pixels, max_bytes) == (PICTURE, 2000, 1000)
        self.bodies.append(body)
        self.urgent.append(urgent)
        self.begun[key] = done, failed

    def drop(self, key: str) -> None:
        self.dropped.append(key)

    def finish(self, lease: leases.Lease) -> None:
        self.begun.pop(lease.key)[0](lease.key, ports.Taken(b"keys", PICTURE, 0, 192, (), 0.5, 100))

    def fail(self, lease: leases.Lease, reason: str) -> None:
        self.begun.pop(lease.key)[1](lease.key, reason, "No.")


class Rig:
    def __init__(self, executors: int = 1, *, loaded: bool = True) -> None:
        self.clock, self.outbox, self.intake = FakeClock(), FakeOutbox(), FakeIntake()
        self.executors = [FakeExecutor(index) for index in range(executors)]
        self.worker = Worker(
            self.outbox, Deaf(), self.clock, limits=credits.Limits(), backends=["hash"], intake=self.intake
        )
        self.worker.attach(self.executors)
        for index in range(executors):
            self.worker.executor_up(index)
            self.worker.executor_ready(index)
        self.worker.welcome([IMAGES], [], 1 << 20)
        if loaded:
            for index in range(executors):
                self.worker.loading(index, "images")
                self.worker.loaded(index, "images", FACTS)
        for executor in self.executors:
            executor.said.clear()

    def assign(self, number: int) -> leases.Lease:
        lease = leases.Lease(number, bytes([number]) * 16, 1)
        self.worker.assign(ports.Assignment(lease, "images", 10, b"body", images=True))
        return lease

    def die(self) -> None:
        self.executors[0].up = False
        self.worker.executor_lost(0)

    def told(self) -> list[tuple[int, str, bool]]:
        return [(lease.batch_id, failure.reason, failure.handed_back) for lease, failure in self.outbox.failures]


def test_an_executor_gets_an_image_batch_when_its_pictures_are_there_and_they_go_with_it() -> None:
    rig = Rig()
    lease = rig.assign(1)
    assert rig.executors[0].said == []
    rig.intake.finish(lease)
    assert rig.executors[0].said == [("assign", lease.key)]
    assert rig.intake.dropped == []
    rig.worker.finished(0, lease.key, ports.Result([b"done"], "images", 10, 0, 0, 0, 0.0, 0.0, 0.1, 0.0, fetch_s=0.5))
    assert rig.intake.dropped == [lease.key]


def test_nothing_is_fetched_before_it_is_known_what_the_model_looks_at() -> None:
    rig = Rig(loaded=False)
    lease = rig.assign(1)
    assert rig.executors[0].said == [("load", "images")]
    assert rig.intake.bodies == []
    rig.worker.loading(0, "images")
    rig.worker.loaded(0, "images", FACTS)
    assert rig.intake.bodies == [b"body"]
    rig.intake.finish(lease)
    assert rig.executors[0].said[-1] == ("assign", lease.key)


def test_a_model_that_cannot_be_loaded_fails_what_waited_for_it() -> None:
    rig = Rig(loaded=False)
    rig.assign(1)
    rig.worker.unavailable(0, "images", "no files")
    assert rig.told() == [(1, "MODEL_UNAVAILABLE", False)]


def test_a_sibling_that_can_load_the_model_takes_over_what_waited_for_it() -> None:
    rig = Rig(executors=2, loaded=False)
    lease = rig.assign(1)
    rig.worker.unavailable(0, "images", "no memory")
    assert rig.told() == []
    assert rig.executors[1].said == [("load", "images")]
    rig.worker.loaded(1, "images", FACTS)
    rig.intake.finish(lease)
    assert rig.executors[1].said[-1] == ("assign", lease.key)


def test_an_executor_that_dies_while_images_are_fetched_costs_nothing() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.executors[0].up = False
    rig.worker.executor_lost(0)
    assert rig.told() == []
    rig.executors[0].up = True
    rig.worker.executor_up(0)
    rig.intake.finish(lease)
    assert rig.executors[0].said[-1] == ("assign", lease.key)


def test_an_executor_that_dies_while_it_loads_the_model_fails_what_waited_for_it() -> None:
    rig = Rig(loaded=False)
    rig.assign(1)
    rig.worker.loading(0, "images")
    rig.executors[0].up = False
    rig.worker.executor_lost(0)
    assert rig.told() == [(1, "MODEL_UNAVAILABLE", False)]


def test_a_model_that_is_awaited_is_loaded_again_by_the_next_process() -> None:
    rig = Rig(loaded=False)
    rig.assign(1)
    rig.executors[0].up = False
    rig.worker.executor_lost(0)
    rig.executors[0].up = True
    rig.executors[0].said.clear()
    rig.worker.executor_up(0)
    assert rig.executors[0].said == [("load", "images")]


def test_pictures_that_are_there_before_the_next_process_wait_for_it() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.die()
    rig.executors[0].said.clear()
    rig.intake.finish(lease)
    rig.worker.tick(0.5)
    assert (rig.told(), rig.intake.dropped, rig.executors[0].said) == ([], [], [])
    rig.executors[0].up = True
    rig.worker.executor_up(0)
    assert rig.executors[0].said == [("know", "images"), ("assign", lease.key)]
    rig.worker.tick(0.5)
    assert rig.executors[0].said.count(("assign", lease.key)) == 1


def test_pictures_that_are_there_before_the_next_process_go_to_a_sibling_that_has_room() -> None:
    rig = Rig(executors=2)
    lease = rig.assign(1)
    rig.die()
    rig.intake.finish(lease)
    assert rig.executors[1].said == [("assign", lease.key)]


def test_a_call_that_kills_the_executor_costs_no_fetch_either() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.worker.calls.begun(0, ["call-1"])
    rig.die()
    rig.intake.finish(lease)
    rig.executors[0].up = True
    rig.worker.executor_up(0)
    assert (rig.told(), rig.executors[0].said[-1]) == ([], ("assign", lease.key))


def test_pictures_for_which_no_process_is_to_come_are_handed_back() -> None:
    rig = Rig()
    first, second = rig.assign(1), rig.assign(2)
    rig.die()
    rig.intake.finish(first)
    while not rig.worker.view().devices[0].state == "FAULTED":
        rig.executors[0].up = False
        rig.worker.executor_lost(0)
    rig.worker.tick(0.5)
    rig.intake.finish(second)
    assert rig.told() == [(1, "WORKER_LOST", True), (2, "WORKER_LOST", True)]
    assert rig.intake.dropped == [first.key, second.key]


def test_pictures_do_not_wait_for_ever_for_a_process_that_does_not_come() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.die()
    rig.intake.finish(lease)
    rig.clock.advance(59.0)
    rig.worker.tick(0.5)
    assert rig.told() == []
    rig.clock.advance(1.0)
    rig.worker.tick(0.5)
    assert rig.told() == [(1, "WORKER_LOST", True)]
    assert rig.intake.dropped == [lease.key]


def test_kept_pictures_of_a_cancelled_batch_are_given_back() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.die()
    rig.intake.finish(lease)
    rig.worker.cancel(lease)
    assert rig.intake.dropped == [lease.key]
    rig.executors[0].up = True
    rig.executors[0].said.clear()
    rig.worker.executor_up(0)
    assert rig.executors[0].said == [("know", "images")]


def test_a_cancelled_intake_ends_and_its_late_pictures_are_given_back() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.worker.cancel(lease)
    assert rig.intake.dropped == [lease.key]
    assert rig.executors[0].said == []
    rig.intake.finish(lease)
    assert rig.intake.dropped == [lease.key, lease.key]
    assert rig.executors[0].said == []


def test_an_unreadable_batch_is_no_candidate_for_another_try() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.intake.fail(lease, "BAD_PAYLOAD")
    ((_, failure),) = rig.outbox.failures
    assert (failure.reason, failure.retryable) == ("BAD_PAYLOAD", False)


def test_slow_fetching_does_not_make_an_executor_look_stuck() -> None:
    rig = Rig()
    rig.assign(1)
    for _ in range(1000):
        rig.worker.tick(0.5)
    assert rig.executors[0].up


def test_the_drain_hands_back_what_is_still_fetched() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.worker.begin_drain()
    rig.worker.end_drain()
    assert rig.told() == [(1, "WORKER_LOST", True)]
    assert rig.intake.dropped == [lease.key]


def test_time_spent_fetching_asks_for_more_batches_in_hand() -> None:
    rig = Rig()
    lease = rig.assign(1)
    rig.intake.finish(lease)
    rig.worker.finished(0, lease.key, ports.Result([b"done"], "images", 10, 0, 0, 0, 0.0, 0.0, 0.5, 0.0, fetch_s=4.0))
    rig.worker.acknowledge(lease)
    assert rig.worker.view().offers[0].credits == 10

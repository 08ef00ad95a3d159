"""The placer between a ledger in memory and sessions that are told: what it makes of Status frames and of time."""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, errors
from podium_scheduler.app import desires, placer, records, wakers, worker_sessions
from podium_scheduler.domain import placement

GB = 1 << 30


def workload(name: str, backend: str = "open_clip", vram: int = 4 * GB, capability: str = "") -> workload_pb2.Workload:
    return workload_pb2.Workload(
        name=name,
        model=workload_pb2.ModelSpec(backend=backend),
        needs=workload_pb2.DeviceNeeds(vram_bytes=vram, min_compute_capability=capability),
    )


class World:
    """The ledger, the other replicas and the lead."""

    leads = True

    def __init__(self) -> None:
        self.todo: list[records.WorkloadWork] = []
        self.opened: list[records.PlacedSession] = []
        self.known: list[records.MeasuredLoad] = []
        self.written: list[dict[uuid.UUID, list[str]]] = []
        self.told: list[tuple[str, dict[str, object]]] = []
        self.away = False
        self.asked: list[records.InteractiveDemand] = []

    async def work(self) -> list[records.WorkloadWork]:
        if self.away:
            raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")
        return self.todo

    async def recent(self) -> list[records.InteractiveDemand]:
        return self.asked

    async def placed(self) -> list[records.PlacedSession]:
        return self.opened

    async def loads(self, workload: str = "") -> list[records.MeasuredLoad]:
        return self.known

    async def want(self, wanted: Mapping[uuid.UUID, Sequence[str]]) -> None:
        self.written.append({key: list(names) for key, names in wanted.items()})
        self.opened = [
            dataclasses.replace(s, wanted=wanted[s.session_id]) if s.session_id in wanted else s for s in self.opened
        ]

    async def replicas(self, kind: str, **fields: object) -> None:
        self.told.append((kind, fields))


class Rig:
    def __init__(self, *workloads: workload_pb2.Workload) -> None:
        self.world = World()
        self.time = clock.FakeClock()
        self.sessions = worker_sessions.SessionRegistry()
        world: Any = self.world
        self.wakers = wakers.Wakers(world, world)
        self.desires = desires.Desires(self.sessions, world)
        known = {w.name: w for w in workloads}
        self.placer = placer.Placer(world, world, world, self.desires, self.wakers, known, self.time, world)

    def open(self, hello: worker_pb2.Hello, status: worker_pb2.Status | None = None, **changes: Any) -> uuid.UUID:
        key = uuid.uuid4()
        status = status or worker_pb2.Status()
        values: dict[str, Any] = {"drain": False, "quarantine_reason": "", "wanted": ()} | changes
        self.world.opened.append(
            records.PlacedSession(key, hello.SerializeToString(), status.SerializeToString(), **values)
        )
        return key

    def work(self, **items: int) -> None:
        self.world.todo = [records.WorkloadWork(name, count, 1.0) for name, count in items.items()]

    async def plan(self, after_s: float = 2.0) -> dict[uuid.UUID, list[str]]:
        """What is wanted after a round, of those who want anything."""
        self.time.advance(after_s)
        await self.placer.round()
        return {s.session_id: list(s.wanted) for s in self.world.opened if s.wanted}


def gpu(*indexes: int, vram: int = 6 * GB, capability: str = "8.0", **changes: Any) -> worker_pb2.Hello:
    devices = [
        worker_pb2.Device(index=n, uuid=f"GPU-{n}", name="L4", vram_bytes=vram, compute_capability=capability)
        for n in indexes
    ]
    return worker_pb2.Hello(devices=devices, **{"backends": ["open_clip"], **changes})


def status(resident: Mapping[int, Sequence[str]], **changes: Any) -> worker_pb2.Status:
    return worker_pb2.Status(
        devices=[
            worker_pb2.DeviceStatus(
                index=index,
                state=worker_pb2.DEVICE_STATE_READY,
                resident_workloads=names,
                models=[worker_pb2.ResidentModel(workload=name, memory_bytes=4 * GB) for name in names],
            )
            for index, names in resident.items()
        ],
        **changes,
    )


async def test_work_without_any_credit_finds_a_worker() -> None:
    rig = Rig(workload("a"), workload("b"))
    key = rig.open(gpu(0), status({0: ["a"]}))
    rig.work(b=10)
    assert await rig.plan() == {key: ["b"]}
    assert rig.world.told == [("desire", {"wanted": {str(key): ["b"]}})]


async def test_calls_alone_have_a_model_loaded_and_kept_for_a_while_after_the_last() -> None:
    rig = Rig(workload("clip"), workload("other"))
    worker = rig.open(gpu(0), status({0: ["clip"]}))
    rig.world.asked = [records.InteractiveDemand("clip", None, 0.0), records.InteractiveDemand("unknown", None, 0.0)]
    assert await rig.plan() == {worker: ["clip"]}
    rig.world.asked = []
    assert await rig.plan(10.0) == {worker: ["clip"]}
    assert await rig.plan(31.0) == {}


async def test_the_worker_of_a_pod_that_came_for_no_work_in_particular_loads_what_is_likely_to_be_wanted() -> None:
    rig = Rig(workload("a", vram=5 * GB), workload("b", vram=3 * GB), workload("huge", vram=90 * GB), workload("known"))
    key = rig.open(gpu(0), starts_for="")
    assert await rig.plan() == {key: ["b"]}, "the smallest that it can serve: otherwise it would never be READY"
    rig.world.known = [records.MeasuredLoad("known", "L4", 1, 4.0, 4.0, 4 * GB, rig.time.now())]
    assert await rig.plan(20.0) == {key: ["b"]}, "it is loading"
    rig.world.opened.clear()
    key = rig.open(gpu(0), starts_for="")
    assert await rig.plan() == {key: ["known"]}
    rig.work(a=10)
    assert await rig.plan() == {key: ["a"]}
    rig.world.opened.clear()
    rig.open(gpu(0), status({0: ["a"]}))
    key = rig.open(gpu(0), starts_for="")
    assert (await rig.plan())[key] == ["a"], "one has it, and that is enough for so little work"
    rig.world.opened.clear()
    rig.open(gpu(0))
    rig.work()
    assert await rig.plan(40.0) == {}, "any other is told what the plan says"


async def test_a_pod_that_came_for_no_work_in_particular_tries_another_model_when_one_does_not_load() -> None:
    rig = Rig(workload("a", vram=3 * GB), workload("b"))
    failed = worker_pb2.WorkloadStatus(workload="a", unavailable_reason="no such file")
    key = rig.open(gpu(0), status({0: []}, workloads=[failed]), starts_for="", wanted=("a",))
    assert await rig.plan() == {key: ["b"]}
    rig.work(a=10)
    assert await rig.plan() == {key: ["a", "b"]}


async def test_a_worker_here_is_told_at_once_and_only_when_something_has_changed() -> None:
    rig = Rig(workload("a"))
    key = rig.open(gpu(0))
    session = worker_sessions.Session(key, uuid.uuid4())
    rig.sessions.add(session)
    rig.work(a=10)
    for _ in range(3):
        await rig.plan()
    assert list(session.outbox.get_nowait().desired.resident_workloads) == ["a"]
    assert session.outbox.empty()
    assert rig.world.written == [{key: ["a"]}]
    assert not rig.world.told


async def test_another_replica_hears_of_its_workers() -> None:
    rig, session = Rig(), worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
    rig.sessions.add(session)
    for _ in range(2):
        rig.desires.heard({"wanted": {str(session.session_id): ["a", "b"], str(uuid.uuid4()): ["c"]}})
    assert list(session.outbox.get_nowait().desired.resident_workloads) == ["a", "b"]
    assert session.outbox.empty()


@pytest.mark.parametrize(
    ("hello", "may"),
    [
        (gpu(0), True),
        (gpu(0, backends=["hash"]), False),
        (gpu(0, workloads=["b"]), False),
        (gpu(0, workloads=["a", "b"]), True),
        (gpu(0, vram=3 * GB), False),
        (gpu(0, capability="7.5"), False),
        (gpu(0, capability="10.0"), True),
        (gpu(0, capability="x"), False),
        (gpu(0, 1, vram=0), True),
        (worker_pb2.Hello(backends=["open_clip"]), False),
    ],
)
async def test_only_who_can_serve_it_is_asked(hello: worker_pb2.Hello, may: bool) -> None:
    rig = Rig(workload("a", capability="8.0"))
    key = rig.open(hello)
    rig.work(a=10)
    assert await rig.plan() == ({key: ["a"]} if may else {})


async def test_a_worker_that_names_no_device_may_serve_what_needs_none() -> None:
    rig = Rig(workload("a", vram=0))
    key = rig.open(worker_pb2.Hello(backends=["open_clip"]))
    rig.work(a=10)
    assert await rig.plan() == {key: ["a"]}


async def test_who_takes_no_batches_is_not_counted_on() -> None:
    rig = Rig(workload("a"))
    rig.open(gpu(0), status({0: ["a"]}), drain=True)
    rig.open(gpu(0), status({0: ["a"]}), quarantine_reason="its results were refused")
    rig.open(gpu(0), status({0: ["a"]}, draining=True))
    faulted = status({0: ["a"]})
    faulted.devices[0].state = worker_pb2.DEVICE_STATE_FAULTED
    rig.open(gpu(0), faulted)
    rig.work(a=10)
    assert await rig.plan() == {}
    assert placer.UNPLACED._value.get() == 1
    key = rig.open(gpu(0))
    assert await rig.plan() == {key: ["a"]}
    assert placer.UNPLACED._value.get() == 0


async def test_a_worker_that_could_not_load_it_is_asked_after_the_others() -> None:
    rig = Rig(workload("a"))
    failed = worker_pb2.WorkloadStatus(workload="a", unavailable_reason="no files")
    one = rig.open(gpu(0), status({0: []}, workloads=[failed]))
    rig.work(a=10)
    assert await rig.plan() == {one: ["a"]}
    two = rig.open(gpu(0), status({0: []}))
    rig.world.opened = [s for s in rig.world.opened if s.session_id != one] + [
        records.PlacedSession(one, s.hello, s.status, False, "", ()) for s in rig.world.opened if s.session_id == one
    ]
    assert await rig.plan() == {two: ["a"]}


async def test_what_is_measured_decides_what_fits() -> None:
    """The registry says 4 GB for each; on an L4 they were seen to take one, so that both fit."""
    rig = Rig(workload("a"), workload("b"))
    key = rig.open(gpu(0))
    rig.work(a=10, b=10)
    assert len((await rig.plan())[key]) == 1
    rig.world.known = [records.MeasuredLoad(name, "L4", 1, 1.0, 1.0, GB, rig.time.now()) for name in ("a", "b")]
    assert sorted((await rig.plan(after_s=11.0))[key]) == ["a", "b"]


async def test_copies_follow_what_the_workers_measure() -> None:
    """100 items are a second's work for whoever does 100 in a second, and a hundred seconds' for the other."""
    rig = Rig(workload("a"), workload("b"))
    rates = [worker_pb2.WorkloadStatus(workload=name, items_per_second=rate) for name, rate in (("a", 100), ("b", 1))]
    for resident in (["a"], ["b"], []):
        rig.open(gpu(0), status({0: resident}, workloads=rates))
    rig.work(a=100, b=100)
    assert sorted((await rig.plan()).values()) == [["a"], ["b"], ["b"]]


async def test_a_rate_that_cannot_be_makes_no_work_vanish() -> None:
    rig = Rig(workload("a"))
    key = rig.open(gpu(0), status({}, workloads=[worker_pb2.WorkloadStatus(workload="a", items_per_second=math.inf)]))
    rig.work(a=1)
    assert await rig.plan() == {key: ["a"]}


async def test_it_stays_for_a_while_after_its_work() -> None:
    rig = Rig(workload("a"))
    key = rig.open(gpu(0), status({0: ["a"]}))
    rig.work(a=10)
    assert await rig.plan() == {key: ["a"]}
    rig.work()
    assert await rig.plan(after_s=20.0) == {key: ["a"]}
    assert await rig.plan(after_s=20.0) == {}


async def test_workloads_take_turns_on_one_device() -> None:
    rig = Rig(workload("a"), workload("b"))
    key = rig.open(gpu(0), status({0: ["a"]}))
    rig.work(a=100_000, b=100_000)
    turns: list[str] = []
    for _ in range(100):
        (wanted,) = (await rig.plan())[key]
        if not turns or turns[-1] != wanted:
            turns.append(wanted)
            rig.world.opened = [
                records.PlacedSession(key, gpu(0).SerializeToString(), status({0: [wanted]}).SerializeToString(),
                                      False, "", [wanted])
            ]  # fmt: skip
    assert turns[:4] == ["a", "b", "a", "b"]
    assert len(turns) <= 1 + 200 / max(placement.MIN_TURN_S, 4 * 10.0)


async def test_it_waits_while_the_ledger_is_away() -> None:
    rig = Rig(workload("a"))
    rig.world.away = True
    assert await rig.placer.run_once() > 0


async def test_a_large_fleet_is_planned_beside_the_loop() -> None:
    rig = Rig(workload("a"))
    for _ in range(40):
        rig.open(gpu(0))
    rig.work(a=10)
    assert list((await rig.plan()).values()) == [["a"]]

"""From admission straight to idle workers: when the feeder lets a job pass, and that nobody is overtaken by it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, ids
from podium_scheduler.app import (
    admission,
    assigner,
    feeder,
    feeding,
    handover,
    pressure,
    records,
    straight,
    wakers,
    worker_sessions,
)
from podium_scheduler.domain import fairness, jobs, room

W, OTHER = "a-workload", "another"
OLD = uuid.UUID(int=7)
NOTHING = feeding.Outlook([], {}, {}, [], {}, {})
SIZES = {W: room.Sizes(1, 100), OTHER: room.Sizes(1, 100)}
PLENTY = room.Memory(0, 0)


def candidate(batches: int) -> fairness.Candidate:
    return fairness.Candidate(str(OLD), "app", 3, timedelta(), batches, 10)


def waiting(batches: int, *, queued: Sequence[str] = ()) -> feeding.Outlook:
    """One job waits."""
    return feeding.Outlook([W], {W: 4}, {}, queued, {W: candidate(batches)}, {"app": 1})


class Around:
    """Postgres, Redis and the other replicas, in memory."""

    leads = True

    def __init__(self) -> None:
        self.outlook_now = NOTHING
        self.during: Callable[[], None] = lambda: None
        self.depth = 0
        self.memory = PLENTY
        self.admitted: list[int] = []
        """How many slots each admission has had."""
        self.refuses = False
        """Whether the app's quota has no room, or the request is not new."""
        self.may_admit = asyncio.Event()
        self.may_admit.set()
        self.asked = asyncio.Event()

    async def outlook(self) -> feeding.Outlook:
        self.during()
        return self.outlook_now

    async def depths_and_memory(self, workloads: Sequence[str]) -> tuple[dict[str, int], room.Memory]:
        return dict.fromkeys(workloads, self.depth), self.memory

    async def lease(self, slots: Sequence[feeding.Slot]) -> list[records.Leased]:
        return [_leased(slot, number) for number, slot in enumerate(slots)]

    async def admit(
        self, job_id: uuid.UUID, new: records.NewJob, slots: Sequence[feeding.Slot]
    ) -> tuple[records.Job, list[records.Leased]] | None:
        self.admitted.append(len(slots))
        self.asked.set()
        await self.may_admit.wait()
        if self.refuses:
            return None
        return _job(job_id, new), [_leased(slot, 100 + number) for number, slot in enumerate(slots)]

    async def feed(self, turns: Any) -> dict[uuid.UUID, list[int]]:
        return {job_id: list(range(count)) for job_id, count in turns.items()}

    async def push(self, workload: str, batch_ids: Sequence[int]) -> None: ...

    async def replicas(self, kind: str) -> None: ...

    async def job_changed(self, changes: Any) -> None: ...


def _leased(slot: feeding.Slot, number: int) -> records.Leased:
    return records.Leased(
        number, slot.lease_token, slot.session_id, 1, slot.job_id, W, 1, 0, 1, b"", 1, 0, b"", None, "", True, 0.0
    )


def _job(job_id: uuid.UUID, new: records.NewJob) -> records.Job:
    made = clock.SystemClock().now()
    return records.Job(
        job_id, new.app_id, new.request_id, b"", new.workload, 1, 3, {}, b"", jobs.State.RUNNING, 1, 1, 0, 0, 0, 0, 0,
        made, made, None, None, None, False,
    )  # fmt: skip


def new_job(batches: int, workload: str = W) -> records.NewJob:
    cut = tuple(records.NewBatch(n, 1, b"", 1) for n in range(batches))
    return records.NewJob("app", uuid.uuid4(), b"", workload, 1, 3, {}, b"", None, "", cut)


class Rig:
    """A feeder, and the way past it."""

    def __init__(self) -> None:
        self.around = Around()
        around: Any = self.around
        self.registry = worker_sessions.SessionRegistry()
        self.wakers = wakers.Wakers(around, around)
        hand_over = handover.Handover(
            self.registry, around, assigner.Assigner(self.registry), around, ids.SequentialIds(), clock.FakeClock()
        )
        self.straight = straight.Straight(hand_over, self.wakers, SIZES)
        self.feeder = feeder.Feeder(
            around, around, around, self.wakers, hand_over, self.straight, timedelta(minutes=10), SIZES
        )

    def worker(self, workload: str = W) -> worker_sessions.Session:
        session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        offer = worker_pb2.WorkloadStatus(workload=workload, credits=2)
        session.take_status(worker_pb2.Status(total_credits=2, workloads=[offer]), {workload})
        self.registry.add(session)
        return session

    async def admit(self, batches: int = 1, workload: str = W) -> int | None:
        """How many batches went straight to workers; None: the job is to be admitted as always."""
        begun = await self.straight.admit(uuid.uuid4(), new_job(batches, workload))
        return begun[1] if begun is not None else None

    async def round(self) -> None:
        self.wakers.feeder.clear()
        await self.feeder.round()


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_before_the_feeder_has_looked_nothing_goes_this_way(rig: Rig) -> None:
    rig.worker()
    assert await rig.admit() is None


async def test_where_nothing_waits_idle_workers_get_a_batch_each(rig: Rig) -> None:
    sessions = [rig.worker(), rig.worker()]
    await rig.round()
    assert await rig.admit(3) == 2
    assert [session.load for session in sessions] == [1, 1]
    # Nobody is idle any more.
    assert await rig.admit() is None


async def test_without_a_worker_that_takes_it_a_job_goes_the_ordinary_way(rig: Rig) -> None:
    rig.worker(OTHER)
    await rig.round()
    assert (await rig.admit(), await rig.admit(workload=OTHER)) == (None, 1)


async def test_what_makes_something_wait_closes_the_way_until_the_next_round(rig: Rig) -> None:
    rig.worker()
    await rig.round()
    await rig.wakers.feed()
    assert await rig.admit() is None
    await rig.round()
    assert await rig.admit() == 1


async def test_while_the_feeder_looks_nobody_passes(rig: Rig) -> None:
    rig.worker()
    await rig.round()
    tried: list[asyncio.Task[int | None]] = []
    rig.around.during = lambda: tried.append(asyncio.create_task(rig.admit()))

    async def slowly(workloads: Sequence[str]) -> tuple[dict[str, int], room.Memory]:
        await tried[0]
        return {}, PLENTY

    rig.around.depths_and_memory = slowly  # type: ignore[method-assign]
    await rig.round()
    assert tried[0].result() is None


async def test_a_lead_that_is_over_closes_the_way(rig: Rig) -> None:
    rig.worker()
    await rig.round()
    rig.straight.close()
    assert await rig.admit() is None


@pytest.mark.parametrize(
    ("batches", "workers", "depth", "queued", "passes"),
    [
        (1, 1, 0, (), True),
        (2, 1, 0, (), False),
        (1, 0, 0, (), False),
        (1, 1, 1, (), False),
        (1, 1, 0, (W,), False),
    ],
    ids=["all handed over", "one is left", "into the stream", "behind the stream", "some are in the stream"],
)
async def test_nobody_is_overtaken(
    rig: Rig, batches: int, workers: int, depth: int, queued: Sequence[str], passes: bool
) -> None:
    for _ in range(workers):
        rig.worker()
    rig.around.outlook_now, rig.around.depth = waiting(batches, queued=queued), depth
    await rig.round()
    rig.worker()
    rig.worker(OTHER)
    assert await rig.admit() == (1 if passes else None)
    # Another workload's workers are nobody else's.
    assert await rig.admit(workload=OTHER) == 1


async def test_of_several_jobs_that_wait_none_is_known_to_be_done(rig: Rig) -> None:
    rig.around.outlook_now = feeding.Outlook([W], {W: 4}, {}, [], {}, {})

    async def candidates(
        workload: str, per_level: int, *, small: bool
    ) -> tuple[list[fairness.Candidate], dict[str, int]]:
        return [candidate(1)], {"app": 1}

    around: Any = rig.around
    around.candidates = candidates
    rig.worker()
    await rig.round()
    rig.worker()
    assert await rig.admit() is None


async def test_only_as_many_pass_as_have_room_for_their_results(rig: Rig) -> None:
    for _ in range(4):
        rig.worker()
    # 80 percent of the limit are for everybody: two batches more.
    rig.around.memory = room.Memory(600, 1_000)
    await rig.round()
    assert await rig.admit(3) == 2
    assert await rig.admit() is None


async def narrow(rig: Rig) -> asyncio.Task[int | None]:
    """There is room for two batches, and one is being admitted."""
    for _ in range(4):
        rig.worker()
    rig.around.memory = room.Memory(600, 1_000)
    await rig.round()
    rig.around.may_admit.clear()
    first = asyncio.create_task(rig.admit())
    await rig.around.asked.wait()
    return first


async def test_what_is_on_its_way_has_its_room_in_the_next_round_too(rig: Rig) -> None:
    first = await narrow(rig)
    # The ledger does not show it yet.
    await rig.round()
    rig.around.may_admit.set()
    assert (await first, await rig.admit(2)) == (1, 1)
    assert rig.around.admitted == [1, 1]


async def test_what_ends_while_the_feeder_looks_has_its_room_too(rig: Rig) -> None:
    first = await narrow(rig)

    async def once_it_is_over(workloads: Sequence[str]) -> tuple[dict[str, int], room.Memory]:
        rig.around.may_admit.set()
        await first
        return {}, rig.around.memory

    rig.around.depths_and_memory = once_it_is_over  # type: ignore[method-assign]
    await rig.round()
    assert (await first, await rig.admit(2)) == (1, 1)


async def test_a_job_that_is_not_admitted_takes_no_room(rig: Rig) -> None:
    for _ in range(2):
        rig.worker()
    rig.around.memory = room.Memory(600, 1_000)
    await rig.round()
    rig.around.refuses = True
    assert await rig.admit(2) is None
    rig.around.refuses = False
    assert await rig.admit(2) == 2


async def test_an_admission_without_an_answer_has_the_feeder_look(rig: Rig) -> None:
    rig.worker()
    await rig.round()
    rig.around.may_admit.clear()
    call = asyncio.create_task(rig.admit(2))
    await rig.around.asked.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert rig.wakers.feeder.is_set()


@pytest.mark.parametrize(("batches", "wakes"), [(1, False), (2, True)])
async def test_what_is_left_of_a_job_is_fed(rig: Rig, batches: int, wakes: bool) -> None:
    rig.worker()
    await rig.round()
    jobs_ledger: Any = None
    admits = admission.Admission(
        jobs_ledger,
        {W: workload_pb2.Workload(name=W)},
        pressure.PressureGauge(cast("Any", rig.around)),
        rig.wakers,
        ids.SequentialIds(),
        rig.straight,
    )
    rig.wakers.feeder.clear()
    _, existed = await admits.admit(new_job(batches))
    assert (existed, rig.wakers.feeder.is_set()) == (False, wakes)

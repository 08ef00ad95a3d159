"""The reconciler after a loss of Redis, while batches go on being completed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta

from podium_runtime import ids
from podium_scheduler.app import lost_results, reconciler, records, returned_results

JOB = uuid.UUID(int=7)


class World:
    """One job in the ledger, and a Redis that is new to it. A batch completes in the midst of a chosen call."""

    def __init__(self) -> None:
        self.epoch_in_ledger = "old"
        self.completed: dict[int, int] = {}
        self.results: set[int] = set()
        self.recomputed: list[int] = []
        self.there = [JOB]
        self.then: Callable[[], None] = lambda: None

    async def redis_epoch(self) -> str:
        return self.epoch_in_ledger

    async def set_redis_epoch(self, epoch: str) -> None:
        self.epoch_in_ledger = epoch

    async def life(self, proposed: str) -> str:
        return "new"

    async def ensure_groups(self, workloads: Sequence[str]) -> None: ...

    async def queued_since(self, age: timedelta, limit: int) -> dict[int, str]:
        return {}

    async def entries(self, workloads: Sequence[str]) -> list[records.Entry]:
        return []

    async def jobs_with_results(self, after: uuid.UUID, limit: int) -> list[uuid.UUID]:
        return [JOB] if after < JOB else []

    async def completed_of(self, job_id: uuid.UUID) -> dict[int, int]:
        found = dict(self.completed)
        self.then()
        return found

    async def result_items(self, job_id: uuid.UUID) -> set[int]:
        found = set(self.results)
        self.then()
        return found

    async def recompute(self, job_id: uuid.UUID, batch_ids: Sequence[int], *, shed: bool = False) -> int:
        self.recomputed += batch_ids
        self.completed = {item: b for item, b in self.completed.items() if b not in batch_ids}
        return len(batch_ids)

    async def feed(self) -> None: ...

    async def jobs_there(self) -> list[uuid.UUID]:
        return list(self.there)

    async def over_among(self, job_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        return [job_id for job_id in job_ids if job_id != JOB]

    async def drop_results(self, job_ids: Sequence[uuid.UUID]) -> None:
        self.there = [job_id for job_id in self.there if job_id not in job_ids]

    def reconciler(self) -> reconciler.Reconciler:
        lost = lost_results.LostResults(self, self, self)  # type: ignore[arg-type]
        returned = returned_results.ReturnedResults(self, self)  # type: ignore[arg-type]
        return reconciler.Reconciler(self, self, self, lost, returned, ["hash-384"], ids.SequentialIds())  # type: ignore[arg-type]


async def test_what_completes_meanwhile_is_not_taken_for_lost() -> None:
    world = World()

    def complete() -> None:
        world.results.add(0)
        world.completed[0] = 1

    world.then = complete
    await world.reconciler().run_once()
    assert world.recomputed == []


async def test_a_result_written_before_the_loss_and_completed_after_is_computed_again() -> None:
    world = World()
    loop = world.reconciler()
    await loop.run_once()
    world.completed[0] = 1
    await loop.run_once()
    assert world.recomputed == [1]
    assert world.epoch_in_ledger == "new"


async def test_results_of_released_jobs_that_an_older_file_brought_back_are_dropped() -> None:
    world = World()
    world.there = [uuid.UUID(int=6), JOB, *(uuid.UUID(int=n) for n in range(100, 3_000))]
    await world.reconciler().run_once()
    assert world.there == [JOB]


async def test_results_that_a_dead_scheduler_left_behind_go_without_another_life() -> None:
    world = World()
    world.epoch_in_ledger = "new"
    stray = uuid.UUID(int=8)
    loop = world.reconciler()
    await loop.round()
    world.there = [JOB, stray]
    for _ in range(15):
        assert stray in world.there
        await loop.round()
    assert world.there == [JOB]

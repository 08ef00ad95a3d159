"""The reconciler after a loss of Redis, while batches go on being completed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta

from podium_runtime import ids
from podium_scheduler.app import lost_results, reconciler, records

JOB = uuid.UUID(int=7)


class World:
    """One job in the ledger, and a Redis that is new to it. A batch completes in the midst of a chosen call."""

    def __init__(self) -> None:
        self.epoch_in_ledger = "old"
        self.completed: dict[int, int] = {}
        self.results: set[int] = set()
        self.recomputed: list[int] = []
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

    def reconciler(self) -> reconciler.Reconciler:
        lost = lost_results.LostResults(self, self, self)  # type: ignore[arg-type]
        return reconciler.Reconciler(self, self, self, lost, ["hash-384"], ids.SequentialIds())  # type: ignore[arg-type]


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

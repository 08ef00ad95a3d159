"""Use case: results of jobs whose identical items are computed once are remembered before they are completed.

Such a result has been checked like any other. Its vectors are kept first, and it goes on to the completer then: so
whoever waits for this batch finds them as soon as it has ended. A result that left items out is kept likewise, and its
batch goes back to wait for the rest. All of it is beside the completer, so that other jobs' results never wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import Counter

from podium.common.v1 import result_pb2
from podium_runtime import clock, errors, logs
from podium_scheduler.app import attempt_plans, completer, ports, records, worker_sessions
from podium_scheduler.domain import batches
from podium_scheduler.domain.deduplication import UNIQUE

log = logs.get_logger(__name__)
REMEMBERED = Counter("podium_known_items_remembered_total", "Vectors that were kept for identical items to come.")
_AT_A_TIME = 4
_TRIES = 3
_PAUSE_S = 0.25
_AGAIN = timedelta(seconds=1)
_WAITS = "its other items are being computed elsewhere"


@dataclass(frozen=True, slots=True)
class _Result:
    session: worker_sessions.Session
    batch_id: int
    held: worker_sessions.Held


class Remembering:
    """Takes whole and partial results from the sessions."""

    def __init__(self, items: ports.KnownItemsLedger, settle: completer.Completer, time: clock.Clock) -> None:
        self._items = items
        self._completer = settle
        self._clock = time
        self._queue: asyncio.Queue[_Result] = asyncio.Queue()

    def done(self, session: worker_sessions.Session, batch_id: int, held: worker_sessions.Held) -> None:
        """Queues a checked result."""
        held.settling = True
        self._queue.put_nowait(_Result(session, batch_id, held))

    async def run(self) -> None:
        """Remembers results, a few at a time, until cancelled."""
        async with asyncio.TaskGroup() as hands:
            for _ in range(_AT_A_TIME):
                hands.create_task(self._work())

    async def _work(self) -> None:
        while True:
            result = await self._queue.get()
            self._go_on(result, remembered=await self._remember(result))

    async def _remember(self, result: _Result) -> bool:
        """Whether it is kept. Nothing that goes wrong may hold a result back: what is forgotten is computed again."""
        plan = result.held.plan
        if plan is None:
            return False
        try:
            new = _remembered(result.batch_id, plan, result.held)
            return await self._kept(new)
        except Exception:
            log.exception("items_not_remembered", batch_id=result.batch_id)
            return False

    async def _kept(self, new: records.Remembered) -> bool:
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._items.remember(new)
            except errors.Unavailable:
                if tries_left:
                    await self._clock.sleep(_PAUSE_S)
            else:
                REMEMBERED.inc(len(new.vectors))
                return True
        log.warning("items_not_remembered", batch_id=new.batch_id)
        return False

    def _go_on(self, result: _Result, *, remembered: bool) -> None:
        session, batch_id, held = result.session, result.batch_id, result.held
        if held.left_out:
            # What was not kept has to be computed again, so there is nothing to wait for.
            wait = batches.Retry(self._items.patience if remembered else _AGAIN, counts=False)
            self._completer.fail(session, batch_id, held, wait, _WAITS)
        else:
            self._completer.complete(session, batch_id, held)


def _remembered(batch_id: int, plan: attempt_plans.Plan, held: worker_sessions.Held) -> records.Remembered:
    """What a batch has computed itself, by hash."""
    wanted = set(plan.to_compute)
    vectors: dict[bytes, records.Vector] = {}
    made_by = b""
    for raw in held.chunks:
        chunk = result_pb2.ResultChunk.FromString(bytes(raw))
        made_by = chunk.provenance.SerializeToString(deterministic=True)
        for item, vector in _rows(chunk, held.first_item):
            if item in wanted:
                vectors[plan.hashes[item]] = vector
    vectors.pop(UNIQUE, None)
    return records.Remembered(batch_id, plan.scope, made_by, vectors, waits=held.left_out)


def _rows(chunk: result_pb2.ResultChunk, first_item: int) -> Sequence[tuple[int, records.Vector]]:
    """Items of the batch that have a vector, and it."""
    if not chunk.count:
        return []
    rows = chunk.vectors  # each look at the field is another copy of all of it
    size = len(rows) // chunk.count
    failed = {error.item_index for error in chunk.errors}
    cuts = {cut.item_index: (cut.token_count, cut.max_tokens) for cut in chunk.truncations}
    found = [i for i in range(chunk.first_item, chunk.first_item + chunk.item_count) if i not in failed]
    return [
        (item - first_item, records.Vector(rows[at * size : (at + 1) * size], *cuts.get(item, (0, 0))))
        for at, item in enumerate(found)
    ]

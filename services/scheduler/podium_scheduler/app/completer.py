"""Group commit: outcomes of many batches, from all of this replica's sessions, share one transaction.

Order, for each group: results into Redis (each batch once), then the guarded ledger write, then Ack. Who waits for
results is woken as soon as they are in Redis, who waits for the ledger when it has them.
Nothing is acknowledged before it is durable. While Postgres or Redis are away the group waits, its workers keep their
leases through their Status frames, and their unacknowledged batches hold back new ones.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prometheus_client import Counter, Histogram

from podium.worker.v1 import worker_pb2
from podium_runtime import errors, logs
from podium_scheduler.app import ports, records, worker_sessions
from podium_scheduler.domain import batches

log = logs.get_logger(__name__)

ENDED = Counter("podium_batches_ended_total", "Attempts of batches that ended, by outcome.", ["workload", "outcome"])
ITEMS = Counter("podium_items_total", "Items that got their outcome.", ["workload", "outcome"])
STALE = Counter("podium_stale_completions_total", "Outcomes refused because the lease was lost.")
COMMIT = Histogram("podium_commit_seconds", "Time from a batch's last frame to its durable outcome.")

_MAX_GROUP = 64
_MAX_GROUP_BYTES = 32 << 20
_PATIENCE_S = 0.25


@dataclass(slots=True)
class _Outcome:
    session: worker_sessions.Session
    batch_id: int
    held: worker_sessions.Held
    failure: records.Failure | None
    since: float


class Completer:
    """Takes outcomes from the sessions and makes them durable."""

    def __init__(
        self,
        ledger: ports.BatchLedger,
        results: ports.ResultBuffer,
        wakeups: ports.Wakeups,
        wake: asyncio.Event,
    ) -> None:
        self._ledger = ledger
        self._results = results
        self._wakeups = wakeups
        self._wake_dispatcher = wake
        self._queue: asyncio.Queue[_Outcome] = asyncio.Queue()
        self._carry: _Outcome | None = None

    def complete(self, session: worker_sessions.Session, batch_id: int, held: worker_sessions.Held) -> None:
        """Queues a checked result."""
        held.settling = True
        self._queue.put_nowait(_Outcome(session, batch_id, held, None, time.monotonic()))

    def fail(
        self,
        session: worker_sessions.Session,
        batch_id: int,
        held: worker_sessions.Held,
        outcome: batches.Outcome,
        message: str,
    ) -> None:
        """Queues a failed attempt."""
        held.settling = True
        failure = records.Failure(batch_id, held.lease_token, held.job_id, outcome, message)
        self._queue.put_nowait(_Outcome(session, batch_id, held, failure, time.monotonic()))

    async def run(self) -> None:
        """Settles groups until cancelled."""
        while True:
            group = await self._next_group()
            await self._settle(group)

    async def _next_group(self) -> list[_Outcome]:
        first, self._carry = self._carry or await self._queue.get(), None
        group = [first]
        size = _size(first)
        while len(group) < _MAX_GROUP and not self._queue.empty():
            following = self._queue.get_nowait()
            size += _size(following)
            if size > _MAX_GROUP_BYTES:
                self._carry = following
                break
            group.append(following)
        return group

    async def _settle(self, group: Sequence[_Outcome]) -> None:
        done = [o for o in group if o.failure is None]
        failed = [o for o in group if o.failure is not None]
        if done:
            await self._patiently(lambda: self._results.admit_results([_result(o) for o in done]))
            # Readers may have the results while the ledger counts them; they are told below when it has.
            self._report(done, await self._complete(done))
        if failed:
            failures = [o.failure for o in failed if o.failure is not None]
            await self._forget_results(failed)
            settled = await self._patiently(lambda: self._ledger.fail(failures))
            self._report(failed, settled)
        self._wake_dispatcher.set()
        changed: dict[UUID, str] = {o.held.job_id: "progress" for o in done}
        changed.update({o.held.job_id: "state" for o in failed})
        await self._wakeups.job_changed(list(changed.items()))

    async def _forget_results(self, failed: Sequence[_Outcome]) -> None:
        """Of batches that are halved or given up: an attempt whose lease was lost may have left its result, and readers
        must not find vectors where the ledger has halves, which may fail, or a failure."""
        ended = [o for o in failed if o.failure is not None and not isinstance(o.failure.outcome, batches.Retry)]
        if not ended:
            return
        # Whoever has lost the lease says nothing about the results that may be there: another's, and good.
        keys = [records.LeaseKey(o.batch_id, o.held.lease_token) for o in ended]
        leased = await self._patiently(lambda: self._ledger.still_leased(keys))
        for held in (o.held for o in ended if o.batch_id in leased):
            await self._patiently(functools.partial(self._results.drop_batches, held.job_id, [held.first_item]))

    async def _complete(self, done: Sequence[_Outcome]) -> set[int]:
        tries = 0

        async def complete() -> set[int]:
            nonlocal tries
            tries += 1
            return await self._ledger.complete([_completion(o) for o in done])

        settled = await self._patiently(complete)
        missing = [o.batch_id for o in done if o.batch_id not in settled]
        if missing and tries > 1:
            # An earlier try may have been committed although its answer got lost.
            settled |= await self._patiently(lambda: self._ledger.with_results(missing))
        return settled

    async def _patiently(self, step: object) -> set[int]:
        """Repeats a step until neither Postgres nor Redis is away. Both writes are idempotent."""
        assert callable(step)
        while True:
            try:
                return await step() or set()
            except (errors.Unavailable, errors.ResourceExhausted) as error:
                log.warning("completion_waits", reason=error.reason)
                await asyncio.sleep(_PATIENCE_S)

    def _report(self, outcomes: Sequence[_Outcome], settled: set[int]) -> None:
        for outcome in outcomes:
            if outcome.batch_id not in settled:
                STALE.inc()
                outcome.session.revoke(outcome.batch_id, worker_pb2.CANCEL_REASON_LEASE_LOST)
                log.info("stale_outcome_dropped", batch_id=outcome.batch_id)
                continue
            outcome.session.forget(outcome.batch_id)
            _measure(outcome)


def _measure(outcome: _Outcome) -> None:
    held, failure = outcome.held, outcome.failure
    COMMIT.observe(time.monotonic() - outcome.since)
    if failure is None:
        ENDED.labels(held.workload, "completed").inc()
        ITEMS.labels(held.workload, "succeeded").inc(held.item_count - held.items_failed)
        ITEMS.labels(held.workload, "failed").inc(held.items_failed)
    elif isinstance(failure.outcome, batches.GiveUp):
        ENDED.labels(held.workload, "failed").inc()
        ITEMS.labels(held.workload, "failed").inc(held.item_count)
    elif isinstance(failure.outcome, batches.Split):
        ENDED.labels(held.workload, "split").inc()
    else:
        ENDED.labels(held.workload, "retried").inc()


def _size(outcome: _Outcome) -> int:
    return sum(len(c) for c in outcome.held.chunks)


def _result(outcome: _Outcome) -> tuple[UUID, int, int, Sequence[memoryview]]:
    held = outcome.held
    return held.job_id, held.first_item, held.item_count, held.chunks


def _completion(outcome: _Outcome) -> records.Completion:
    held = outcome.held
    return records.Completion(
        outcome.batch_id,
        held.lease_token,
        held.job_id,
        held.first_item,
        held.item_count,
        held.items_failed,
        held.items_truncated,
        held.plan.items_deduplicated if held.plan is not None else None,
    )

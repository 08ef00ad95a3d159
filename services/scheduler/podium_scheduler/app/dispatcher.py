"""The dispatcher: hands queued batches to the workers connected to this replica. Every replica has one.

Read an entry, write its lease under a guard, assign, settle the entry. A crash after the read leaves an entry that
nobody settled: another round takes it over when it has been idle. A crash after the lease leaves a lease whose session
dies with the replica: the rescuer finds it.
"""

from __future__ import annotations

from uuid import UUID

from podium_runtime import ids, logs
from podium_scheduler.app import loops, ports, records, wakers, worker_sessions
from podium_scheduler.domain import dispatch

log = logs.get_logger(__name__)

_POLL_S = 0.25
_MAX_CLAIM = 64
_IDLE_MS = 5_000
_TAKE_OVER_EVERY = 20


class Dispatcher(loops.PatientLoop):
    """Claims batches for this replica's sessions."""

    name = "dispatcher"

    def __init__(
        self,
        registry: worker_sessions.SessionRegistry,
        batches: ports.BatchLedger,
        buffer: ports.WorkBuffer,
        wakeups: ports.Wakeups,
        wake: wakers.Wakers,
        make: ids.Ids,
    ) -> None:
        super().__init__(wake.dispatcher)
        self._registry = registry
        self._batches = batches
        self._buffer = buffer
        self._wakeups = wakeups
        self._wakers = wake
        self._ids = make
        self._rounds = 0

    async def round(self) -> float:
        """Takes as much as the sessions have credit for, at most one claim's worth."""
        wanted = await self._wanted()
        if not wanted:
            return _POLL_S
        entries = await self._buffer.read(wanted)
        entries += await self._abandoned(wanted)
        if not entries:
            return _POLL_S
        claims = self._share_out(entries)
        if not claims:
            return _POLL_S
        leased = await self._claim(claims)
        await self._buffer.settle([e for e in entries if e.batch_id in claims])
        await self._wakers.feed()
        starting = {b.job_id for b in leased if b.job_starts}
        if starting:
            await self._batches.start_jobs(starting)
            await self._wakeups.job_changed([(job_id, "state") for job_id in starting])
        return 0.0 if len(entries) >= min(_MAX_CLAIM, sum(wanted.values())) else _POLL_S

    async def _wanted(self) -> dict[str, int]:
        """Entries to read, by workload.

        Only queues with entries count, so that an empty one takes no credit from others; another comes first each time.
        """
        free_by_workload = {w: free for w, free in self._registry.free_by_workload().items() if free}
        if not free_by_workload:
            return {}
        depths = await self._buffer.depths(list(free_by_workload))
        queues = sorted(workload for workload, depth in depths.items() if depth)
        first = self._rounds % len(queues) if queues else 0
        wanted: dict[str, int] = {}
        left = min(_MAX_CLAIM, self._registry.free_total())
        for workload in queues[first:] + queues[:first]:
            take = min(free_by_workload[workload], depths[workload], left)
            if take:
                wanted[workload] = take
                left -= take
        return wanted

    async def _abandoned(self, wanted: dict[str, int]) -> list[records.Entry]:
        self._rounds += 1
        if self._rounds % _TAKE_OVER_EVERY:
            return []
        found: list[records.Entry] = []
        for workload, count in wanted.items():
            found += await self._buffer.take_over(workload, _IDLE_MS, count)
        return found

    def _share_out(self, entries: list[records.Entry]) -> dict[int, records.Claim]:
        """Who is to take what. Entries that nobody can take any more stay unsettled and are taken over later."""
        claims: dict[int, records.Claim] = {}
        by_workload: dict[str, list[int]] = {}
        for entry in entries:
            by_workload.setdefault(entry.workload, []).append(entry.batch_id)
        for workload, batch_ids in by_workload.items():
            unique = list(dict.fromkeys(batch_ids))
            offers = self._registry.offers(workload, claims.values())
            for batch_id, session_id in zip(unique, dispatch.spread(offers, len(unique)), strict=False):
                claims[batch_id] = records.Claim(batch_id, self._ids.token(), UUID(session_id))
        return claims

    async def _claim(self, claims: dict[int, records.Claim]) -> list[records.Leased]:
        leased = await self._batches.claim(list(claims.values()))
        for batch in leased:
            if not self._registry.assign(batch):
                # The session ended meanwhile; the rescuer finds the lease through it.
                log.info("session_gone_before_assignment", batch_id=batch.batch_id)
        return leased

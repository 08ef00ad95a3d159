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
        self._unclaimed: list[records.Entry] = []

    async def round(self) -> float:
        """Takes as much as the sessions have credit for, at most one claim's worth."""
        wanted = await self._wanted()
        if wanted:
            read = await self._buffer.read(wanted) + await self._abandoned(wanted)
            # What we hold ourselves may look abandoned too.
            self._unclaimed = list({e.entry_id: e for e in (*self._unclaimed, *read)}.values())
        if not self._unclaimed:
            return _POLL_S
        entries, claims = self._unclaimed, self._share_out(self._unclaimed)
        if not claims:
            return _POLL_S
        leased = await self._claim(claims)
        settled = [e for e in entries if e.batch_id in claims]
        # Read by us, so no other replica sees them: they go first in the next round.
        self._unclaimed = [e for e in entries if e.batch_id not in claims]
        await self._buffer.settle(settled)
        await self._wakers.feed()
        starting = {b.job_id for b in leased if b.job_starts}
        if starting:
            await self._batches.start_jobs(starting)
            await self._wakeups.job_changed([(job_id, "state") for job_id in starting])
        return 0.0

    async def _wanted(self) -> dict[str, int]:
        """How many entries to take of each work stream that has some."""
        room = min(_MAX_CLAIM, self._registry.free_total()) - len(self._unclaimed)
        free = {w: n for w, n in self._registry.free_by_workload().items() if n}
        if room <= 0 or not free:
            return {}
        depths = await self._buffer.depths(list(free))
        return dispatch.divide(room, {w: min(n, depths[w]) for w, n in free.items()})

    async def _abandoned(self, wanted: dict[str, int]) -> list[records.Entry]:
        self._rounds += 1
        if self._rounds % _TAKE_OVER_EVERY:
            return []
        found: list[records.Entry] = []
        for workload, count in wanted.items():
            found += await self._buffer.take_over(workload, _IDLE_MS, count)
        return found

    def _share_out(self, entries: list[records.Entry]) -> dict[int, records.Claim]:
        """Who is to take what; what nobody can take now is left out."""
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

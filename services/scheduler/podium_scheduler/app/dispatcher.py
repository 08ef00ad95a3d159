"""The dispatcher: hands queued batches to the workers connected to this replica. Every replica has one.

Read an entry, write its lease under a guard, assign, settle the entry. A crash after the read leaves an entry that
nobody settled: another round takes it over when it has been idle. A crash after the lease leaves a lease whose session
dies with the replica: the rescuer finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from podium_runtime import ids
from podium_scheduler.app import (
    assigner,
    handover,
    loops,
    ports,
    records,
    wakers,
    worker_sessions,
)
from podium_scheduler.domain import dispatch

_POLL_S = 0.25
_IDLE_POLL_S = 1.0
"""While no stream has anything: whoever feeds one says so."""
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
        sessions: ports.SessionLedger,
        buffer: ports.WorkBuffer,
        wakeups: ports.Wakeups,
        wake: wakers.Wakers,
        make: ids.Ids,
        assign: assigner.Assigner | None = None,
        hand_over: handover.Handover | None = None,
    ) -> None:
        super().__init__(wake.dispatcher)
        self._assigner = assign or assigner.Assigner(registry)
        self._handover = hand_over
        self._registry = registry
        self._batches = batches
        self._sessions = sessions
        self._buffer = buffer
        self._wakeups = wakeups
        self._wakers = wake
        self._ids = make
        self._rounds = 0
        self._unclaimed: list[records.Entry] = []
        self._doubtful: dict[int, records.Claim] = {}
        """Claims that may have been written although the ledger's answer never came."""

    async def round(self) -> float:
        """Takes as much as the sessions have credit for, at most one claim's worth."""
        if self._handover is not None:
            await self._handover.recover()
        wanted = await self._wanted()
        if wanted:
            read = await self._buffer.read(wanted) + await self._abandoned(wanted)
            # What we hold ourselves may look abandoned too.
            self._unclaimed = list({(e.workload, e.entry_id): e for e in (*self._unclaimed, *read)}.values())
        await self._give_back()
        if not self._unclaimed:
            return _POLL_S if wanted else _IDLE_POLL_S
        claims = self._doubtful or self._share_out(self._unclaimed)
        if not claims:
            return _POLL_S
        self._doubtful = claims
        leased = await self._claim(claims)
        self._doubtful = {}
        done = claims.keys() - await self._untaken(claims, leased)
        settled = [e for e in self._unclaimed if e.batch_id in done]
        # Read by us, so no other replica sees them: they go first in the next round.
        self._unclaimed = [e for e in self._unclaimed if e.batch_id not in done]
        await self._buffer.settle(settled)
        await self._wakers.feed()
        starting = {b.job_id for b in leased if b.job_starts}
        if starting:
            await self._batches.start_jobs(starting)
            await self._wakeups.job_changed([(job_id, "state") for job_id in starting])
        return 0.0

    async def _wanted(self) -> dict[str, int]:
        """How many entries to take of each work stream that has some."""
        have = Counter(e.workload for e in self._unclaimed)
        free = self._registry.free_by_workload()
        # What nobody here can take now must not stand in the way of what somebody can.
        room = min(_MAX_CLAIM, self._registry.free_total()) - sum(min(n, free.get(w, 0)) for w, n in have.items())
        free = {w: n - have[w] for w, n in free.items() if n > have[w]}
        if room <= 0 or not free:
            return {}
        depths = await self._buffer.depths(list(free))
        return dispatch.divide(room, {w: min(n, depths[w] - have[w]) for w, n in free.items()})

    async def _abandoned(self, wanted: dict[str, int]) -> list[records.Entry]:
        self._rounds += 1
        if self._rounds % _TAKE_OVER_EVERY:
            return []
        found: list[records.Entry] = []
        for workload, count in wanted.items():
            found += await self._buffer.take_over(workload, _IDLE_MS, count)
        return found

    async def _give_back(self) -> None:
        """Returns what only sessions that are gone could take: another replica may have a worker for it."""
        offered = self._registry.free_by_workload()
        stranded = [e for e in self._unclaimed if e.workload not in offered and e.batch_id not in self._doubtful]
        if not stranded:
            return
        # First, as a full buffer refuses the push: then whoever has credit takes them over once they have been idle.
        self._unclaimed = [e for e in self._unclaimed if e not in stranded]
        for workload in {e.workload for e in stranded}:
            await self._buffer.push(workload, [e.batch_id for e in stranded if e.workload == workload])
        await self._buffer.settle(stranded)
        await self._wakers.work()

    def _share_out(self, entries: list[records.Entry]) -> dict[int, records.Claim]:
        """Who is to take what; what nobody can take now is left out."""
        claims: dict[int, records.Claim] = {}
        by_workload: dict[str, list[int]] = {}
        for entry in entries:
            by_workload.setdefault(entry.workload, []).append(entry.batch_id)
        for workload, batch_ids in by_workload.items():
            unique = list(dict.fromkeys(batch_ids))
            offers = self._registry.offers(workload, claims.values(), len(unique))
            for batch_id, session_id in zip(unique, dispatch.spread(offers, len(unique)), strict=False):
                claims[batch_id] = records.Claim(batch_id, self._ids.token(), UUID(session_id))
        return claims

    async def _claim(self, claims: dict[int, records.Claim]) -> list[records.Leased]:
        leased = await self._batches.claim(list(claims.values()))
        await self._assigner.assign(leased)
        return leased

    async def _untaken(self, claims: Mapping[int, records.Claim], leased: list[records.Leased]) -> set[int]:
        """Batches that were refused for their session's sake: it was fenced, and others must get them."""
        refused = [c for c in claims.values() if c.batch_id not in {b.batch_id for b in leased}]
        if not refused:
            return set()
        alive = await self._sessions.open_among({c.session_id for c in refused})
        for session_id in {c.session_id for c in refused} - alive:
            self._registry.fence(session_id)
        return {c.batch_id for c in refused if c.session_id not in alive}

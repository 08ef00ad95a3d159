"""The short way to an idle worker of the leader's own replica, without the work stream: from the ledger, or right from
admission (see app.straight).

Promises: only sessions that have nothing at all get a batch this way, one each, so no worker anywhere could begin it
sooner, and what waits in a work stream is never overtaken; whose batches they are is decided like all others. The lease
is written under the guards of feeding and of claiming. Clock: monotonic, injected. Failure: where the ledger's answer
is lost, or the lead ends before all is handed out, leases may have been written that nobody knows: they are looked for
until no statement of ours can still be running, and handed out when they are found. The replica's end ends its
sessions, and the rescuer finds their leases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from podium_runtime import clock, ids, logs
from podium_scheduler.app import assigner, feeding, ports, records, worker_sessions

log = logs.get_logger(__name__)
# Longer than any statement lives.
_DOUBT_S = 60.0
_LOOK_EVERY_S = 0.5
_PAGE = 1_000
_AT_ONCE = 64
"""Their payloads come in one answer; further workers get theirs by the stream."""


class Handover:
    """Of one replica; its feeder, while it leads, leases with it, and its dispatcher mends what went wrong."""

    def __init__(
        self,
        registry: worker_sessions.SessionRegistry,
        batches: ports.BatchLedger,
        assign: assigner.Assigner,
        wakeups: ports.Wakeups,
        make: ids.Ids,
        time: clock.Clock,
    ) -> None:
        self._registry = registry
        self._batches = batches
        self._assigner = assign
        self._wakeups = wakeups
        self._ids = make
        self._clock = time
        self._doubtful: dict[bytes, tuple[UUID, float]] = {}
        """Tokens of leases that may have been written, each with its session and until when it is looked for."""
        self._looked_at = 0.0

    async def lease(self, ledger: ports.FeedLedger, workload: str, order: Sequence[UUID]) -> tuple[int, int]:
        """Gives the first batches of `order`, which names jobs, to idle sessions. Returns how many were meant for one,
        and how many of them were leased."""
        idle = self.idle(workload, len(order))
        if not idle:
            return 0, 0
        slots = self._slots(order, idle)
        with self._promised(workload, idle, slots):
            leased = await ledger.lease(slots)
            await self._assigner.assign(leased)
        await self._tell(leased)
        return len(slots), len(leased)

    def idle(self, workload: str, most: int) -> list[worker_sessions.Session]:
        """Sessions that may get a batch this way now."""
        return self._registry.idle(workload, min(most, _AT_ONCE))

    async def admit(
        self, ledger: ports.FeedLedger, job_id: UUID, new: records.NewJob, idle: Sequence[worker_sessions.Session]
    ) -> tuple[records.Job, int] | None:
        """Admits a job, its first batches leased to these sessions. Returns it, and how many were leased; None, and
        nothing has happened, where the ledger does not admit it at once."""
        slots = self._slots([job_id] * len(idle), idle)
        with self._promised(new.workload, idle, slots):
            admitted = await ledger.admit(job_id, new, slots)
            if admitted is None:
                return None
            job, leased = admitted
            await self._assigner.assign(leased)
        # Nobody waits for the job yet: its id is told with the answer.
        return job, len(leased)

    def _slots(self, order: Sequence[UUID], idle: Sequence[worker_sessions.Session]) -> list[feeding.Slot]:
        return [
            feeding.Slot(job_id, self._ids.token(), session.session_id)
            for job_id, session in zip(order, idle, strict=False)
        ]

    @contextmanager
    def _promised(
        self, workload: str, idle: Sequence[worker_sessions.Session], slots: Sequence[feeding.Slot]
    ) -> Iterator[None]:
        """While leases are written and handed out."""
        for session in idle:
            session.promise(workload, 1)
        try:
            yield
        except BaseException:
            until = self._clock.monotonic() + _DOUBT_S
            self._doubtful |= {slot.lease_token: (slot.session_id, until) for slot in slots}
            raise
        finally:
            for session in idle:
                session.promise(workload, -1)

    async def recover(self) -> None:
        """Hands out what was leased without our knowing it. Raises errors.Unavailable."""
        now = self._clock.monotonic()
        if not self._doubtful or now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        found = await self._batches.leases_of(sorted({s for s, _ in self._doubtful.values()}), _PAGE)
        known = [lease for lease in found if lease.lease_token in self._doubtful]
        claims = [
            records.Claim(lease.batch_id, lease.lease_token, lease.session_id)
            for lease in known
            if not self._registry.holds(lease)
        ]
        if claims:
            log.warning("leases_without_an_answer", batches=len(claims))
            leased = await self._batches.claim(claims)
            await self._assigner.assign(leased)
            await self._tell(leased)
        settled = {lease.lease_token for lease in known}
        self._doubtful = {t: d for t, d in self._doubtful.items() if t not in settled and d[1] > now}

    async def _tell(self, leased: Sequence[records.Leased]) -> None:
        starting = {batch.job_id for batch in leased if batch.job_starts}
        if starting:
            await self._wakeups.job_changed([(job_id, "state") for job_id in starting])

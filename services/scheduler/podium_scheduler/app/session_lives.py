"""Use case: a worker's session from Hello to its end, and the leases of sessions that are over.

Workers come and go by the thousand when a replica starts or ends. They take turns: however many they are, connections
to the ledger are left for the keeper, whose renewals keep the others' sessions alive, and for everybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import errors, ids, logs
from podium_scheduler.app import ports, records, wakers, worker_sessions
from podium_scheduler.domain import batches

log = logs.get_logger(__name__)
_PAGE = 500
_OPENED_AT_A_TIME = 5
_CLOSED_AT_A_TIME = 2


class LeaseRecovery:
    """Gives the batches of lost or departed sessions to others."""

    def __init__(self, ledger: ports.BatchLedger, wake: wakers.Wakers, policy: batches.RetryPolicy) -> None:
        self._ledger = ledger
        self._wakers = wake
        self._policy = policy

    async def recover(self, session_ids: Sequence[UUID], *, handed_back: bool) -> int:
        """Requeues what the sessions still hold; returns how many batches. Guarded by each lease's token."""
        recovered = 0
        while session_ids:
            leases = await self._ledger.leases_of(session_ids, _PAGE)
            if leases:
                recovered += len(await self._ledger.fail([self._failure(lease, handed_back) for lease in leases]))
            if len(leases) < _PAGE:
                break
        if recovered:
            log.info("leases_recovered", sessions=len(session_ids), batches=recovered)
            await self._wakers.feed()
        return recovered

    def _failure(self, lease: records.HeldLease, handed_back: bool) -> records.Failure:
        outcome = batches.after_failure(
            lease.attempt,
            batches.FailureReason.WORKER_LOST,
            # A lost worker takes everything in its hand with it: that accuses none of it, whatever its size.
            items=1,
            retryable=True,
            handed_back=handed_back,
            policy=self._policy,
        )
        message = "its worker was lost on each attempt"
        return records.Failure(lease.batch_id, lease.lease_token, lease.job_id, outcome, message)


class SessionLives:
    """Opens and ends sessions."""

    def __init__(
        self,
        registry: worker_sessions.SessionRegistry,
        ledger: ports.SessionLedger,
        wake: wakers.Wakers,
        recovery: LeaseRecovery,
        workloads: Mapping[str, workload_pb2.Workload],
        replica_id: str,
        resume_grace: timedelta,
        make: ids.Ids,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._wakers = wake
        self._recovery = recovery
        self._workloads = workloads
        self._replica_id = replica_id
        self._grace = resume_grace
        self._ids = make
        self._opening = asyncio.Semaphore(_OPENED_AT_A_TIME)
        self._closing = asyncio.Semaphore(_CLOSED_AT_A_TIME)

    async def open(self, hello: worker_pb2.Hello) -> tuple[worker_sessions.Session, list[records.ResumedLease]]:
        """Opens a session for a Hello, fencing the worker's earlier ones. Raises errors.InvalidArgument."""
        try:
            worker_id = UUID(hello.worker_id)
        except ValueError:
            raise errors.InvalidArgument([errors.Violation("hello.worker_id", "must be a UUID")]) from None
        new = records.NewSession(
            session_id=self._ids.uuid4(),
            worker_id=worker_id,
            replica_id=self._replica_id,
            hostname=hello.hostname,
            version=hello.version,
            pod_id=hello.pod_id,
            hello=hello.SerializeToString(),
        )
        in_hand = [records.LeaseKey(lease.batch_id, lease.lease_token) for lease in hello.in_hand]
        async with self._opening:
            resumed, superseded, standing = await self._ledger.open(new, in_hand)
            # What an earlier session holds and the worker does not have was lost on the wire: no fault of the batch.
            await self._recovery.recover(superseded, handed_back=True)
        session = worker_sessions.Session(new.session_id, worker_id, hello)
        session.draining = standing.drain
        session.want(standing.wanted)
        if standing.quarantine_reason:
            session.quarantine_for(standing.quarantine_reason, standing.quarantine_left_s)
        for lease in resumed:
            session.resume(lease)
        worker_sessions.STALE.labels("hello").inc(len(hello.in_hand) - len(resumed))
        # Before anybody here knows the session: a stream that is cancelled now has nobody to close it.
        await self._wakers.place()
        self._registry.add(session)
        log.info("session_opened", worker_id=hello.worker_id, session_id=str(new.session_id), resumed=len(resumed))
        return session, resumed

    def servable(self, hello: worker_pb2.Hello) -> list[workload_pb2.Workload]:
        """The workloads that a worker may be given: its backends, within its own limits."""
        return [w for _, w in sorted(self._workloads.items()) if worker_sessions.may_serve(hello, w)]

    async def close(self, session: worker_sessions.Session) -> None:
        """The stream is over: at once after a Goodbye, else with a grace in which the worker may resume."""
        session.close()
        session.calls.end()
        if not self._registry.remove(session):
            return
        log.info("session_closed", session_id=str(session.session_id), goodbye=session.said_goodbye)
        try:
            async with self._closing:
                await self._record_end(session)
        except errors.Unavailable:
            # Nothing renews the session any more: it expires by itself.
            log.warning("session_end_not_recorded", session_id=str(session.session_id))

    async def _record_end(self, session: worker_sessions.Session) -> None:
        if session.said_goodbye:
            await self._ledger.end(session.session_id)
            await self._recovery.recover([session.session_id], handed_back=True)
        else:
            await self._ledger.mark_broken(session.session_id, self._grace)

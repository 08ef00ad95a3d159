"""The worker sessions of this replica: what each offers, what each has in hand, what each is to be told.

A session lives as long as its stream. The lease of everything it has in hand lives as long as the session, by the
database's clock; the keeper renews it while Status frames come.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from google.protobuf import timestamp_pb2
from prometheus_client import Counter as Metric

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import logs, two_lanes
from podium_scheduler.app import attempt_plans, calls, records
from podium_scheduler.domain import dispatch, interactive, openings, quarantine

log = logs.get_logger(__name__)

# More than any worker needs. The work streams' depth follows from credits: a number gone wrong must not fill Redis.
_MAX_CREDITS = 1_024

STALE = Metric("podium_stale_frames_total", "Frames about leases that are no longer the sender's.", ["frame"])


@dataclass(slots=True)
class Held:
    """A batch in a worker's hands, and as much of its result as has come."""

    lease_token: bytes
    attempt: int
    job_id: UUID
    workload: str
    first_item: int
    item_count: int
    next_item: int
    options: item_pb2.EmbeddingOptions = field(default_factory=item_pb2.EmbeddingOptions)
    chunks: list[memoryview] = field(default_factory=list)
    """Serialized ResultChunks."""
    items_failed: int = 0
    items_truncated: int = 0
    settling: bool = False
    """Its outcome is on its way to the ledger."""
    plan: attempt_plans.Plan | None = None
    """Of a batch whose items may be identical to others; None also where the lease was resumed."""
    resumed: bool = False
    left_out: bool = False
    """Its result is not whole: the worker left items out."""


def _pod_id(hello: worker_pb2.Hello) -> UUID | None:
    try:
        return UUID(hello.pod_id)
    except ValueError:
        return None


class Session:
    """One life of a worker's stream."""

    def __init__(self, session_id: UUID, worker_id: UUID, hello: worker_pb2.Hello | None = None) -> None:
        self.session_id = session_id
        self.worker_id = worker_id
        self.hello = hello or worker_pb2.Hello()
        self.pod_id = _pod_id(self.hello)
        """The pod that the worker says it runs on; None outside a pod."""
        self.outbox: two_lanes.TwoLanes[worker_pb2.SchedulerFrame] = two_lanes.TwoLanes()
        self.calls = calls.Calls()
        """Interactive calls that it is to answer."""
        self.in_hand: dict[int, Held] = {}
        self.promised: Counter[str] = Counter()
        """Batches of each workload that are being leased to it at this moment."""
        self.levels: dict[str, int] = {}
        self.total_level = 0
        self.status = worker_pb2.Status()
        self.heard = True
        """Whether a Status has come since the keeper last looked."""
        self.heartbeat_s = 0.0
        """How often it is to say Status; 0: as its Welcome has said."""
        self.wanted: tuple[str, ...] = ()
        """Workloads that it should keep loaded, the most wanted first."""
        self.draining = False
        """Whether an operator wants it to finish and leave."""
        self.conduct = quarantine.Conduct()
        self.quarantine: quarantine.Quarantine | None = None
        # No number of an earlier session, whose check the worker may have passed before.
        self._checks = itertools.count(1 + (session_id.int & 0x7FFF_FFFF))
        self.closed = asyncio.Event()
        self.said_goodbye = False
        self.changed: Callable[[UUID], object] = lambda _: None
        """Called whenever what it can take may have changed."""
        self.resident: frozenset[str] = frozenset()
        """Workloads whose models some device has, by its last Status."""
        self.resided: Callable[[UUID, frozenset[str]], object] = lambda *_: None
        """Called when these have changed."""

    def take_status(self, status: worker_pb2.Status, known: Collection[str]) -> bool:
        """Takes the whole current state; credits for workloads that are not known count for nothing.

        Returns whether it offers something else than before: most Status frames only say that it is alive.
        """
        before = self.total_level, self.levels
        self.status = status
        self.heard = True
        resident = frozenset(name for device in status.devices for name in device.resident_workloads)
        if resident != self.resident:
            self.resident = resident
            self.resided(self.session_id, resident)
        if self.quarantine is not None and status.checked == self.quarantine.check:
            log.info("quarantine_over", worker_id=str(self.worker_id))
            self.quarantine, self.conduct = None, quarantine.Conduct()
        if self.draining or self.quarantine is not None:
            self.offer_nothing()
            return False
        offered = [] if status.draining else [w for w in status.workloads if w.credits and w.workload in known]
        self.total_level = 0 if status.draining else min(status.total_credits, _MAX_CREDITS)
        self.levels = {w.workload: min(w.credits, _MAX_CREDITS) for w in offered}
        if before == (self.total_level, self.levels):
            return False
        self.changed(self.session_id)
        return True

    def offer_nothing(self) -> None:
        """It gets no more batches, whatever its last Status said."""
        self.total_level, self.levels = 0, {}
        self.changed(self.session_id)

    def close(self) -> None:
        """Its stream is to end, and it gets nothing more."""
        self.closed.set()
        self.changed(self.session_id)

    def opening(self) -> openings.Opening:
        """What it can still take."""
        if self.closed.is_set():
            return openings.Opening({}, 0, len(self.in_hand))
        free = {workload: self.free(workload, {}) for workload in self.levels}
        return openings.Opening(free, max(0, self.total_level - self.load), self.load)

    @property
    def load(self) -> int:
        """Batches that it has or is about to have."""
        return len(self.in_hand) + self.promised.total()

    def promise(self, workload: str, batches: int) -> None:
        """So many batches are on their way into its hands; negative: they have come, or will not."""
        self.promised[workload] += batches
        self.changed(self.session_id)

    def free(self, workload: str, planned: Mapping[str, int]) -> int:
        """Batches of a workload it can still take, beyond what is planned for it (by workload) already."""
        own = sum(h.workload == workload for h in self.in_hand.values()) + self.promised[workload]
        own += planned.get(workload, 0)
        everything = self.load + sum(planned.values())
        return dispatch.free_credit(self.levels.get(workload, 0), self.total_level, own, everything)

    def held(self, lease: worker_pb2.Lease, frame: str) -> Held | None:
        """The batch that a frame is about; None, and counted, when the lease is not this session's any more."""
        held = self.in_hand.get(lease.batch_id)
        if held is None or held.lease_token != lease.lease_token or held.settling:
            STALE.labels(frame).inc()
            return None
        return held

    def resume(self, lease: records.ResumedLease) -> None:
        """Goes on with a lease of an earlier session; its result is sent anew."""
        self.in_hand[lease.batch_id] = Held(
            lease.lease_token, lease.attempt, lease.job_id, lease.workload, lease.first_item, lease.item_count,
            next_item=lease.first_item, options=item_pb2.EmbeddingOptions.FromString(lease.options), resumed=True,
        )  # fmt: skip
        self.changed(self.session_id)

    def desire(self) -> None:
        """Says what is desired, also when nothing changed: a worker that hears nothing for the lease's TTL lets go."""
        desired = worker_pb2.Desired(resident_workloads=self.wanted, drain=self.draining)
        if self.quarantine is not None and self.quarantine.probes(time.monotonic()):
            desired.check = self.quarantine.check
        if self.heartbeat_s:
            desired.heartbeat_interval.FromNanoseconds(round(self.heartbeat_s * 1e9))
        self.outbox.put_nowait(worker_pb2.SchedulerFrame(desired=desired))

    def want(self, workloads: Sequence[str]) -> bool:
        """Notes which workloads it should keep loaded, the most wanted first; whether that is news."""
        news, self.wanted = tuple(workloads) != self.wanted, tuple(workloads)
        return news

    def drain(self) -> None:
        """An operator wants it to finish what it has and leave."""
        if not self.draining:
            log.info("worker_drains", worker_id=str(self.worker_id), session_id=str(self.session_id))
            self.draining = True
            self.offer_nothing()
            self.desire()

    def quarantine_for(self, reason: str, pause_s: float) -> None:
        """It gets nothing for `pause_s` seconds, and then only once its canaries pass."""
        self.quarantine = quarantine.Quarantine(reason, time.monotonic() + pause_s, next(self._checks))
        self.offer_nothing()

    def assign(self, batch: records.Leased, plan: attempt_plans.Plan | None = None) -> None:
        """Puts a batch into its hands; without a plan it computes all of it."""
        options = item_pb2.EmbeddingOptions.FromString(batch.options)
        self.in_hand[batch.batch_id] = Held(
            batch.lease_token, batch.attempt, batch.job_id, batch.workload, batch.first_item, batch.item_count,
            next_item=batch.first_item, options=options, plan=plan,
        )  # fmt: skip
        self.changed(self.session_id)
        assign = _assignment(batch, options)
        if plan is not None and plan.message is not None:
            assign.known.CopyFrom(plan.message)
        self.outbox.put_nowait(worker_pb2.SchedulerFrame(assign=assign))

    def forget(self, batch_id: int) -> None:
        """Its outcome is durable."""
        held = self.in_hand.pop(batch_id, None)
        self.changed(self.session_id)
        if held is not None:
            lease = worker_pb2.Lease(batch_id=batch_id, lease_token=held.lease_token, attempt=held.attempt)
            self.outbox.put_nowait(worker_pb2.SchedulerFrame(ack=worker_pb2.Ack(lease=lease)))

    def revoke(self, batch_id: int, reason: worker_pb2.CancelReason) -> bool:
        """Takes a batch out of its hands; False when it is not there."""
        held = self.in_hand.pop(batch_id, None)
        self.changed(self.session_id)
        if held is None:
            return False
        lease = worker_pb2.Lease(batch_id=batch_id, lease_token=held.lease_token, attempt=held.attempt)
        self.outbox.put_nowait(worker_pb2.SchedulerFrame(cancel=worker_pb2.Cancel(lease=lease, reason=reason)))
        return True


def may_serve(hello: worker_pb2.Hello, workload: workload_pb2.Workload) -> bool:
    """Whether a worker may be given a workload: it has the backend, is not limited to others, and understands the items
    that the workload may have."""
    if workload.accepts_token_ids and not hello.reads_token_ids:
        return False
    return workload.model.backend in hello.backends and (not hello.workloads or workload.name in hello.workloads)


class SessionRegistry:
    """The sessions of this replica. What it says of their credit costs as much as has changed since, not as many."""

    def __init__(self) -> None:
        self._sessions: dict[UUID, Session] = {}
        self._of_worker: dict[UUID, UUID] = {}
        self._openings = openings.Openings()
        self._changed: set[UUID] = set()
        self._residents = interactive.Residents()
        self.models_changed: Callable[[], object] = lambda: None
        """Called when a session has other models loaded than before."""

    def add(self, session: Session) -> None:
        """A stream was accepted; an earlier one of the same worker is over."""
        earlier = self._sessions.pop(self._of_worker.get(session.worker_id, session.session_id), None)
        if earlier is not None:
            earlier.close()
            self._gone(earlier)
        self._sessions[session.session_id] = session
        self._of_worker[session.worker_id] = session.session_id
        session.changed, session.resided = self._changed.add, self._resided
        self._changed.add(session.session_id)
        self._residents.put(session.session_id, session.resident)

    def remove(self, session: Session) -> bool:
        """A stream ended; False when a newer one had fenced it."""
        if self._sessions.pop(session.session_id, None) is None:
            return False
        del self._of_worker[session.worker_id]
        self._gone(session)
        return True

    def get(self, session_id: UUID) -> Session | None:
        """A session by id."""
        return self._sessions.get(session_id)

    def fence(self, session_id: UUID) -> None:
        """The ledger has ended a session: its stream is to end, and it gets nothing more."""
        session = self._sessions.get(session_id)
        if session is not None and not session.closed.is_set():
            log.warning("session_fenced", session_id=str(session_id))
            session.close()

    def all(self) -> list[Session]:
        """All sessions."""
        return list(self._sessions.values())

    def having(self, workload: str) -> list[Session]:
        """Sessions with a device that has the model of a workload, whatever its state. Costs as much as they are."""
        return [self._sessions[session_id] for session_id in self._residents.having(workload)]

    def free_by_workload(self) -> dict[str, int]:
        """Batches of each workload that the sessions together can still take."""
        return self._counted().by_workload()

    def free_total(self) -> int:
        """Batches of any workload that the sessions together can still take."""
        return self._counted().room

    def offers(self, workload: str, planned: Iterable[records.Claim], batches: int) -> list[dispatch.Offer]:
        """What sessions can take of a workload, beyond the claims planned already: those that are to be given some of
        so many batches, and perhaps a few others."""
        taken = Counter(claim.session_id for claim in planned)
        # Whoever has something planned may come later than the load says.
        chosen = self._counted().least_loaded(workload, batches + len(taken))
        return [
            dispatch.Offer(
                str(s.session_id),
                s.free(workload, {"": taken[s.session_id]}),
                s.load + taken[s.session_id],
            )
            for s in (self._sessions[session_id] for session_id in chosen)
        ]

    def idle(self, workload: str, limit: int) -> list[Session]:
        """Up to `limit` sessions that can take a batch of a workload and have nothing at all."""
        chosen = (self._sessions[session_id] for session_id in self._counted().least_loaded(workload, limit))
        return [session for session in chosen if not session.load]

    def assign(self, batch: records.Leased, plan: attempt_plans.Plan | None = None) -> bool:
        """Hands a leased batch to its session; False when that is gone."""
        session = self._sessions.get(batch.session_id)
        if session is None:
            return False
        session.assign(batch, plan)
        return True

    def holds(self, lease: records.HeldLease) -> bool:
        """Whether the lease's session has its batch in hand, under this very lease."""
        session = self._sessions.get(lease.session_id)
        held = session.in_hand.get(lease.batch_id) if session is not None else None
        return held is not None and held.lease_token == lease.lease_token

    def _resided(self, session_id: UUID, resident: frozenset[str]) -> None:
        self._residents.put(session_id, resident)
        self.models_changed()

    def _gone(self, session: Session) -> None:
        session.resided = lambda *_: None
        self._residents.put(session.session_id, frozenset())
        self._changed.add(session.session_id)

    def _counted(self) -> openings.Openings:
        for session_id in self._changed:
            session = self._sessions.get(session_id)
            if session is None:
                self._openings.drop(session_id)
            else:
                self._openings.put(session_id, session.opening())
        self._changed.clear()
        return self._openings


def _assignment(batch: records.Leased, options: item_pb2.EmbeddingOptions) -> worker_pb2.Assign:
    assign = worker_pb2.Assign(
        lease=worker_pb2.Lease(batch_id=batch.batch_id, lease_token=batch.lease_token, attempt=batch.attempt),
        job_id=str(batch.job_id),
        workload=batch.workload,
        first_item=batch.first_item,
        item_count=batch.item_count,
        payload=batch.payload,
        payload_encoding=item_pb2.PayloadEncoding.Name(batch.payload_encoding),
        modality=workload_pb2.Modality.Name(batch.modality),
        options=options,
        traceparent=batch.traceparent,
        payload_offset=batch.payload_offset,
    )
    if batch.deadline is not None:
        deadline = timestamp_pb2.Timestamp()
        deadline.FromDatetime(batch.deadline)
        assign.deadline.CopyFrom(deadline)
    return assign

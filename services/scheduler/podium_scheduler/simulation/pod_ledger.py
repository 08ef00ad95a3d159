"""The ledger of pods in memory: the same protocol and the same rules, on a given clock instead of the database's.

The simulator runs on it, and the tests of what has to do with pods. `tests/contract/test_pod_ledgers.py` holds it
against Postgres. It forgets nothing and shares nothing: a second one over the same `rows` is what a restarted scheduler
finds.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from podium_runtime import clock
from podium_scheduler.app import records
from podium_scheduler.domain import costs, join_tokens, pods
from podium_scheduler.domain.pods import State


@dataclass(slots=True)
class Token:
    """What is kept of a join token."""

    sha256: bytes
    expire_time: datetime


@dataclass
class PodLedgerModel:
    """Pods, their history, their tokens, and their prices."""

    time: clock.Clock
    token_ttl: timedelta = timedelta(minutes=20)
    rows: dict[UUID, pods.Pod] = field(default_factory=dict)
    open: dict[UUID, pods.Pod] = field(default_factory=dict)
    """Those of the rows whose life is not over."""
    events: list[tuple[UUID, pods.Event]] = field(default_factory=list)
    tokens: dict[UUID, Token] = field(default_factory=dict)
    prices: dict[UUID, list[costs.Span]] = field(default_factory=dict)
    workers_gone: dict[UUID, datetime] = field(default_factory=dict)
    """worker_id: since when it has had no session."""

    def __post_init__(self) -> None:
        self._names = {pod.name for pod in self.rows.values()}

    def named(self, name: str) -> pods.Pod:
        """The pod of a name."""
        return next(pod for pod in self.rows.values() if pod.name == name)

    async def intend(self, wanted: Sequence[records.NewPod]) -> list[pods.Pod]:
        """See adapters.sql.pod_ledger."""
        found, now = [], self.time.now()
        for new in wanted:
            first = self._requested(new.request_id)
            if first is None:
                first = _intent(new, now)
                assert new.name not in self._names, "names are unique"
                self._put(first)
                self._note(first, now)
            found.append(first)
        return found

    async def census(self, provider: str = "") -> pods.Census:
        """See adapters.sql.pod_ledger."""
        alive = [p for p in self.open.values() if provider in ("", p.provider)]
        alive.sort(key=lambda pod: (pod.create_time, pod.pod_id))
        return pods.Census(self.time.now(), tuple(map(self._with_worker, alive)))

    async def starting(self) -> list[pods.Pod]:
        """See adapters.sql.pod_ledger."""
        return [pod for pod in (await self.census()).pods if pod.state is State.STARTING]

    async def pods_named(self, names: Sequence[str]) -> dict[str, pods.Pod]:
        """See adapters.sql.pod_ledger."""
        return {pod.name: pod for pod in self.rows.values() if pod.name in names}

    async def pod(self, pod_id: UUID) -> pods.Pod | None:
        """See adapters.sql.pod_ledger."""
        return self._with_worker(self.rows[pod_id]) if pod_id in self.rows else None

    async def history(self, pod_id: UUID) -> list[pods.Event]:
        """See adapters.sql.pod_ledger."""
        return [event for of, event in self.events if of == pod_id]

    async def list_pods(self, before: tuple[datetime, UUID] | None, limit: int) -> list[pods.Pod]:
        """See adapters.sql.pod_ledger."""
        found: list[pods.Pod] = []
        # They came in the order of their times, of which only those of one call are the same.
        for pod in reversed(self.rows.values()):
            if len(found) >= limit and pod.create_time < found[-1].create_time:
                break
            if before is None or (pod.create_time, pod.pod_id) < before:
                found.append(pod)
        return heapq.nlargest(limit, found, key=lambda pod: (pod.create_time, pod.pod_id))

    async def move(self, moves: Sequence[pods.Move]) -> set[UUID]:
        """See adapters.sql.pod_ledger."""
        now = self.time.now()
        moved = [move for move in moves if move.pod_id in self.rows and self.rows[move.pod_id].state is move.before]
        for move in moved:
            self._put(_moved(self.rows[move.pod_id], move, now))
            self._note(self.rows[move.pod_id], now)
            if move.join_token_sha256 is not None:
                self.tokens[move.pod_id] = Token(move.join_token_sha256, now + self.token_ttl)
            self._bill(move, now)
        return {move.pod_id for move in moved}

    async def sight(self, sightings: Mapping[UUID, pods.Sighting]) -> None:
        """See adapters.sql.pod_ledger."""
        now = self.time.now()
        for pod_id, seen in sightings.items():
            pod = self.rows.get(pod_id)
            if pod is not None and pod.state in (State.STARTING, State.READY, State.DRAINING, State.DESTROYING):
                self._put(_seen(pod, seen, now))
                self._price(pod_id, now)

    async def adopt(self, orphans: Sequence[pods.Orphan]) -> None:
        """See adapters.sql.pod_ledger."""
        now = self.time.now()
        for orphan in orphans:
            if orphan.name not in self._names:
                self._put(_adopted(orphan, now))
                self._note(self.rows[orphan.pod_id], now)
                self._price(orphan.pod_id, now)

    async def redeem(self, token_sha256: bytes, pod_id: UUID, worker_id: UUID) -> join_tokens.Refusal | None:
        """See adapters.sql.pod_ledger."""
        if pod_id not in self.rows:
            return join_tokens.Refusal.WRONG
        pod, token, now = self.rows[pod_id], self.tokens.get(pod_id), self.time.now()
        sha256, expire_time = (token.sha256, token.expire_time) if token else (None, None)
        grant = join_tokens.Grant(pod.state, sha256, expire_time, pod.worker_id)
        refusal = join_tokens.refusal(grant, token_sha256, worker_id, now)
        if refusal is None and pod.worker_id is None:
            self._put(replace(pod, worker_id=worker_id, registered_time=now))
        return refusal

    async def forget_ended(self, age: timedelta, limit: int) -> int:
        """See adapters.sql.pod_ledger; here no job has had any."""
        now = self.time.now()
        over = sorted((p for p in self.rows.values() if p.end_time and p.end_time <= now - age), key=_ended)[:limit]
        for pod in over:
            del self.rows[pod.pod_id]
            self._names.discard(pod.name)
            self.prices.pop(pod.pod_id, None)
            self.tokens.pop(pod.pod_id, None)
        gone = {pod.pod_id for pod in over}
        self.events[:] = [(of, event) for of, event in self.events if of not in gone]
        return len(over)

    async def spans(self, start: datetime, end: datetime) -> list[costs.Span]:
        """See adapters.sql.pod_ledger."""
        found = [span for pod_id in sorted(self.prices) for span in self.prices[pod_id]]
        return [span for span in found if (span.end is None or span.end > start) and span.start < end]

    async def spent(self, start: datetime, end: datetime) -> int:
        """See adapters.sql.pod_ledger."""
        return costs.total(costs.bills(await self.spans(start, end), start, end).values()).micro_usd

    def _requested(self, request_id: UUID | None) -> pods.Pod | None:
        if request_id is None:
            return None
        return next((pod for pod in self.rows.values() if pod.request_id == request_id), None)

    def _put(self, pod: pods.Pod) -> None:
        _check(pod)
        self.rows[pod.pod_id] = pod
        self._names.add(pod.name)
        if pod.end_time is None:
            self.open[pod.pod_id] = pod
        else:
            self.open.pop(pod.pod_id, None)

    def _note(self, pod: pods.Pod, now: datetime) -> None:
        self.events.append((pod.pod_id, pods.Event(now, pod.state, pod.reason, pod.detail)))

    def _with_worker(self, pod: pods.Pod) -> pods.Pod:
        gone = self.workers_gone.get(pod.worker_id) if pod.worker_id and pod.end_time is None else None
        return pod if gone is pod.worker_gone_time else replace(pod, worker_gone_time=gone)

    def _bill(self, move: pods.Move, now: datetime) -> None:
        spans = self.prices.get(move.pod_id, [])
        if move.after in pods.FINAL and spans:
            end = max(spans[-1].start, min(move.bill_end or now, now))
            spans[-1] = replace(spans[-1], end=end)
        if move.before in pods.FINAL and spans:
            spans[-1] = replace(spans[-1], end=None)
        if move.sighting is not None:
            self._price(move.pod_id, now)

    def _price(self, pod_id: UUID, now: datetime) -> None:
        pod, spans = self.rows[pod_id], self.prices.setdefault(pod_id, [])
        price = pod.price_usd_per_hour
        if spans and spans[-1].end is None:
            if spans[-1].price_usd_per_hour == price:
                return
            spans[-1] = replace(spans[-1], end=now)
        start = now if spans else pod.call_time
        assert start is not None
        spans.append(costs.Span(pod_id, start, None, price, pod.gpu_count))


def _ended(pod: pods.Pod) -> datetime:
    assert pod.end_time is not None
    return pod.end_time


def _intent(new: records.NewPod, now: datetime) -> pods.Pod:
    return _pod(**asdict(new), state=State.INTENDED, reason=pods.Reason.NONE, create_time=now)


def _adopted(orphan: pods.Orphan, now: datetime) -> pods.Pod:
    seen, ends = orphan.sighting, orphan.state is State.DESTROYING
    return _pod(
        pod_id=orphan.pod_id,
        name=orphan.name,
        provider=orphan.provider,
        provider_pod_id=seen.provider_pod_id,
        state=orphan.state,
        reason=pods.Reason.ORPHAN if ends else pods.Reason.NONE,
        detail="listed, and not in the ledger",
        gpu_type=seen.gpu_type,
        gpu_count=seen.gpu_count,
        price_usd_per_hour=seen.price_usd_per_hour or Decimal(0),
        create_time=now,
        call_time=min(seen.create_time or now, now),
        listed_time=now,
        last_seen_time=now,
        destroy_time=now if ends else None,
    )


def _pod(**values: object) -> pods.Pod:
    times = ("call", "listed", "registered", "ready", "drain", "destroy", "end", "last_seen")
    empty: dict[str, object] = {f"{name}_time": None for name in times}
    empty |= dict.fromkeys(("provider_pod_id", "workload", "compute_capability", "device_name", "region"), "")
    return pods.Pod(**{**empty, "vram_bytes": 0, "cloud": "NONE", "worker_id": None, **values})  # type: ignore[arg-type]


def _moved(pod: pods.Pod, move: pods.Move, now: datetime) -> pods.Pod:
    moved = pod if move.sighting is None else _seen(pod, move.sighting, now)
    changed: dict[str, object] = {"end_time": now if move.after in pods.FINAL else None}
    if move.after in (State.CREATING, State.DESTROYING):
        made = move.sighting.create_time if move.sighting else None
        changed["call_time"] = pod.call_time or min(made or now, now)
    if move.after is State.READY:
        changed |= {"ready_time": pod.ready_time or now, "drain_time": None}
    if move.after is State.DRAINING:
        changed["drain_time"] = now
    if move.after is State.DESTROYING:
        changed["destroy_time"] = pod.destroy_time or now
    return replace(moved, state=move.after, reason=move.reason_after(pod.reason), detail=move.detail, **changed)  # type: ignore[arg-type]


def _seen(pod: pods.Pod, seen: pods.Sighting, now: datetime) -> pods.Pod:
    price = seen.price_usd_per_hour
    return replace(
        pod,
        provider_pod_id=pod.provider_pod_id or seen.provider_pod_id,
        listed_time=pod.listed_time or now,
        last_seen_time=now,
        price_usd_per_hour=pod.price_usd_per_hour if price is None else price,
    )


def _check(pod: pods.Pod) -> None:
    """What the table's CHECKs say."""
    state, listed = pod.state, pod.provider_pod_id != ""
    assert (state in pods.FINAL) == (pod.end_time is not None)
    assert (state in (State.INTENDED, State.CREATING, State.STARTING, State.READY)) == (pod.reason == "NONE")
    assert state is State.FAILED or (state is State.INTENDED) == (pod.call_time is None)
    assert listed or state not in (State.STARTING, State.READY, State.DRAINING, State.LOST)
    assert not listed or state not in (State.INTENDED, State.CREATING, State.FAILED)
    assert listed == (pod.listed_time is not None)
    assert pod.ready_time is not None or state not in (State.READY, State.DRAINING)
    assert pod.drain_time is not None or state is not State.DRAINING
    assert pod.destroy_time is not None or state not in (State.DESTROYING, State.DESTROYED)
    assert (pod.worker_id is None) == (pod.registered_time is None)

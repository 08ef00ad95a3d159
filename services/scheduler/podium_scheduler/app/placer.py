"""The placer: says which models each worker should keep loaded. Runs on the leader only, for all replicas' workers.

The plan is domain.placement's; here is what it is made of: the work in the ledger, what the workers' last Status frames
say, and the load times of the past. What is wanted of a worker is kept with its session, so that another leader goes on
with it, and its replica finds it at the next heartbeat; a wake-up cuts that short.

Work counts whether or not anybody offers credit for it: a worker offers none for a model that would not fit beside what
it has, and it is the plan that makes it change. Clock: monotonic, injected; how long a workload has waited or has had
its turn is this process' memory, and a new leader begins anew, with the age of the work.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from uuid import UUID

from prometheus_client import Counter, Gauge

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, logs
from podium_scheduler.app import desires, fits, loops, ports, records, wakers
from podium_scheduler.domain import placement

log = logs.get_logger(__name__)

_INTERVAL_S = 2.0
_LINGER_S = 30.0
"""A workload counts as in use for so long after its last work: jobs come one after the other."""
_CALL_ITEMS = 8
"""What a workload that interactive calls ask for counts as, in items."""
_LOADS_EVERY_S = 10.0
_ASSUMED_LOAD_S = 10.0
_ASSUMED_ITEMS_PER_S = 100.0
_LONG_PLAN = 32
"""Devices times workloads: from here on a plan takes longer than the leader's other loops should wait."""
UNPLACED = Gauge("podium_unplaced_workloads", "Workloads with work that no worker is wanted to have loaded.")
PLACEMENTS = Counter("podium_placements_total", "Changes of what a worker is wanted to keep loaded.")


def forget() -> None:
    """Takes the gauge back: another replica leads."""
    UNPLACED.set(0)


class Placer(loops.PatientLoop):
    """Plans, and tells whom it concerns."""

    name = "placer"

    def __init__(
        self,
        batches: ports.BatchLedger,
        sessions: ports.SessionLedger,
        loads: ports.LoadLedger,
        tell: desires.Desires,
        wake: wakers.Wakers,
        workloads: Mapping[str, workload_pb2.Workload],
        time: clock.Clock,
        asked: ports.DemandLedger | None = None,
    ) -> None:
        """`asked`: what interactive calls ask for."""
        super().__init__(wake.placer)
        self._asked = asked
        self._batches = batches
        self._sessions = sessions
        self._load_ledger = loads
        self._desires = tell
        self._workloads = workloads
        self._clock = time
        self._memory = _Memory()
        self._loads: dict[tuple[str, str], placement.Model] = {}
        self._loads_at = float("-inf")
        self._fits = fits.Fits(workloads)
        self._seats: dict[UUID, tuple[_Seat, ...]] = {}

    async def round(self) -> float:
        """Makes a plan and writes what has changed."""
        work = [w for w in await self._work() if w.workload in self._workloads]
        opened = await self._sessions.placed()
        await self._refresh_loads()
        # A worker's devices do not change while its session lasts.
        seats = {s.session_id: self._seats.get(s.session_id) or _seats(s, self._fits) for s in opened}
        self._seats = seats
        fleet = [_Member(session, seats[session.session_id]) for session in opened]
        active = [member for member in fleet if member.takes_batches]
        demands = self._memory.demands(work, active, self._clock.monotonic())
        workers = [member.worker for member in active]
        models = self._models(workers, demands)
        plan = await _planned(workers, demands, models)
        likely = self._likeliest({w.workload for w in work})
        await self._tell({m.session.session_id: m.with_its_own(plan[m.worker.key], likely) for m in active}, opened)
        placed = {name for wanted in plan.values() for name in wanted}
        UNPLACED.set(sum(d.work_s > 0 and d.workload not in placed for d in demands))
        return _INTERVAL_S

    async def _work(self) -> list[records.WorkloadWork]:
        """Of jobs, and of interactive calls: these are over before anybody counts them, but more will come."""
        work = {w.workload: w for w in await self._batches.work()}
        for one in await self._asked.recent() if self._asked is not None else ():
            of_jobs = work.get(one.workload, records.WorkloadWork(one.workload, 0, 0.0))
            oldest_s = max(of_jobs.oldest_age_s, one.waiting_s)
            work[one.workload] = records.WorkloadWork(one.workload, of_jobs.items + _CALL_ITEMS, oldest_s)
        return list(work.values())

    async def _tell(self, plan: Mapping[UUID, Sequence[str]], opened: Sequence[records.PlacedSession]) -> None:
        before = {session.session_id: tuple(session.wanted) for session in opened}
        changed = {key: wanted for key, wanted in plan.items() if tuple(wanted) != before[key]}
        if not changed:
            return
        await self._sessions.want(changed)
        PLACEMENTS.inc(len(changed))
        for key, wanted in changed.items():
            log.info("placed", session_id=str(key), wanted=list(wanted), before=list(before[key]))
        await self._desires.spread(changed)

    async def _refresh_loads(self) -> None:
        now = self._clock.monotonic()
        if now - self._loads_at >= _LOADS_EVERY_S:
            known = await self._load_ledger.loads()
            self._loads = {(k.workload, k.device_name): placement.Model(k.memory_bytes, k.mean_s) for k in known}
            self._loads_at = now

    def _likeliest(self, with_work: Set[str]) -> list[str]:
        """All workloads, those first that a pod should have loaded which came for none in particular: what has work,
        what had some lately, what is known to load somewhere, what is small."""
        lately, loads = self._memory.lately, {workload for workload, _ in self._loads}
        return sorted(
            self._workloads,
            key=lambda w: (
                w not in with_work, w not in lately, w not in loads, self._workloads[w].needs.vram_bytes, w
            ),
        )  # fmt: skip

    def _models(self, workers: Iterable[placement.Worker], demands: Iterable[placement.Demand]) -> placement.Models:
        names = {device.name for worker in workers for device in worker.devices}
        return {(d.workload, name): self._model(d.workload, name) for d in demands for name in names}

    def _model(self, workload: str, device_name: str) -> placement.Model:
        known, needed = self._loads.get((workload, device_name)), self._workloads[workload].needs.vram_bytes
        if known is None:
            return placement.Model(needed, _ASSUMED_LOAD_S)
        return known if known.memory_bytes else placement.Model(needed, known.load_s)


async def _planned(
    workers: Sequence[placement.Worker], demands: Sequence[placement.Demand], models: placement.Models
) -> dict[str, tuple[str, ...]]:
    if sum(len(worker.devices) for worker in workers) * len(demands) < _LONG_PLAN:
        return placement.plan(workers, demands, models)
    return await asyncio.to_thread(placement.plan, workers, demands, models)


@dataclass(frozen=True, slots=True)
class _Seat:
    """A device as its worker's Hello names it."""

    index: int
    name: str
    memory_bytes: int
    fit: frozenset[str]
    """Workloads that it can serve."""

    def device(self, status: worker_pb2.DeviceStatus | None) -> placement.Device:
        """With what is loaded there."""
        resident = {name: 0 for name in status.resident_workloads} if status else {}
        resident |= {model.workload: model.memory_bytes for model in status.models} if status else {}
        return placement.Device(name=self.name, memory_bytes=self.memory_bytes, fit=self.fit, resident=resident)


def _seats(session: records.PlacedSession, fitting: fits.Fits) -> tuple[_Seat, ...]:
    hello = worker_pb2.Hello.FromString(session.hello)
    return tuple(_Seat(d.index, d.name, d.vram_bytes, fitting.of(hello, d)) for d in fits.devices(hello))


class _Member:
    """An open session, as the plan needs it."""

    def __init__(self, session: records.PlacedSession, seats: Sequence[_Seat]) -> None:
        self.session = session
        status = worker_pb2.Status.FromString(session.status)
        self.takes_batches = not (session.drain or session.quarantine_reason or status.draining)
        self.rates = {w.workload: w.items_per_second for w in status.workloads if 0 < w.items_per_second < math.inf}
        told = {device.index: device for device in status.devices}
        self.worker = placement.Worker(
            key=str(session.session_id),
            devices=tuple(
                seat.device(told.get(seat.index))
                for seat in seats
                if seat.index not in told or told[seat.index].state != worker_pb2.DEVICE_STATE_FAULTED
            ),
            wanted=tuple(session.wanted),
            failed=frozenset(w.workload for w in status.workloads if w.unavailable_reason),
        )

    def with_its_own(self, planned: Sequence[str], likely: Sequence[str]) -> Sequence[str]:
        """The plan for it; the worker of a pod that is to become READY loads at least what the pod was rented for.

        For none in particular: something. Without a model it would never be READY.
        """
        own = self.session.starts_for
        if own == "":
            own = self._something(planned, likely)
        can = any(own in device.fit for device in self.worker.devices)
        return planned if own is None or not can or own in planned else (*planned, own)

    def _something(self, planned: Sequence[str], likely: Sequence[str]) -> str | None:
        """The first that it has not failed to load: of the plan, of what it was told before, of what is likely."""
        fit = {name for device in self.worker.devices for name in device.fit} - self.worker.failed
        return next((name for name in (*planned, *self.worker.wanted, *likely) if name in fit), None)


class _Memory:
    """How long each workload has had work without being loaded anywhere, and how long it has been loaded."""

    def __init__(self) -> None:
        self._worked_at: dict[str, float] = {}
        self._loaded_since: dict[str, float] = {}
        self._loaded_at: dict[str, float] = {}

    @property
    def lately(self) -> Set[str]:
        """What has work, or had some lately."""
        return self._worked_at.keys()

    def demands(
        self, work: Iterable[records.WorkloadWork], fleet: Sequence[_Member], now: float
    ) -> list[placement.Demand]:
        """Of each workload that has work, or had some lately. `now`: monotonic, in seconds."""
        todo = {w.workload: w for w in work}
        self._worked_at |= dict.fromkeys(todo, now)
        self._worked_at = {name: at for name, at in self._worked_at.items() if now - at < _LINGER_S}
        loaded = {name for m in fleet for device in m.worker.devices for name in device.resident}
        self._loaded_since = {name: self._loaded_since.get(name, now) for name in loaded}
        self._loaded_at |= dict.fromkeys(loaded & self._worked_at.keys(), now)
        return [self._demand(name, todo.get(name), fleet, now) for name in sorted(self._worked_at)]

    def _demand(
        self, name: str, work: records.WorkloadWork | None, fleet: Sequence[_Member], now: float
    ) -> placement.Demand:
        rates = [member.rates[name] for member in fleet if name in member.rates]
        rate = sum(rates) / len(rates) if rates else _ASSUMED_ITEMS_PER_S
        # However little there is: it is work.
        work_s = max(work.items, 1) / rate if work else 0.0
        if name in self._loaded_since:
            return placement.Demand(name, work_s, turn_s=now - self._loaded_since[name])
        waited_s = work.oldest_age_s if work else 0.0
        return placement.Demand(name, work_s, waiting_s=min(waited_s, now - self._loaded_at.get(name, float("-inf"))))

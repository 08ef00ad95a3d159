"""What the autoscaler is told: the ledger's pods, work and measurements, and what the pods' workers say of themselves.

When a pod was last at work is this process' memory: a new leader takes its pods to have been so just now, which keeps
them a little longer and ends none too early.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_scheduler.app import device_needs, job_costs, model_trials, ports, records, tight_room
from podium_scheduler.domain import offers, pods, room
from podium_scheduler.domain.autoscaling import budgets, observed

_NEWEST = 200
"""Pods of the past that tell how long a pod takes to come, and which offers have no capacity."""
_CALL_ITEMS = 8
_BACKOFF_S = 60.0
_MAX_BACKOFF_S = 1_800.0
_NO_CAPACITY_S = 300.0
"""The longest interval where there was no capacity: it comes back without notice, and a try is one call."""
_JUDGED = frozenset({pods.State.READY, pods.State.DRAINING})
_UNDECIDED = frozenset({pods.State.INTENDED, pods.State.CREATING})
_WITHDRAWN = frozenset(
    {pods.Reason.NOT_WANTED, pods.Reason.OPERATOR, pods.Reason.OVER_BUDGET, pods.Reason.OVER_LIMIT, pods.Reason.ORPHAN}
)
"""Ends that say nothing about the offer."""
_TO_ACT_ON = frozenset({pods.Reason.REFUSED, pods.Reason.UNAUTHORIZED, pods.Reason.OUT_OF_FUNDS})
"""Ends after which an operator has to act; the offer is tried again, at the longest interval."""

_ANSWERS = _TO_ACT_ON | {pods.Reason.NO_CAPACITY, pods.Reason.THROTTLED, pods.Reason.UNREACHABLE}
"""Of the provider to the create call: they say the same whoever asks."""
_SETTLES = timedelta(seconds=5)
"""After a worker has registered: what it has loaded may not be in the ledger yet, and the work that it has done may."""
_LEAD_IN = timedelta(seconds=30)
"""Around the begin of a lead: pods that ended then may have ended with the leader before. Pods of this machine do."""


class FleetFacts:
    """Gathers them, once a round."""

    def __init__(
        self,
        ledger: ports.PodLedger,
        scaling: ports.ScalingLedger,
        sessions: ports.PlacedSessions,
        loads: ports.MeasuredLoads,
        uses: ports.LastUses,
        workloads: Mapping[str, workload_pb2.Workload],
        asked: ports.DemandLedger | None = None,
        spent: job_costs.JobCosts | None = None,
        space: tight_room.TightRoom | None = None,
    ) -> None:
        """`asked`: what interactive calls ask for. `spent`: on jobs; without it, no job has a budget of its own.
        `space`: for results; without it there is always enough."""
        self._asked = asked
        self._ledger = ledger
        self._scaling = scaling
        self._sessions = sessions
        self._loads = loads
        self._uses = uses
        self._spent = spent
        self._space = space
        self._workloads = workloads
        self._began: datetime | None = None
        self._active_at: dict[UUID, float] = {}
        self._trials = model_trials.ModelTrials(workloads, offer_of)
        self.census: Sequence[pods.Pod] = ()
        """The pods of the last round, as the ledger had them."""
        self.told_to_leave: frozenset[UUID | None] = frozenset()
        """Workers that were told to finish and leave."""

    async def gather(
        self, on_offer: Sequence[offers.Offer], unknown: Mapping[str, str] | None = None
    ) -> tuple[observed.Observed, float]:
        """All of it, and the ledger's time in seconds. `unknown`: providers whose offers are not known, and why."""
        census = await self._ledger.census()
        now, self.census = census.now, census.pods
        self._began = self._began or now
        workers = await workers_of(self._sessions)
        for pod_id, last in (await self._uses.last_uses()).items():
            # A short batch is seen by its end rather than in anybody's hands.
            self._active_at[pod_id] = max(self._active_at.get(pod_id, 0.0), last.timestamp())
        self.told_to_leave = frozenset(key for key, worker in workers.items() if worker.told_to_leave)
        past = await self._ledger.list_pods(None, _NEWEST)
        self._trials.observe(past, workers)
        tight = await self._space.look() if self._space is not None else {}
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        facts = observed.Observed(
            demands=self._demands(
                [*await self._scaling.demands(tight), *await self._calls(workers.values())],
                await self._scaling.arrivals(),
                await self._budgeted(tight, now),
                now,
            ),
            offers=tuple(on_offer),
            pods=tuple(self._pod(pod, workers.get(pod.worker_id), now) for pod in census.pods),
            items_per_s={(t.workload, t.device_name): t.items_per_s for t in await self._scaling.throughputs()},
            load_s={(one.workload, one.device_name): one.mean_s for one in await self._loads.loads()},
            cold_start_s=_cold_starts(past),
            backoffs=backoffs(past, self._began),
            unknown_offers=unknown or {},
            spent_today_usd=await self._ledger.spent(midnight, now) / 1e6,
        )
        self._active_at = {
            pod.pod_id: self._active_at[pod.pod_id] for pod in census.pods if pod.pod_id in self._active_at
        }
        return facts, now.timestamp()

    async def _calls(self, workers: Iterable[Worker]) -> list[records.DemandRow]:
        """Interactive calls that find nobody with the model count as a few items, as old as the first of them."""
        warm = {name for worker in workers for name in worker.resident}
        return [
            records.DemandRow(one.workload, _CALL_ITEMS, one.waiting_since, None)
            for one in (await self._asked.recent() if self._asked is not None else ())
            if one.waiting_since is not None and one.workload not in warm
        ]

    async def _budgeted(self, tight: Mapping[str, room.Tight], now: datetime) -> Sequence[budgets.Job]:
        """The jobs with a budget of their own, and what is left of it."""
        found = await self._scaling.budgeted(tight) if self._spent is not None else ()
        spent = await self._spent.of_jobs([job.job_id for job in found], now) if self._spent is not None else {}
        return [
            budgets.Job(
                job.workload,
                job.items,
                job.since.timestamp(),
                _seconds(job.due),
                (job.budget_micro_usd - (spent[job.job_id].micro_usd if job.job_id in spent else 0)) / 1e6,
                job.held,
            )
            for job in found
        ]

    def _demands(
        self,
        rows: Iterable[records.DemandRow],
        lately: Mapping[str, records.Arrivals],
        budgeted: Sequence[budgets.Job],
        now: datetime,
    ) -> tuple[observed.Demand, ...]:
        """Of every workload, those without work too: some are to be kept warm."""
        due: defaultdict[str, list[observed.Due]] = defaultdict(list)
        held: defaultdict[str, list[observed.Due]] = defaultdict(list)
        for row in rows:
            of = held if row.held else due
            of[row.workload].append(observed.Due(row.items, row.since.timestamp(), _seconds(row.due)))
        for name, those in budgets.dues(budgeted, now.timestamp()).items():
            due[name] += those
        for name, one in budgets.held(budgeted).items():
            held[name].append(one)
        found = []
        for name, workload in sorted(self._workloads.items()):
            since = min((one.since for one in (*due[name], *held[name])), default=None)
            trials = self._trials.of(name, since, (self._began or now).timestamp(), now.timestamp())
            came = lately.get(name)
            found.append(
                observed.Demand(
                    name,
                    tuple(due[name]),
                    _needs(workload),
                    came.items_per_s if came else 0.0,
                    came.window_s if came else None,
                    tuple(held[name]),
                    trials.failed_on,
                    trials.hopeless,
                )
            )
        return tuple(found)

    def _pod(self, pod: pods.Pod, worker: Worker | None, now: datetime) -> observed.Pod:
        in_hand = worker.in_hand if worker is not None else 0
        if pod.state is pods.State.DRAINING and (worker is None or not worker.leaves):
            # What it has now is not known: it may have been given something just before it was told to leave. A worker
            # that has left is the pod keeper's.
            in_hand = max(1, in_hand)
        loading = worker is not None and worker.loading
        # A moment before the ledger has it: a small job can be done by then, and the pod that did it was not in vain.
        is_up = pod.state is pods.State.STARTING and worker is not None and _is_up(pod, worker, now)
        busy = in_hand > 0 or loading
        if busy or pod.pod_id not in self._active_at:
            self._active_at[pod.pod_id] = now.timestamp()
        return observed.Pod(
            pod_id=pod.pod_id,
            state=pods.State.READY if is_up else pod.state,
            offer=offer_of(pod),
            born=pod.create_time.timestamp(),
            workload=pod.workload,
            ready=now.timestamp() if is_up else _seconds(pod.ready_time),
            last_active=self._active_at[pod.pod_id],
            loading=loading,
            batches_in_hand=in_hand,
            resident=worker.resident if worker is not None else frozenset(),
            # One that is to become READY is judged by whoever makes it so; until then it is on its way.
            unable=frozenset(worker.unable) if worker is not None and pod.state in _JUDGED else frozenset(),
            changed=_seconds(pod.destroy_time if pod.state is pods.State.DESTROYING else pod.drain_time),
            cause=pod.reason,
            asked_for=pod.request_id is not None,
        )


class Worker:
    """What a worker says of itself, as far as its pod is concerned."""

    def __init__(self, session: records.PlacedSession) -> None:
        status = worker_pb2.Status.FromString(session.status)
        self.worker_id, self.devices = _introduced(session.hello)
        self.told_to_leave = session.drain
        self.leaves = status.draining
        """It takes nothing new, by its own words."""
        self.in_hand = len(status.in_hand)
        devices = list(status.devices)
        self.loading = any(device.state == worker_pb2.DEVICE_STATE_BOOTING for device in devices)
        self.resident = frozenset(name for device in devices for name in device.resident_workloads)
        self.unable = {one.workload: one.unavailable_reason for one in status.workloads if one.unavailable_reason}
        """Workloads that it cannot serve, and why."""

    @property
    def gpus(self) -> list[worker_pb2.Device]:
        """Its devices but for the CPU."""
        return [device for device in self.devices if device.uuid != "cpu"]

    def fits(self, needs: workload_pb2.DeviceNeeds) -> bool:
        """Whether any of its devices has what a workload needs."""
        return any(device_needs.meets(device, needs) for device in self.devices)


@functools.lru_cache(maxsize=4_096)
def _introduced(said: bytes) -> tuple[UUID, Sequence[worker_pb2.Device]]:
    """A worker's id and devices, by its Hello, which stays the same while its session lasts."""
    hello = worker_pb2.Hello.FromString(said)
    # A worker that names no device is one whose device is not known.
    return UUID(hello.worker_id), tuple(hello.devices) or (worker_pb2.Device(uuid="cpu"),)


async def workers_of(sessions: ports.PlacedSessions) -> dict[UUID | None, Worker]:
    """All that have a session, by their ids."""
    return {worker.worker_id: worker for worker in map(Worker, await sessions.placed())}


def offer_of(pod: pods.Pod) -> offers.Offer:
    """What a pod was rented as, at its price."""
    return _offer(
        pod.provider,
        pod.gpu_type,
        pod.gpu_count,
        pod.price_usd_per_hour,
        pod.vram_bytes,
        pod.compute_capability,
        pod.device_name,
        pod.cloud,
        pod.region,
    )


@functools.lru_cache(maxsize=4_096)
def _offer(
    provider: str,
    gpu_type: str,
    gpu_count: int,
    price: Decimal,
    vram_bytes: int,
    compute_capability: str,
    device_name: str,
    cloud: str,
    region: str,
) -> offers.Offer:
    """One object for all pods of an offer at a price: a fleet has a few, and each round asks for each pod."""
    return offers.Offer(
        provider,
        gpu_type,
        gpu_count,
        float(price),
        vram_bytes,
        compute_capability,
        device_name,
        offers.Cloud(cloud),
        region,
    )


def _is_up(pod: pods.Pod, worker: Worker, now: datetime) -> bool:
    """Whether a pod that starts has its model, or may have it: its worker has nothing else to do."""
    if worker.resident or worker.loading or pod.registered_time is None:
        return bool(worker.resident)
    return now - pod.registered_time < _SETTLES


def _needs(workload: workload_pb2.Workload) -> offers.Needs:
    needs = workload.needs
    return offers.Needs(needs.vram_bytes, needs.min_compute_capability, needs.min_cuda_version)


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _cold_starts(past: Iterable[pods.Pod]) -> dict[str, float]:
    """Mean seconds from intent to READY, by the offer's key."""
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for pod in past:
        if pod.ready_time is not None:
            taken[offer_of(pod).key].append((pod.ready_time - pod.create_time).total_seconds())
    return {key: sum(seconds) / len(seconds) for key, seconds in taken.items()}


def backoffs(past: Iterable[pods.Pod], began: datetime) -> dict[str, observed.Backoff]:
    """Offers whose newest pods never became READY, and when to try again: twice as long after each try that failed.

    What was intended together is one try. A pod that is still on its way says nothing yet, nor does one that ended with
    the leader before, whose lead ended when this one's `began`: it may have ended because of that.
    """
    failed: defaultdict[str, list[pods.Pod]] = defaultdict(list)
    had: set[str] = set()
    for pod in past:
        key = offer_of(pod).key
        if key in had or pod.state in _UNDECIDED or pod.reason in _WITHDRAWN or _ended_with_leader(pod, began):
            continue
        if pod.ready_time is not None:
            had.add(key)
        elif pod.end_time is not None or pod.state is pods.State.DESTROYING:
            failed[key].append(pod)
    return {key: observed.Backoff(_next_try(ones), ones[0].reason) for key, ones in failed.items()}


def _ended_with_leader(pod: pods.Pod, began: datetime) -> bool:
    ended = pod.destroy_time or pod.end_time
    return (
        pod.create_time < began
        and pod.reason not in _ANSWERS
        and ended is not None
        and began - _LEAD_IN <= ended <= began + _LEAD_IN
    )


def _next_try(failed: Sequence[pods.Pod]) -> float:
    """After pods in a row, the newest first, that did not become READY."""
    newest = failed[0]
    tries = len({pod.create_time for pod in failed})
    wait_s: float = _BACKOFF_S * 2 ** min(tries - 1, 8)
    if newest.reason in _TO_ACT_ON:
        wait_s = _MAX_BACKOFF_S
    elif newest.reason is pods.Reason.NO_CAPACITY:
        wait_s = min(wait_s, _NO_CAPACITY_S)
    return (newest.end_time or newest.destroy_time or newest.create_time).timestamp() + min(wait_s, _MAX_BACKOFF_S)

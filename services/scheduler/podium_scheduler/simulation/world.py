"""The event-driven run: jobs come, pods come, work, fail and go, and a rule decides in every round.

Time is a number that jumps from event to event; nothing sleeps, and the same seed gives the same run. Pods go through
the states of domain.pods and nothing else; a pod costs from its create call until it is gone. Batches are fed in the
order in which the feeder takes them within one app and priority, the oldest job's first, and a batch whose pod dies is
computed again from its begin.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Destroy, Drain, Spawn, Undrain, Wait
from podium_scheduler.domain.autoscaling.observed import Demand, Due, Observed, Pod
from podium_scheduler.simulation.market import Market, Stall
from podium_scheduler.simulation.traces import Arrival, Trace

Rule = Callable[[Observed, float], list[Action]]
"""What decides: of what is observed, and now."""

_DAY_S = 86_400.0
_RATE_SPAN_S = 1800.0
"""Arrivals are counted over so long."""
_DUES = 24


@dataclass(slots=True, eq=False)
class Job:
    """A job on its way through."""

    arrival: Arrival
    waiting: int
    left: int
    done_s: float = math.inf


@dataclass(slots=True, eq=False)
class Machine:
    """A pod, as the world knows it."""

    pod_id: UUID
    stall: Stall
    offer: offers.Offer
    born: float
    workload: str
    state: pods.State = pods.State.INTENDED
    ready: float | None = None
    last_active: float | None = None
    loading: bool = False
    job: Job | None = None
    batch_items: int = 0
    resident: str = ""
    changed: float | None = None
    cause: pods.Reason = pods.Reason.NONE
    gone: float = math.inf
    fate: int = 0
    """Counts what has been scheduled for it; an event of an older count comes to nothing."""

    def move(self, state: pods.State, now: float) -> None:
        """Into another state; only along the diagram."""
        if not pods.may_move(self.state, state):
            raise AssertionError(f"{self.state} -> {state}")
        self.state = state
        self.changed = now


@dataclass(frozen=True, slots=True)
class Sample:
    """The world in one round."""

    at_s: float
    backlog: int
    pods: int
    spend_usd: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    spend_usd: float
    highest_day_usd: float
    highest_usd_per_hour: float
    missed: int
    """Jobs that were not done when their window closed."""
    completion_s: tuple[float, ...]
    """Of each job, from its arrival."""
    spawned: int
    failed: int
    """Pods that did not come up, or died."""
    most_pods: int
    rounds: int
    samples: tuple[Sample, ...] = field(repr=False)
    reasons: tuple[tuple[float, str], ...] = field(repr=False)
    """What was done, when, and why."""


class World:
    """One run."""

    def __init__(
        self, market: Market, trace: Trace, rule: Rule, *, seed: int = 0, round_s: float = 10.0, batch_s: float = 10.0
    ) -> None:
        self.market = market
        self.trace = trace
        self._rule = rule
        self._dice = random.Random(seed)
        self._round_s = round_s
        self._batch_s = batch_s
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._ids = itertools.count(1)
        self.jobs: list[Job] = []
        self._queues: dict[str, deque[Job]] = {arrival.workload: deque() for arrival in trace.arrivals}
        self._left = 0
        self._open: dict[str, list[Job]] = {workload: [] for workload in self._queues}
        self._recent: dict[str, deque[tuple[float, int, float | None]]] = {
            workload: deque() for workload in self._queues
        }
        self.machines: dict[UUID, Machine] = {}
        self._backoff: dict[str, tuple[float, float]] = {}
        self._books = _Books()
        self._samples: list[Sample] = []
        self._reasons: list[tuple[float, str]] = []
        self._spawned = self._failed = self._most_pods = self._rounds = 0

    def run(self) -> Outcome:
        """Until the trace is over, all work is done, and nothing is left that costs; or, with a rule that keeps pods,
        until the horizon."""
        for arrival in self.trace.arrivals:
            self._at(arrival.at_s, lambda arrival=arrival: self._arrive(arrival))  # type: ignore[misc]
        self._at(0.0, self._round)
        while self._events:
            at, _, event = heapq.heappop(self._events)
            self._pass_to(at)
            if at >= self.trace.horizon_s and not self._left and len(self.jobs) == len(self.trace.arrivals):
                break
            if at > 3 * self.trace.horizon_s:
                # A rule that never does it.
                break
            event()
        return self._outcome()

    def _outcome(self) -> Outcome:
        late = sum(job.done_s > job.arrival.due_s for job in self.jobs)
        return Outcome(
            spend_usd=self._books.total,
            highest_day_usd=max(self._books.days.values(), default=0.0),
            highest_usd_per_hour=self._books.highest_rate,
            missed=late,
            completion_s=tuple(job.done_s - job.arrival.at_s for job in self.jobs),
            spawned=self._spawned,
            failed=self._failed,
            most_pods=self._most_pods,
            rounds=self._rounds,
            samples=tuple(self._samples),
            reasons=tuple(self._reasons),
        )

    # --- time

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def _later(self, machine: Machine, seconds: float, event: Callable[[Machine], None]) -> None:
        """For a machine, unless something else happens to it before."""
        fate = machine.fate
        self._at(self.now + seconds, lambda: event(machine) if machine.fate == fate else None)

    def _pass_to(self, when: float) -> None:
        self._books.pass_time(self.now, when)
        self.now = when

    # --- rounds

    def _round(self) -> None:
        self._rounds += 1
        for action in self._rule(self.observe(), self.now):
            self._apply(action)
        self._samples.append(Sample(self.now, self._left, len(self.machines), self._books.total))
        self._most_pods = max(self._most_pods, len(self.machines))
        idle = not self.machines and not self._left and self.now > 0
        if not idle:
            self._at(self.now + self._round_s, self._round)
        elif len(self.jobs) < len(self.trace.arrivals):
            # Nothing to decide on until the next job comes; rounds stay on their beat.
            until = self.trace.arrivals[len(self.jobs)].at_s
            beats = max(1, math.ceil((until - self.now) / self._round_s))
            self._at(self.now + beats * self._round_s, self._round)

    def observe(self) -> Observed:
        """What the ledger would say."""
        market = self.market
        return Observed(
            demands=tuple(self._demand(workload) for workload in self._queues),
            offers=tuple(stall.priced(self.now) for stall in market.stalls),
            pods=tuple(_told(machine) for machine in self.machines.values()),
            items_per_s={key: rate / (1 + market.slowdown / 2) for key, rate in market.items_per_s.items()},
            load_s=market.load_s,
            cold_start_s={stall.offer.key: stall.mean_cold_start_s for stall in market.stalls},
            backoff_until={key: until for key, (until, _) in self._backoff.items()},
            spent_today_usd=self._books.days.get(int(self.now // _DAY_S), 0.0),
        )

    def _demand(self, workload: str) -> Demand:
        recent = self._recent[workload]
        while recent and recent[0][0] < self.now - _RATE_SPAN_S:
            recent.popleft()
        rate = sum(items for _, items, _ in recent) / _RATE_SPAN_S
        jobs = self._open[workload] = [job for job in self._open[workload] if job.left]
        windows = (w for _, _, w in recent if w is not None)
        return Demand(workload, tuple(_dues(jobs)), arrivals_per_s=rate, window_s=min(windows, default=None))

    def _apply(self, action: Action) -> None:
        if isinstance(action, Wait | Alert):
            return
        self._reasons.append((self.now, f"{type(action).__name__}: {action.reason}"))
        if isinstance(action, Spawn):
            self._create(action)
            return
        machine = self.machines[action.pod_id]
        if isinstance(action, Drain):
            machine.move(pods.State.DRAINING, self.now)
            machine.cause = action.cause
        elif isinstance(action, Undrain):
            machine.move(pods.State.READY, self.now)
            self._work(machine)
        elif isinstance(action, Destroy):
            self._destroy(machine)

    # --- jobs

    def _arrive(self, arrival: Arrival) -> None:
        job = Job(arrival, arrival.items, arrival.items)
        self.jobs.append(job)
        self._open[arrival.workload].append(job)
        self._queues[arrival.workload].append(job)
        self._recent[arrival.workload].append((self.now, arrival.items, arrival.window_s))
        self._left += arrival.items
        for machine in list(self.machines.values()):
            self._work(machine)

    def _work(self, machine: Machine) -> None:
        """Gives a machine that is free its next batch, or the model for it."""
        if machine.state is not pods.State.READY or machine.job is not None or machine.loading:
            return
        workload = self._next_workload(machine)
        if workload is None:
            return
        if workload != machine.resident:
            machine.loading = True
            machine.resident = workload
            self._later(machine, self.market.load_s.get((workload, machine.offer.device), 0.0), self._loaded)
            return
        rate = self.market.rate(workload, machine.offer)
        queue = self._queues[workload]
        job = queue[0]
        items = min(job.waiting, max(1, round(self._batch_s * rate)))
        job.waiting -= items
        if not job.waiting:
            queue.popleft()
        machine.job = job
        machine.batch_items = items
        seconds = items / rate * (1 + self._dice.uniform(0, self.market.slowdown))
        self._later(machine, seconds, self._done)

    def _next_workload(self, machine: Machine) -> str | None:
        if self._queues.get(machine.resident):
            return machine.resident
        able = [w for w, queue in self._queues.items() if queue and self.market.rate(w, machine.offer)]
        return min(able, key=lambda w: (self._queues[w][0].arrival.due_s, w), default=None)

    def _loaded(self, machine: Machine) -> None:
        machine.loading = False
        machine.last_active = self.now
        self._work(machine)

    def _done(self, machine: Machine) -> None:
        job, items = machine.job, machine.batch_items
        machine.job = None
        machine.last_active = self.now
        if job is not None:
            job.left -= items
            self._left -= items
            if not job.left:
                job.done_s = self.now
        self._work(machine)

    # --- machines

    def _create(self, spawn: Spawn) -> None:
        stall = self.market.by_key[spawn.offer.key]
        key = spawn.offer.key
        if not stall.has_capacity(self.now):
            _, pause = self._backoff.get(key, (0.0, self.market.backoff_s / 2))
            pause = min(2 * pause, self.market.longest_backoff_s)
            self._backoff[key] = (self.now + pause, pause)
            return
        self._backoff.pop(key, None)
        machine = Machine(UUID(int=next(self._ids)), stall, spawn.offer, self.now, spawn.workload)
        self.machines[machine.pod_id] = machine
        machine.move(pods.State.CREATING, self.now)
        machine.move(pods.State.STARTING, self.now)
        self._spawned += 1
        self._books.begin(spawn.offer)
        if self._dice.random() < stall.boot_failures:
            self._later(machine, self.market.boot_patience_s, self._give_up)
        else:
            self._later(machine, stall.cold_start(self._dice), self._come_up)
        if stall.mean_life_s is not None:
            life = self._dice.expovariate(1 / stall.mean_life_s)
            self._at(self.now + life, lambda: self._die(machine))

    def _come_up(self, machine: Machine) -> None:
        machine.move(pods.State.READY, self.now)
        machine.ready = self.now
        machine.changed = None
        self._work(machine)

    def _give_up(self, machine: Machine) -> None:
        self._failed += 1
        self._destroy(machine)

    def _destroy(self, machine: Machine) -> None:
        if machine.state is pods.State.DESTROYING:
            return
        machine.fate += 1
        machine.move(pods.State.DESTROYING, self.now)
        self._hand_back(machine)
        self._later(machine, self.market.termination_lag_s, self._vanish)

    def _vanish(self, machine: Machine) -> None:
        machine.move(pods.State.DESTROYED, self.now)
        self._forget(machine)

    def _die(self, machine: Machine) -> None:
        if machine.state not in (pods.State.STARTING, pods.State.READY, pods.State.DRAINING):
            return
        machine.fate += 1
        self._failed += 1
        machine.move(pods.State.LOST, self.now)
        self._hand_back(machine)
        self._forget(machine)

    def _hand_back(self, machine: Machine) -> None:
        job = machine.job
        if job is None:
            return
        machine.job = None
        if not job.waiting:
            self._queues[job.arrival.workload].appendleft(job)
        job.waiting += machine.batch_items
        for other in list(self.machines.values()):
            self._work(other)

    def _forget(self, machine: Machine) -> None:
        machine.gone = self.now
        del self.machines[machine.pod_id]
        self._books.end(machine.offer)


class _Books:
    """Money, exactly: the prices of what exists, over time."""

    def __init__(self) -> None:
        self.total = 0.0
        self.days: dict[int, float] = {}
        self.highest_rate = 0.0
        self._rate = 0.0
        self._count = 0

    def begin(self, offer: offers.Offer) -> None:
        self._count += 1
        self._rate += offer.price_usd_per_hour
        self.highest_rate = max(self.highest_rate, self._rate)

    def end(self, offer: offers.Offer) -> None:
        self._count -= 1
        # Sums of floats: what is left of nothing is nothing.
        self._rate = self._rate - offer.price_usd_per_hour if self._count else 0.0

    def pass_time(self, before: float, after: float) -> None:
        while before < after:
            day = int(before // _DAY_S)
            step = min(after, (day + 1) * _DAY_S)
            usd = self._rate * (step - before) / 3600
            self.days[day] = self.days.get(day, 0.0) + usd
            self.total += usd
            before = step


def _told(machine: Machine) -> Pod:
    return Pod(
        pod_id=machine.pod_id,
        state=machine.state,
        offer=machine.offer,
        born=machine.born,
        workload=machine.workload,
        ready=machine.ready,
        last_active=machine.last_active,
        loading=machine.loading,
        batches_in_hand=int(machine.job is not None),
        resident=frozenset({machine.resident} if machine.resident else ()),
        changed=machine.changed,
        cause=machine.cause,
    )


def _dues(jobs: list[Job]) -> Iterator[Due]:
    """As the ledger sums them up: jobs that come one after the other, in a bounded number of Dues."""
    size = max(1, math.ceil(len(jobs) / _DUES))
    for start in range(0, len(jobs), size):
        part = jobs[start : start + size]
        closing = min(job.arrival.due_s for job in part)
        yield Due(sum(job.left for job in part), part[0].arrival.at_s, None if closing == math.inf else closing)

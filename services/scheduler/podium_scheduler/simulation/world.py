"""The event-driven run: jobs come, pods come, work, fail and go, and a rule decides in every round.

What the scheduler's leader runs is run here, unchanged: the autoscaler's loop with its facts, the pod keeper, the watch
over readiness and offers; on the ledger of pods in memory, against a simulated cloud, on a virtual clock. Only the rule
in the middle may be another, and the same seed gives the same run.

Rounds that could change nothing are left out: the keeper's while every pod is READY and listed (but for
`last_seen_time`, which is for people), and the autoscaler's while there is neither work nor a pod.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from podium.common.v1 import workload_pb2
from podium_runtime import ids
from podium_scheduler.app import autoscaler, fleet_facts, pod_keeper, pod_readiness, providers
from podium_scheduler.domain import costs, pod_watch, pods
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Wait
from podium_scheduler.domain.autoscaling.observed import Observed
from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.simulation.agenda import EPOCH, Agenda
from podium_scheduler.simulation.books import Books
from podium_scheduler.simulation.cloud import Cloud, Machine
from podium_scheduler.simulation.floor import Floor
from podium_scheduler.simulation.ledgers import Loads, Scaling
from podium_scheduler.simulation.market import Market
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from podium_scheduler.simulation.traces import Trace

Rule = Callable[[Observed, float], list[Action]]
"""What decides: of what is observed, and now."""

_KEEPER_EVERY_S = 5.0
_READINESS_EVERY_S = 1.0
_TOKEN_TTL = timedelta(hours=1)
_LONGEST = 3
"""A run that takes so many times its horizon is given up: its rule never does the work."""


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
    """What the clouds billed."""
    ledger_usd: float
    """What the ledger's spans add up to: a few seconds a pod apart from it, for it sees a pod's end by the list."""
    highest_day_usd: float
    highest_usd_per_hour: float
    missed: int
    """Jobs that were not done when their window closed."""
    completion_s: tuple[float, ...]
    """Of each job, from its arrival."""
    spawned: int
    """Machines that were made."""
    failed: int
    """Those of them that did not come up, or died."""
    most_pods: int
    rounds: int
    samples: tuple[Sample, ...] = field(repr=False)
    reasons: tuple[tuple[float, str], ...] = field(repr=False)
    """What was done, when, and why."""


class _Awake:
    """Whoever waits for a wake-up: nobody, as the agenda has the time of every round."""

    def __init__(self) -> None:
        self.autoscaler = asyncio.Event()

    async def keep(self) -> None:
        """Pods are to be created or destroyed."""


class World:
    """One run."""

    def __init__(
        self, market: Market, trace: Trace, rule: Rule, *, seed: int = 0, round_s: float = 10.0, batch_s: float = 10.0
    ) -> None:
        self.trace = trace
        self._rule = rule
        self._round_s = round_s
        workloads = sorted({arrival.workload for arrival in trace.arrivals})
        self._agenda = agenda = Agenda()
        self._books = Books()
        self.ledger = PodLedgerModel(agenda, _TOKEN_TTL)
        self.cloud = Cloud(market, agenda, self._books, seed, self._come_up, self._go_down)
        dice = random.Random(f"batches {seed}")
        self._floor = floor = Floor(market, agenda, self.ledger, workloads, dice, batch_s, self._changed)
        scaling = Scaling(market, agenda, floor.jobs)
        known = {name: workload_pb2.Workload(name=name) for name in workloads}
        facts = fleet_facts.FleetFacts(self.ledger, scaling, floor, Loads(market), floor, known)
        make = ids.SequentialIds()
        self._offers = autoscaler.OfferWatch([self.cloud], agenda)
        self._autoscaler = autoscaler.Autoscaler(
            self.ledger, scaling, facts, self._offers, floor, Policy(), "podium", make, agenda, _Awake(), self._ask
        )
        patience = pod_watch.Patience(boot=timedelta(seconds=market.boot_patience_s))
        rules = pod_keeper.Rules(patience, interval_s=_KEEPER_EVERY_S)
        self._keeper = pod_keeper.PodKeeper(self.ledger, self.cloud, _order, make, agenda, rules)
        self._readiness = pod_readiness.PodReadiness(self.ledger, floor)
        self._keeper_rests_since: float | None = None
        self._checks_readiness = False
        self._broken: Exception | None = None
        self._samples: list[Sample] = []
        self._reasons: list[tuple[float, str]] = []
        self._most_pods = self._rounds = 0

    def run(self) -> Outcome:
        """Until the trace is over, all work is done, and nothing is left that costs; or, with a rule that keeps pods,
        until the horizon."""
        return asyncio.run(self._run())

    async def _run(self) -> Outcome:
        for arrival in self.trace.arrivals:
            self._agenda.at(arrival.at_s, lambda arrival=arrival: self._floor.arrive(arrival))  # type: ignore[misc]
        for first in (self._watch_offers, self._decide, self._keep):
            self._agenda.at(0.0, first)
        while await self._agenda.step(self._books.pass_time, self._is_over):
            pass
        return await self._outcome()

    def _is_over(self, at_s: float) -> bool:
        done = not self._floor.items_left and len(self._floor.jobs) == len(self.trace.arrivals)
        return (done and at_s >= self.trace.horizon_s) or at_s > _LONGEST * self.trace.horizon_s

    # --- the leader's loops

    async def _watch_offers(self) -> None:
        self._agenda.after(await self._offers.run_once(), self._watch_offers)

    async def _decide(self) -> None:
        self._rounds += 1
        await self._autoscaler.run_once()
        if self._broken is not None:
            raise self._broken
        self._look()
        agenda, alive = self._agenda, len(self.cloud.alive)
        self._samples.append(Sample(agenda.now_s, self._floor.items_left, alive, self._books.total))
        self._most_pods = max(self._most_pods, alive)
        if self._floor.items_left or self._open_pods() or not agenda.now_s:
            agenda.after(self._round_s, self._decide)
        elif len(self._floor.jobs) < len(self.trace.arrivals):
            # Nothing to decide on until the next job comes; rounds stay on their beat.
            until_s = self.trace.arrivals[len(self._floor.jobs)].at_s
            beats = max(1, math.ceil((until_s - agenda.now_s) / self._round_s))
            agenda.after(beats * self._round_s, self._decide)

    def _ask(self, observed: Observed, _policy: Policy, now: float) -> list[Action]:
        """The rule's answer. The loop would go on without one: here it is a bug."""
        try:
            decided = self._rule(observed, now)
        except Exception as error:
            self._broken = error
            raise
        self._reasons += [
            (self._agenda.now_s, f"{type(action).__name__}: {action.reason}")
            for action in decided
            if not isinstance(action, Alert | Wait)
        ]
        return decided

    async def _keep(self) -> None:
        rest_s = await self._keeper.run_once()
        if rest_s >= _KEEPER_EVERY_S and self._calm():
            self._keeper_rests_since = self._agenda.now_s
        else:
            self._agenda.after(rest_s, self._keep)

    def _look(self) -> None:
        """Has the keeper go on, on its beat, if there is something for it."""
        since = self._keeper_rests_since
        if since is not None and not self._calm():
            self._keeper_rests_since = None
            self._agenda.on_beat(since, _KEEPER_EVERY_S, self._keep)

    def _calm(self) -> bool:
        """Whether the keeper's rounds would change nothing."""
        there = self._open_pods()
        if any(pod.state is not pods.State.READY or pod.worker_id in self.ledger.workers_gone for pod in there):
            return False
        return {pod.provider_pod_id for pod in there} == self.cloud.listed()

    def _open_pods(self) -> list[pods.Pod]:
        return [pod for pod in self.ledger.rows.values() if pod.end_time is None]

    async def _check_readiness(self) -> None:
        self._checks_readiness = False
        await self._readiness.run_once()

    # --- what the cloud and the workers tell

    async def _come_up(self, machine: Machine) -> None:
        await self._floor.begin(machine)

    def _go_down(self, machine: Machine) -> None:
        self._floor.cut_off(machine)
        self._agenda.after(machine.lingers_s, self._look)

    def _changed(self) -> None:
        """A worker has loaded its model, or has left."""
        self._look()
        if not self._checks_readiness:
            self._checks_readiness = True
            self._agenda.on_beat(0.0, _READINESS_EVERY_S, self._check_readiness)

    async def _outcome(self) -> Outcome:
        jobs, books, end = self._floor.jobs, self._books, self._agenda.now()
        billed = costs.total(costs.bills(await self.ledger.spans(EPOCH, end), EPOCH, end).values())
        return Outcome(
            spend_usd=books.total,
            ledger_usd=billed.micro_usd / 1e6,
            highest_day_usd=max(books.days.values(), default=0.0),
            highest_usd_per_hour=books.highest_rate,
            missed=sum(job.done_s > job.arrival.due_s for job in jobs),
            completion_s=tuple(job.done_s - job.arrival.at_s for job in jobs),
            spawned=self.cloud.made,
            failed=self.cloud.failed,
            most_pods=self._most_pods,
            rounds=self._rounds,
            samples=tuple(self._samples),
            reasons=tuple(self._reasons),
        )


def _order(pod: pods.Pod, token: str) -> providers.Order:
    environment = {"PODIUM_POD_ID": str(pod.pod_id), "PODIUM_JOIN_TOKEN": token}
    return providers.Order(pod.pod_id, pod.name, fleet_facts.offer_of(pod), "podium-worker", (), environment)

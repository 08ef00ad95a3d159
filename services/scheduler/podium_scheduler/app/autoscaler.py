"""The autoscaler: has pods rented and given back, as domain.autoscaling decides. Runs on the leader only.

Promises: it only writes intents and wishes down, with their reasons; the pod keeper makes them true. What a decision
brings about is seen by the next one, so a round that dies half-way is made good. Every decision is kept, for operators:
one that only repeats the last one of its workload is not written again. Clock: the ledger's. Failure: a provider that
does not tell its offers is taken to have none, after a while.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from prometheus_client import Counter, Gauge

from podium_runtime import clock, ids, logs
from podium_scheduler.app import fleet_facts, intents, loops, outlook, ports, providers, records
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import actions, autoscaler, observed, policy

log = logs.get_logger(__name__)
Decide = Callable[[observed.Observed, policy.Policy, float], list[actions.Action]]
"""What is to be done: of what is observed, under a policy, now."""

_INTERVAL_S = 2.0
_OFFERS_EVERY_S = 60.0
_OFFERS_KEPT_S = 600.0
_OFFERS_WITHIN_S = 90.0
_TOLD_AT_ONCE = 100
"""Workers that are told to leave in one round, which each takes a transaction; the others are told in the next."""
_SAID_EVERY_S = 60.0
"""What is only said and not done is written so often at most: its figures change all the time."""
FAILED = Counter("podium_autoscaler_failures_total", "Decisions that could not be made: a bug; the log has it.")
DECISIONS = Counter("podium_autoscaler_actions_total", "What the autoscaler had done.", ["kind"])

ALERTS = Gauge(
    "podium_autoscaler_alerts", "What operators should know of, by trouble, in how many workloads.", ["trouble"]
)


def forget() -> None:
    """Takes back what only a leader says."""
    ALERTS.clear()


class Wakes(Protocol):
    """Cuts rests short; see app.wakers."""

    @property
    def autoscaler(self) -> asyncio.Event: ...
    async def keep(self) -> None: ...


class Drains(Protocol):
    """Tells workers to finish and leave; see app.draining."""

    async def drain(self, worker_id: UUID) -> bool: ...


class Autoscaler(loops.PatientLoop):
    """Observes, decides, applies."""

    name = "autoscaler"

    def __init__(
        self,
        ledger: ports.PodLedger,
        scaling: ports.ScalingLedger,
        facts: fleet_facts.FleetFacts,
        on_offer: OfferWatch,
        drains: Drains,
        rules: policy.Policy,
        prefix: str,
        make: ids.Ids,
        time: clock.Clock,
        wake: Wakes,
        decide: Decide = autoscaler.decide,
        show: outlook.Outlook | None = None,
    ) -> None:
        """`decide`: another rule than ours, in the simulator. `show`: who is told what it rests on."""
        super().__init__(wake.autoscaler)
        self._wakers = wake
        self._clock = time
        self._decide = decide
        self._outlook = show
        self._ledger = ledger
        self._scaling = scaling
        self._facts = facts
        self._offers = on_offer
        self._drains = drains
        self._rules = rules
        self._prefix = prefix
        self._ids = make
        self._said: dict[tuple[str, str, str], float] = {}

    async def round(self) -> float:
        """One decision, and what follows from it."""
        rules = await self.rules()
        facts, now = await self._facts.gather(self._offers.known, self._offers.unknown)
        if self._outlook is not None:
            self._outlook.note(facts, rules, list(self._offers.unknown))
        try:
            decided = self._decide(facts, rules, now)
        except Exception:
            # Whatever is wrong with it, the queues go on with the pods that there are.
            log.exception("decision_failed")
            FAILED.inc()
            return _INTERVAL_S
        await self._apply([a for a in decided if not isinstance(a, actions.Alert | actions.Wait)])
        _show(decided)
        await self._keep(decided)
        return _INTERVAL_S

    async def rules(self) -> policy.Policy:
        """The policy, with the limits that an operator has set last."""
        limits = await self._scaling.limits()
        return self._rules if limits is None else with_limits(self._rules, limits)

    async def _apply(self, acts: Sequence[actions.Action]) -> None:
        spawns = [act for act in acts if isinstance(act, actions.Spawn)]
        if spawns:
            await self._ledger.intend([self._intent(spawn) for spawn in spawns])
        # As they were when the facts were gathered: whoever has moved on since is not where the move begins.
        states = {pod.pod_id: pod for pod in self._facts.census}
        moves = [move for act in acts if (move := _move(act, states)) is not None]
        moved = await self._ledger.move(moves) if moves else set()
        if spawns or moves:
            await self._wakers.keep()
        drained = {move.pod_id for move in moves if move.after is pods.State.DRAINING} & moved
        # Level-triggered: a drain of an earlier round that did not reach the worker reaches it now.
        leaving = (
            pod.worker_id for pod in states.values() if pod.pod_id in drained or pod.state is pods.State.DRAINING
        )
        untold = [worker for worker in leaving if worker is not None and worker not in self._facts.told_to_leave]
        for worker_id in untold[:_TOLD_AT_ONCE]:
            await self._drains.drain(worker_id)
        for act in acts:
            DECISIONS.labels(type(act).__name__).inc()
            log.info(
                "autoscaler_acts", kind=type(act).__name__, workload=getattr(act, "workload", ""), reason=act.reason
            )

    def _intent(self, spawn: actions.Spawn) -> records.NewPod:
        made = self._ids.uuid4()
        return intents.intent(spawn.offer, made, self._prefix, why=spawn.reason, workload=spawn.workload)

    async def _keep(self, decided: Sequence[actions.Action]) -> None:
        now, news, said = self._clock.monotonic(), [], {}
        for act in decided:
            kind, workload = type(act).__name__, getattr(act, "workload", "")
            if isinstance(act, actions.Alert | actions.Wait):
                key = (workload, kind, getattr(act, "trouble", ""))
                if now - self._said.get(key, float("-inf")) < _SAID_EVERY_S:
                    continue
                said[key] = now
                if isinstance(act, actions.Alert):
                    log.warning("autoscaler_alerts", trouble=act.trouble, workload=workload, reason=act.reason)
            news.append(records.Decision(workload, kind, act.reason, getattr(act, "pod_id", None)))
        if news:
            await self._scaling.decide(news)
        self._said.update(said)


class OfferWatch(loops.PatientLoop):
    """What all providers offer, asked for now and then; one that does not answer is believed for a while."""

    name = "offer_watch"

    def __init__(self, renting: Sequence[providers.Provider], time: clock.Clock) -> None:
        super().__init__()
        self._providers = renting
        self._clock = time
        self._known: dict[str, tuple[float, tuple[offers.Offer, ...]]] = {}
        self._failures: dict[str, str] = {}

    @property
    def known(self) -> list[offers.Offer]:
        """The newest of each provider."""
        return [one for found in self._believed().values() for one in found]

    @property
    def unknown(self) -> dict[str, str]:
        """The other providers, and why nothing is known of what they offer."""
        believed = self._believed()
        names = (provider.name for provider in self._providers if provider.name not in believed)
        return {name: self._failures.get(name, "it has not answered yet") for name in names}

    def _believed(self) -> dict[str, tuple[offers.Offer, ...]]:
        now = self._clock.monotonic()
        return {name: found for name, (at, found) in self._known.items() if now - at < _OFFERS_KEPT_S}

    async def round(self) -> float:
        """Asks all of them at the same time."""
        await asyncio.gather(*map(self._ask, self._providers))
        return _OFFERS_EVERY_S

    async def _ask(self, provider: providers.Provider) -> None:
        try:
            async with asyncio.timeout(_OFFERS_WITHIN_S):
                found = await provider.offers()
        except (providers.ProviderError, TimeoutError, OSError) as error:
            late = f"it did not answer within {_OFFERS_WITHIN_S:.0f} s"
            self._failures[provider.name] = str(error) or (late if isinstance(error, TimeoutError) else repr(error))
            log.warning("offers_unknown", provider=provider.name, error=self._failures[provider.name])
            return
        sound = tuple(one for one in found if math.isfinite(one.price_usd_per_hour) and one.price_usd_per_hour >= 0)
        self._known[provider.name] = self._clock.monotonic(), sound


def with_limits(rules: policy.Policy, limits: records.ScalingLimits) -> policy.Policy:
    """A policy under an operator's limits."""
    hour, day = limits.usd_per_hour, limits.usd_per_day
    return replace(
        rules,
        limits=policy.Limits(
            paused=limits.paused,
            min_pods=limits.min_pods,
            max_pods=limits.max_pods,
            usd_per_hour=None if hour is None else float(hour),
            usd_per_day=None if day is None else float(day),
        ),
    )


def _show(decided: Sequence[actions.Action]) -> None:
    troubles = Tally(act.trouble for act in decided if isinstance(act, actions.Alert))
    for trouble in actions.Trouble:
        ALERTS.labels(trouble).set(troubles[trouble])


def _move(act: actions.Action, there: Mapping[UUID, pods.Pod]) -> pods.Move | None:
    """What the ledger does for it; nothing when the pod has moved on meanwhile."""
    pod = there.get(act.pod_id) if isinstance(act, actions.Drain | actions.Destroy) else None
    if pod is None:
        return None
    assert isinstance(act, actions.Drain | actions.Destroy)
    after = _after(act, pod.state)
    return None if after is None else pods.Move(pod.pod_id, pod.state, after, act.cause, act.reason)


def _after(act: actions.Drain | actions.Destroy, state: pods.State) -> pods.State | None:
    if isinstance(act, actions.Drain):
        return pods.State.DRAINING if state is pods.State.READY else None
    if state is pods.State.INTENDED:
        return pods.State.FAILED
    return pods.State.DESTROYING if pods.may_move(state, pods.State.DESTROYING) else None

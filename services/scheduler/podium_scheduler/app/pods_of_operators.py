"""Use cases: what operators do with pods, and with the autoscaler. On any replica.

Promises: only intents, wishes and limits are written; the pod keeper makes them true. A wish is guarded by the state
that the pod was seen in; where it has moved meanwhile, the wish is made anew from what is true now. The loops that
carry it out are woken. Clock: the
ledger's. Failure: no call holds the ledger while a provider is asked, and a provider's error reaches the operator as
one sentence with a stable reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from podium_runtime import errors, ids, logs
from podium_scheduler.app import draining, intents, ports, providers, records, wakers
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import policy, words
from podium_scheduler.domain.pods import State

log = logs.get_logger(__name__)
Position = tuple[datetime, UUID]
"""Of a pod in the listing: create_time and pod_id."""

_TRIES = 5
_NEWEST = 1_000
"""Pods read at a time, and searched for one that the same request has brought about already."""
_READS = 10
"""For one page: what a filter leaves out makes it short rather than slow."""
_SHOWN_DECISIONS = 20
_SHOWN_NAMES = 20
_NO_CAPACITY_RETRY_S = 60.0
_ASKED = "an operator asked for it"
_ENDED = "an operator ended it"
_WHEN_DRAINED: Mapping[State, State] = {
    State.INTENDED: State.FAILED,
    State.CREATING: State.DESTROYING,
    State.STARTING: State.DESTROYING,
    State.READY: State.DRAINING,
}
_WHEN_DESTROYED: Mapping[State, State] = {
    **_WHEN_DRAINED,
    State.READY: State.DESTROYING,
    State.DRAINING: State.DESTROYING,
}
_TO_ACT_ON: tuple[tuple[type[providers.ProviderError], str], ...] = (
    (providers.Unauthorized, "PROVIDER_UNAUTHORIZED"),
    (providers.OutOfFunds, "PROVIDER_OUT_OF_FUNDS"),
    (providers.Refused, "PROVIDER_REFUSED"),
)
"""Trying again is no use before an operator has acted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pod that an operator asks for."""

    provider: str
    gpu_type: str
    """Empty: the cheapest."""
    gpu_count: int
    """0: the fewest on offer."""
    request_id: UUID

    def asks_for(self, pod: pods.Pod) -> bool:
        """Whether this pod can have come of it."""
        return (
            pod.provider == self.provider
            and self.gpu_type in ("", pod.gpu_type)
            and self.gpu_count in (0, pod.gpu_count)
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a queue has the pods it has."""

    remarks: tuple[str, ...]
    """What holds now."""
    decisions: tuple[records.Decision, ...]
    """The newest first."""


class PodsOfOperators:
    """What OperatorService asks for. Every method raises errors.Unavailable while the ledger is away."""

    def __init__(
        self,
        ledger: ports.PodLedger,
        scaling: ports.ScalingLedger,
        renting: Mapping[str, providers.Provider],
        drains: draining.Draining,
        make: ids.Ids,
        prefix: str,
        rules: policy.Policy,
        wake: wakers.Wakers,
    ) -> None:
        """`prefix`: the cluster's, of every pod's name. `rules`: with the limits until an operator sets any."""
        self._ledger = ledger
        self._scaling = scaling
        self._providers = dict(renting)
        self._drains = drains
        self._ids = make
        self._prefix = prefix
        self._defaults = _as_set(rules.limits)
        self._wakers = wake

    @property
    def providers(self) -> list[str]:
        """Names of those to rent from; none: autoscaling is off."""
        return sorted(self._providers)

    async def page(
        self, states: Set[State], before: Position | None, size: int
    ) -> tuple[list[pods.Pod], Position | None]:
        """Pods in one of the states (none named: in any that is not final), newest first, and where the next page
        begins: None after the last. A page may be short before that."""
        if states & pods.FINAL:
            past, place = await self._search(states, before, size)
            return [self._shown(pod) for pod in past], place
        census = await self._ledger.census()
        alive = [pod for pod in census.pods if not states or pod.state in states]
        found = sorted((p for p in alive if before is None or _place(p) < before), key=_place, reverse=True)
        page = [self._shown(pod) for pod in found[:size]]
        return page, _place(found[size - 1]) if len(found) > size else None

    def _shown(self, pod: pods.Pod) -> pods.Pod:
        """As operators see it: told when nobody watches it."""
        if pod.end_time is not None or pod.provider in self._providers:
            return pod
        return dataclasses.replace(pod, detail=f"nobody watches it: {pod.provider} is not configured. {pod.detail}")

    async def _search(
        self, states: Set[State], before: Position | None, size: int
    ) -> tuple[list[pods.Pod], Position | None]:
        found: list[pods.Pod] = []
        for _ in range(_READS):
            read = await self._ledger.list_pods(before, _NEWEST)
            found += [pod for pod in read if pod.state in states]
            if len(found) > size:
                return found[:size], _place(found[size - 1])
            if len(read) < _NEWEST:
                return found, None
            before = _place(read[-1])
        return found, before

    async def get(self, pod_id: UUID) -> tuple[pods.Pod, list[pods.Event]]:
        """A pod and its history, oldest first. Raises errors.NotFound."""
        return self._shown(await self._found(pod_id)), await self._ledger.history(pod_id)

    async def spawn(self, wanted: Wanted) -> pods.Pod:
        """Writes the intent down. The same request again returns the first pod, whatever is on offer now.

        Raises errors.InvalidArgument when it is not on offer, AlreadyExists when the request was another one's,
        FailedPrecondition when the limits or the provider do not allow it, ResourceExhausted when there is none left,
        Unavailable when the provider does not answer.
        """
        known = await self._ledger.list_pods(None, _NEWEST)
        pod = next((pod for pod in known if pod.request_id == wanted.request_id), None)
        if pod is None:
            offer = await self._offer(wanted)
            await self._allow(offer)
            (pod,) = await self._ledger.intend([self._intent(offer, wanted.request_id)])
            log.info("pod_asked_for", pod_id=str(pod.pod_id), offer=offer.key)
            await self._wakers.keep()
        if not wanted.asks_for(pod):
            raise errors.AlreadyExists(
                f"request_id {wanted.request_id} was used for another pod", reason="REQUEST_ID_REUSED"
            )
        return pod

    async def _offer(self, wanted: Wanted) -> offers.Offer:
        if not self._providers:
            raise errors.FailedPrecondition("no provider of pods is configured", reason="NO_PROVIDER")
        provider = self._providers.get(wanted.provider)
        if provider is None:
            raise _none_of("provider", self._providers)
        try:
            return choose(await provider.offers(), wanted)
        except providers.ProviderError as error:
            raise told(wanted.provider, error) from error

    async def _allow(self, offer: offers.Offer) -> None:
        """The day's budget is the autoscaler's to watch: it depends on how long the pods stay."""
        limits, census = await self.limits(), await self._ledger.census()
        if len(census.pods) >= limits.max_pods:
            raise errors.FailedPrecondition(
                f"{words.many(len(census.pods), 'pod')} may exist, and the limit is {limits.max_pods}",
                reason="OVER_LIMIT",
            )
        total = sum((pod.price_usd_per_hour for pod in census.pods), pods.usd(offer.price_usd_per_hour))
        if limits.usd_per_hour is not None and total > limits.usd_per_hour:
            raise errors.FailedPrecondition(
                f"with it, pods would cost ${total:,.2f} an hour, and the limit is ${limits.usd_per_hour:,.2f}",
                reason="OVER_BUDGET",
            )

    def _intent(self, offer: offers.Offer, request_id: UUID) -> records.NewPod:
        return intents.intent(offer, self._ids.uuid4(), self._prefix, why=_ASKED, request_id=request_id)

    async def drain(self, pod_id: UUID) -> pods.Pod:
        """Lets a READY pod's worker finish; one without a worker ends at once. Idempotent. Raises errors.NotFound."""
        pod = await self._end(pod_id, _WHEN_DRAINED)
        if pod.state is State.DRAINING and pod.worker_id is not None:
            # Also when it drained already: whoever asked before may have died before the worker was told.
            await self._drains.drain(pod.worker_id)
        return pod

    async def destroy(self, pod_id: UUID) -> pods.Pod:
        """Ends a pod now. Idempotent. Raises errors.NotFound."""
        return await self._end(pod_id, _WHEN_DESTROYED)

    async def _end(self, pod_id: UUID, after: Mapping[State, State]) -> pods.Pod:
        """Moves a pod towards its end; one that `after` does not name stays as it is."""
        for _ in range(_TRIES):
            pod = await self._found(pod_id)
            if pod.state not in after:
                return pod
            move = pods.Move(pod_id, pod.state, after[pod.state], pods.Reason.OPERATOR, _ENDED)
            if await self._ledger.move([move]):
                log.info("pod_ended_by_operator", pod_id=str(pod_id), before=move.before, after=move.after)
                await self._wakers.keep()
                return await self._found(pod_id)
        raise errors.Unavailable(f"pod {pod_id} moves on all the time", reason="POD_MOVES")

    async def _found(self, pod_id: UUID) -> pods.Pod:
        pod = await self._ledger.pod(pod_id)
        if pod is None:
            raise errors.NotFound(f"there is no pod {pod_id}", reason="POD_NOT_FOUND")
        return pod

    async def limits(self) -> records.ScalingLimits:
        """What the autoscaler is allowed now."""
        return await self._scaling.limits() or self._defaults

    async def set_limits(self, limits: records.ScalingLimits) -> records.ScalingLimits:
        """All of them, from now on; returns what holds."""
        await self._scaling.set_limits(limits)
        log.info("autoscaling_limits_set", limits=str(limits))
        await self._wakers.scale()
        return await self.limits()

    async def explain(self, workload: str) -> Explanation:
        """What the autoscaler decided about a workload and about all, and what keeps it from deciding."""
        decisions = tuple(await self._scaling.decisions(workload, _SHOWN_DECISIONS))
        remarks = []
        if not self._providers:
            remarks.append("autoscaling is off: no provider of pods is configured")
        if (await self.limits()).paused:
            remarks.append("autoscaling is paused: no pod is rented, and none retired")
        if not decisions and not remarks:
            remarks.append(f"nothing has been decided about {workload} yet: it had no work that asked for a pod")
        return Explanation(tuple(remarks), decisions)


def _as_set(limits: policy.Limits) -> records.ScalingLimits:
    hour, day = limits.usd_per_hour, limits.usd_per_day
    return records.ScalingLimits(
        paused=limits.paused,
        min_pods=limits.min_pods,
        max_pods=limits.max_pods,
        usd_per_hour=None if hour is None else pods.usd(hour),
        usd_per_day=None if day is None else pods.usd(day),
    )


def choose(on_offer: Sequence[offers.Offer], wanted: Wanted) -> offers.Offer:
    """The cheapest of those that are wanted; a machine of somebody unknown only where there is no other.

    Raises errors.InvalidArgument for what is not on offer, providers.NoCapacity when there is none left.
    """
    of_type = [one for one in on_offer if wanted.gpu_type in ("", one.gpu_type)]
    if on_offer and not of_type:
        raise _none_of("gpu_type", (one.gpu_type or "CPU" for one in on_offer))
    count = wanted.gpu_count or min((one.gpu_count for one in of_type), default=0)
    fitting = [one for one in of_type if one.gpu_count == count]
    if of_type and not fitting:
        raise _none_of("gpu_count", (str(one.gpu_count) for one in of_type))
    there = [one for one in fitting if one.stock is not offers.Stock.NONE]
    if not there:
        raise providers.NoCapacity("there is none of it now" if fitting else "it offers nothing now")
    return min(there, key=lambda o: (o.cloud is offers.Cloud.COMMUNITY, o.price_usd_per_hour, o.key))


def _none_of(field: str, names: Iterable[str]) -> errors.InvalidArgument:
    known = sorted(set(names))
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    shown = ", ".join(known[:_SHOWN_NAMES]) + more
    return errors.InvalidArgument([errors.Violation(field, f"is none of {shown}")])


def told(name: str, error: providers.ProviderError) -> errors.PodiumError:
    """A provider's error as an operator is told of it. Never UNAUTHENTICATED: the operator's own token is good."""
    text = f"{name}: {error}"
    if isinstance(error, providers.NoCapacity):
        again = error.retry_after_s or _NO_CAPACITY_RETRY_S
        return errors.ResourceExhausted(text, retry_after_s=again, reason="NO_CAPACITY")
    for kind, reason in _TO_ACT_ON:
        if isinstance(error, kind):
            return errors.FailedPrecondition(text, reason=reason)
    reason = "PROVIDER_THROTTLED" if isinstance(error, providers.Throttled) else "PROVIDER_UNREACHABLE"
    return errors.Unavailable(text, retry_after_s=error.retry_after_s or 1.0, reason=reason)


def _place(pod: pods.Pod) -> Position:
    return pod.create_time, pod.pod_id

"""The pod keeper: makes the provider's pods those of the ledger. One loop a provider; runs on the leader only.

Promises: one create call a pod, ever, and none before its intent, its name and its join token are committed. No destroy
call before DESTROYING is committed; one every round after it, until the list shows the pod no longer. Whoever dies
between any two steps leaves a pod that the next leader finds in the list, by its name. No call to the provider happens
within a transaction; each is bounded in time, and one that hangs keeps neither the other calls of its provider from
their turn nor the list from being looked at, and no other provider's loop.

Clocks: the ledger's decides about pods; ours only measures how long the provider wants to be left alone. Failure: an
error of the provider ends the round and is waited out; an intent whose call had no clear answer stays CREATING until
the list shows it, or should have.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from prometheus_client import Counter, Gauge

from podium_runtime import clock, ids, logs
from podium_scheduler.app import join_tokens, loops, pod_calls, ports, providers
from podium_scheduler.domain import pod_watch, pods

log = logs.get_logger(__name__)
T = TypeVar("T")
Orders = Callable[[pods.Pod, str], providers.Order]
"""What to order for a pod, with the words of its join token."""

_BREATH_S = 0.2
"""Before the round that acts on what this one has decided."""
_ACT_S = 30.0
"""After so long no more calls are begun in a round: the list is to be looked at again."""
_MAX_PAUSE_S = 300.0
PODS = Gauge("podium_pods", "Pods whose life is not over, by provider and state.", ["provider", "state"])
AGE = Gauge("podium_pods_oldest_seconds", "Age of the oldest pod whose life is not over, by provider.", ["provider"])
CALLS = Counter("podium_pod_calls_total", "Calls to providers, by what came of them.", ["provider", "call", "outcome"])
MOVES = Counter("podium_pod_moves_total", "Pods that the keeper moved on.", ["provider", "state", "reason"])
STALE = Counter("podium_pod_moves_stale_total", "Moves dropped: the pod was no longer where they begin.", ["provider"])
ORPHANS = Counter("podium_pod_orphans_total", "Pods of ours that were listed and not in the ledger.", ["provider"])

_FAILURES: Mapping[type[providers.ProviderError], pods.Reason] = {
    providers.NoCapacity: pods.Reason.NO_CAPACITY,
    providers.Refused: pods.Reason.REFUSED,
    providers.Unauthorized: pods.Reason.UNAUTHORIZED,
    providers.OutOfFunds: pods.Reason.OUT_OF_FUNDS,
    providers.Throttled: pods.Reason.THROTTLED,
    providers.Unreachable: pods.Reason.UNREACHABLE,
}
"""Answers to a create call that say that there is no pod."""
_OF_ONE_OFFER = (providers.NoCapacity, providers.Refused)
"""Errors that say nothing about the next call."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """How a provider is watched."""

    patience: pod_watch.Patience = dataclasses.field(default_factory=pod_watch.Patience)
    orphans: pod_watch.OrphanPolicy = pod_watch.OrphanPolicy.DESTROY
    interval_s: float = 5.0


def forget() -> None:
    """Takes back what only a leader says."""
    PODS.clear()
    AGE.clear()


class PodKeeper(loops.PatientLoop):
    """Watches over the pods of one provider."""

    def __init__(
        self,
        ledger: ports.PodLedger,
        provider: providers.Provider,
        orders: Orders,
        make: ids.Ids,
        time: clock.Clock,
        rules: Rules,
        wake: asyncio.Event | None = None,
    ) -> None:
        super().__init__(wake)
        self.name = f"pod_keeper.{provider.name}"
        self._ledger = ledger
        self._provider = provider
        self._orders = orders
        self._ids = make
        self._clock = time
        self._rules = rules
        lag = timedelta(seconds=provider.list_lag_s)
        self._patience = dataclasses.replace(rules.patience, list_lag=lag)
        self._absent: dict[UUID, datetime] = {}
        self._destroy_calls: Tally[UUID] = Tally()
        self._resume_at = 0.0

    async def round(self) -> float:
        """Lists, moves what the list moves, then makes the calls that were decided on before this round."""
        left = self._resume_at - self._clock.monotonic()
        if left > 0:
            return left
        try:
            return _BREATH_S if await self._watch() else self._rules.interval_s
        except providers.ProviderError as error:
            pause = min(error.retry_after_s or self._rules.interval_s, _MAX_PAUSE_S)
            log.warning("provider_left_alone", provider=self._provider.name, seconds=pause, error=str(error))
            self._resume_at = self._clock.monotonic() + pause
            return pause

    async def _watch(self) -> bool:
        """Whether there is more to do at once."""
        still, moved = await self._look()
        called = await self._act(still)
        return called or moved

    async def _look(self) -> tuple[list[pods.Pod], bool]:
        """Lists, and moves what the list moves; the pods that stay where they are, and whether any moved."""
        census = await self._ledger.census(self._provider.name)
        _show(self._provider.name, census)
        listed = [_sighting(one) for one in await self._call("list", self._provider.list())]
        found, strangers = pod_watch.match(census.pods, listed)
        moves = self._follow(census, found)
        news = await self._take_in(strangers) if strangers else []
        await self._move([*moves.values(), *news])
        still = [pod for pod in census.pods if pod.pod_id not in moves]
        seen = {pod.pod_id: found[pod.pod_id] for pod in still if pod.pod_id in found}
        seen = {pod.pod_id: seen[pod.pod_id] for pod in still if _is_news(pod, seen, census.now)}
        if seen:
            await self._ledger.sight(seen)
        return still, bool(moves or strangers)

    def _follow(self, census: pods.Census, found: Mapping[UUID, pods.Sighting]) -> dict[UUID, pods.Move]:
        """What the list moves."""
        now, patience = census.now, self._patience
        absent: dict[UUID, datetime] = {}
        moves: dict[UUID, pods.Move] = {}
        for pod in census.pods:
            move = None
            if pod.pod_id in found:
                move = pod_watch.after_sighting(pod, found[pod.pod_id], now, patience)
            elif since := pod_watch.absent_since(pod, self._absent.get(pod.pod_id), now, patience):
                absent[pod.pod_id] = since
                move = pod_watch.after_absence(pod, since, now, patience)
            if move is not None:
                moves[pod.pod_id] = move
        self._absent = absent
        return moves

    async def _take_in(self, strangers: Sequence[pods.Sighting]) -> list[pods.Move]:
        """Listed pods that are none of the open ones: reopens those that were ours, writes the others down."""
        names = [name for seen in strangers for name in (seen.name, pod_watch.second_name(seen))]
        known = await self._ledger.pods_named(names)
        orphans, moves = [], []
        for seen in strangers:
            what = pod_watch.after_strange_sighting(
                seen, known, self._provider.name, self._rules.orphans, self._ids.uuid4()
            )
            if isinstance(what, pods.Orphan):
                orphans.append(what)
            elif what is not None:
                moves.append(what)
        if orphans:
            await self._ledger.adopt(orphans)
        if orphans or moves:
            ORPHANS.labels(self._provider.name).inc(len(orphans) + len(moves))
            log.warning("pods_without_owner", provider=self._provider.name, new=len(orphans), known=len(moves))
        return moves

    async def _move(self, moves: Sequence[pods.Move]) -> set[UUID]:
        if not moves:
            return set()
        moved = await self._ledger.move(moves)
        STALE.labels(self._provider.name).inc(len(moves) - len(moved))
        for move in moves:
            if move.pod_id in moved:
                MOVES.labels(self._provider.name, move.after, move.reason or "").inc()
                log.info(
                    "pod_moved",
                    pod_id=str(move.pod_id),
                    before=move.before,
                    after=move.after,
                    reason=move.reason,
                    detail=move.detail,
                )
        return moved

    async def _act(self, idle: Sequence[pods.Pod]) -> bool:
        """Destroys and creates, a few at a time; whether there is more to do at once, be it to see what came of it.

        While some hang, the list is looked at all the same: what the others brought about is billed until it shows.
        Raises ProviderError when it is no use to go on.
        """
        until = self._clock.monotonic() + _ACT_S
        calls, errors, created = pod_calls.Calls(), list[providers.ProviderError](), False
        self._plan(calls, idle)
        try:
            while True:
                if not errors and self._clock.monotonic() < until:
                    created |= await self._begin(calls)
                if not calls.under_way:
                    break
                answers = await calls.answers(self._rules.interval_s)
                await self._move([answer.move for answer in answers if answer.move is not None])
                errors += [a.error for a in answers if a.error and not isinstance(a.error, _OF_ONE_OFFER)]
                if not answers:
                    errors += await self._look_meanwhile(calls)
        finally:
            await calls.give_up()
        if errors:
            raise errors[0]
        return created or calls.due

    def _plan(self, calls: pod_calls.Calls, idle: Sequence[pods.Pod]) -> None:
        doomed = [p for p in idle if p.state is pods.State.DESTROYING and p.provider_pod_id]
        # Those that were asked the least first: a few that always hang must not keep the others from their turn.
        self._destroy_calls = Tally({p.pod_id: self._destroy_calls[p.pod_id] for p in doomed})
        doomed.sort(key=lambda pod: self._destroy_calls[pod.pod_id])
        calls.plan(doomed, [p for p in idle if p.state is pods.State.INTENDED])

    async def _begin(self, calls: pod_calls.Calls) -> bool:
        """Begins the calls whose turn it is; whether any creates."""
        doomed, wanted = calls.take()
        tokens = {pod.pod_id: join_tokens.issue(self._ids) for pod in wanted}
        before, after = pods.State.INTENDED, pods.State.CREATING
        begun = await self._move(
            [pods.Move(key, before, after, join_token_sha256=t.sha256) for key, t in tokens.items()]
        )
        for pod in doomed:
            calls.begin(asyncio.create_task(self._destroy(pod)), creates=False)
        for pod in wanted:
            if pod.pod_id in begun:
                calls.begin(asyncio.create_task(self._create(pod, tokens[pod.pod_id].words)), creates=True)
        return bool(wanted)

    async def _look_meanwhile(self, calls: pod_calls.Calls) -> list[providers.ProviderError]:
        try:
            self._plan(calls, (await self._look())[0])
        except providers.ProviderError as error:
            return [error]
        return []

    async def _create(self, pod: pods.Pod, token: str) -> pod_calls.Answer:
        """What the answer moves: nothing when it is not clear."""
        begins = pods.State.CREATING
        try:
            made = await self._call("create", self._provider.create(self._orders(pod, token)))
        except providers.ProviderError as error:
            reason = _FAILURES.get(type(error))
            failed = reason and pods.Move(pod.pod_id, begins, pods.State.FAILED, reason, str(error))
            return pod_calls.Answer(failed or None, error)
        return pod_calls.Answer(pods.Move(pod.pod_id, begins, pods.State.STARTING, sighting=_sighting(made)))

    async def _destroy(self, pod: pods.Pod) -> pod_calls.Answer:
        """Its absence from the list is the answer; this one only tells whether to go on calling."""
        self._destroy_calls[pod.pod_id] += 1
        try:
            await self._call("destroy", self._provider.destroy(pod.provider_pod_id))
        except providers.ProviderError as error:
            log.warning("destroy_failed", pod_id=str(pod.pod_id), error=str(error))
            return pod_calls.Answer(error=error)
        return pod_calls.Answer()

    async def _call(self, what: str, call: Awaitable[T]) -> T:
        """Makes one call, bounded in time. Raises ProviderError, Ambiguous when there was no answer in time."""
        limit_s = self._patience.call.total_seconds()
        outcome = "OK"
        try:
            async with asyncio.timeout(limit_s):
                return await call
        except TimeoutError:
            outcome = providers.Ambiguous.__name__
            raise providers.Ambiguous(f"{self._provider.name}: no answer within {limit_s:g} s") from None
        except providers.ProviderError as error:
            outcome = type(error).__name__
            raise
        finally:
            CALLS.labels(self._provider.name, what, outcome).inc()


def _is_news(pod: pods.Pod, seen: Mapping[UUID, pods.Sighting], now: datetime) -> bool:
    return pod.pod_id in seen and pod_watch.is_news(pod, seen[pod.pod_id], now)


def _sighting(listed: providers.Listed) -> pods.Sighting:
    price = listed.price_usd_per_hour
    return pods.Sighting(
        listed.provider_pod_id,
        listed.name,
        None if price is None else pods.usd(price),
        listed.status in (providers.Status.STOPPED, providers.Status.ERROR),
        listed.create_time,
        listed.detail,
        listed.gpu_type,
        listed.gpu_count or 0,
    )


def _show(provider: str, census: pods.Census) -> None:
    count = Tally(pod.state for pod in census.pods)
    ages_s = [(census.now - pod.create_time).total_seconds() for pod in census.pods]
    AGE.labels(provider).set(max(ages_s, default=0.0))
    for state in pods.State:
        if state not in pods.FINAL:
            PODS.labels(provider, state).set(count[state])

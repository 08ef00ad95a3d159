"""A pod keeper between an imaginary provider and a ledger in memory, on a clock that stands still."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, ParamSpec

from podium_runtime import clock, ids
from podium_scheduler.app import join_tokens, pod_keeper, providers, records
from podium_scheduler.domain import pod_watch, pods
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support import dying
from tests.support.clouds.imaginary import Imaginary

P = ParamSpec("P")
ROUND_S = 5.0
CALL_S = 2.0
PATIENCE = pod_watch.Patience(call=timedelta(seconds=CALL_S), absence=timedelta(seconds=4))


def order(pod: pods.Pod, token: str) -> providers.Order:
    offer = providers.Offer(pod.provider, pod.gpu_type, pod.gpu_count, float(pod.price_usd_per_hour))
    environment = {"PODIUM_POD_ID": str(pod.pod_id), "PODIUM_JOIN_TOKEN": token}
    return providers.Order(pod.pod_id, pod.name, offer, "podium-worker", (), environment)


@dataclass(slots=True)
class World:
    """A cloud, a ledger, and the keeper between them."""

    rules: pod_keeper.Rules = field(default_factory=lambda: pod_keeper.Rules(PATIENCE, interval_s=ROUND_S))
    list_lag_s: float = 0.0
    name: str = "imaginary"
    clock: clock.FakeClock = field(default_factory=clock.FakeClock)
    ids: ids.Ids = field(default_factory=ids.SequentialIds)
    cloud: Imaginary = field(init=False)
    ledger: PodLedgerModel = field(init=False)
    keeper: pod_keeper.PodKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.cloud = Imaginary(self.clock, self.name, self.list_lag_s)
        self.ledger = PodLedgerModel(self.clock)
        self.restart()

    def restart(self) -> None:
        """Another leader, which knows what the ledger knows."""
        self.keeper = pod_keeper.PodKeeper(self.ledger, self.cloud, order, self.ids, self.clock, self.rules)

    async def intend(self, count: int = 1, price: str = "1.0") -> list[pods.Pod]:
        """New pods that are wanted."""
        made = [self.ids.uuid4() for _ in range(count)]
        names = [pods.name_of("test", pod_id) for pod_id in made]
        return await self.ledger.intend(
            [records.NewPod(i, n, self.name, "L4", 1, Decimal(price)) for i, n in zip(made, names, strict=True)]
        )

    async def rounds(self, count: int = 1, every_s: float = ROUND_S) -> None:
        """Rounds of the loop, and the time between them."""
        for _ in range(count):
            await self.keeper.run_once()
            self.clock.advance(every_s)

    async def move(self, pod: pods.Pod, after: State, reason: Reason | None = None) -> None:
        """Somebody else decides."""
        before = self.ledger.rows[pod.pod_id].state
        assert await self.ledger.move([Move(pod.pod_id, before, after, reason)])

    async def ready(self) -> pods.Pod:
        """A pod whose worker is at work."""
        (pod,) = await self.intend()
        await self.rounds()
        token = self.cloud.orders[-1].environment["PODIUM_JOIN_TOKEN"]
        assert await join_tokens.JoinTokens(self.ledger).redeem(token, pod.pod_id, uuid.UUID(int=7)) is None
        await self.move(pod, State.READY)
        return pod

    def state(self, pod: pods.Pod) -> tuple[State, Reason]:
        """Where it stands now."""
        now = self.ledger.rows[pod.pod_id]
        return now.state, now.reason

    def states(self) -> set[State]:
        """Of all pods."""
        return {pod.state for pod in self.ledger.rows.values()}


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test in which somebody hangs: he is given up at once, and nobody because the machine is slow."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        dying.run(test(*args, **kwargs))

    return run

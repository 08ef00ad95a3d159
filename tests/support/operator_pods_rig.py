"""The operator's side of pods over ledgers in memory and imaginary providers: the use cases, or the service itself."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from podium.operator.v1 import operator_pb2_grpc
from podium_runtime import auth, clock, grpc_server, ids
from podium_scheduler.adapters.grpc import operator_pods
from podium_scheduler.app import draining, ports, providers, records, wakers, worker_sessions
from podium_scheduler.app.pods_of_operators import PodsOfOperators, Wanted
from podium_scheduler.domain import pods
from podium_scheduler.domain.autoscaling import policy
from podium_scheduler.domain.offers import Cloud, Offer, Stock
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support.clouds.imaginary import Imaginary

SERVICE = "podium.operator.v1.OperatorService"
TOKEN = "operator-secret"
L4 = Offer("runpod", "NVIDIA L4", 1, 0.43, vram_bytes=24 << 30, device_name="NVIDIA L4", cloud=Cloud.SECURE)
OFFERS = (
    L4,
    replace(L4, price_usd_per_hour=0.29, cloud=Cloud.COMMUNITY),
    replace(L4, gpu_count=4, price_usd_per_hour=1.72),
    replace(L4, gpu_type="NVIDIA H100", price_usd_per_hour=2.99, vram_bytes=80 << 30, device_name=""),
    replace(L4, gpu_type="NVIDIA A40", price_usd_per_hour=0.39, stock=Stock.NONE),
)
LIFE = (State.INTENDED, State.CREATING, State.STARTING, State.READY, State.DRAINING, State.DESTROYING, State.DESTROYED)
WAYS = {
    **{state: LIFE[: number + 1] for number, state in enumerate(LIFE)},
    State.LOST: (*LIFE[:4], State.LOST),
    State.FAILED: (State.INTENDED, State.FAILED),
}


@dataclass
class Market(Imaginary):
    """A provider whose offers are set, or fail."""

    offered: Sequence[Offer] = OFFERS
    fails: providers.ProviderError | None = None

    async def offers(self) -> Sequence[Offer]:
        """What is set."""
        self.calls["offers"] += 1
        if self.fails is not None:
            raise self.fails
        return self.offered


@dataclass
class Replicas:
    """The other replicas, and whether this one leads."""

    leads: bool = False
    heard: list[str] = field(default_factory=list)

    async def replicas(self, kind: str, **fields: object) -> None:
        """As of app.ports.Wakeups."""
        self.heard.append(kind)


@dataclass
class ScalingMemory:
    """Limits and decisions."""

    set: records.ScalingLimits | None = None
    said: list[records.Decision] = field(default_factory=list)

    async def limits(self) -> records.ScalingLimits | None:
        """See adapters.sql.scaling_ledger."""
        return self.set

    async def set_limits(self, limits: records.ScalingLimits) -> None:
        """See adapters.sql.scaling_ledger."""
        self.set = limits

    async def decisions(self, workload: str, limit: int) -> list[records.Decision]:
        """See adapters.sql.scaling_ledger."""
        return [one for one in reversed(self.said) if one.workload in (workload, "")][:limit]


@dataclass
class Drains:
    """The sessions, as far as draining goes; and wake-ups, which reach nobody."""

    asked: list[uuid.UUID] = field(default_factory=list)

    async def drain(self, worker_id: uuid.UUID) -> uuid.UUID | None:
        """See adapters.sql.session_ledger."""
        self.asked.append(worker_id)
        return None


@dataclass(slots=True)
class Rig:
    """Everything in memory, on one clock that stands still."""

    clock: clock.FakeClock = field(default_factory=clock.FakeClock)
    ids: ids.Ids = field(default_factory=ids.SequentialIds)
    ledger: PodLedgerModel = field(init=False)
    scaling: ScalingMemory = field(default_factory=ScalingMemory)
    drains: Drains = field(default_factory=Drains)
    told: Replicas = field(default_factory=lambda: Replicas())
    market: Market = field(init=False)
    waking: wakers.Wakers = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = PodLedgerModel(self.clock)
        self.waking = wakers.Wakers(cast(Any, self.told), cast(Any, self.told))
        self.market = Market(self.clock, "runpod")

    def use_cases(
        self, renting: Mapping[str, providers.Provider] | None = None, ledger: ports.PodLedger | None = None
    ) -> PodsOfOperators:
        """Over this rig's parts, or others."""
        return PodsOfOperators(
            ledger or self.ledger,
            cast(ports.ScalingLedger, self.scaling),
            {"runpod": self.market} if renting is None else renting,
            draining.Draining(worker_sessions.SessionRegistry(), cast(Any, self.drains), cast(Any, None)),
            self.ids,
            "podium",
            policy.Policy(limits=policy.Limits(max_pods=5, usd_per_hour=4.0)),
            self.waking,
        )

    async def spawned(self) -> pods.Pod:
        """A pod that an operator has just asked for."""
        return await self.use_cases().spawn(Wanted("runpod", "NVIDIA L4", 1, self.ids.uuid4()))

    async def pod_in(self, state: State, *, step_s: float = 1.0) -> pods.Pod:
        """A pod that has come to a state by the straight way, `step_s` from one state to the next."""
        return await self.bring(await self.spawned(), state, step_s=step_s)

    async def bring(self, pod: pods.Pod, state: State, *, step_s: float = 1.0) -> pods.Pod:
        """Brings a pod on to a state."""
        way = WAYS[state]
        for after in way[way.index(pod.state) + 1 :]:
            self.clock.advance(step_s)
            pod = await self._step(pod, after)
        return pod

    async def _step(self, pod: pods.Pod, after: State) -> pods.Pod:
        if after is State.READY:
            worker_id, token = self.ids.uuid4(), self.ledger.tokens[pod.pod_id].sha256
            assert await self.ledger.redeem(token, pod.pod_id, worker_id) is None
            self.clock.advance(1.0)
        ends = after not in (State.CREATING, State.STARTING, State.READY)
        move = Move(
            pod.pod_id,
            pod.state,
            after,
            Reason.IDLE if ends else None,
            "idle for 30 s" if ends else "",
            pods.Sighting(f"rp-{pod.pod_id.int}", pod.name) if after is State.STARTING else None,
            join_token_sha256=b"t" * 32 if after is State.CREATING else None,
        )
        assert await self.ledger.move([move]) == {pod.pod_id}
        found = await self.ledger.pod(pod.pod_id)
        assert found is not None
        return found


class PodsOnly(operator_pods.PodCalls):
    """OperatorService without the calls that are about something else."""


@asynccontextmanager
async def served(cases: PodsOfOperators, workloads: Collection[str] = ("minilm",)) -> AsyncIterator[str]:
    """The service on loopback; its address."""
    verify = {SERVICE: auth.shared_secret("operator", TOKEN)}
    server = grpc_server.Server("127.0.0.1:0", authenticator=auth.Authenticator(verify))
    servicer = PodsOnly(cases, workloads)  # type: ignore[abstract]
    server.add(operator_pb2_grpc.add_OperatorServiceServicer_to_server, servicer, SERVICE)
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)

"""The autoscaler's loop and what it reads: ledgers in memory, a cloud, workers, on a clock that is moved by hand."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, ids
from podium_scheduler.app import (
    autoscaler,
    fleet_facts,
    job_costs,
    outlook,
    pod_readiness,
    providers,
    records,
    tight_room,
    wakers,
)
from podium_scheduler.domain import costs, offers, pods, room
from podium_scheduler.domain.autoscaling import policy
from podium_scheduler.simulation.pod_ledger import PodLedgerModel

RULES = policy.Policy(
    limits=policy.Limits(max_pods=5), wishes=policy.Wishes(age_gate_s=0, depth_gate=1, target_s=60), idle_s=30
)
OFFER = offers.Offer("cloud", "L4", 1, 0.8, vram_bytes=24 << 30, compute_capability="8.9", device_name="NVIDIA L4")


class Scaling:
    """A ScalingLedger in memory."""

    def __init__(self) -> None:
        self.limit: records.ScalingLimits | None = None
        self.rows: list[records.DemandRow] = []
        self.jobs: list[records.BudgetedJob] = []
        self.decided: list[records.Decision] = []
        self.speeds: list[records.Throughput] = []
        self.tight: Mapping[str, room.Tight] = {}

    async def limits(self) -> records.ScalingLimits | None:
        return self.limit

    async def demands(self, tight: Mapping[str, room.Tight]) -> list[records.DemandRow]:
        self.tight = tight
        return self.rows

    async def budgeted(self, tight: Mapping[str, room.Tight]) -> list[records.BudgetedJob]:
        return self.jobs

    async def arrivals(self) -> dict[str, records.Arrivals]:
        return {}

    async def throughputs(self) -> list[records.Throughput]:
        return self.speeds

    async def decide(self, decisions: Sequence[records.Decision]) -> None:
        self.decided += decisions

    def said(self, kind: str) -> list[str]:
        return [decision.reason for decision in self.decided if decision.kind == kind]

    async def record_throughputs(self, seen: Sequence[records.Throughput]) -> None:
        self.speeds += seen


class Uses:
    """A CostLedger in memory, as far as activity goes."""

    def __init__(self) -> None:
        self.last: dict[uuid.UUID, datetime] = {}
        self.had: tuple[list[records.PodUse], list[records.PodShare], list[costs.Span]] = ([], [], [])

    async def last_uses(self) -> dict[uuid.UUID, datetime]:
        return self.last

    async def of_jobs(
        self, job_ids: Sequence[uuid.UUID]
    ) -> tuple[list[records.PodUse], list[records.PodShare], list[costs.Span]]:
        return self.had


class Loads:
    async def loads(self) -> list[records.MeasuredLoad]:
        return []


class Cloud:
    """Offers, or an error."""

    name = "cloud"

    def __init__(self) -> None:
        self.found: tuple[offers.Offer, ...] = (OFFER,)
        self.away = False
        self.asked = 0

    async def offers(self) -> tuple[offers.Offer, ...]:
        self.asked += 1
        if self.away:
            raise providers.Unreachable("away")
        return self.found


@dataclass
class Rig:
    """The loops, and what they read."""

    time: clock.FakeClock = field(default_factory=clock.FakeClock)
    scaling: Scaling = field(default_factory=Scaling)
    uses: Uses = field(default_factory=Uses)
    cloud: Cloud = field(default_factory=Cloud)
    sessions: dict[uuid.UUID, worker_pb2.Status] = field(default_factory=dict)
    gpus: int = 1
    device: worker_pb2.Device = field(default_factory=worker_pb2.Device)
    """What each GPU tells of itself."""
    needs: workload_pb2.DeviceNeeds = field(default_factory=workload_pb2.DeviceNeeds)
    leads: bool = True
    drained: list[uuid.UUID] = field(default_factory=list)
    asked: list[records.InteractiveDemand] = field(default_factory=list)
    outlook: outlook.Outlook = field(default_factory=outlook.Outlook)
    memory: room.Memory = field(default_factory=lambda: room.Memory(0, 1_000_000))

    def __post_init__(self) -> None:
        self.pods = PodLedgerModel(self.time)
        self._offers_at = 0.0
        mine: Any = self
        scaling: Any = self.scaling
        loads: Any = Loads()
        known: Mapping[str, workload_pb2.Workload] = {"minilm": workload_pb2.Workload(name="minilm", needs=self.needs)}
        uses: Any = self.uses
        space = tight_room.TightRoom(mine, mine, {"minilm": room.Sizes(10, 10_000)})
        spent = job_costs.JobCosts(uses)
        facts = fleet_facts.FleetFacts(self.pods, scaling, mine, loads, uses, known, mine, spent, space)
        rented: Any = [self.cloud]
        self.offers = autoscaler.OfferWatch(rented, self.time)
        make = ids.SequentialIds()
        self.waking = wakers.Wakers(mine, mine)
        self.loop = autoscaler.Autoscaler(
            self.pods, scaling, facts, self.offers, mine, RULES, "podium", make, self.time, self.waking,
            show=self.outlook,
        )  # fmt: skip
        self.readiness = pod_readiness.PodReadiness(self.pods, mine, known)

    async def placed(self) -> list[records.PlacedSession]:
        """As of a SessionLedger."""
        devices = [worker_pb2.Device(uuid=f"GPU-{n}") for n in range(self.gpus)] or [worker_pb2.Device(uuid="cpu")]
        for gpu in devices[: self.gpus]:
            gpu.MergeFrom(self.device)
        return [
            records.PlacedSession(
                uuid.uuid4(), worker_pb2.Hello(worker_id=str(worker), devices=devices).SerializeToString(),
                status.SerializeToString(), False, "", (),
            )
            for worker, status in self.sessions.items()
        ]  # fmt: skip

    async def in_flight(self) -> dict[str, int]:
        """As of a HoldingsLedger."""
        assert self.memory.crowded, "asked for nothing"
        return {}

    async def recent(self) -> list[records.InteractiveDemand]:
        """As of a DemandLedger."""
        return self.asked

    async def drain(self, worker_id: uuid.UUID) -> bool:
        """As of app.draining."""
        self.drained.append(worker_id)
        return True

    async def round(self) -> None:
        """What the leader's loops do, one after the other."""
        if self.time.monotonic() >= self._offers_at:
            self._offers_at = self.time.monotonic() + await self.offers.run_once()
        await self.loop.run_once()

    def work(self, items: int) -> None:
        self.scaling.rows = [records.DemandRow("minilm", items, self.time.now(), None)] if items else []

    async def rent(self, stage_s: float = 0.0) -> pods.Pod:
        """One pod, as far as STARTING, its worker registered; each stage takes so long, the next one too."""
        self.work(100)
        await self.round()
        (pod,) = (await self.pods.census()).pods
        return await self.come(pod, stage_s)

    async def come(self, pod: pods.Pod, stage_s: float = 0.0) -> pods.Pod:
        """A pod that was intended, likewise."""
        token = pod.pod_id.bytes * 2
        self.time.advance(stage_s)
        await self.pods.move([pods.Move(pod.pod_id, pod.state, pods.State.CREATING, join_token_sha256=token)])
        seen = pods.Sighting(f"id-{pod.pod_id}", pod.name)
        self.time.advance(stage_s)
        await self.pods.move([pods.Move(pod.pod_id, pods.State.CREATING, pods.State.STARTING, sighting=seen)])
        worker = uuid.uuid4()
        self.time.advance(stage_s)
        assert await self.pods.redeem(token, pod.pod_id, worker) is None
        self.time.advance(stage_s)
        self.sessions[worker] = worker_pb2.Status(devices=[worker_pb2.DeviceStatus(state=worker_pb2.DEVICE_STATE_IDLE)])
        return await self.now(pod)

    async def intended(self, within_s: float) -> list[pods.Pod]:
        """Pods that are intended by then, as soon as there are any."""
        until = self.time.monotonic() + within_s
        while True:
            await self.round()
            found = [pod for pod in (await self.pods.census()).pods if pod.state is pods.State.INTENDED]
            if found or self.time.monotonic() >= until:
                return found
            self.time.advance(10)

    async def fails(self, within_s: float = 200.0, words: str = "bad file") -> pods.Pod:
        """A pod is rented within that time, cannot load its model, and goes."""
        (pod,) = await self.intended(within_s)
        pod = await self.come(pod)
        self.status(pod).workloads.add(workload=pod.workload, unavailable_reason=words)
        await self.round()
        await self.readiness.run_once()
        gone = await self.now(pod)
        await self.round()
        assert pod.worker_id is not None
        del self.sessions[pod.worker_id]
        await self.pods.move([pods.Move(pod.pod_id, gone.state, pods.State.DESTROYED)])
        return gone

    async def now(self, pod: pods.Pod) -> pods.Pod:
        found = await self.pods.pod(pod.pod_id)
        assert found is not None
        return found

    def status(self, pod: pods.Pod) -> worker_pb2.Status:
        assert pod.worker_id is not None
        return self.sessions[pod.worker_id]

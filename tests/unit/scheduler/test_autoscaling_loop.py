"""The autoscaler's loop over ledgers in memory: what it sees, what it has done, what it keeps of it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, ids
from podium_scheduler.app import (
    autoscaler,
    fleet_facts,
    intents,
    job_costs,
    outlook,
    pod_readiness,
    providers,
    records,
    throughputs,
    tight_room,
    wakers,
    worker_sessions,
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


async def test_calls_that_find_nobody_have_a_pod_intended_and_those_that_are_served_have_not() -> None:
    rig = Rig()
    rig.asked = [records.InteractiveDemand("minilm", None, 0.0)]
    await rig.round()
    assert not rig.pods.rows
    rig.asked = [records.InteractiveDemand("minilm", rig.time.now(), 1.0)]
    await rig.round()
    (pod,) = (await rig.pods.census()).pods
    assert (pod.state, pod.workload) == (pods.State.INTENDED, "minilm")


async def test_work_has_a_pod_intended_once_and_says_why() -> None:
    rig = Rig()
    await rig.round()
    assert not rig.pods.rows
    rig.work(100)
    await rig.round()
    (pod,) = (await rig.pods.census()).pods
    assert (pod.state, pod.workload, pod.provider, pod.gpu_type, pod.device_name) == (
        pods.State.INTENDED, "minilm", "cloud", "L4", "NVIDIA L4",
    )  # fmt: skip
    assert pod.name == pods.name_of("podium", pod.pod_id)
    (decision,) = rig.scaling.decided
    assert (decision.kind, decision.workload) == ("Spawn", "minilm") and decision.reason == pod.detail
    await rig.round()
    assert len(rig.pods.rows) == 1, "it is on its way"


async def test_a_pod_is_ready_when_its_worker_has_a_model() -> None:
    rig = Rig()
    pod = await rig.rent()
    await rig.readiness.run_once()
    assert (await rig.now(pod)).state is pods.State.STARTING
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    assert (await rig.now(pod)).state is pods.State.READY


def _took(stage: str) -> float:
    found = REGISTRY.get_sample_value("podium_pod_start_seconds_sum", {"provider": "cloud", "stage": stage})
    return found or 0.0


async def test_each_stage_of_a_start_is_measured() -> None:
    rig = Rig()
    before = [_took(stage) for stage in ("call", "listed", "registered", "ready", "all")]
    pod = await rig.rent(7.0)
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    after = [_took(stage) for stage in ("call", "listed", "registered", "ready", "all")]
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([7.0, 7.0, 7.0, 7.0, 28.0])


@pytest.mark.parametrize(
    ("lived_on", "reason", "again"),
    [
        (timedelta(seconds=5), pods.Reason.PROVIDER_ERROR, True),
        (timedelta(minutes=5), pods.Reason.PROVIDER_ERROR, False),
        (timedelta(seconds=-60), pods.Reason.PROVIDER_ERROR, False),
        (timedelta(seconds=5), pods.Reason.NO_CAPACITY, False),
    ],
)
async def test_what_ended_with_the_leader_before_says_nothing_about_its_offer(
    lived_on: timedelta, reason: pods.Reason, again: bool
) -> None:
    """`lived_on`: after the new leader's begin."""
    rig = Rig()
    pod = await rig.rent()
    rig.time.advance(120)
    began = rig.time.now()
    ended = dataclasses.replace(
        pod, state=pods.State.DESTROYING, reason=reason, destroy_time=began + lived_on
    )  # fmt: skip
    assert (fleet_facts.backoffs([ended], began) == {}) is again


async def test_a_pod_without_its_gpu_is_given_back() -> None:
    rig = Rig(gpus=0)
    pod = await rig.rent()
    await rig.readiness.run_once()
    now = await rig.now(pod)
    assert (now.state, now.reason) == (pods.State.DESTROYING, pods.Reason.UNSUITABLE)
    assert now.detail == "it came up with 0 of 1 GPUs"


L4 = {"name": "NVIDIA L4", "vram_bytes": 23034 << 20, "compute_capability": "8.9", "cuda_version": "12.4"}


@pytest.mark.parametrize(
    ("came", "needs", "detail"),
    [
        ({}, {}, ""),
        ({}, {"vram_bytes": 22 << 30, "min_compute_capability": "8.9", "min_cuda_version": "12.4"}, ""),
        ({"cuda_version": ""}, {"min_cuda_version": "12.4"}, ""),
        (
            {"cuda_version": "12.2"},
            {"min_cuda_version": "12.4"},
            "it has not what minilm needs (CUDA 12.4): NVIDIA L4 with 22.5 GiB, compute capability 8.9, CUDA 12.2",
        ),
        (
            {},
            {"vram_bytes": 23 << 30},
            "it has not what minilm needs (23.0 GiB): NVIDIA L4 with 22.5 GiB, compute capability 8.9, CUDA 12.4",
        ),
        ({"vram_bytes": 15 << 30}, {}, "NVIDIA L4 has 15.0 GiB, and 24.0 GiB were ordered"),
        (
            {"name": "NVIDIA T4", "compute_capability": "7.5"},
            {},
            "NVIDIA T4 has compute capability 7.5, and 8.9 was ordered",
        ),
    ],
    ids=["as ordered", "as needed", "unknown driver", "old driver", "too small", "smaller", "older"],
)
async def test_a_pod_that_came_up_as_something_else_is_given_back(
    came: dict[str, Any], needs: dict[str, Any], detail: str
) -> None:
    rig = Rig(device=worker_pb2.Device(**{**L4, **came}), needs=workload_pb2.DeviceNeeds(**needs))
    pod = await rig.rent()
    rig.status(pod).devices[0].resident_workloads.append("other")
    await rig.readiness.run_once()
    now = await rig.now(pod)
    assert now.state is (pods.State.DESTROYING if detail else pods.State.READY)
    if detail:
        assert (now.reason, now.detail) == (pods.Reason.UNSUITABLE, detail)


async def test_a_pod_that_cannot_load_what_it_was_rented_for_is_given_back() -> None:
    rig = Rig()
    rig.work(100)
    gone = await rig.fails(words="the file is broken")
    assert (gone.state, gone.reason) == (pods.State.DESTROYING, pods.Reason.MODEL_UNAVAILABLE)
    assert gone.detail == "the file is broken"


async def test_what_no_pod_can_load_is_tried_three_times_and_new_work_not_before_an_hour_is_over() -> None:
    rig = Rig()
    rig.work(100)
    for _ in range(3):
        assert rig.outlook.hopeless() == {}
        assert (await rig.fails()).workload == "minilm"
    assert await rig.intended(1800.0) == []
    words = "3 tries with pods, and none could load it: bad file"
    assert rig.outlook.hopeless() == {"minilm": words} and rig.outlook.hope("minilm") == ""
    said = {decision.kind: decision.reason for decision in rig.scaling.decided}
    assert (said["Wait"], said["Alert"]) == (words, words)
    rig.work(0)
    rig.time.advance(60)
    rig.work(100)
    assert await rig.intended(1500.0) == [], "what failed for others fails for new work too"
    assert await rig.intended(600.0) != []


async def test_a_model_that_one_pod_cannot_load_is_tried_elsewhere() -> None:
    rig = Rig()
    rig.cloud.found = (OFFER, dataclasses.replace(OFFER, gpu_type="L40S", price_usd_per_hour=1.6))
    rig.work(100)
    assert [(await rig.fails()).gpu_type for _ in range(3)] == ["L4", "L40S", "L4"]


async def test_pods_that_were_intended_together_are_one_try() -> None:
    rig = Rig()
    rig.work(50_000)
    together = await rig.intended(60.0)
    assert len(together) > 3
    for pod in together:
        pod = await rig.come(pod)
        rig.status(pod).workloads.add(workload=pod.workload, unavailable_reason="the hub is away")
    await rig.round()
    await rig.readiness.run_once()
    assert {(await rig.now(pod)).reason for pod in together} == {pods.Reason.MODEL_UNAVAILABLE}
    assert rig.outlook.hopeless() == {} and rig.outlook.hope("minilm")


async def test_a_pod_that_went_on_with_another_model_is_no_capacity_for_what_it_cannot_load() -> None:
    rig = Rig()
    pod = await rig.rent()
    rig.status(pod).devices[0].resident_workloads.append("other")
    await rig.readiness.run_once()
    assert (await rig.now(pod)).state is pods.State.READY
    assert await rig.intended(0.0) == [], "it may still load it"
    rig.status(pod).workloads.add(workload="minilm", unavailable_reason="bad file")
    assert len(await rig.intended(0.0)) == 1


async def test_a_pod_that_loaded_it_ends_the_count() -> None:
    rig = Rig()
    rig.work(100)
    for _ in range(2):
        await rig.fails()
    (good,) = await rig.intended(300.0)
    good = await rig.come(good)
    rig.status(good).devices[0].resident_workloads.append("minilm")
    await rig.round()
    await rig.readiness.run_once()
    assert good.worker_id is not None
    del rig.sessions[good.worker_id]
    lost = pods.Move(good.pod_id, pods.State.READY, pods.State.LOST, pods.Reason.VANISHED, "")
    await rig.pods.move([lost])
    await rig.fails(300.0)
    assert rig.outlook.hopeless() == {}, "one try since"


async def test_an_idle_pod_is_drained_and_then_destroyed_and_a_busy_one_is_not() -> None:
    rig = Rig()
    pod = await rig.rent()
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    rig.work(0)
    batch = rig.status(pod).in_hand.add(batch_id=1)
    for _ in range(5):
        rig.time.advance(60)
        await rig.round()
    assert (await rig.now(pod)).state is pods.State.READY, "it has a batch in hand"
    rig.status(pod).in_hand.remove(batch)
    rig.status(pod).devices[0].state = worker_pb2.DEVICE_STATE_BOOTING
    rig.time.advance(60)
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.READY, "it loads a model"
    rig.status(pod).devices[0].state = worker_pb2.DEVICE_STATE_READY
    rig.time.advance(20)
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.READY, "it was busy a moment ago"
    rig.time.advance(20)
    await rig.round()
    now = await rig.now(pod)
    assert (now.state, now.reason) == (pods.State.DRAINING, pods.Reason.IDLE)
    assert rig.drained == [pod.worker_id]
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.DRAINING, "it has not said that it takes nothing new"
    rig.status(pod).draining = True
    await rig.round()
    now = await rig.now(pod)
    assert (now.state, now.reason) == (pods.State.DESTROYING, pods.Reason.IDLE)
    assert [d.kind for d in rig.scaling.decided if d.pod_id] == ["Drain", "Destroy"]


async def test_a_new_leader_does_not_take_a_pod_for_idle_that_it_has_not_seen() -> None:
    rig = Rig()
    pod = await rig.rent()
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    rig.work(0)
    rig.time.advance(3600)
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.READY


async def test_what_an_operator_has_set_is_in_force_at_once() -> None:
    rig = Rig()
    rig.scaling.limit = records.ScalingLimits(paused=True)
    rig.work(100)
    await rig.round()
    assert not rig.pods.rows
    assert rig.scaling.decided[0].reason == "an operator has paused the autoscaler"
    await rig.round()
    assert len(rig.scaling.decided) == 1, "nothing new is not written again"
    rig.scaling.limit = records.ScalingLimits(max_pods=0)
    await rig.round()
    assert not rig.pods.rows
    rig.scaling.limit = records.ScalingLimits()
    await rig.round()
    assert len(rig.pods.rows) == 1


async def test_an_offer_that_could_not_be_had_is_left_alone_twice_as_long_each_time() -> None:
    rig = Rig()
    rig.work(100)
    pauses = []
    for _ in range(3):
        waited = 0
        while not (alive := (await rig.pods.census()).pods):
            rig.time.advance(10)
            waited += 10
            await rig.round()
        pauses.append(waited)
        failed = pods.Move(alive[0].pod_id, alive[0].state, pods.State.FAILED, pods.Reason.NO_CAPACITY, "none")
        await rig.pods.move([failed])
    assert pauses == [10, 60, 120]


async def test_an_empty_account_is_explained_as_such() -> None:
    rig = Rig()
    rig.work(100)
    await rig.round()
    (pod,) = (await rig.pods.census()).pods
    broke = pods.Move(pod.pod_id, pod.state, pods.State.FAILED, pods.Reason.OUT_OF_FUNDS, "the balance is 0")
    await rig.pods.move([broke])
    await rig.round()
    (said,) = rig.scaling.said("Wait")
    assert said.endswith(
        f"{OFFER.key} cannot be had: the account at its provider has no money left; it is asked again in 30 min"
    )


async def test_a_provider_that_never_told_its_offers_is_explained_with_its_own_words() -> None:
    rig = Rig()
    rig.work(100)
    await rig.loop.run_once()
    rig.cloud.away = True
    rig.time.advance(61)
    await rig.round()
    none = "none of 0 offers may serve it now, 0 of them fit; what cloud offers is not known"
    assert rig.scaling.said("Wait") == [f"{none}: it has not answered yet", f"{none}: away"]
    rig.cloud.away = False
    rig.time.advance(61)
    await rig.round()
    assert rig.offers.unknown == {} and rig.pods.rows


async def test_a_provider_that_does_not_answer_is_believed_for_a_while() -> None:
    rig = Rig()
    await rig.round()
    rig.cloud.away = True
    rig.time.advance(120)
    rig.work(100)
    await rig.round()
    assert len(rig.pods.rows) == 1 and rig.cloud.asked == 2
    (pod,) = (await rig.pods.census()).pods
    await rig.pods.move([pods.Move(pod.pod_id, pod.state, pods.State.FAILED, pods.Reason.NOT_WANTED, "")])
    rig.time.advance(900)
    await rig.round()
    assert not (await rig.pods.census()).pods


async def test_pods_of_a_job_that_nobody_reads_go_when_there_is_no_room_and_come_again_when_it_is_read() -> None:
    rig = Rig()
    pod = await rig.rent()
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    since = rig.time.now()
    rig.memory = room.Memory(795_000, 1_000_000)
    rig.scaling.rows = [records.DemandRow("minilm", 10**6, since, None, held=True)]
    for _ in range(10):
        rig.time.advance(10)
        await rig.round()
    assert rig.scaling.tight == {"minilm": room.Tight(-1, True)}
    now = await rig.now(pod)
    assert (now.state, now.reason) == (pods.State.DRAINING, pods.Reason.IDLE)
    assert len(rig.pods.rows) == 1, "whatever its window, another would have nothing to do"
    assert rig.scaling.said("Wait")[-1].startswith("1,000,000 items wait until results are read: there is no room")
    rig.memory = room.Memory(300_000, 1_000_000)
    rig.scaling.rows = [records.DemandRow("minilm", 10**6, since, None)]
    await rig.round()
    assert rig.scaling.tight == {} and len(rig.pods.rows) > 1


async def test_throughput_is_items_by_the_devices_own_time() -> None:
    ledger: Any = Scaling()
    noted = throughputs.Throughputs(ledger)
    one = worker_sessions.Session(uuid.uuid4(), uuid.uuid4(), worker_pb2.Hello(devices=[worker_pb2.Device(name="L4")]))
    mixed = [worker_pb2.Device(name="L4"), worker_pb2.Device(name="T4")]
    two = worker_sessions.Session(uuid.uuid4(), uuid.uuid4(), worker_pb2.Hello(devices=mixed))
    noted.note(one, "minilm", 100, 0.5)
    noted.note(one, "minilm", 300, 0.5)
    noted.note(one, "minilm", 300, 0.0)
    # With a GPU that has been in trouble from the start.
    half = [worker_pb2.Device(name="L4"), worker_pb2.Device(index=1)]
    three = worker_sessions.Session(uuid.uuid4(), uuid.uuid4(), worker_pb2.Hello(devices=half))
    noted.note(two, "minilm", 300, 1.0)
    noted.note(three, "minilm", 400, 1.0)
    await noted.run_once()
    await noted.run_once()
    assert ledger.speeds == [records.Throughput("minilm", "L4", 400.0, 3)]


async def test_how_long_a_pod_takes_to_come_is_measured() -> None:
    rig = Rig()
    pod = await rig.rent()
    rig.time.advance(42)
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    ready = await rig.now(pod)
    assert ready.ready_time is not None and ready.ready_time - ready.create_time == timedelta(seconds=42)
    assert fleet_facts._cold_starts([ready]) == {OFFER.key: 42.0}


async def test_a_pod_that_has_done_all_before_it_was_ready_is_idle_and_not_unwanted() -> None:
    rig = Rig()
    pod = await rig.rent()
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    rig.work(0)
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.STARTING
    await rig.readiness.run_once()
    rig.time.advance(60)
    await rig.round()
    assert (await rig.now(pod)).reason is pods.Reason.IDLE


async def test_a_pod_that_an_operator_asks_for_on_an_empty_queue_is_kept_until_it_was_idle() -> None:
    rig = Rig()
    asked = intents.intent(OFFER, uuid.uuid4(), "podium", why="an operator asked for it", request_id=uuid.uuid4())
    (pod,) = await rig.pods.intend([asked])
    await rig.round()
    pod = await rig.come(pod)
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.STARTING
    rig.status(pod).devices[0].resident_workloads.append("minilm")
    await rig.readiness.run_once()
    rig.time.advance(29)
    await rig.round()
    assert (await rig.now(pod)).state is pods.State.READY
    rig.time.advance(1)
    await rig.round()
    now = await rig.now(pod)
    assert (now.state, now.reason) == (pods.State.DRAINING, pods.Reason.IDLE)


async def test_what_is_intended_and_what_is_to_go_wakes_the_keepers() -> None:
    rig = Rig()
    waiting = rig.waking.keepers["cloud"]
    await rig.round()
    assert not waiting.is_set(), "nothing has changed"
    rig.work(100)
    await rig.round()
    assert waiting.is_set()


async def test_a_job_with_a_budget_gets_a_pod_until_the_money_is_used_up() -> None:
    rig = Rig()
    await rig.round()
    now, job_id = rig.time.now(), uuid.uuid4()
    # At 50 items a second and $0.80 an hour, 18,000 items cost 8 cents, and the way up 5 more.
    rig.scaling.jobs = [records.BudgetedJob(job_id, "minilm", 18_000, now, None, 200_000)]
    pod_id = uuid.UUID(int=1)
    work = [records.PodWork("minilm", 3_600.0, 0.0)]
    span = costs.Span(pod_id, now - timedelta(hours=1), now, Decimal("0.10"))
    rig.uses.had = (
        [records.PodUse(pod_id, "minilm", 3_600.0, job_id)],
        [records.PodShare(pod_id, 0.0, 1, work)],
        [span],
    )
    await rig.round()
    assert not rig.pods.rows, "ten of twenty cents are used up"
    assert rig.scaling.decided[-1].kind == "Wait" and "left for each" in rig.scaling.decided[-1].reason
    rig.uses.had = ([], [], [])
    await rig.round()
    assert rig.pods.rows

"""The autoscaler's loop over ledgers in memory: what it sees, what it has done, what it keeps of it."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_scheduler.app import (
    fleet_facts,
    intents,
    records,
    throughputs,
    worker_sessions,
)
from podium_scheduler.domain import costs, pods, room
from tests.support.autoscaling_rig import OFFER, Rig, Scaling


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


@pytest.mark.parametrize(
    ("words", "after_s", "state"),
    [
        ("nothing", 1.0, pods.State.STARTING),
        ("its model is there", 60.0, pods.State.STARTING),
        ("nothing", 60.0, pods.State.DESTROYING),
    ],
)
async def test_a_pod_that_may_have_done_the_work_before_anybody_saw_it_ready_was_not_in_vain(
    words: str, after_s: float, state: pods.State
) -> None:
    """What its worker has loaded comes to the ledger with its next heartbeat, a small job's results come at once."""
    rig = Rig()
    pod = await rig.rent()
    if words == "its model is there":
        rig.status(pod).devices[0].resident_workloads.append("minilm")
    rig.work(0)
    rig.time.advance(after_s)
    await rig.round()
    assert (await rig.now(pod)).state is state


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

"""What is given up because no worker can serve it, and what only waits for its turn, or for a pod."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import clock
from podium_scheduler.app import outlook, records, unservable
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import observed, policy

PATIENCE_S = 20.0
GB = 1 << 30
L4 = offers.Offer("cloud", "L4", 1, 0.8, 24 * GB, "8.9", cloud=offers.Cloud.SECURE)
H100 = offers.Offer("cloud", "H100", 1, 3.0, 80 * GB, "9.0", cloud=offers.Cloud.SECURE)
NO_H100 = replace(H100, stock=offers.Stock.NONE)
TOO_SMALL = "No device here has 42949672960 bytes of device memory."
IDLE, FAULTED = worker_pb2.DEVICE_STATE_IDLE, worker_pb2.DEVICE_STATE_FAULTED


def status(reason: str = "", *states: worker_pb2.DeviceState, draining: bool = False) -> worker_pb2.Status:
    """Of a worker that offers no credit for the workload."""
    return worker_pb2.Status(
        workloads=[worker_pb2.WorkloadStatus(workload="clip", unavailable_reason=reason)],
        devices=[worker_pb2.DeviceStatus(index=n, state=state) for n, state in enumerate(states)],
        draining=draining,
    )


class World:
    """The ledger, and the gateways that are told."""

    def __init__(self, sessions: Sequence[records.PlacedSession]) -> None:
        self.sessions = sessions
        self.given_up: list[tuple[str, str]] = []
        self.said: list[records.Decision] = []

    async def placed(self) -> Sequence[records.PlacedSession]:
        return self.sessions

    async def give_up_waiting(self, workload: str, reason: str, **limits: int) -> list[uuid.UUID]:
        self.given_up.append((workload, reason))
        return []

    async def decide(self, decisions: Sequence[records.Decision]) -> None:
        self.said += decisions


def session(said: worker_pb2.Status, *, drain: bool = False, quarantine: str = "") -> records.PlacedSession:
    return records.PlacedSession(uuid.uuid4(), b"", said.SerializeToString(), drain, quarantine, ())


@pytest.mark.parametrize(
    ("others", "given_up"),
    [
        ([], True),
        ([session(status())], False),
        ([session(status("", IDLE, FAULTED))], False),
        ([session(status("", FAULTED, FAULTED))], True),
        ([session(status("no files either"))], True),
        ([session(status(draining=True))], True),
        ([session(status(), drain=True)], True),
        ([session(status(), quarantine="BAD_RESULTS")], True),
    ],
    ids=["alone", "full", "half", "faulted", "failed too", "draining", "drained", "quarantined"],
)
async def test_it_is_given_up_when_nobody_else_could_ever_serve_it(
    others: list[records.PlacedSession], given_up: bool
) -> None:
    world: Any = World([session(status("no device here is large enough")), *others])
    time = clock.FakeClock()
    loop = unservable.Unservable(world, world, world, world, time, PATIENCE_S)
    await loop.round()
    time.advance(PATIENCE_S)
    await loop.round()
    assert [workload for workload, _ in world.given_up] == ["clip"] * given_up


def clip(**more: Any) -> observed.Demand:
    """Work for a model that takes 40 GB."""
    return observed.Demand("clip", (observed.Due(100, 0.0),), offers.Needs(40 * GB), **more)


def pod(offer: offers.Offer, state: pods.State, *unable: str) -> observed.Pod:
    return observed.Pod(uuid.uuid4(), state, offer, 0.0, unable=frozenset(unable))


class Rig:
    """The small pod's worker says that the model does not fit, and its leader rents pods."""

    def __init__(self) -> None:
        world: Any = World([session(status(TOO_SMALL, IDLE))])
        self.world: World = world
        self.time, self.pods = clock.FakeClock(), outlook.Outlook()
        self.loop = unservable.Unservable(world, world, world, world, self.time, PATIENCE_S, self.pods)

    def sees(
        self,
        *fleet: observed.Pod,
        on_offer: Sequence[offers.Offer] = (),
        demand: observed.Demand | None = None,
        rules: policy.Policy | None = None,
        silent: Sequence[str] = (),
    ) -> None:
        """What the autoscaler knows, beside the small pod."""
        small = pod(L4, pods.State.READY, "clip")
        facts = observed.Observed((demand or clip(),), tuple(on_offer), (small, *fleet))
        self.pods.note(facts, rules or policy.Policy(), silent)

    async def wait(self, seconds: float) -> list[str]:
        """Lets rounds pass; what has been given up, and with which words."""
        for _ in range(round(seconds / 2)):
            await self.loop.round()
            self.time.advance(2.0)
        await self.loop.round()
        return [words for _, words in self.world.given_up]


@pytest.mark.parametrize("state", [pods.State.INTENDED, pods.State.CREATING, pods.State.STARTING])
async def test_it_waits_for_a_pod_that_is_on_its_way_and_may_serve_it(state: pods.State) -> None:
    rig = Rig()
    rig.sees(pod(H100, state))
    assert await rig.wait(600) == []
    assert rig.world.said[0] == records.Decision(
        "clip", "Wait", f"no worker can serve it, but a pod of cloud/H100/1/SECURE/ is on its way: {TOO_SMALL}"
    )
    assert len(rig.world.said) == 11, "once a minute"


@pytest.mark.parametrize(
    "on_offer", [(L4, H100), (NO_H100,)], ids=["it waits for its turn, or for money", "there is none now"]
)
async def test_it_waits_for_what_could_be_rented(on_offer: Sequence[offers.Offer]) -> None:
    rig = Rig()
    rules = policy.Policy(limits=policy.Limits(paused=True, max_pods=0, usd_per_hour=0.01))
    rig.sees(on_offer=on_offer, rules=rules)
    assert await rig.wait(600) == []
    assert "cloud/H100/1/SECURE/ may be rented for it" in rig.world.said[0].reason


@pytest.mark.parametrize(
    ("fleet", "on_offer", "rules"),
    [
        ((), (L4,), policy.Policy()),
        ((), (replace(H100, max_count=0),), policy.Policy()),
        ((), (H100,), policy.Policy(wishes=policy.Wishes(gpu_types=("L4",)))),
        ((), (H100,), policy.Policy(wishes=policy.Wishes(clouds=frozenset({offers.Cloud.COMMUNITY})))),
        ((pod(L4, pods.State.STARTING),), (), policy.Policy()),
        ((pod(H100, pods.State.READY, "clip"),), (), policy.Policy()),
        ((pod(H100, pods.State.DESTROYING),), (), policy.Policy()),
    ],
    ids=["too small", "none ever", "unwanted", "another cloud", "small one comes", "failed", "goes"],
)
async def test_it_is_given_up_with_the_workers_words_where_no_pod_may_ever_serve_it(
    fleet: Sequence[observed.Pod], on_offer: Sequence[offers.Offer], rules: policy.Policy
) -> None:
    rig = Rig()
    rig.sees(*fleet, on_offer=on_offer, rules=rules)
    assert await rig.wait(PATIENCE_S - 2) == []
    assert await rig.wait(2) == [TOO_SMALL]
    assert rig.world.said == []


async def test_the_patience_begins_when_the_last_hope_is_gone() -> None:
    rig = Rig()
    rig.sees(pod(H100, pods.State.STARTING))
    assert await rig.wait(100) == []
    rig.sees()
    assert await rig.wait(PATIENCE_S - 4) == []
    assert await rig.wait(4) != []


async def test_what_is_on_offer_is_waited_for_until_it_is_known() -> None:
    rig = Rig()
    assert await rig.wait(100) == [], "the autoscaler has not looked yet"
    rig.sees(on_offer=(L4,), silent=("other",))
    assert await rig.wait(100) == []
    assert "other has not told what it offers" in rig.world.said[-1].reason
    rig.sees(on_offer=(L4,))
    assert await rig.wait(100) != []


async def test_what_no_pod_could_load_is_given_up_even_when_the_last_of_them_has_gone() -> None:
    rig = Rig()
    rig.world.sessions = []
    rig.sees(on_offer=(H100,))
    assert await rig.wait(100) == []
    rig.sees(on_offer=(H100,), demand=clip(hopeless="3 tries with pods, and none could load it: bad file"))
    assert (await rig.wait(100))[0] == "3 tries with pods, and none could load it: bad file"


async def test_the_last_pod_for_what_others_could_not_load_is_waited_for() -> None:
    rig, demand = Rig(), clip(hopeless="3 tries with pods, and none could load it: bad file")
    coming = pod(H100, pods.State.STARTING)
    rig.sees(replace(coming, workload="clip"), demand=demand)
    assert await rig.wait(100) == []
    rig.sees(replace(coming, workload="bge"), demand=demand)
    assert await rig.wait(100) != [], "one for something else may be one of many"


async def test_what_a_worker_serves_is_not_given_up_because_pods_could_not_load_it() -> None:
    rig = Rig()
    rig.world.sessions = [session(status("", IDLE))]
    rig.sees(on_offer=(H100,), demand=clip(hopeless="3 tries with pods, and none could load it: bad file"))
    assert await rig.wait(100) == []


async def test_nothing_is_said_of_what_has_no_work() -> None:
    rig = Rig()
    rig.sees(on_offer=(H100,), demand=replace(clip(), due=()))
    assert await rig.wait(100) == []
    assert rig.world.said == []

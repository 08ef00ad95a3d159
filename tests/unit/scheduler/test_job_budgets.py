"""Jobs with a budget: what is left of it for an item, and that what a job costs stays within it and one bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_scheduler.domain import costs, offers, pods
from podium_scheduler.domain.autoscaling import autoscaler, budgets
from podium_scheduler.domain.autoscaling.actions import Destroy, Drain, Spawn, Wait
from podium_scheduler.domain.autoscaling.observed import Demand, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Policy, Wishes

NOW = 1_000_000.0
START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = UUID(int=99)


def job(items: int = 100, left_usd: float = 1.0, since: float = NOW - 60, by: float | None = None) -> budgets.Job:
    return budgets.Job("clip", items, since, by, left_usd)


@pytest.mark.parametrize(
    ("items", "left", "each"), [(100, 1.0, 0.01), (3, 1.0, 0.33), (7, 0.001, 0.00014), (5, 0.0, 0.0), (5, -3.0, 0.0)]
)
def test_what_an_item_may_cost_is_rounded_down_to_two_digits(items: int, left: float, each: float) -> None:
    assert job(items, left).usd_per_item() == pytest.approx(each)


@given(st.integers(1, 50_000), st.floats(1e-6, 1e6))
def test_no_job_is_lent_what_it_has_not(items: int, left: float) -> None:
    each = job(items, left).usd_per_item()
    assert 0 < each * items <= left * (1 + 1e-9) and each * items >= 0.9 * left


def test_jobs_that_are_alike_are_one_due() -> None:
    many = [job(100, 1.0, NOW - 60 - n / 100) for n in range(100)]
    (due,) = budgets.dues(many, NOW)["clip"]
    assert (due.items, due.since, due.by, due.usd_per_item) == (10_000, NOW - 60 - 0.99, None, 0.01)
    apart = [*many, job(by=NOW + 100), job(left_usd=5.0), replace(job(), workload="bge")]
    found = budgets.dues(apart, NOW)
    assert len(found["clip"]) == 3 and len(found["bge"]) == 1
    numbers = [job(1 + n, 1.0 + n % 17, NOW - 1.1**n % 9e5, NOW + n if n % 2 else None) for n in range(5_000)]
    assert len(budgets.dues(numbers, NOW)["clip"]) < 500


# --- along whole histories ------------------------------------------------------------------------------

ROUND_S = 10.0
GRACE_S = 60.0
SETTLE_S = 30.0


@dataclass
class World:
    """One job on pods of one offer, which come after a while and do a steady number of items a second."""

    offer: offers.Offer
    items: float
    budget_usd: float
    policy: Policy
    assumed: float
    """Items a second, as the autoscaler believes."""
    speed: float
    """As they are."""
    cold_s: float
    now: float = 0.0
    pods: dict[UUID, Pod] = field(default_factory=dict)
    began: dict[UUID, float] = field(default_factory=dict)
    ended: dict[UUID, float] = field(default_factory=dict)
    busy_s: dict[UUID, float] = field(default_factory=dict)
    served_s: dict[UUID, float] = field(default_factory=dict)
    waited: list[str] = field(default_factory=list)

    def cost_usd(self) -> float:
        """As app.job_costs has it: busy, and the time without work of pods that computed for it."""
        spans = [
            costs.Span(key, _at(begin), None if key not in self.ended else _at(self.ended[key]), self.price)
            for key, begin in self.began.items()
        ]
        uses = {
            key: costs.share_out([costs.Use(JOB, "clip", busy)], {}, max(0.0, self.served_s.get(key, 0.0) - busy))
            for key, busy in self.busy_s.items()
        }
        found = costs.attribute(costs.bills(spans, START, _at(self.now)), uses).jobs
        return found[JOB].micro_usd / 1e6 if JOB in found else 0.0

    @property
    def price(self) -> Decimal:
        return Decimal(str(self.offer.price_usd_per_hour))

    def round(self) -> None:
        """A decision, and the time until the next."""
        left = self.budget_usd - self.cost_usd()
        here = math.ceil(self.items)
        due = budgets.dues([budgets.Job("clip", here, 0.0, None, left)], self.now) if here else {}
        seen = Observed(
            (Demand("clip", tuple(due.get("clip", ()))),),
            (self.offer,),
            tuple(self.pods.values()),
            items_per_s={("clip", self.offer.device): self.assumed},
            load_s={("clip", self.offer.device): 1.0},
            cold_start_s={self.offer.key: self.cold_s},
        )
        for act in autoscaler.decide(seen, self.policy, self.now):
            match act:
                case Spawn():
                    key = UUID(int=len(self.began) + 1)
                    self.began[key] = self.now
                    self.pods[key] = Pod(key, pods.State.STARTING, self.offer, self.now, "clip")
                case Drain(pod_id=key, cause=cause):
                    self.pods[key] = replace(
                        self.pods[key], state=pods.State.DRAINING, changed=self.now, cause=cause
                    )  # fmt: skip
                case Destroy(pod_id=key):
                    self.ended[key] = self.now
                    del self.pods[key]
                case Wait(reason=reason):
                    self.waited.append(reason)
        for key, pod in list(self.pods.items()):
            self.pods[key] = self.live(pod)
        self.now += ROUND_S

    def live(self, pod: Pod) -> Pod:
        """A pod until the next round."""
        if pod.state is pods.State.STARTING and self.now - pod.born >= self.cold_s:
            pod = replace(pod, state=pods.State.READY, ready=self.now, resident=frozenset({"clip"}))
        if pod.state is pods.State.READY:
            self.served_s[pod.pod_id] = self.served_s.get(pod.pod_id, 0.0) + ROUND_S
        # The batch in its hands takes as long as the grace lasts; it gets no other while it drains.
        finishes = pod.state is pods.State.DRAINING and self.now - (pod.changed or 0.0) < GRACE_S - ROUND_S
        if (pod.state is pods.State.READY or finishes) and self.items > 0:
            self.items = max(0.0, self.items - self.speed * ROUND_S)
            self.busy_s[pod.pod_id] = self.busy_s.get(pod.pod_id, 0.0) + ROUND_S
            return replace(pod, batches_in_hand=1, last_active=self.now)
        return replace(pod, batches_in_hand=0)


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@settings(max_examples=60, deadline=None)
@given(
    price=st.floats(0.1, 30.0),
    items=st.integers(1, 50_000),
    budget=st.floats(0.01, 50.0),
    believed=st.floats(0.05, 20.0),
    speed=st.floats(0.5, 100.0),
    cold_s=st.sampled_from((20.0, 90.0, 300.0)),
    most=st.integers(1, 8),
)
def test_what_a_job_costs_stays_within_its_budget_and_what_its_pods_cost_in_a_round_and_a_drain(
    price: float, items: int, budget: float, believed: float, speed: float, cold_s: float, most: int
) -> None:
    wishes = Wishes(target_s=1800.0, age_gate_s=0.0, depth_gate=1)
    policy = Policy(wishes=wishes, idle_s=SETTLE_S, drain_grace_s=GRACE_S, round_s=ROUND_S, max_spawns=most)
    policy = replace(policy, limits=replace(policy.limits, max_pods=most))
    offer = offers.Offer("cloud", "L4", 1, round(price, 2))
    world = World(offer, items, budget, policy, speed * believed, speed, cold_s)
    for _ in range(600):
        world.round()
        bound = most * world.offer.usd_per_s * (2 * ROUND_S + GRACE_S)
        assert world.cost_usd() <= budget + bound + 1e-6
        if world.items <= 0 and not world.pods:
            break
    else:
        assert not world.pods or world.cost_usd() < budget, "it still has the money for them"
    if world.items > 0 and not world.pods:
        assert "budget" in world.waited[-1] or "would cost" in world.waited[-1]


def stories() -> Sequence[tuple[float, bool]]:
    return [(0.5, False), (2.0, True)]


@pytest.mark.parametrize(("budget", "done"), stories())
def test_a_job_whose_budget_is_too_small_waits_and_one_whose_is_not_is_done(budget: float, done: bool) -> None:
    # 3,600 items at one a second and $1 an hour: a dollar, and what waiting adds.
    policy = Policy(wishes=Wishes(target_s=7200.0, age_gate_s=0.0, depth_gate=1), idle_s=SETTLE_S, round_s=ROUND_S)
    world = World(offers.Offer("cloud", "L4", 1, 1.0), 3_600, budget, policy, 1.0, 1.0, 60.0)
    for _ in range(1_500):
        world.round()
    assert (world.items <= 0) is done and not world.pods
    if not done:
        assert not world.began, "it would not be done for the money: not even begun"
        assert "is left for each" in world.waited[-1]

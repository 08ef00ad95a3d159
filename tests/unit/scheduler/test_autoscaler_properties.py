"""What holds for every fleet, every demand and every policy, and along every history of rounds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import autoscaler
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Destroy, Drain, Spawn, Undrain, Wait
from podium_scheduler.domain.autoscaling.observed import Backoff, Demand, Due, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Limits, Policy, Wishes

GB = 1 << 30
NOW = 1_000_000.0
NAMES = ("a", "b", "c")
OFFERS = (
    offers.Offer("cloud", "small", 1, 0.3, 16 * GB, "8.6", cloud=offers.Cloud.COMMUNITY),
    offers.Offer("cloud", "small", 1, 0.6, 16 * GB, "8.6", cloud=offers.Cloud.SECURE),
    offers.Offer("cloud", "big", 2, 5.0, 80 * GB, "9.0", cloud=offers.Cloud.SECURE, max_count=3),
)
SPEED = {(name, gpu): rate for name in NAMES for gpu, rate in (("small", 40.0), ("big", 150.0))}


def sorted_offers(found: Iterable[offers.Offer]) -> tuple[offers.Offer, ...]:
    return tuple(sorted(found, key=lambda offer: offer.key))


dues = st.builds(
    lambda items, age, window: Due(items, NOW - age, None if window is None else NOW - age + window),
    st.integers(0, 500_000),
    st.floats(0, 90_000),
    st.none() | st.floats(60, 90_000),
)
demands = st.lists(
    st.builds(
        Demand,
        st.sampled_from(NAMES),
        st.lists(dues, max_size=4).map(tuple),
        st.builds(offers.Needs, st.sampled_from((0, 8 * GB, 40 * GB))),
        st.sampled_from((0.0, 5.0, 100.0)),
        st.none() | st.floats(60, 7200),
        held=st.lists(dues, max_size=2).map(tuple),
    ),
    max_size=3,
    unique_by=lambda demand: demand.workload,
).map(tuple)
wishes = st.builds(
    Wishes,
    warm_pods=st.integers(0, 2),
    age_gate_s=st.sampled_from((60.0, 900.0)),
    depth_gate=st.none() | st.integers(1, 100_000),
    clouds=st.sampled_from((frozenset(offers.Cloud), frozenset({offers.Cloud.SECURE}))),
)
limits = st.builds(
    Limits,
    paused=st.sampled_from((False, False, False, True)),
    min_pods=st.integers(0, 2),
    max_pods=st.integers(0, 12),
    usd_per_hour=st.none() | st.floats(0, 12),
    usd_per_day=st.none() | st.floats(0, 12),
)
policies = st.builds(Policy, limits=limits, wishes=wishes, max_spawns=st.integers(1, 50))


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Pod, ...]:
    return tuple(
        Pod(
            UUID(int=number),
            state := draw(st.sampled_from(sorted(pods.MAY_EXIST | {pods.State.INTENDED}))),
            draw(st.sampled_from(OFFERS)),
            born := NOW - draw(st.floats(0, 5000)),
            draw(st.sampled_from(NAMES)),
            ready=(born + NOW) / 2 if state in (pods.State.READY, pods.State.DRAINING) else None,
            last_active=draw(st.none() | st.floats(NOW - 2000, NOW)),
            loading=draw(st.booleans()),
            batches_in_hand=draw(st.integers(0, 2)),
            changed=NOW - draw(st.floats(0, 400)),
            cause=draw(st.sampled_from((pods.Reason.NONE, pods.Reason.IDLE, pods.Reason.OPERATOR))),
        )
        for number in range(draw(st.integers(0, 10)))
    )


observations = st.builds(
    Observed,
    demands=demands,
    offers=st.just(OFFERS),
    pods=fleets(),
    items_per_s=st.just(SPEED),
    cold_start_s=st.dictionaries(st.sampled_from([o.key for o in OFFERS]), st.floats(1, 900)),
    backoffs=st.dictionaries(
        st.sampled_from([o.key for o in OFFERS]),
        st.builds(Backoff, st.floats(NOW - 100, NOW + 2000), st.sampled_from(pods.Reason)),
    ),
    spent_today_usd=st.floats(0, 12),
)


def applied(actions: Sequence[Action], fleet: Sequence[Pod], now: float, first: int) -> tuple[Pod, ...]:
    """The fleet in the ledger once a decision is written down."""
    there = {pod.pod_id: pod for pod in fleet}
    for number, action in enumerate(actions, start=first):
        if isinstance(action, Spawn):
            made = Pod(UUID(int=number), pods.State.INTENDED, action.offer, now, action.workload)
            there[made.pod_id] = made
        elif isinstance(action, Drain):
            before = there[action.pod_id]
            there[action.pod_id] = replace(before, state=pods.State.DRAINING, changed=now, cause=action.cause)
        elif isinstance(action, Undrain):
            there[action.pod_id] = replace(there[action.pod_id], state=pods.State.READY, changed=None)
        elif isinstance(action, Destroy):
            there[action.pod_id] = replace(there[action.pod_id], state=pods.State.DESTROYING, changed=now)
    return tuple(there.values())


@given(observations, policies)
@settings(max_examples=100, deadline=None)
def test_one_decision_keeps_the_limits_and_the_diagram(seen: Observed, policy: Policy) -> None:
    actions = autoscaler.decide(seen, policy, NOW)
    assert actions == autoscaler.decide(seen, policy, NOW)
    assert all(action.reason for action in actions)
    there = {pod.pod_id: pod for pod in seen.pods}
    touched = [action.pod_id for action in actions if isinstance(action, Drain | Undrain | Destroy)]
    assert len(touched) == len(set(touched))
    for action in actions:
        if isinstance(action, Drain):
            assert there[action.pod_id].state is pods.State.READY
        elif isinstance(action, Undrain):
            assert there[action.pod_id].state is pods.State.DRAINING
        elif isinstance(action, Destroy):
            assert there[action.pod_id].state in pods.MAY_EXIST - {pods.State.DESTROYING} | {pods.State.INTENDED}
    spawns = [action.offer for action in actions if isinstance(action, Spawn)]
    bounds = policy.limits
    if spawns:
        assert not bounds.paused
        assert len(spawns) <= policy.max_spawns
        assert len(seen.pods) + len(spawns) <= bounds.max_pods
        assert (
            sum(pod.offer is OFFERS[2] for pod in seen.pods) + spawns.count(OFFERS[2]) <= 3 or OFFERS[2] not in spawns
        )
        together = sum(offer.price_usd_per_hour for offer in [*spawns, *(pod.offer for pod in seen.pods)])
        assert together <= (bounds.usd_per_hour if bounds.usd_per_hour is not None else together) + 1e-6


@given(observations, policies)
@settings(max_examples=100, deadline=None)
def test_no_busy_pod_is_destroyed_before_its_grace_but_for_the_days_money(seen: Observed, policy: Policy) -> None:
    there = {pod.pod_id: pod for pod in seen.pods}
    for action in autoscaler.decide(seen, policy, NOW):
        if not isinstance(action, Destroy) or action.cause is pods.Reason.OVER_BUDGET:
            continue
        pod = there[action.pod_id]
        begun = pod.changed if pod.changed is not None else NOW
        assert not pod.busy or pod.coming or NOW - begun >= policy.drain_grace_s


@given(observations, policies)
@settings(max_examples=100, deadline=None)
def test_decisions_that_are_carried_out_come_to_rest(seen: Observed, policy: Policy) -> None:
    # Rounds that are cut short go on in the next one: here nothing cuts them short.
    policy = replace(policy, max_spawns=1000)
    fleet, rented = seen.pods, []
    for turn in range(5):
        actions = autoscaler.decide(replace(seen, pods=fleet), policy, NOW)
        rented.append(sum(isinstance(action, Spawn | Undrain) for action in actions))
        fleet = applied(actions, fleet, NOW, 1000 * (turn + 1))
    assert rented[-1] == 0
    # Who shares pods with whom is seen better once they are there: a pod for each workload may be added, and no more.
    assert sum(rented[1:]) <= len(seen.demands)


@given(
    st.integers(1, 3_000_000),
    st.floats(-5000, 5000),
    st.fixed_dictionaries({offer.key: st.floats(1, 900) for offer in OFFERS}),
    st.sets(st.sampled_from(OFFERS), min_size=1).map(sorted_offers),
)
@settings(max_examples=50, deadline=None)
def test_pods_that_are_waited_for_are_not_rented_again(
    items: int, left_s: float, cold_s: Mapping[str, float], on_offer: tuple[offers.Offer, ...]
) -> None:
    # Only what is pressing: whether more pods would be full changes with time.
    policy = Policy(limits=Limits(max_pods=1000), max_spawns=1000, wishes=Wishes(depth_gate=1), fill=1e9)
    work = (Demand("a", (Due(items, NOW - 5000, NOW + left_s),)),)
    # The cheapest has no capacity: what is left may take much longer to come.
    away = Backoff(NOW + 100_000, pods.Reason.NO_CAPACITY)
    seen = Observed(work, on_offer, (), SPEED, cold_start_s=cold_s, backoffs={OFFERS[0].key: away})
    rented = applied(autoscaler.decide(seen, policy, NOW), (), NOW, 1)
    comes_s = min((cold_s[pod.offer.key] for pod in rented), default=0.0)
    for second in range(10, int(comes_s), 30):
        actions = autoscaler.decide(replace(seen, pods=rented), policy, NOW + second)
        assert [action for action in actions if isinstance(action, Spawn)] == []


@given(fleets(), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_without_work_everything_goes_but_the_minimum(fleet: Sequence[Pod], least: int) -> None:
    policy = Policy(limits=Limits(min_pods=least))
    idle = tuple(replace(pod, loading=False, batches_in_hand=0) for pod in fleet)
    now = NOW
    for turn in range(4):
        now += 400
        seen = Observed((Demand("a"),), OFFERS, idle, SPEED)
        idle = tuple(
            replace(pod, state=pods.State.READY, ready=now) if pod.coming and turn else pod
            for pod in applied(autoscaler.decide(seen, policy, now), idle, now, 1000 * (turn + 1))
            if pod.state is not pods.State.DESTROYING
        )
    assert len(idle) == least


class Cloud:
    """A random history: pods come, work and go as late as is allowed, while demand, limits and rounds vary."""

    def __init__(self, seed: int, policy: Policy) -> None:
        self.dice = random.Random(seed)
        self.policy = policy
        self.now = NOW
        self.spent = 0.0
        self.fleet: tuple[Pod, ...] = ()
        self.going: dict[UUID, float] = {}

    def round(self, wanted: Sequence[Demand]) -> None:
        seen = Observed(tuple(wanted), OFFERS, self.fleet, SPEED, spent_today_usd=self.spent)
        self.fleet = applied(
            autoscaler.decide(seen, self.policy, self.now), self.fleet, self.now, self.dice.getrandbits(60)
        )
        self.check()
        passed = self.dice.uniform(1, self.policy.round_s)
        for pod in self.fleet:
            until = self.now + passed
            if pod.state is pods.State.DESTROYING and pod.changed is not None:
                until = min(until, self.going.setdefault(pod.pod_id, self.lag(pod.changed)))
            self.spent += max(0.0, until - self.now) * pod.offer.usd_per_s
        self.now += passed
        self.fleet = tuple(self.lived(pod) for pod in self.fleet if self.going.get(pod.pod_id, self.now + 1) > self.now)
        self.check()

    def lag(self, since: float) -> float:
        return since + self.dice.uniform(0.5, 1) * self.policy.termination_lag_s

    def lived(self, pod: Pod) -> Pod:
        if pod.coming and self.dice.random() < 0.15:
            return replace(pod, state=pods.State.READY, ready=self.now)
        if pod.state in (pods.State.READY, pods.State.DRAINING):
            # A pod that drains keeps its batch to the end: the worst case.
            keeps = pod.state is pods.State.DRAINING and pod.batches_in_hand
            return replace(pod, batches_in_hand=1 if keeps else self.dice.randint(0, 1), last_active=self.now)
        return pod

    def check(self) -> None:
        bounds = self.policy.limits
        assert len(self.fleet) <= bounds.max_pods
        together = sum(pod.offer.price_usd_per_hour for pod in self.fleet)
        assert bounds.usd_per_hour is None or together <= bounds.usd_per_hour + 1e-6
        assert bounds.usd_per_day is None or self.spent <= bounds.usd_per_day + 1e-6


@given(st.integers(0, 1 << 30), st.floats(0.1, 15), st.floats(0.1, 3), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_no_history_breaks_a_budget(seed: int, hour: float, day: float, most: int) -> None:
    policy = Policy(limits=Limits(max_pods=most, usd_per_hour=hour, usd_per_day=day), assumed_cold_start_s=60.0)
    cloud = Cloud(seed, policy)
    for _ in range(80):
        work = [
            Demand(
                name, (Due(cloud.dice.randint(1, 400_000), cloud.now - 500, cloud.now + cloud.dice.uniform(10, 9000)),)
            )
            for name in NAMES
            if cloud.dice.random() < 0.7
        ]
        cloud.round(work)


@given(observations)
@settings(max_examples=50, deadline=None)
def test_paused_it_only_ends_drains_and_keeps_budgets(seen: Observed) -> None:
    actions = autoscaler.decide(seen, Policy(limits=Limits(paused=True, max_pods=1000)), NOW)
    draining = {pod.pod_id for pod in seen.pods if pod.state is pods.State.DRAINING}
    acts = [action for action in actions if not isinstance(action, Alert | Wait)]
    assert all(isinstance(action, Destroy) and action.pod_id in draining for action in acts)

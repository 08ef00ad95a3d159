"""The autoscaler's rules, one by one: which pods it rents, waits for, keeps and gives back, and its reasons."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import pytest

from podium_scheduler.app import fleet_facts
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import autoscaler, observed, renting
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Destroy, Drain, Spawn, Trouble, Undrain, Wait
from podium_scheduler.domain.autoscaling.observed import Demand, Due, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Limits, Policy, Wishes

Kind = TypeVar("Kind")
GB = 1 << 30
NOW = 1_000_000.0
HOUR_S = 3600.0
COLD_S, LOAD_S = 100.0, 20.0
CHEAP = offers.Offer("cloud", "RTX 4090", 1, 0.36, 24 * GB, "8.9", cloud=offers.Cloud.COMMUNITY)
SAFE = offers.Offer("cloud", "RTX 4090", 1, 0.72, 24 * GB, "8.9", cloud=offers.Cloud.SECURE)
BIG = offers.Offer("cloud", "H100", 1, 3.60, 80 * GB, "9.0", cloud=offers.Cloud.SECURE)
# 100 items a second on the small GPU, 400 on the big one: 0.1, 0.2 and 0.25 cents for 100,000 items.
SPEED = {("clip", "RTX 4090"): 100.0, ("clip", "H100"): 400.0, ("bge", "RTX 4090"): 100.0, ("bge", "H100"): 400.0}
POLICY = Policy(assumed_cold_start_s=COLD_S, assumed_load_s=LOAD_S)


def work(seconds: float, *, window_s: float | None = 10 * HOUR_S, age_s: float = 0.0) -> Due:
    """So much work for one small GPU."""
    by = None if window_s is None else NOW - age_s + window_s
    return Due(round(seconds * 100), NOW - age_s, by)


def clip(*due: Due, **more: object) -> Demand:
    return replace(Demand("clip", due), **more)  # type: ignore[arg-type]


def pod(number: int = 1, state: pods.State = pods.State.READY, offer: offers.Offer = CHEAP, **more: object) -> Pod:
    """READY for an hour, and idle for so long."""
    ready = NOW - HOUR_S if state in (pods.State.READY, pods.State.DRAINING) else None
    made = Pod(UUID(int=number), state, offer, NOW - HOUR_S - COLD_S, "clip", ready, resident=frozenset({"clip"}))
    return replace(made, **more)  # type: ignore[arg-type]


def waits_until(
    backoff: Mapping[str, float], cause: pods.Reason = pods.Reason.NO_CAPACITY
) -> dict[str, observed.Backoff]:
    return {key: observed.Backoff(until, cause) for key, until in backoff.items()}


def decide(
    *demands: Demand,
    fleet: Sequence[Pod] = (),
    on_offer: Sequence[offers.Offer] = (CHEAP, SAFE, BIG),
    policy: Policy = POLICY,
    spent: float = 0.0,
    backoff: dict[str, float] | None = None,
    unknown: dict[str, str] | None = None,
) -> list[Action]:
    seen = Observed(
        demands=demands,
        offers=tuple(on_offer),
        pods=tuple(fleet),
        items_per_s=SPEED,
        backoffs=waits_until(backoff or {}),
        unknown_offers=unknown or {},
        spent_today_usd=spent,
    )
    return autoscaler.decide(seen, policy, NOW)


def spawned(actions: Sequence[Action]) -> list[offers.Offer]:
    return [action.offer for action in actions if isinstance(action, Spawn)]


def only(actions: Sequence[Action], kind: type[Kind]) -> Kind:
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


# --- renting


def test_nothing_to_do_is_nothing_to_rent() -> None:
    assert decide() == []
    assert decide(clip()) == []


def test_work_that_fills_a_pod_gets_one_long_before_it_is_due() -> None:
    actions = decide(clip(work(2 * HOUR_S)))
    assert spawned(actions) == [CHEAP]
    assert only(actions, Spawn).reason == "2.0 h of work fill 1 pod of cloud/RTX 4090/1/COMMUNITY/ at $0.36/h"


def test_a_little_work_waits_for_more_of_its_kind() -> None:
    actions = decide(clip(work(60)))
    assert spawned(actions) == []
    assert only(actions, Wait).reason == "60 s of work wait for a fuller pod: 40 min fill one, and nothing presses"


def test_nothing_waits_for_a_pod_that_costs_nothing() -> None:
    local = offers.Offer("local", "", 0, 0.0)
    assert spawned(decide(clip(work(1, window_s=None)), on_offer=(local,))) == [local]


def test_and_gets_a_pod_when_its_window_closes() -> None:
    # A tenth of the window is spared, and a pod that comes in 120 s is begun 240 s before that.
    pressing_s = 10 * HOUR_S - HOUR_S - 240
    assert spawned(decide(clip(work(60, age_s=pressing_s - 30)))) == []
    assert spawned(decide(clip(work(60, age_s=pressing_s)))) == [CHEAP]


def test_one_item_without_a_window_gets_a_pod_at_the_age_gate() -> None:
    policy = replace(POLICY, wishes=Wishes(age_gate_s=300.0))
    assert spawned(decide(clip(work(1, window_s=None, age_s=299)), policy=policy)) == []
    actions = decide(clip(work(1, window_s=None, age_s=300)), policy=policy)
    assert spawned(actions) == [CHEAP]
    assert "the oldest has waited 5 min, and the age gate is 5 min" in only(actions, Spawn).reason


def test_many_items_get_a_pod_at_the_depth_gate() -> None:
    policy = replace(POLICY, wishes=Wishes(depth_gate=6_000))
    assert spawned(decide(clip(work(59.99)), policy=policy)) == []
    actions = decide(clip(work(60)), policy=policy)
    assert spawned(actions) == [CHEAP]
    assert "6,000 items wait, and the depth gate is 6,000" in only(actions, Spawn).reason


def test_so_many_pods_as_the_window_needs_and_no_more() -> None:
    # An hour, less 15 min spared and 2 min to come: 43 min. Five hours of work need 7 pods, and fill them.
    due = work(5 * HOUR_S, window_s=HOUR_S)
    needed = replace(POLICY, comfort=1.0, spare_share=0.25)
    assert spawned(decide(clip(due), policy=needed)) == [CHEAP] * 7


def test_pods_that_are_there_or_on_their_way_count() -> None:
    due = clip(work(5 * HOUR_S, window_s=HOUR_S))
    needed = replace(POLICY, comfort=1.0, spare_share=0.25, wishes=Wishes(depth_gate=1))
    coming = [pod(n, pods.State.STARTING, born=NOW) for n in range(4)]
    here = [pod(n + 10, batches_in_hand=1) for n in range(2)]
    assert len(spawned(decide(due, policy=needed))) == 7
    assert len(spawned(decide(due, fleet=coming, policy=needed))) == 3
    assert len(spawned(decide(due, fleet=[*coming, *here], policy=needed))) == 1


def test_a_pod_that_should_have_come_long_ago_is_not_counted_on() -> None:
    due = clip(work(2 * HOUR_S))
    assert spawned(decide(due, fleet=[pod(1, pods.State.STARTING, born=NOW - 200)])) == []
    assert spawned(decide(due, fleet=[pod(1, pods.State.STARTING, born=NOW - 250)])) == [CHEAP]


def test_the_dear_offer_is_rented_only_when_the_cheap_one_would_be_late() -> None:
    slow = {CHEAP.key: 2000.0, SAFE.key: 100.0, BIG.key: 100.0}
    seen = Observed((clip(work(60, age_s=9 * HOUR_S - 300)),), (CHEAP, SAFE), (), SPEED, cold_start_s=slow)
    assert spawned(autoscaler.decide(seen, POLICY, NOW)) == [SAFE]
    seen = replace(seen, demands=(clip(work(60, age_s=4 * HOUR_S)),))
    assert spawned(autoscaler.decide(seen, POLICY, NOW)) == []


def test_an_offer_without_capacity_is_waited_for_while_it_would_still_be_in_time() -> None:
    due = clip(work(2 * HOUR_S))
    actions = decide(due, backoff={CHEAP.key: NOW + 300})
    assert spawned(actions) == []
    assert only(actions, Wait).reason.endswith("has no capacity; it is asked again in 5 min")
    late = clip(work(60, age_s=10 * HOUR_S - 800))
    assert spawned(decide(late, backoff={CHEAP.key: NOW + 100})) == []
    assert spawned(decide(late, backoff={CHEAP.key: NOW + 600})) == [SAFE]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (pods.Reason.OUT_OF_FUNDS, "cannot be had: the account at its provider has no money left"),
        (pods.Reason.UNAUTHORIZED, "cannot be had: its provider does not accept the credentials"),
        (pods.Reason.REFUSED, "cannot be had: its provider refused the order"),
        (pods.Reason.BOOT_TIMEOUT, "rests: no worker registered from its last pod in time"),
        (pods.Reason.CANARY_TIMEOUT, "rests: no model passed its canary on its last pod in time"),
        (pods.Reason.ORPHAN, "its last pod did not come up (ORPHAN)"),
    ],
)
def test_what_is_waited_for_is_said_with_its_cause(cause: pods.Reason, said: str) -> None:
    seen = Observed(
        (clip(work(2 * HOUR_S)),), (CHEAP,), (), SPEED, backoffs=waits_until({CHEAP.key: NOW + 1800}, cause)
    )
    wait = only(autoscaler.decide(seen, POLICY, NOW), Wait)
    assert wait.reason == f"{CHEAP.key} {said}; it is asked again in 30 min"


def test_every_end_of_a_pod_that_may_put_its_offer_into_backoff_has_words() -> None:
    never = {
        pods.Reason.NONE, pods.Reason.IDLE, pods.Reason.CHEAPER_ELSEWHERE, *fleet_facts._WITHDRAWN,
    }  # fmt: skip
    assert set(pods.Reason) - never == set(renting._NOT_HAD)


def test_a_provider_that_does_not_tell_its_offers_is_named_with_the_reason() -> None:
    unknown = {"runpod": "the API key is not accepted"}
    actions = decide(clip(work(2 * HOUR_S)), on_offer=(), unknown=unknown)
    said = (
        "none of 0 offers may serve it now, 0 of them fit; what runpod offers is not known: the API key is not accepted"
    )
    assert (only(actions, Wait).reason, only(actions, Alert).reason) == (said, said)
    waits = decide(clip(work(2 * HOUR_S)), backoff={CHEAP.key: NOW + 300}, unknown=unknown)
    assert only(waits, Wait).reason.endswith("in 5 min; what runpod offers is not known: the API key is not accepted")
    late = clip(work(HOUR_S, age_s=10 * HOUR_S))
    bounded = decide(late, policy=replace(POLICY, limits=Limits(max_pods=0)), unknown=unknown)
    assert only(bounded, Wait).reason.endswith(
        "bounds it; what runpod offers is not known: the API key is not accepted"
    )
    assert "runpod" not in only(decide(clip(work(2 * HOUR_S)), unknown=unknown), Spawn).reason


def test_late_work_gets_pods_that_come_late_and_only_once() -> None:
    # 42 min of work are overdue, and only pods are to be had that take 15 min to come: three do it in as long again.
    demand, cold_s = clip(work(2500, age_s=11 * HOUR_S)), {CHEAP.key: 30.0, SAFE.key: 880.0}
    away = {CHEAP.key: NOW + 3000}
    seen = Observed((demand,), (CHEAP, SAFE), (), SPEED, cold_start_s=cold_s, backoffs=waits_until(away))
    assert spawned(autoscaler.decide(seen, POLICY, NOW)) == [SAFE] * 3
    coming = tuple(pod(n, pods.State.CREATING, offer=SAFE, born=NOW) for n in range(3))
    assert spawned(autoscaler.decide(replace(seen, pods=coming), POLICY, NOW + 600)) == []


def test_the_wanted_gpu_types_are_tried_in_their_order() -> None:
    policy = replace(POLICY, wishes=Wishes(gpu_types=("H100", "RTX 4090")))
    due = clip(work(20 * HOUR_S))
    assert set(spawned(decide(due, policy=policy))) == {BIG}
    gone = replace(BIG, stock=offers.Stock.NONE)
    assert set(spawned(decide(due, policy=policy, on_offer=(CHEAP, gone)))) == {CHEAP}
    only_big = replace(POLICY, wishes=Wishes(gpu_types=("H100",)))
    actions = decide(due, policy=only_big, on_offer=(CHEAP,))
    assert spawned(actions) == []
    assert only(actions, Alert).trouble is Trouble.UNSERVABLE


def test_a_workload_stays_on_the_clouds_that_it_may_use() -> None:
    policy = replace(POLICY, wishes=Wishes(clouds=frozenset({offers.Cloud.SECURE})))
    assert spawned(decide(clip(work(HOUR_S)), policy=policy)) == [SAFE]
    # And no pod of another cloud is counted on.
    assert spawned(decide(clip(work(HOUR_S)), fleet=[pod(batches_in_hand=1)], policy=policy)) == [SAFE]


@pytest.mark.parametrize(
    ("needs", "rented"),
    [
        (offers.Needs(vram_bytes=30 * GB), BIG),
        (offers.Needs(compute_capability="9.0"), BIG),
        (offers.Needs(vram_bytes=24 * GB, compute_capability="8.0"), CHEAP),
    ],
)
def test_what_is_rented_meets_the_needs(needs: offers.Needs, rented: offers.Offer) -> None:
    assert set(spawned(decide(clip(work(20 * HOUR_S), needs=needs)))) == {rented}


def test_what_a_pods_worker_cannot_serve_is_not_poured_into_it() -> None:
    able = pod(batches_in_hand=1)
    unable = replace(able, unable=frozenset({"clip"}), resident=frozenset({"bge"}))
    assert spawned(decide(clip(work(2 * HOUR_S)), fleet=[able])) == []
    assert spawned(decide(clip(work(2 * HOUR_S)), fleet=[unable])) == [CHEAP]
    idle = replace(unable, batches_in_hand=0, last_active=NOW - 60)
    assert only(decide(clip(work(2 * HOUR_S)), fleet=[idle]), Drain).cause is pods.Reason.IDLE


def test_what_no_pod_can_load_has_none_rented_and_operators_are_told() -> None:
    hopeless = clip(work(20 * HOUR_S), hopeless="3 tries")
    policy = replace(POLICY, wishes=Wishes(warm_pods=1), limits=Limits(min_pods=1))
    actions = decide(hopeless, policy=policy)
    assert spawned(actions) == []
    alert = only(actions, Alert)
    assert (alert.trouble, alert.reason, only(actions, Wait).reason) == (Trouble.UNSERVABLE, "3 tries", "3 tries")
    other = Demand("bge", (work(20 * HOUR_S),))
    assert {a.workload for a in decide(hopeless, other) if isinstance(a, Spawn)} == {"bge"}


def test_an_offer_whose_pods_could_not_load_it_is_taken_last() -> None:
    demand = clip(work(2 * HOUR_S), failed_on=frozenset({CHEAP.key}))
    assert spawned(decide(demand)) == [SAFE]
    assert spawned(decide(demand, on_offer=(CHEAP,))) == [CHEAP]


def test_an_old_cuda_is_no_use() -> None:
    old, new = replace(CHEAP, cuda_version="12.2"), replace(SAFE, cuda_version="12.10")
    needs = offers.Needs(cuda_version="12.4")
    assert spawned(decide(clip(work(HOUR_S), needs=needs), on_offer=(old, new))) == [new]
    assert offers.meets(CHEAP, needs)


def test_a_cpu_serves_what_asks_for_no_compute_capability() -> None:
    local = offers.Offer("local", "", 0, 0.0)
    assert offers.meets(local, offers.Needs(vram_bytes=GB))
    assert not offers.meets(local, offers.Needs(compute_capability="7.0"))


def test_a_job_rents_nothing_that_its_budget_does_not_allow() -> None:
    due = replace(work(2 * HOUR_S), usd_per_item=0.72 / HOUR_S / 100)
    assert spawned(decide(clip(due))) == [CHEAP]
    actions = decide(clip(replace(due, usd_per_item=0.3 / HOUR_S / 100)))
    assert spawned(actions) == []


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (0.0, "100 items wait, and the budgets of their jobs are used up"),
        (1e-7, "100 items wait: $1e-07 is left for each of their jobs' budgets, and each would cost $0.000121"),
    ],
)
def test_a_job_without_money_waits_and_it_is_said_why(left: float, said: str) -> None:
    pressing = replace(work(1, age_s=10 * HOUR_S - 60), usd_per_item=left)
    actions = decide(clip(pressing))
    assert only(actions, Wait).reason == said
    assert not [a for a in actions if isinstance(a, Alert)], "nobody has to act"


def test_what_costs_nothing_is_rented_for_a_job_without_money() -> None:
    local = offers.Offer("local", "", 0, 0.0)
    assert spawned(decide(clip(replace(work(60), usd_per_item=0.0)), on_offer=(local,))) == [local]


def test_pods_that_serve_only_jobs_without_money_leave_at_once_and_others_stay() -> None:
    broke, rich = replace(work(HOUR_S), usd_per_item=0.0), work(HOUR_S)
    busy = pod(ready=NOW - 1, batches_in_hand=1)
    coming = pod(2, pods.State.STARTING, born=NOW - 10)
    actions = decide(clip(broke), fleet=[busy, coming])
    assert only(actions, Drain).cause is pods.Reason.OVER_BUDGET
    assert only(actions, Destroy).cause is pods.Reason.OVER_BUDGET and only(actions, Destroy).pod_id == coming.pod_id
    assert not [a for a in decide(clip(broke, rich), fleet=[busy]) if isinstance(a, Drain)]
    kept = replace(POLICY, wishes=Wishes(warm_pods=1))
    assert not [a for a in decide(clip(broke), fleet=[busy], policy=kept) if isinstance(a, Drain)], "it is kept anyway"


def test_the_other_workloads_join_what_one_rents() -> None:
    pressing_s = 9 * HOUR_S - 200
    both = (clip(work(60, age_s=pressing_s)), Demand("bge", (work(60, age_s=pressing_s),)))
    assert spawned(decide(*both)) == [CHEAP]


def test_a_model_is_loaded_once() -> None:
    # 45 min are left for them: one load of 60 s and ten parts of 260 s, not ten loads.
    parts = tuple(work(260, window_s=HOUR_S + n) for n in range(10))
    here = pod(batches_in_hand=1, offer=SAFE)
    asked = replace(POLICY, spare_share=0.25, wishes=Wishes(depth_gate=1), assumed_load_s=60.0)
    assert spawned(decide(Demand("bge", parts), fleet=[here], on_offer=(SAFE, BIG), policy=asked)) == []


def test_what_was_rented_dear_is_replaced_when_that_saves_twice_what_it_costs() -> None:
    dear = pod(offer=SAFE, batches_in_hand=1)
    # Coming and going costs 210 s of the cheap one, and each second of work saves as much after the first 120.
    assert spawned(decide(clip(work(120 + 2 * 210 + 10)), fleet=[dear])) == [CHEAP]
    assert spawned(decide(clip(work(120 + 2 * 210 - 10)), fleet=[dear])) == []
    (spawn,) = [a for a in decide(clip(work(HOUR_S)), fleet=[dear]) if isinstance(a, Spawn)]
    assert "has capacity again" in spawn.reason and "58 min of work" in spawn.reason
    coming = pod(2, pods.State.STARTING, born=NOW - 5)
    assert spawned(decide(clip(work(HOUR_S)), fleet=[dear, coming])) == [], "another is on its way"
    assert spawned(decide(clip(work(HOUR_S)), fleet=[dear], backoff={CHEAP.key: NOW + 60})) == [], "none to be had"
    few = replace(POLICY, limits=Limits(max_pods=1))
    assert spawned(decide(clip(work(HOUR_S)), fleet=[dear], policy=few)) == []
    wanted = replace(POLICY, wishes=Wishes(gpu_types=("H100", "RTX 4090")))
    assert spawned(decide(clip(work(HOUR_S)), fleet=[pod(offer=BIG, batches_in_hand=1)], policy=wanted)) == []


def test_the_dear_pod_goes_when_the_cheap_one_is_there() -> None:
    fleet = [pod(1, offer=SAFE, batches_in_hand=1), pod(2, batches_in_hand=1, ready=NOW - 60)]
    drain = only(decide(clip(work(HOUR_S)), fleet=fleet), Drain)
    assert (drain.pod_id, drain.cause) == (UUID(int=1), pods.Reason.CHEAPER_ELSEWHERE)


def test_a_pod_that_drains_is_taken_back_where_it_can_be() -> None:
    draining = pod(1, pods.State.DRAINING, cause=pods.Reason.IDLE, batches_in_hand=1, changed=NOW - 5)
    undrains = replace(POLICY, undrains=True)
    actions = decide(clip(work(2 * HOUR_S)), fleet=[draining], policy=undrains)
    assert only(actions, Undrain).pod_id == draining.pod_id
    assert spawned(actions) == []
    unwanted = replace(draining, cause=pods.Reason.OPERATOR)
    assert spawned(decide(clip(work(2 * HOUR_S)), fleet=[unwanted], policy=undrains)) == [CHEAP]
    assert spawned(decide(clip(work(2 * HOUR_S)), fleet=[draining])) == [CHEAP], "where drains are not taken back"


def test_warm_and_least_pods_are_kept_without_work() -> None:
    warm = replace(POLICY, wishes_of={"clip": Wishes(warm_pods=2)})
    assert spawned(decide(clip(), policy=warm)) == [CHEAP, CHEAP]
    assert spawned(decide(clip(), fleet=[pod()], policy=warm)) == [CHEAP]
    assert decide(clip(), fleet=[pod(1), pod(2)], policy=warm) == []
    assert only(decide(clip(), fleet=[pod(1), pod(2), pod(3)], policy=warm), Drain).pod_id.int == 1
    least = replace(POLICY, limits=Limits(min_pods=1))
    assert spawned(decide(clip(), policy=least)) == [CHEAP]
    assert decide(clip(), fleet=[pod()], policy=least) == []


# --- giving back


def test_a_pod_drains_when_it_has_been_idle_and_is_destroyed_when_its_hands_are_empty() -> None:
    assert decide(clip(), fleet=[pod(last_active=NOW - 29)]) == []
    drain = only(decide(clip(), fleet=[pod(last_active=NOW - 30)]), Drain)
    assert (drain.cause, drain.reason) == (pods.Reason.IDLE, "it has had nothing to do for 30 s")
    draining = pod(1, pods.State.DRAINING, cause=pods.Reason.IDLE, changed=NOW - 10)
    destroy = only(decide(clip(), fleet=[draining]), Destroy)
    assert (destroy.pod_id, destroy.cause) == (draining.pod_id, pods.Reason.IDLE)


def test_idleness_begins_when_it_came_and_not_when_it_was_ordered() -> None:
    assert decide(clip(), fleet=[pod(born=NOW - 500, ready=NOW - 20)]) == []
    assert decide(clip(), fleet=[pod(born=NOW - 500, ready=NOW - 30)]) != []


@pytest.mark.parametrize(("loading", "batches"), [(True, 0), (False, 1)])
def test_what_loads_or_computes_is_not_idle(loading: bool, batches: int) -> None:
    assert decide(clip(), fleet=[pod(loading=loading, batches_in_hand=batches)]) == []
    busy = pod(1, pods.State.DRAINING, loading=loading, batches_in_hand=batches, changed=NOW - 299)
    assert decide(clip(), fleet=[busy]) == []
    # Until the grace is over.
    assert only(decide(clip(), fleet=[replace(busy, changed=NOW - 300)]), Destroy).cause is pods.Reason.IDLE


def test_a_pod_that_would_be_rented_again_at_once_is_kept_for_as_long_as_its_cold_start() -> None:
    steady = clip(arrivals_per_s=50.0, window_s=60.0)
    assert decide(steady, fleet=[pod(last_active=NOW - 99)]) == []
    assert only(decide(steady, fleet=[pod(last_active=NOW - 100)]), Drain)
    # What comes may wait for hours, so the pod need not.
    assert only(decide(replace(steady, window_s=HOUR_S), fleet=[pod(last_active=NOW - 30)]), Drain)


def test_pods_that_little_work_would_leave_idle_go_and_one_stays_for_it() -> None:
    fleet = [pod(n, batches_in_hand=1) for n in range(3)]
    drained = [a for a in decide(clip(work(90)), fleet=fleet) if isinstance(a, Drain)]
    assert len(drained) == 2
    # Two pods are kept busy by what comes in.
    steady = clip(work(90), arrivals_per_s=240.0)
    assert len([a for a in decide(steady, fleet=fleet) if isinstance(a, Drain)]) == 0
    assert len([a for a in decide(replace(steady, arrivals_per_s=140.0), fleet=fleet) if isinstance(a, Drain)]) == 1


def test_no_pod_goes_that_a_window_needs() -> None:
    # An hour's window leaves 54 min, and what stays has to do it in four fifths of them, 43 min.
    fleet = [pod(1, offer=CHEAP, batches_in_hand=1), pod(2, offer=SAFE, batches_in_hand=1)]
    assert decide(clip(work(2600, window_s=HOUR_S)), fleet=fleet) == []
    assert only(decide(clip(work(2580, window_s=HOUR_S)), fleet=fleet), Drain).pod_id.int == 2


def test_the_dear_pod_goes_first() -> None:
    fleet = [pod(1, offer=CHEAP), pod(2, offer=BIG, batches_in_hand=1), pod(3, offer=SAFE)]
    gone = [a.pod_id.int for a in decide(clip(work(50)), fleet=fleet) if isinstance(a, Drain)]
    assert gone == [3, 2]
    because = [a.cause for a in decide(clip(work(50)), fleet=fleet) if isinstance(a, Drain)]
    assert because == [pods.Reason.IDLE, pods.Reason.CHEAPER_ELSEWHERE]


def test_a_pod_on_its_way_is_not_wanted_any_more_when_its_work_is_gone() -> None:
    destroy = only(decide(clip(), fleet=[pod(1, pods.State.INTENDED, born=NOW)]), Destroy)
    assert destroy.cause is pods.Reason.NOT_WANTED
    assert destroy.reason == "there is no work any more that it could do"


@pytest.mark.parametrize("state", [pods.State.INTENDED, pods.State.CREATING, pods.State.STARTING])
@pytest.mark.parametrize("due", [(), (replace(work(HOUR_S), usd_per_item=0.0),)], ids=["no work", "no money"])
def test_a_pod_that_an_operator_asked_for_comes_up_and_is_kept_until_it_was_idle(
    state: pods.State, due: tuple[Due, ...]
) -> None:
    asked = pod(1, state, workload="", resident=frozenset(), asked_for=True)
    assert not any(isinstance(a, Destroy | Drain) for a in decide(clip(*due), fleet=[asked]))
    ready = replace(asked, state=pods.State.READY, ready=NOW - 29, resident=frozenset({"clip"}))
    assert not any(isinstance(a, Destroy | Drain) for a in decide(clip(*due), fleet=[ready]))
    assert only(decide(clip(*due), fleet=[replace(ready, ready=NOW - 30)]), Drain).pod_id == asked.pod_id


def test_a_pod_that_an_operator_asked_for_keeps_to_the_limits() -> None:
    none = replace(POLICY, limits=Limits(max_pods=0))
    asked = pod(1, pods.State.STARTING, asked_for=True)
    assert only(decide(clip(), fleet=[asked], policy=none), Destroy).cause is pods.Reason.OVER_LIMIT
    assert decide(clip(work(60)), fleet=[pod(1, pods.State.INTENDED, born=NOW)]) == []


# --- limits


def test_the_number_of_pods_is_limited_and_those_being_destroyed_count() -> None:
    limited = replace(POLICY, limits=Limits(max_pods=3))
    going = [pod(1, pods.State.DESTROYING, changed=NOW)]
    assert len(spawned(decide(clip(work(50 * HOUR_S)), fleet=going, policy=limited))) == 2
    over = [pod(n, batches_in_hand=1) for n in range(5)]
    drained = [a for a in decide(clip(work(50 * HOUR_S)), fleet=over, policy=limited) if isinstance(a, Drain)]
    assert [a.cause for a in drained] == [pods.Reason.OVER_LIMIT] * 2


def test_so_many_pods_a_round() -> None:
    limited = replace(POLICY, max_spawns=2, wishes=Wishes(depth_gate=1))
    assert len(spawned(decide(clip(work(50 * HOUR_S)), policy=limited))) == 2
    few = replace(CHEAP, max_count=1)
    assert spawned(decide(clip(work(50 * HOUR_S)), policy=limited, on_offer=(few, SAFE))) == [few, SAFE]


def test_an_offer_has_only_so_many() -> None:
    few = replace(CHEAP, max_count=2)
    urgent = replace(POLICY, wishes=Wishes(depth_gate=1))
    rented = spawned(decide(clip(work(5 * HOUR_S, window_s=HOUR_S)), on_offer=(few, SAFE), policy=urgent))
    assert rented == [few, few, SAFE, SAFE, SAFE, SAFE]


def test_dollars_per_hour() -> None:
    limited = replace(POLICY, limits=Limits(usd_per_hour=1.0), wishes=Wishes(depth_gate=1))
    actions = decide(clip(work(5 * HOUR_S, window_s=HOUR_S)), policy=limited)
    assert spawned(actions) == [CHEAP, CHEAP]
    late = only(actions, Alert)
    assert late.trouble is Trouble.LATE
    assert late.reason.endswith("but the budget of $1.00/h, of which $0.28/h is left bounds it")
    over = [pod(n, batches_in_hand=1) for n in range(4)]
    drained = [a for a in decide(clip(work(HOUR_S * 50)), fleet=over, policy=limited) if isinstance(a, Drain)]
    assert [a.cause for a in drained] == [pods.Reason.OVER_BUDGET] * 2


def test_dollars_per_day_leave_money_for_the_way_out() -> None:
    # A pod that only comes and goes takes 120 s, two rounds, the grace and the lag: 500 s, 5 cents.
    limited = replace(POLICY, limits=Limits(usd_per_day=10.0), termination_lag_s=60.0)
    assert spawned(decide(clip(work(2 * HOUR_S)), policy=limited, spent=9.94)) == [CHEAP]
    assert spawned(decide(clip(work(2 * HOUR_S)), policy=limited, spent=9.96)) == []
    two = (clip(work(2 * HOUR_S)), Demand("bge", (work(2 * HOUR_S),), offers.Needs(compute_capability="8.9")))
    assert spawned(decide(*two, policy=limited, spent=9.89)) == [CHEAP, CHEAP]
    assert spawned(decide(*two, policy=limited, spent=9.94)) == [CHEAP]
    # One that is there drains while the money for that is there: two rounds, the grace and the lag: 380 s.
    here = [pod(batches_in_hand=1)]
    assert not [a for a in decide(clip(work(2 * HOUR_S)), fleet=here, policy=limited, spent=9.96) if a_move(a)]
    actions = decide(clip(work(2 * HOUR_S)), fleet=here, policy=limited, spent=9.963)
    assert only(actions, Drain).cause is pods.Reason.OVER_BUDGET
    # And is destroyed when it is not.
    actions = decide(clip(work(2 * HOUR_S)), fleet=here, policy=limited, spent=9.99)
    assert only(actions, Destroy).cause is pods.Reason.OVER_BUDGET


def a_move(action: Action) -> bool:
    return isinstance(action, Spawn | Drain | Destroy | Undrain)


def test_paused_it_rents_and_retires_nothing_but_keeps_budgets_and_ends_drains() -> None:
    paused = replace(POLICY, limits=Limits(paused=True, max_pods=2))
    assert only(decide(clip(work(20 * HOUR_S)), policy=paused), Wait).reason == "an operator has paused the autoscaler"
    assert decide(clip(), fleet=[pod()], policy=paused) == []
    draining = pod(1, pods.State.DRAINING, cause=pods.Reason.OPERATOR, changed=NOW - 1)
    assert only(decide(clip(), fleet=[draining], policy=paused), Destroy).cause is pods.Reason.OPERATOR
    assert len(decide(clip(), fleet=[pod(n) for n in range(3)], policy=paused)) == 1


def test_an_old_item_is_told_of() -> None:
    told = only(decide(clip(work(1, window_s=100 * HOUR_S, age_s=25 * HOUR_S))), Alert)
    assert told.trouble is Trouble.OLD
    assert told.reason == "the oldest of 100 items has waited 25.0 h, and the alert age is 24.0 h"


def test_a_fleet_of_a_thousand_is_decided_on_quickly() -> None:
    many = [
        replace(CHEAP, gpu_type=f"gpu{n % 20}", region=f"r{n // 20}", price_usd_per_hour=0.3 + n / 20)
        for n in range(100)
    ]
    demands = [
        Demand(f"w{n}", tuple(Due(20_000 * n + k, NOW - k, NOW + HOUR_S * (k + 1)) for k in range(12)), window_s=HOUR_S)
        for n in range(50)
    ]
    fleet = [pod(n, offer=many[n % 100], workload=f"w{n % 50}", batches_in_hand=n % 2) for n in range(1000)]
    seen = Observed(tuple(demands), tuple(many), tuple(fleet))
    policy = replace(POLICY, limits=Limits(max_pods=1500))
    taken = []
    for _ in range(3):
        begin = time.process_time()
        autoscaler.decide(seen, policy, NOW)
        taken.append(time.process_time() - begin)
    # About 80 ms; the bound leaves room for slow machines, not for another power of the fleet.
    assert min(taken) < 0.5


def test_the_least_number_of_pods_is_for_what_is_likely_to_be_wanted_and_easy_to_load() -> None:
    least = replace(POLICY, limits=Limits(min_pods=1))
    small, big = Demand("small"), Demand("big", needs=offers.Needs(vram_bytes=16 * GB))
    assert only(decide(big, small, policy=least), Spawn).workload == "small"
    assert only(decide(replace(big, arrivals_per_s=1.0), small, policy=least), Spawn).workload == "big"
    seen = Observed(demands=(big, small), offers=(CHEAP,), load_s={("big", "RTX 4090"): 60.0})
    assert only(autoscaler.decide(seen, least, NOW), Spawn).workload == "big", "it has been loaded before"

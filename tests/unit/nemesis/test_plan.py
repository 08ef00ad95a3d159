"""The nemesis' plan is a pure function of its seed, and every plan can be carried out."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.nemesis import plan
from tests.faults.nemesis.__main__ import seeds

SEEDS = range(1, 51)


def test_a_seed_always_gives_the_same_plan() -> None:
    assert all(plan.plan(seed, 60.0) == plan.plan(seed, 60.0) for seed in SEEDS)


def test_two_seeds_give_two_plans() -> None:
    assert len({plan.plan(seed, 60.0) for seed in SEEDS}) == len(SEEDS)


def test_fifty_seeds_hold_every_kind_and_many_of_them() -> None:
    kinds = Counter(fault.kind for seed in SEEDS for fault in plan.plan(seed, 60.0))
    assert set(kinds) == set(plan.Kind)
    assert kinds.total() >= 8 * len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_end_in_time_and_hold_nothing_twice(seed: int) -> None:
    faults = plan.plan(seed, 60.0)
    assert list(faults) == sorted(faults, key=lambda f: f.at_s)
    for number, fault in enumerate(faults):
        assert 0 < fault.at_s <= fault.at_s + fault.lasts_s <= 60.0
        active = [f for f in faults[:number] if f.at_s + f.lasts_s > fault.at_s]
        assert len(active) < 3
        assert not any(fault.held & other.held for other in active)


@pytest.mark.parametrize("seed", SEEDS)
def test_targets_exist(seed: int) -> None:
    known = {*plan.SERVICES, *plan.EDGES, plan.POSTGRES, plan.REDIS, "the leader"}
    known |= {f"executor of {worker}" for worker in plan.WORKERS}
    for fault in plan.plan(seed, 60.0):
        assert fault.targets
        assert set(fault.targets) <= known


def test_faults_are_counted_by_kind_and_target() -> None:
    kill = plan.Fault(1.0, plan.Kind.KILL, ("worker2",))
    assert kill.label == "kill worker"
    assert plan.Fault(1.0, plan.Kind.KILL, ("worker0", "worker1")).label == "kill worker (several)"
    assert plan.Fault(1.0, plan.Kind.KILL, plan.SERVICES).label == "kill several"
    assert plan.Fault(1.0, plan.Kind.HOLD, ("gateway0>scheduler1",)).label == "hold gateway>scheduler"
    assert plan.Fault(1.0, plan.Kind.REDIS_FLUSH, ("redis",)).label == "redis_flush"


def test_seeds_are_told_as_ranges_and_lists() -> None:
    assert seeds("1-3,7") == [1, 2, 3, 7]

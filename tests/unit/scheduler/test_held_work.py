"""Work that waits until results are read: which it is, and that no pod is rented, nor kept idle, for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from podium_scheduler.domain import offers, pods, room
from podium_scheduler.domain.autoscaling import autoscaler, budgets
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Destroy, Drain, Spawn, Trouble, Wait
from podium_scheduler.domain.autoscaling.observed import Demand, Due, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Limits, Policy

LIMIT = 1_000_000
SIZES = {"small": room.Sizes(10, 10_000), "large": room.Sizes(100, 100_000)}
NOW = 1_000_000.0
OFFER = offers.Offer("cloud", "L4", 1, 0.5)
POLICY = Policy(assumed_cold_start_s=100.0, assumed_load_s=20.0, assumed_items_per_s=100.0)
HELD = Due(10**6, NOW - 7200.0)
"""Long overdue: it would have as many pods as there may be."""


def tight(used: int, in_flight: int = 0, before: Sequence[str] = ()) -> dict[str, room.Tight]:
    return room.tight(room.Room(room.Memory(used, LIMIT), in_flight), SIZES, before)


def pod(number: int = 1, state: pods.State = pods.State.READY, *, idle_s: float = 60.0, busy: bool = False) -> Pod:
    ready = NOW - 3600.0 if state is pods.State.READY else None
    return Pod(
        UUID(int=number), state, OFFER, NOW - 60.0, "clip", ready, NOW - idle_s,
        batches_in_hand=int(busy), resident=frozenset({"clip"}),
    )  # fmt: skip


def decide(
    *due: Due, held: Sequence[Due] = (HELD,), fleet: Sequence[Pod] = (), policy: Policy = POLICY
) -> list[Action]:
    # What came lately tells nothing about what can be done.
    lately = 1000.0 if held else 0.0
    demand = Demand("clip", due, arrivals_per_s=lately, window_s=60.0, held=tuple(held))
    return autoscaler.decide(Observed((demand,), (OFFER,), tuple(fleet)), policy, NOW)


def acts(actions: Sequence[Action]) -> list[Action]:
    return [action for action in actions if not isinstance(action, Wait | Alert)]


# --- what is held back


def test_room_is_tight_from_where_feeding_stops() -> None:
    assert tight(690_000) == {}
    assert tight(710_000) == {"large": room.Tight(-1, True)}
    assert tight(795_000) == {"small": room.Tight(-1, True), "large": room.Tight(-1, True)}
    assert tight(500_000, 295_000).keys() == {"small", "large"}, "what is in flight will need its place"
    assert tight(915_000)["small"] == room.Tight(-1, False), "the reserve is used up"


def test_it_is_tight_for_who_holds_much_until_feeding_can_go_on_for_a_while() -> None:
    # Two hundredths of Redis: 2,000 small items.
    assert tight(750_000, before=["small"])["small"] == room.Tight(2_000, True)
    assert tight(701_000, before=["small"])["small"] == room.Tight(2_000, True)
    assert tight(700_000, before=["small"]) == {}
    assert "small" not in tight(750_000), "it has room, and had some"


def test_what_is_in_flight_alone_makes_nothing_tight() -> None:
    assert tight(390_000, 800_000) == {}
    assert room.tight(room.Room(room.Memory(LIMIT, 0), LIMIT), SIZES, ["small"]) == {}, "Redis has no limit"


# --- what is rented and kept for it


def test_nothing_is_rented_for_what_has_to_wait_and_it_is_said_why() -> None:
    (wait,) = decide()
    assert wait == Wait(
        "clip",
        "1,000,000 items wait until results are read: there is no room for theirs, so no pod is rented for them, "
        "and none stays idle",
    )
    assert any(isinstance(a, Spawn) for a in decide(HELD, held=())), "with room it would"


def test_idle_pods_go_and_the_last_of_them_too() -> None:
    assert acts(decide(fleet=[pod(1, idle_s=29.0), pod(2, idle_s=29.0)])) == []
    gone = acts(decide(fleet=[pod(1), pod(2)]))
    assert [(type(a), a.cause) for a in gone if isinstance(a, Drain)] == [(Drain, pods.Reason.IDLE)] * 2


def test_one_stays_for_what_is_in_flight() -> None:
    in_flight = Due(1_000, NOW - 5.0)
    (drain,) = acts(decide(in_flight, fleet=[pod(1, busy=True), pod(2)]))
    assert isinstance(drain, Drain) and drain.pod_id == UUID(int=2)


def test_who_computes_as_fast_as_results_are_read_stays() -> None:
    # Without held work two of them would go: ten seconds of work are nothing for three.
    in_flight, busy = Due(1_000, NOW - 5.0), [pod(n, busy=True) for n in range(3)]
    assert acts(decide(in_flight, fleet=busy)) == []
    assert len(acts(decide(in_flight, held=(), fleet=busy))) == 2


def test_pods_on_their_way_to_it_are_given_back() -> None:
    (destroy,) = acts(decide(fleet=[pod(1, pods.State.STARTING)]))
    assert isinstance(destroy, Destroy) and destroy.cause is pods.Reason.NOT_WANTED
    assert destroy.reason == "all that it could do waits until results are read: there is no room for more"
    assert acts(decide(Due(1_000, NOW - 5.0), fleet=[pod(1, pods.State.STARTING)])) == []


def test_minimums_hold_all_the_same() -> None:
    least = replace(POLICY, limits=Limits(min_pods=1))
    assert acts(decide(fleet=[pod()], policy=least)) == []


def test_what_waits_for_its_reader_for_too_long_is_told_of() -> None:
    (alert,) = [a for a in decide(held=[replace(HELD, since=NOW - 90_000.0)]) if isinstance(a, Alert)]
    assert alert.trouble is Trouble.OLD and alert.reason.startswith("the oldest of 1,000,000 items has waited 25.0 h")


# --- jobs with a budget


@pytest.mark.parametrize(("held", "due"), [(0, [100]), (70, [30]), (100, [])])
def test_what_is_left_of_a_budget_is_for_all_items_and_not_for_those_that_have_room(held: int, due: list[int]) -> None:
    job = budgets.Job("clip", 100, NOW - 60.0, None, 1.0, held)
    found = budgets.dues([job], NOW).get("clip", ())
    assert [(one.items, one.usd_per_item) for one in found] == [(items, 0.01) for items in due]
    assert budgets.held([job]) == ({"clip": Due(held, NOW - 60.0)} if held else {})

"""What the pod keeper makes of an imaginary provider's lists, some of which lie or fail, and of its bills."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from podium_runtime import clock, errors
from podium_scheduler.app import pod_keeper, providers
from podium_scheduler.domain import costs, pod_watch, pods
from podium_scheduler.domain.pods import Reason, State
from tests.support.clouds.imaginary import Create
from tests.support.pod_world import PATIENCE, ROUND_S, World, in_virtual_time

DEADLINE_S = 60.0


@pytest.fixture
def world() -> World:
    return World()


# --- what the list shows ----------------------------------------------------------------------------------


async def test_a_pod_is_lost_when_two_lists_do_not_show_it(world: World) -> None:
    pod = await world.ready()
    world.cloud.lose(world.cloud.machines[0])
    missed = world.clock.now()
    await world.rounds(1)
    assert world.state(pod)[0] is State.READY
    await world.rounds(1)
    assert world.state(pod) == (State.LOST, Reason.VANISHED)
    assert world.ledger.prices[pod.pod_id][-1].end == missed


async def test_a_list_that_lies_once_loses_nothing(world: World) -> None:
    pod = await world.ready()
    (machine,) = world.cloud.machines
    for _ in range(3):
        machine.listed_from = world.clock.now() + timedelta(seconds=1)
        await world.rounds(2)
    assert world.state(pod)[0] is State.READY


@pytest.mark.parametrize("status", [providers.Status.ERROR, providers.Status.STOPPED])
async def test_a_pod_that_broke_is_destroyed(world: World, status: providers.Status) -> None:
    pod = await world.ready()
    world.cloud.machines[0].status, world.cloud.machines[0].detail = status, "host down"
    await world.rounds(2)
    assert world.cloud.alive == []
    await world.rounds(3)
    assert world.state(pod) == (State.DESTROYED, Reason.PROVIDER_ERROR)
    details = [event.detail for event in await world.ledger.history(pod.pod_id)]
    assert "host down" in details


async def test_a_pod_whose_worker_never_comes_is_destroyed(world: World) -> None:
    (pod,) = await world.intend()
    await world.rounds(2)
    world.clock.advance(PATIENCE.boot.total_seconds())
    await world.rounds(5)
    assert world.state(pod) == (State.DESTROYED, Reason.BOOT_TIMEOUT)


async def test_a_pod_whose_worker_is_gone_is_destroyed(world: World) -> None:
    pod = await world.ready()
    world.ledger.workers_gone[uuid.UUID(int=7)] = world.clock.now()
    await world.rounds(2)
    assert world.state(pod)[0] is State.READY
    world.clock.advance(PATIENCE.worker.total_seconds())
    await world.rounds(5)
    assert world.state(pod) == (State.DESTROYED, Reason.WORKER_GONE)


async def test_a_pod_that_drained_is_destroyed_for_the_reason_it_was_drained_for(world: World) -> None:
    pod = await world.ready()
    await world.move(pod, State.DRAINING, Reason.CHEAPER_ELSEWHERE)
    await world.rounds(2)
    assert world.state(pod)[0] is State.DRAINING
    world.ledger.workers_gone[uuid.UUID(int=7)] = world.clock.now()
    await world.rounds(4)
    assert world.state(pod) == (State.DESTROYED, Reason.CHEAPER_ELSEWHERE)


# --- orphans ----------------------------------------------------------------------------------------------


async def test_an_orphan_is_written_down_and_destroyed(world: World) -> None:
    world.cloud.make("test-foreign", 3.0)
    world.clock.advance(3600)
    await world.rounds(2)
    assert world.cloud.alive == []
    await world.rounds(2)
    orphan = world.ledger.named("test-foreign")
    assert (orphan.state, orphan.reason) == (State.DESTROYED, Reason.ORPHAN)
    spans = world.ledger.prices[orphan.pod_id]
    bill = costs.bills(spans, clock.FakeClock().now(), world.clock.now())[orphan.pod_id]
    assert bill.micro_usd >= 3_000_000, "from its making, not from when it was found"


async def test_an_orphan_is_adopted_when_that_is_the_policy() -> None:
    world = World(pod_keeper.Rules(PATIENCE, pod_watch.OrphanPolicy.ADOPT, ROUND_S))
    world.cloud.make("test-foreign")
    await world.rounds(3)
    orphan = world.ledger.named("test-foreign")
    assert (orphan.state, len(world.cloud.alive)) == (State.STARTING, 1)
    world.clock.advance(PATIENCE.boot.total_seconds())
    await world.rounds(3)
    assert (world.state(orphan)[1], world.cloud.alive) == (Reason.BOOT_TIMEOUT, [])


async def test_a_pod_that_the_provider_made_twice_is_kept_once(world: World) -> None:
    pod = await world.ready()
    world.cloud.make(pod.name)
    await world.rounds(5)
    assert world.state(pod)[0] is State.READY
    (left,) = world.cloud.alive
    assert left.provider_pod_id == world.ledger.rows[pod.pod_id].provider_pod_id
    assert world.ledger.named(f"{pod.name}#im-2").state is State.DESTROYED


# --- a provider that is unwell ----------------------------------------------------------------------------


async def test_a_list_that_fails_moves_nothing_and_calls_nothing(world: World) -> None:
    pod = await world.ready()
    (wanted,) = await world.intend()
    world.cloud.lists.extend([providers.Ambiguous("internal error")] * 3)
    await world.rounds(3)
    assert (world.state(pod)[0], world.state(wanted)[0]) == (State.READY, State.INTENDED)
    await world.rounds()
    assert world.state(wanted)[0] is State.STARTING


async def test_a_provider_that_throttles_is_left_alone_for_as_long_as_it_says(world: World) -> None:
    pods_ = await world.intend(20)
    world.cloud.creates.append(Create.THROTTLED)
    assert await world.keeper.run_once() == 30.0
    made = world.cloud.calls["create"]
    assert made < 20
    world.clock.advance(29.0)
    assert await world.keeper.run_once() == pytest.approx(1.0)
    assert (world.cloud.calls["create"], world.cloud.calls["list"]) == (made, 1)
    world.clock.advance(1.0)
    await world.rounds()
    assert (len(world.cloud.alive), world.cloud.calls["create"]) == (19, 20)
    assert sum(world.state(pod) == (State.FAILED, Reason.THROTTLED) for pod in pods_) == 1


@in_virtual_time
async def test_no_answer_is_waited_for_longer_than_the_bound(world: World) -> None:
    world.cloud.list = lambda: asyncio.Event().wait()  # type: ignore[method-assign,assignment,return-value]
    async with asyncio.timeout(DEADLINE_S):
        assert await world.keeper.run_once() == ROUND_S


async def test_a_provider_that_is_slow_is_listed_all_the_same(world: World) -> None:
    made = await world.intend(40)
    await world.rounds()
    for pod in made:
        await world.move(pod, State.DESTROYING, Reason.IDLE)
    real = world.cloud.destroy

    async def slow(provider_pod_id: str) -> None:
        world.clock.advance(3.0)
        await real(provider_pod_id)

    world.cloud.destroy = slow  # type: ignore[method-assign]
    lists = world.cloud.calls["list"]
    assert await world.keeper.run_once() < 1.0
    assert 0 < len(world.cloud.alive) < 40
    await world.rounds(5)
    assert (world.cloud.alive, world.cloud.calls["list"]) == ([], lists + 6)


@in_virtual_time
async def test_a_provider_that_hangs_holds_up_no_other() -> None:
    patient = replace(PATIENCE, call=timedelta(hours=1))
    hanging, well = World(pod_keeper.Rules(patient), name="hanging"), World(name="well")
    hanging.cloud.creates.append(Create.HANGS_MADE)
    await hanging.intend()
    (pod,) = await well.intend()
    stuck = asyncio.create_task(hanging.keeper.run_once())
    async with asyncio.timeout(DEADLINE_S):
        await hanging.cloud.hangs.wait()
        await well.rounds(2)
    assert well.state(pod)[0] is State.STARTING
    assert not stuck.done()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


async def test_a_capacity_that_is_missing_for_one_offer_says_nothing_about_the_next(world: World) -> None:
    await world.intend(20)
    world.cloud.creates.extend([Create.NO_CAPACITY] * 8)
    await world.rounds()
    assert len(world.cloud.alive) == 12


# --- money, and size --------------------------------------------------------------------------------------


async def test_the_ledger_bills_what_the_provider_bills(world: World) -> None:
    start = world.clock.now()
    for price in ("1.0", "2.5"):
        await world.intend(3, price)
        await world.rounds(100)
    for pod in list(world.ledger.rows.values())[::2]:
        await world.move(pod, State.DESTROYING, Reason.IDLE)
    world.cloud.lose(world.cloud.machines[1])
    await world.rounds(100)
    spans = await world.ledger.spans(start, world.clock.now())
    ours = costs.total(costs.bills(spans, start, world.clock.now()).values()).micro_usd
    theirs = world.cloud.bill_micro_usd(start, world.clock.now())
    assert 0 <= ours - theirs <= 0.02 * theirs, "at most the time from an end to the list that shows it"


async def test_a_price_that_changes_is_a_new_span(world: World) -> None:
    pod = await world.ready()
    world.cloud.machines[0].price = Decimal("0.25")
    await world.rounds()
    assert [s.price_usd_per_hour for s in world.ledger.prices[pod.pod_id]] == [Decimal(1), Decimal("0.25")]
    assert world.ledger.rows[pod.pod_id].price_usd_per_hour == Decimal("0.25")


async def test_a_round_over_a_thousand_pods_takes_far_less_than_a_second(world: World) -> None:
    await world.intend(1000)
    await world.rounds()
    assert (len(world.cloud.alive), world.states()) == (1000, {State.STARTING})
    writes = len(world.ledger.events)
    world.clock.advance(60)
    best = 1.0
    for _ in range(3):
        started = time.perf_counter()
        await world.rounds()
        best = min(best, time.perf_counter() - started)
    assert best < 0.5
    assert len(world.ledger.events) == writes


def test_what_a_leader_shows_goes_with_it() -> None:
    pod_keeper.PODS.labels("gone", "READY").set(3)
    pod_keeper.forget()
    assert not next(iter(pod_keeper.PODS.collect())).samples


async def test_the_ledger_away_is_waited_for(world: World) -> None:
    async def away(_: str = "") -> pods.Census:
        raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")

    world.ledger.census = away  # type: ignore[method-assign,assignment]
    assert await world.keeper.run_once() > 0

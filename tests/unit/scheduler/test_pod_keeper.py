"""The pod keeper creates and destroys, whatever an imaginary provider answers."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from podium_runtime import errors
from podium_scheduler.app import join_tokens, pod_keeper, providers
from podium_scheduler.domain import pods
from podium_scheduler.domain.join_tokens import Refusal
from podium_scheduler.domain.pods import Move, Reason, State
from tests.support import virtual_time
from tests.support.clouds.imaginary import Create, Destroy
from tests.support.pod_world import PATIENCE, ROUND_S, World, in_virtual_time, order

DEADLINE_S = 60.0
NOT_DONE = (Destroy.UNHEARD, Destroy.UNREACHABLE, Destroy.AMBIGUOUS_NOT_DONE, Destroy.HANGS_NOT_DONE)


@pytest.fixture
def world() -> World:
    return World()


# --- create -----------------------------------------------------------------------------------------------


async def test_an_intent_becomes_one_pod_with_a_token_of_its_own(world: World) -> None:
    pod, other = await world.intend(2)
    await world.rounds(3)
    assert world.state(pod) == (State.STARTING, Reason.NONE)
    assert [machine.name for machine in world.cloud.alive] == [pod.name, other.name]
    tokens = [o.environment["PODIUM_JOIN_TOKEN"] for o in world.cloud.orders]
    assert [len(bytes.fromhex(token)) for token in tokens] == [32, 32]
    redeem = join_tokens.JoinTokens(world.ledger).redeem
    assert await redeem(tokens[1], pod.pod_id, uuid.uuid4()) is Refusal.WRONG
    assert await redeem(tokens[0], pod.pod_id, uuid.uuid4()) is None
    assert all(token not in repr(world.ledger) + repr(world.cloud.orders) for token in tokens)


async def test_nothing_is_called_before_the_call_is_committed(world: World) -> None:
    (pod,) = await world.intend()
    seen: list[State] = []
    world.cloud.create = lambda o: _look(world, pod, seen, o)  # type: ignore[method-assign,assignment]
    await world.rounds()
    assert seen == [State.CREATING]


async def _look(world: World, pod: pods.Pod, seen: list[State], _: providers.Order) -> providers.Listed:
    seen.append(world.state(pod)[0])
    raise providers.NoCapacity("none left")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Create.NO_CAPACITY, Reason.NO_CAPACITY),
        (Create.REFUSED, Reason.REFUSED),
        (Create.UNAUTHORIZED, Reason.UNAUTHORIZED),
        (Create.OUT_OF_FUNDS, Reason.OUT_OF_FUNDS),
        (Create.THROTTLED, Reason.THROTTLED),
        (Create.UNREACHABLE, Reason.UNREACHABLE),
    ],
)
async def test_an_answer_that_says_no_ends_the_pod(world: World, answer: Create, reason: Reason) -> None:
    (pod,) = await world.intend()
    world.cloud.creates.append(answer)
    await world.rounds(20)
    assert world.state(pod) == (State.FAILED, reason)
    assert world.cloud.calls["create"] == 1
    assert world.ledger.prices == {}


@pytest.mark.parametrize("answer", [Create.AMBIGUOUS_MADE, Create.HANGS_MADE, Create.MADE])
@in_virtual_time
async def test_a_pod_that_was_made_is_found_by_its_name(world: World, answer: Create) -> None:
    (pod,) = await world.intend()
    world.cloud.creates.append(answer)
    async with asyncio.timeout(DEADLINE_S):
        await world.rounds(2)
    assert world.state(pod) == (State.STARTING, Reason.NONE)
    assert world.ledger.rows[pod.pod_id].provider_pod_id == "im-1"
    assert world.cloud.calls["create"] == 1
    (span,) = world.ledger.prices[pod.pod_id]
    assert span.start == world.ledger.rows[pod.pod_id].call_time


@pytest.mark.parametrize("answer", [Create.AMBIGUOUS_NOT_MADE, Create.HANGS_NOT_MADE])
@in_virtual_time
async def test_a_pod_that_was_not_made_fails_once_the_list_would_show_it(answer: Create) -> None:
    world = World(list_lag_s=60.0)
    (pod,) = await world.intend()
    world.cloud.creates.append(answer)
    async with asyncio.timeout(DEADLINE_S):
        await world.rounds(12)
        assert world.state(pod) == (State.CREATING, Reason.NONE)
        await world.rounds(2)
    assert world.state(pod) == (State.FAILED, Reason.CREATE_UNRESOLVED)
    assert world.cloud.calls["create"] == 1


@pytest.mark.parametrize("answer", [Create.MADE_LISTED_LATE, Create.AMBIGUOUS_MADE_LISTED_LATE])
async def test_a_pod_that_is_listed_late_is_waited_for(answer: Create) -> None:
    world = World(list_lag_s=60.0)
    (pod,) = await world.intend()
    world.cloud.creates.append(answer)
    await world.rounds(20)
    assert world.state(pod) == (State.STARTING, Reason.NONE)


async def test_a_pod_that_is_listed_after_it_was_given_up_is_destroyed_and_billed(world: World) -> None:
    (pod,) = await world.intend()
    world.cloud.creates.append(Create.AMBIGUOUS_NOT_MADE)
    await world.rounds(2)
    assert world.state(pod) == (State.FAILED, Reason.CREATE_UNRESOLVED)
    # The call was on its way all the time.
    world.cloud.make(pod.name)
    await world.rounds(2)
    assert world.cloud.alive == []
    await world.rounds(2)
    assert world.state(pod) == (State.DESTROYED, Reason.CREATE_UNRESOLVED)
    (span,) = world.ledger.prices[pod.pod_id]
    assert (span.start, span.end is None) == (world.ledger.rows[pod.pod_id].call_time, False)


async def test_what_nobody_wants_any_more_is_not_created(world: World) -> None:
    (pod,) = await world.intend()
    await world.move(pod, State.FAILED, Reason.NOT_WANTED)
    await world.rounds(2)
    assert world.cloud.orders == []


async def test_what_is_given_up_just_before_its_call_is_not_called_for(world: World) -> None:
    (pod, other) = await world.intend(2)
    real = world.ledger.move

    async def late(wanted: Sequence[Move]) -> set[uuid.UUID]:
        if world.ledger.rows[pod.pod_id].state is State.INTENDED:
            await real([Move(pod.pod_id, State.INTENDED, State.FAILED, Reason.NOT_WANTED)])
        return await real(wanted)

    world.ledger.move = late  # type: ignore[method-assign,assignment]
    await world.rounds(2)
    assert [order.name for order in world.cloud.orders] == [other.name]
    assert world.state(pod) == (State.FAILED, Reason.NOT_WANTED)


async def test_a_pod_doomed_while_it_is_created_is_destroyed_once_it_is_seen(world: World) -> None:
    (pod,) = await world.intend()
    real = world.cloud.create

    async def doomed(order: providers.Order) -> providers.Listed:
        await world.move(pod, State.DESTROYING, Reason.OPERATOR)
        return await real(order)

    world.cloud.create = doomed  # type: ignore[method-assign]
    await world.rounds(1)
    assert world.state(pod) == (State.DESTROYING, Reason.OPERATOR)
    await world.rounds(3)
    assert world.cloud.alive == []
    await world.rounds(2)
    assert world.state(pod) == (State.DESTROYED, Reason.OPERATOR)
    assert len(world.ledger.prices[pod.pod_id]) == 1


async def test_a_term_lost_during_a_create_call_leaves_a_pod_that_the_next_leader_finds(world: World) -> None:
    (pod,) = await world.intend()
    real = world.ledger.move
    moves = 0

    async def refused(wanted: Sequence[Move]) -> set[uuid.UUID]:
        nonlocal moves
        moves += 1
        if moves > 1:
            raise errors.Unavailable("another replica leads", reason="LEADERSHIP_LOST")
        return await real(wanted)

    keeper_ledger = replace(world.ledger)
    keeper_ledger.move = refused  # type: ignore[method-assign,assignment]
    world.keeper = pod_keeper.PodKeeper(keeper_ledger, world.cloud, order, world.ids, world.clock, world.rules)
    await world.rounds()
    assert (world.state(pod)[0], len(world.cloud.alive)) == (State.CREATING, 1)
    world.restart()
    await world.rounds()
    assert world.state(pod)[0] is State.STARTING
    assert world.cloud.calls["create"] == 1


async def test_an_intent_that_is_listed_already_is_not_called_for(world: World) -> None:
    (pod,) = await world.intend()
    world.cloud.make(pod.name)
    await world.rounds(2)
    assert world.state(pod)[0] is State.STARTING
    assert world.cloud.orders == []


# --- destroy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [[one] for one in Destroy] + [[one] * 4 for one in NOT_DONE],
    ids=lambda answers: f"{len(answers)} x {answers[0]}",
)
@in_virtual_time
async def test_a_pod_is_gone_only_when_the_list_says_so(world: World, answers: list[Destroy]) -> None:
    (pod,) = await world.intend()
    await world.rounds()
    await world.move(pod, State.DESTROYING, Reason.IDLE)
    world.cloud.destroys.extend(answers)
    for _ in range(30):
        async with asyncio.timeout(DEADLINE_S):
            await world.rounds()
        if world.state(pod)[0] is State.DESTROYED:
            break
        assert world.state(pod) == (State.DESTROYING, Reason.IDLE)
    assert world.state(pod) == (State.DESTROYED, Reason.IDLE)
    assert world.cloud.alive == []
    assert not world.cloud.destroys, "it was asked again until it was gone"


async def test_a_pod_that_is_not_listed_yet_is_not_taken_for_gone() -> None:
    world = World(list_lag_s=60.0)
    (pod,) = await world.intend()
    world.cloud.creates.append(Create.MADE_LISTED_LATE)
    await world.rounds()
    await world.move(pod, State.DESTROYING, Reason.NOT_WANTED)
    world.cloud.destroys.extend([Destroy.UNHEARD] * 12)
    await world.rounds(10)
    assert world.state(pod)[0] is State.DESTROYING
    await world.rounds(10)
    assert (world.state(pod)[0], world.cloud.alive) == (State.DESTROYED, [])


async def test_a_list_that_shows_a_pod_after_its_end_has_it_destroyed_again(world: World) -> None:
    (pod,) = await world.intend()
    await world.rounds()
    await world.move(pod, State.DESTROYING, Reason.IDLE)
    world.cloud.destroys.append(Destroy.UNHEARD)
    (machine,) = world.cloud.machines
    machine.listed_from += timedelta(hours=1)
    await world.rounds(3)
    assert world.state(pod)[0] is State.DESTROYED
    ended = world.ledger.prices[pod.pod_id][-1].end
    assert ended is not None
    machine.listed_from = world.clock.now()
    await world.rounds(4)
    assert (world.state(pod), world.cloud.alive) == ((State.DESTROYED, Reason.IDLE), [])
    (span,) = world.ledger.prices[pod.pod_id]
    assert span.end is not None and span.end > ended


@in_virtual_time
async def test_those_that_hang_do_not_keep_the_others_from_their_turn(world: World) -> None:
    pods_ = await world.intend(10)
    await world.rounds(2)
    for pod in pods_:
        await world.move(pod, State.DESTROYING, Reason.IDLE)
    world.cloud.destroys.extend([Destroy.HANGS_NOT_DONE] * 8)
    async with asyncio.timeout(DEADLINE_S):
        await world.rounds()
        assert len(world.cloud.alive) == 10
        world.cloud.destroys.extend([Destroy.DONE] * 2 + [Destroy.HANGS_NOT_DONE] * 8)
        await world.rounds()
    assert {machine.name for machine in world.cloud.alive} == {pod.name for pod in pods_[:8]}


async def one_hangs_among_forty() -> None:
    patience = replace(PATIENCE, call=timedelta(minutes=2))
    world = World(pod_keeper.Rules(patience, interval_s=ROUND_S), clock=virtual_time.LoopClock())
    doomed = await world.intend(40)
    await world.keeper.run_once()
    for pod in doomed:
        await world.move(pod, State.DESTROYING, Reason.IDLE)
    world.cloud.destroys.append(Destroy.HANGS_NOT_DONE)
    begun = world.clock.now()
    rest_s = await world.keeper.run_once()
    assert world.clock.now() - begun == patience.call, "no call outlives its round"
    assert [machine.name for machine in world.cloud.alive] == [doomed[0].name]
    assert Counter(pod.state for pod in world.ledger.rows.values()) == {State.DESTROYED: 39, State.DESTROYING: 1}
    ends = {world.ledger.prices[pod.pod_id][-1].end for pod in doomed[1:]}
    assert ends == {begun + timedelta(seconds=ROUND_S)}, "the next list tells, not the one after the call that hangs"
    await world.clock.sleep(rest_s)
    await world.keeper.run_once()
    assert world.cloud.alive == []


def test_one_that_hangs_keeps_neither_the_others_nor_the_list_waiting() -> None:
    virtual_time.run(one_hangs_among_forty())

"""The pod keeper against an imaginary provider: every answer to every call, and lists that lie for a while."""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, ParamSpec

import pytest

from podium_runtime import clock, errors, ids
from podium_scheduler.app import join_tokens, pod_keeper, providers, records
from podium_scheduler.domain import costs, pod_watch, pods
from podium_scheduler.domain.join_tokens import Refusal
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support import dying, virtual_time
from tests.support.clouds.imaginary import Create, Destroy, Imaginary

P = ParamSpec("P")
ROUND_S = 5.0
CALL_S = 2.0
DEADLINE_S = 60.0
NOT_DONE = (Destroy.UNHEARD, Destroy.UNREACHABLE, Destroy.AMBIGUOUS_NOT_DONE, Destroy.HANGS_NOT_DONE)
PATIENCE = pod_watch.Patience(call=timedelta(seconds=CALL_S), absence=timedelta(seconds=4))


def order(pod: pods.Pod, token: str) -> providers.Order:
    offer = providers.Offer(pod.provider, pod.gpu_type, pod.gpu_count, float(pod.price_usd_per_hour))
    environment = {"PODIUM_POD_ID": str(pod.pod_id), "PODIUM_JOIN_TOKEN": token}
    return providers.Order(pod.pod_id, pod.name, offer, "podium-worker", (), environment)


@dataclass(slots=True)
class World:
    """A cloud, a ledger, and the keeper between them."""

    rules: pod_keeper.Rules = field(default_factory=lambda: pod_keeper.Rules(PATIENCE, interval_s=ROUND_S))
    list_lag_s: float = 0.0
    name: str = "imaginary"
    clock: clock.FakeClock = field(default_factory=clock.FakeClock)
    ids: ids.Ids = field(default_factory=ids.SequentialIds)
    cloud: Imaginary = field(init=False)
    ledger: PodLedgerModel = field(init=False)
    keeper: pod_keeper.PodKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.cloud = Imaginary(self.clock, self.name, self.list_lag_s)
        self.ledger = PodLedgerModel(self.clock)
        self.restart()

    def restart(self) -> None:
        """Another leader, which knows what the ledger knows."""
        self.keeper = pod_keeper.PodKeeper(self.ledger, self.cloud, order, self.ids, self.clock, self.rules)

    async def intend(self, count: int = 1, price: str = "1.0") -> list[pods.Pod]:
        """New pods that are wanted."""
        made = [self.ids.uuid4() for _ in range(count)]
        names = [pods.name_of("test", pod_id) for pod_id in made]
        return await self.ledger.intend(
            [records.NewPod(i, n, self.name, "L4", 1, Decimal(price)) for i, n in zip(made, names, strict=True)]
        )

    async def rounds(self, count: int = 1, every_s: float = ROUND_S) -> None:
        """Rounds of the loop, and the time between them."""
        for _ in range(count):
            await self.keeper.run_once()
            self.clock.advance(every_s)

    async def move(self, pod: pods.Pod, after: State, reason: Reason | None = None) -> None:
        """Somebody else decides."""
        before = self.ledger.rows[pod.pod_id].state
        assert await self.ledger.move([Move(pod.pod_id, before, after, reason)])

    async def ready(self) -> pods.Pod:
        """A pod whose worker is at work."""
        (pod,) = await self.intend()
        await self.rounds()
        token = self.cloud.orders[-1].environment["PODIUM_JOIN_TOKEN"]
        assert await join_tokens.JoinTokens(self.ledger).redeem(token, pod.pod_id, uuid.UUID(int=7)) is None
        await self.move(pod, State.READY)
        return pod

    def state(self, pod: pods.Pod) -> tuple[State, Reason]:
        """Where it stands now."""
        now = self.ledger.rows[pod.pod_id]
        return now.state, now.reason

    def states(self) -> set[State]:
        """Of all pods."""
        return {pod.state for pod in self.ledger.rows.values()}


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test in which somebody hangs: he is given up at once, and nobody because the machine is slow."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        dying.run(test(*args, **kwargs))

    return run


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

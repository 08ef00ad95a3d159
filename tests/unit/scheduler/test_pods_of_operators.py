"""What operators do with pods: over the ledger's model, from every state, and while pods move under their hands."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

import pytest

from podium_runtime import errors
from podium_scheduler.app import pods_of_operators, providers, records
from podium_scheduler.app.pods_of_operators import Wanted, choose, told
from podium_scheduler.domain import pods
from podium_scheduler.domain.offers import Offer, Stock
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support.operator_pods_rig import L4, OFFERS, Rig

REQUEST = uuid.UUID(int=77)
ENDED = {State.DESTROYING, State.DESTROYED, State.LOST, State.FAILED}
DRAINED = {State.INTENDED: State.FAILED, State.READY: State.DRAINING, State.DRAINING: State.DRAINING}
DESTROYED = {State.INTENDED: State.FAILED}


@pytest.mark.parametrize("state", list(State))
async def test_a_drain_from_every_state(state: State) -> None:
    rig = Rig()
    pod = await rig.pod_in(state)
    drained = await rig.use_cases().drain(pod.pod_id)
    assert drained.state is (state if state in ENDED else DRAINED.get(state, State.DESTROYING))
    wanted = Reason.OPERATOR if state not in {*ENDED, State.DRAINING} else pod.reason
    assert drained.reason is wanted
    assert rig.drains.asked == ([pod.worker_id] if drained.state is State.DRAINING else [])


@pytest.mark.parametrize("state", list(State))
async def test_a_destroy_from_every_state_and_once_more(state: State) -> None:
    rig = Rig()
    pod = await rig.pod_in(state)
    destroyed = await rig.use_cases().destroy(pod.pod_id)
    assert destroyed.state is (state if state in ENDED else DESTROYED.get(state, State.DESTROYING))
    assert destroyed.reason is (pod.reason if state in ENDED else Reason.OPERATOR)
    rig.clock.advance(1)
    assert await rig.use_cases().destroy(pod.pod_id) == destroyed
    assert rig.drains.asked == []


async def test_the_worker_is_told_again_by_whoever_repeats_the_drain() -> None:
    rig = Rig()
    pod = await rig.pod_in(State.READY)
    for _ in range(2):
        await rig.use_cases().drain(pod.pod_id)
    assert rig.drains.asked == [pod.worker_id] * 2
    assert [event.state for event in await rig.ledger.history(pod.pod_id)].count(State.DRAINING) == 1


@dataclass
class Moving(PodLedgerModel):
    """A ledger in which somebody else is faster: before each move another one is made."""

    faster: Sequence[Move] = ()

    async def move(self, moves: Sequence[Move]) -> set[uuid.UUID]:
        """The other one's first."""
        if self.faster:
            first, *self.faster = self.faster
            assert await super().move([first])
        return await super().move(moves)


def moving(rig: Rig, *faster: Move) -> Moving:
    ledger = rig.ledger
    return Moving(ledger.time, rows=ledger.rows, events=ledger.events, tokens=ledger.tokens, faster=faster)


async def test_a_pod_that_moves_meanwhile_is_ended_from_where_it_is_then() -> None:
    rig = Rig()
    pod = await rig.pod_in(State.INTENDED)
    called = Move(pod.pod_id, State.INTENDED, State.CREATING, join_token_sha256=b"t" * 32)
    listed = Move(pod.pod_id, State.CREATING, State.STARTING, sighting=pods.Sighting("rp-1", pod.name))
    destroyed = await rig.use_cases(ledger=moving(rig, called, listed)).destroy(pod.pod_id)
    assert (destroyed.state, destroyed.reason) == (State.DESTROYING, Reason.OPERATOR)
    told_of = [event.state for event in await rig.ledger.history(pod.pod_id)]
    assert told_of == [State.INTENDED, State.CREATING, State.STARTING, State.DESTROYING]


async def test_a_pod_that_ends_meanwhile_keeps_its_own_reason() -> None:
    rig = Rig()
    pod = await rig.pod_in(State.READY)
    lost = Move(pod.pod_id, State.READY, State.LOST, Reason.VANISHED, "no longer listed")
    drained = await rig.use_cases(ledger=moving(rig, lost)).drain(pod.pod_id)
    assert (drained.state, drained.reason) == (State.LOST, Reason.VANISHED)
    assert rig.drains.asked == []


async def test_a_pod_that_never_stands_still_is_given_up_for_now() -> None:
    rig = Rig()
    pod = await rig.pod_in(State.READY)
    there = Move(pod.pod_id, State.READY, State.DRAINING, Reason.IDLE)
    back = Move(pod.pod_id, State.DRAINING, State.READY)
    with pytest.raises(errors.Unavailable) as caught:
        await rig.use_cases(ledger=moving(rig, *(there, back) * 3)).destroy(pod.pod_id)
    assert caught.value.reason == "POD_MOVES"


async def test_an_unknown_pod_is_not_found() -> None:
    cases = Rig().use_cases()
    for call in (cases.get, cases.drain, cases.destroy):
        with pytest.raises(errors.NotFound) as caught:
            await call(uuid.UUID(int=9))
        assert caught.value.reason == "POD_NOT_FOUND"


async def test_a_pod_is_intended_as_the_offer_says() -> None:
    rig = Rig()
    pod = await rig.use_cases().spawn(Wanted("runpod", "NVIDIA L4", 0, REQUEST))
    assert (pod.state, pod.provider, pod.gpu_type, pod.gpu_count) == (State.INTENDED, "runpod", "NVIDIA L4", 1)
    assert (pod.price_usd_per_hour, pod.vram_bytes, pod.cloud) == (Decimal("0.43"), 24 << 30, "SECURE")
    assert (pod.name, pod.request_id) == (pods.name_of("podium", pod.pod_id), REQUEST)
    _, history = await rig.use_cases().get(pod.pod_id)
    assert [(event.state, event.detail) for event in history] == [(State.INTENDED, "an operator asked for it")]


async def test_the_same_request_again_is_the_same_pod_whatever_is_on_offer_now() -> None:
    rig = Rig()
    wanted = Wanted("runpod", "NVIDIA L4", 1, REQUEST)
    first = await rig.use_cases().spawn(wanted)
    rig.market.fails = providers.Unreachable("connection refused")
    assert await rig.use_cases().spawn(wanted) == first
    failed = await rig.bring(first, State.FAILED)
    assert await rig.use_cases().spawn(wanted) == failed
    assert await rig.use_cases().spawn(replace(wanted, gpu_type="", gpu_count=0)) == failed
    for other in (replace(wanted, gpu_type="NVIDIA H100"), replace(wanted, gpu_count=4), replace(wanted, provider="x")):
        with pytest.raises(errors.AlreadyExists) as caught:
            await rig.use_cases().spawn(other)
        assert caught.value.reason == "REQUEST_ID_REUSED"
    assert len(rig.ledger.rows) == 1


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Wanted("runpod", "NVIDIA L4", 1, REQUEST), OFFERS[0]),
        (Wanted("runpod", "NVIDIA L4", 4, REQUEST), OFFERS[2]),
        (Wanted("runpod", "", 0, REQUEST), OFFERS[0]),
        (Wanted("runpod", "NVIDIA H100", 0, REQUEST), OFFERS[3]),
    ],
)
def test_the_cheapest_of_the_fewest_and_rather_nobody_unknown(wanted: Wanted, chosen: Offer) -> None:
    assert choose(OFFERS, wanted) is chosen
    assert choose(OFFERS[::-1], wanted) is chosen


def test_somebody_unknowns_machine_where_there_is_no_other() -> None:
    gone = replace(L4, stock=Stock.NONE)
    assert choose([gone, OFFERS[1]], Wanted("runpod", "NVIDIA L4", 1, REQUEST)) is OFFERS[1]


def test_a_machine_with_all_its_gpus_is_what_there_is_the_fewest_of() -> None:
    local = Offer("local", "NVIDIA L4", 8, 0.0)
    assert choose([local], Wanted("local", "", 0, REQUEST)) is local


@pytest.mark.parametrize(
    ("wanted", "field", "known"),
    [
        (Wanted("vast", "", 0, REQUEST), "provider", "is none of runpod"),
        (Wanted("runpod", "L5", 0, REQUEST), "gpu_type", "is none of NVIDIA A40, NVIDIA H100, NVIDIA L4"),
        (Wanted("runpod", "NVIDIA L4", 2, REQUEST), "gpu_count", "is none of 1, 4"),
    ],
)
async def test_what_is_not_on_offer_is_told_with_what_is(wanted: Wanted, field: str, known: str) -> None:
    rig = Rig()
    with pytest.raises(errors.InvalidArgument) as caught:
        await rig.use_cases().spawn(wanted)
    assert [(v.field, v.description) for v in caught.value.violations] == [(field, known)]
    assert not rig.ledger.rows


async def test_a_long_list_of_what_is_on_offer_is_cut() -> None:
    many = [replace(L4, gpu_type=f"GPU {n:02}") for n in range(25)]
    with pytest.raises(errors.InvalidArgument) as caught:
        choose(many, Wanted("runpod", "L5", 0, REQUEST))
    assert caught.value.violations[0].description.endswith("GPU 19 and 5 more")


async def test_none_left_is_no_bad_request() -> None:
    rig = Rig()
    with pytest.raises(errors.ResourceExhausted) as caught:
        await rig.use_cases().spawn(Wanted("runpod", "NVIDIA A40", 1, REQUEST))
    assert (caught.value.reason, caught.value.retry_after_s) == ("NO_CAPACITY", 60.0)
    rig.market.offered = ()
    with pytest.raises(errors.ResourceExhausted):
        await rig.use_cases().spawn(Wanted("runpod", "NVIDIA L4", 1, REQUEST))


async def test_without_a_provider_nothing_can_be_rented() -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        await Rig().use_cases({}).spawn(Wanted("runpod", "", 0, REQUEST))
    assert caught.value.reason == "NO_PROVIDER"


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (providers.NoCapacity("none"), errors.ResourceExhausted, "NO_CAPACITY"),
        (providers.Unauthorized("bad key"), errors.FailedPrecondition, "PROVIDER_UNAUTHORIZED"),
        (providers.OutOfFunds("top up"), errors.FailedPrecondition, "PROVIDER_OUT_OF_FUNDS"),
        (providers.Refused("not for you"), errors.FailedPrecondition, "PROVIDER_REFUSED"),
        (providers.Throttled("slow down"), errors.Unavailable, "PROVIDER_THROTTLED"),
        (providers.Unreachable("refused"), errors.Unavailable, "PROVIDER_UNREACHABLE"),
        (providers.Ambiguous("502"), errors.Unavailable, "PROVIDER_UNREACHABLE"),
        (providers.ProviderError("odd"), errors.Unavailable, "PROVIDER_UNREACHABLE"),
    ],
)
async def test_a_providers_error_is_told_with_its_name(
    error: providers.ProviderError, kind: type[errors.PodiumError], reason: str
) -> None:
    rig = Rig()
    rig.market.fails = error
    with pytest.raises(errors.PodiumError) as caught:
        await rig.use_cases().spawn(Wanted("runpod", "", 0, REQUEST))
    assert (type(caught.value), caught.value.reason) == (kind, reason)
    assert caught.value.message == f"runpod: {error}"


def test_when_to_come_again_is_the_providers_word() -> None:
    error = providers.Throttled("slow down")
    error.retry_after_s = 17.0
    answer = told("runpod", error)
    assert isinstance(answer, errors.Unavailable)
    assert answer.retry_after_s == 17.0


async def test_a_spawn_keeps_the_limits() -> None:
    rig = Rig()
    cases = rig.use_cases()
    await cases.spawn(Wanted("runpod", "NVIDIA H100", 1, uuid.UUID(int=1)))
    with pytest.raises(errors.FailedPrecondition) as caught:
        await cases.spawn(Wanted("runpod", "NVIDIA L4", 4, uuid.UUID(int=2)))
    assert (caught.value.reason, caught.value.message) == (
        "OVER_BUDGET", "with it, pods would cost $4.71 an hour, and the limit is $4.00",
    )  # fmt: skip
    await cases.set_limits(records.ScalingLimits(max_pods=1))
    with pytest.raises(errors.FailedPrecondition) as caught:
        await cases.spawn(Wanted("runpod", "NVIDIA L4", 4, uuid.UUID(int=2)))
    assert (caught.value.reason, caught.value.message) == ("OVER_LIMIT", "1 pod may exist, and the limit is 1")
    await cases.set_limits(records.ScalingLimits(max_pods=2))
    await cases.spawn(Wanted("runpod", "NVIDIA L4", 4, uuid.UUID(int=2)))


async def test_limits_are_the_configured_ones_until_an_operator_sets_others() -> None:
    cases = Rig().use_cases()
    assert await cases.limits() == records.ScalingLimits(False, 0, 5, Decimal("4"), None)
    new = records.ScalingLimits(True, 1, 2, None, Decimal("20"))
    assert await cases.set_limits(new) == new == await cases.limits()


async def pages(rig: Rig, states: set[State], size: int) -> list[list[State]]:
    found, before, rounds = [], None, 0
    while True:
        page, before = await rig.use_cases().page(states, before, size)
        found.append([pod.state for pod in page])
        rounds += 1
        assert rounds < 50
        if before is None:
            return found


async def test_pages_show_the_living_newest_first_and_the_dead_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    rig.scaling.set = records.ScalingLimits(max_pods=100)
    order = [State.READY, State.FAILED, State.STARTING, State.DESTROYED, State.LOST, State.INTENDED, State.FAILED]
    for state in order:
        await rig.pod_in(state)
    assert await pages(rig, set(), 10) == [[State.INTENDED, State.STARTING, State.READY]]
    assert await pages(rig, set(), 2) == [[State.INTENDED, State.STARTING], [State.READY]]
    assert await pages(rig, set(), 3) == [[State.INTENDED, State.STARTING, State.READY]]
    assert await pages(rig, {State.READY, State.INTENDED}, 1) == [[State.INTENDED], [State.READY]]
    assert await pages(rig, {State.DRAINING}, 1) == [[]]
    assert await pages(rig, set(State), 3) == [order[:-4:-1], order[-4:-7:-1], order[-7::-1]]
    assert await pages(rig, {State.FAILED, State.READY}, 2) == [[State.FAILED, State.FAILED], [State.READY]]
    assert await pages(rig, {State.FAILED}, 2) == [[State.FAILED, State.FAILED]]
    # What a filter leaves out costs a bounded number of reads a page, and then the page is short.
    monkeypatch.setattr(pods_of_operators, "_NEWEST", 2)
    monkeypatch.setattr(pods_of_operators, "_READS", 1)
    found = await pages(rig, {State.FAILED}, 5)
    assert found == [[State.FAILED], [], [State.FAILED], []]


async def test_pods_of_one_moment_are_each_on_one_page() -> None:
    rig = Rig()
    for _ in range(5):
        await rig.spawned()
    seen, before = [], None
    for _ in range(3):
        page, before = await rig.use_cases().page(set(), before, 2)
        seen += [pod.pod_id for pod in page]
    assert before is None
    assert sorted(seen) == sorted(rig.ledger.rows)


async def test_an_explanation_begins_with_what_holds_now() -> None:
    rig = Rig()
    quiet = "nothing has been decided about minilm yet: it had no work that asked for a pod"
    assert await rig.use_cases().explain("minilm") == pods_of_operators.Explanation((quiet,), ())
    off = "autoscaling is off: no provider of pods is configured"
    assert (await rig.use_cases({}).explain("minilm")).remarks == (off,)
    said = [
        records.Decision("minilm", "Spawn", "40 s of work fill 1 pod", uuid.UUID(int=1), rig.clock.now()),
        records.Decision("clip", "Wait", "nothing presses", None, rig.clock.now()),
        records.Decision("", "Alert", "the money does not last", None, rig.clock.now() + timedelta(seconds=1)),
    ]
    rig.scaling.said = said
    found = await rig.use_cases().explain("minilm")
    assert found == pods_of_operators.Explanation((), (said[2], said[0]))
    rig.scaling.set = records.ScalingLimits(paused=True)
    found = await rig.use_cases().explain("minilm")
    assert found.remarks == ("autoscaling is paused: no pod is rented, and none retired",)
    assert len(found.decisions) == 2


async def test_what_an_operator_asks_for_wakes_the_loops_that_do_it() -> None:
    rig = Rig()
    keeper = rig.waking.keepers["runpod"]
    pod = await rig.spawned()
    assert keeper.is_set() and rig.told.heard == ["keep"], "and the replica that leads"
    keeper.clear()
    await rig.use_cases().destroy(pod.pod_id)
    assert keeper.is_set() and rig.told.heard == ["keep"] * 2
    keeper.clear()
    await rig.use_cases().destroy(pod.pod_id)
    assert not keeper.is_set(), "there is nothing to do"
    rig.told.leads = True
    await rig.use_cases().set_limits(records.ScalingLimits(min_pods=1))
    assert rig.waking.autoscaler.is_set() and rig.told.heard == ["keep"] * 2


async def test_a_pod_whose_provider_is_not_configured_is_shown_as_such() -> None:
    rig = Rig()
    pod = await rig.spawned()
    without = rig.use_cases(renting={})
    told = "nobody watches it: runpod is not configured. an operator asked for it"
    assert (await without.get(pod.pod_id))[0].detail == told
    assert [one.detail for one in (await without.page(frozenset(), None, 10))[0]] == [told]
    assert (await rig.use_cases().get(pod.pod_id))[0].detail == "an operator asked for it"

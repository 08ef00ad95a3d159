"""One suite for both ledgers of pods: the one in Postgres, and the one in memory that the keeper's tests run on."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_runtime import clock
from podium_scheduler.adapters.sql import database, pod_ledger
from podium_scheduler.app import ports, records
from podium_scheduler.domain import costs, join_tokens, pods
from podium_scheduler.domain.pods import Move, Reason, Sighting, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = timedelta(hours=1)
ALWAYS = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
SHA = b"s" * 32
SEEN = Sighting("im-1", "listed", Decimal("2.5"))
Ledgers = Callable[[timedelta], ports.PodLedger]
"""Another handle on the same ledger, with a lifetime of tokens."""


class TickingClock(clock.FakeClock):
    """Moves on whenever somebody looks, as the database's does between two transactions."""

    def now(self) -> datetime:
        self.advance(0.001)
        return super().now()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=2)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module", params=["postgres", "memory"])
async def ledgers(request: pytest.FixtureRequest, pool: database.Database) -> Ledgers:
    if request.param == "memory":
        memory = PodLedgerModel(TickingClock())
        return lambda ttl: replace(memory, token_ttl=ttl)
    async with pool.transaction() as connection:
        await connection.execute(text("TRUNCATE pods CASCADE"))
    return lambda ttl: pod_ledger.PodLedger(pool, ttl)


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(ledgers: Ledgers) -> ports.PodLedger:
    return ledgers(LONG)


numbers = itertools.count(1)


def new(provider: str = "imaginary", request_id: uuid.UUID | None = None) -> records.NewPod:
    pod_id = uuid.UUID(int=next(numbers))
    name = pods.name_of("test", pod_id)
    return records.NewPod(pod_id, name, provider, "L4", 2, Decimal("1.25"), request_id=request_id, detail="backlog")


async def pod_in(ledger: ports.PodLedger, *path: State, reason: Reason = Reason.IDLE) -> pods.Pod:
    """A pod that came along a path from INTENDED."""
    (pod,) = await ledger.intend([new()])
    for after in path:
        if after is State.READY and pod.worker_id is None:
            assert await ledger.redeem(SHA, pod.pod_id, uuid.uuid4()) is None
        seen = SEEN if after is State.STARTING else None
        token = SHA if after is State.CREATING else None
        move = Move(pod.pod_id, pod.state, after, reason, "words", seen, join_token_sha256=token)
        assert await ledger.move([move]) == {pod.pod_id}
        pod = await read(ledger, pod)
    return pod


async def read(ledger: ports.PodLedger, pod: pods.Pod) -> pods.Pod:
    found = await ledger.pod(pod.pod_id)
    assert found is not None
    return found


async def test_an_intent_is_an_offer_a_name_and_a_reason_in_words(ledger: ports.PodLedger) -> None:
    wanted = new()
    (pod,) = await ledger.intend([wanted])
    assert (pod.pod_id, pod.name, pod.state, pod.reason) == (wanted.pod_id, wanted.name, State.INTENDED, Reason.NONE)
    assert (pod.gpu_type, pod.gpu_count, pod.price_usd_per_hour) == ("L4", 2, Decimal("1.25"))
    assert (pod.call_time, pod.provider_pod_id, pod.end_time) == (None, "", None)
    assert [(e.state, e.detail) for e in await ledger.history(pod.pod_id)] == [(State.INTENDED, "backlog")]
    assert await ledger.spans(*ALWAYS) == []
    assert await ledger.intend([]) == []


async def test_the_same_request_makes_one_pod(ledger: ports.PodLedger) -> None:
    request_id = uuid.uuid4()
    (first,) = await ledger.intend([new(request_id=request_id)])
    again = await ledger.intend([new(request_id=request_id), new()])
    assert again[0].pod_id == first.pod_id != again[1].pod_id
    assert first.request_id == request_id
    assert len((await ledger.census()).pods) == 2
    assert len(await ledger.history(first.pod_id)) == 1


async def test_the_census_is_of_those_that_are_not_over(ledger: ports.PodLedger) -> None:
    mine, others, over = await ledger.intend([new(), new("elsewhere"), new()])
    await ledger.move([Move(over.pod_id, State.INTENDED, State.FAILED, Reason.NOT_WANTED)])
    census = await ledger.census("imaginary")
    assert [p.pod_id for p in census.pods] == [mine.pod_id]
    assert {p.pod_id for p in (await ledger.census()).pods} == {mine.pod_id, others.pod_id}
    assert census.now >= mine.create_time
    named = await ledger.pods_named([mine.name, over.name, "nobody"])
    assert {name: pod.state for name, pod in named.items()} == {mine.name: State.INTENDED, over.name: State.FAILED}
    assert await ledger.pod(uuid.uuid4()) is None


async def test_a_life_leaves_its_times_and_its_history(ledger: ports.PodLedger) -> None:
    path = (State.CREATING, State.STARTING, State.READY, State.DRAINING, State.DESTROYING, State.DESTROYED)
    pod = await pod_in(ledger, *path)
    times = [
        pod.create_time, pod.call_time, pod.listed_time, pod.registered_time, pod.ready_time, pod.drain_time,
        pod.destroy_time, pod.end_time,
    ]  # fmt: skip
    assert all(a < b for a, b in itertools.pairwise(times))  # type: ignore[operator]
    history = await ledger.history(pod.pod_id)
    assert [e.state for e in history] == [State.INTENDED, *path]
    assert [e.reason for e in history] == [Reason.NONE] * 4 + [Reason.IDLE] * 3
    assert (pod.provider_pod_id, pod.reason, pod.last_seen_time) == ("im-1", Reason.IDLE, pod.listed_time)


async def test_a_move_from_elsewhere_does_nothing(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING, State.STARTING)
    other = await pod_in(ledger, State.CREATING)
    stale = Move(pod.pod_id, State.READY, State.DRAINING, Reason.IDLE)
    good = Move(other.pod_id, State.CREATING, State.FAILED, Reason.NO_CAPACITY, "none left")
    unknown = Move(uuid.uuid4(), State.READY, State.DRAINING, Reason.IDLE)
    assert await ledger.move([stale, good, unknown]) == {other.pod_id}
    assert await read(ledger, pod) == pod
    assert len(await ledger.history(pod.pod_id)) == 3
    assert (await read(ledger, other)).detail == "none left"
    assert await ledger.move([good]) == set()


async def test_a_pod_that_is_needed_after_all_has_no_reason_any_more(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING, State.STARTING, State.READY, State.DRAINING)
    assert (pod.reason, pod.drain_time is None) == (Reason.IDLE, False)
    await ledger.move([Move(pod.pod_id, State.DRAINING, State.READY)])
    again = await read(ledger, pod)
    assert (again.state, again.reason, again.drain_time) == (State.READY, Reason.NONE, None)
    assert again.ready_time == pod.ready_time
    await ledger.move([Move(pod.pod_id, State.READY, State.DRAINING, Reason.OPERATOR)])
    await ledger.move([Move(pod.pod_id, State.DRAINING, State.DESTROYING)])
    assert (await read(ledger, pod)).reason == Reason.OPERATOR


async def test_a_pod_is_billed_from_its_call_until_it_was_first_missed(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING)
    assert await ledger.spans(*ALWAYS) == [], "whether it exists is not known"
    await ledger.move([Move(pod.pod_id, State.CREATING, State.STARTING, sighting=SEEN)])
    (span,) = await ledger.spans(*ALWAYS)
    assert (span.start, span.end, span.price_usd_per_hour, span.gpu_count) == (pod.call_time, None, Decimal("2.5"), 2)
    starting = await read(ledger, pod)
    missed = (await ledger.census()).now
    await ledger.move([Move(pod.pod_id, State.STARTING, State.LOST, Reason.VANISHED, bill_end=missed)])
    (span,) = await ledger.spans(*ALWAYS)
    assert (span.start, span.end) == (pod.call_time, missed)
    assert starting.listed_time is not None
    assert await ledger.spans(missed, ALWAYS[1]) == []
    assert await ledger.spans(ALWAYS[0], span.start) == []
    assert await ledger.spans(span.start, missed) == [span]


async def test_what_was_spent_is_the_sum_of_the_bills(ledger: ports.PodLedger) -> None:
    assert await ledger.spent(*ALWAYS) == 0
    for price in ("0.000001", "1.234567", "987.654321"):
        pod = await pod_in(ledger, State.CREATING)
        seen = replace(SEEN, price_usd_per_hour=Decimal(price))
        await ledger.move([Move(pod.pod_id, State.CREATING, State.STARTING, sighting=seen)])
    # The last bill goes on, the others end.
    for ended in [one for one in (await ledger.census()).pods if one.pod_id != pod.pod_id]:
        await ledger.move([Move(ended.pod_id, State.STARTING, State.LOST, Reason.VANISHED, bill_end=ALWAYS[1])])
    spans = await ledger.spans(*ALWAYS)
    assert sorted(span.end is None for span in spans) == [False, False, True]
    begin, end = min(span.start for span in spans), max(span.end for span in spans if span.end)
    for start, until in ((begin, end), ALWAYS, (begin + (end - begin) / 3, end - (end - begin) / 3), (end, ALWAYS[1])):
        exact = costs.total(costs.bills(spans, start, until).values()).micro_usd
        assert await ledger.spent(start, until) == exact


async def test_pods_that_start_are_told_from_the_others(ledger: ports.PodLedger) -> None:
    for path in ([], [State.CREATING], [State.CREATING, State.STARTING, State.READY]):
        await pod_in(ledger, *path)
    starting = [await pod_in(ledger, State.CREATING, State.STARTING) for _ in range(2)]
    assert await ledger.starting() == starting


async def test_a_bill_never_ends_before_it_begins(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING, State.STARTING)
    await ledger.move([Move(pod.pod_id, State.STARTING, State.LOST, Reason.VANISHED, bill_end=ALWAYS[0])])
    assert [(s.start, s.end) for s in await ledger.spans(*ALWAYS)] == [(pod.call_time, pod.call_time)]
    other = await pod_in(ledger, State.CREATING, State.STARTING)
    await ledger.move([Move(other.pod_id, State.STARTING, State.LOST, Reason.VANISHED, bill_end=ALWAYS[1])])
    (span,) = [s for s in await ledger.spans(*ALWAYS) if s.pod_id == other.pod_id]
    assert span.end == (await read(ledger, other)).end_time


async def test_every_second_has_the_price_that_it_had(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING, State.STARTING)
    await ledger.sight({pod.pod_id: Sighting("im-1", "listed")})
    await ledger.sight({pod.pod_id: Sighting("im-1", "listed", Decimal("2.5"))})
    await ledger.sight({pod.pod_id: Sighting("im-1", "listed", Decimal("0.75")), uuid.uuid4(): SEEN})
    first, second = await ledger.spans(*ALWAYS)
    assert (first.price_usd_per_hour, second.price_usd_per_hour) == (Decimal("2.5"), Decimal("0.75"))
    assert (first.start, first.end, second.end) == (pod.call_time, second.start, None)
    seen = await read(ledger, pod)
    assert seen.price_usd_per_hour == Decimal("0.75")
    assert seen.last_seen_time is not None and pod.last_seen_time is not None
    assert seen.last_seen_time > pod.last_seen_time
    assert (seen.listed_time, len(await ledger.history(pod.pod_id))) == (pod.listed_time, 3)


async def test_what_is_doomed_before_anybody_saw_it_is_billed_once_it_is_seen(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING, State.DESTROYING)
    assert await ledger.spans(*ALWAYS) == []
    await ledger.sight({pod.pod_id: Sighting("im-9", pod.name)})
    assert (await read(ledger, pod)).provider_pod_id == "im-9"
    (span,) = await ledger.spans(*ALWAYS)
    assert (span.start, span.price_usd_per_hour) == (pod.call_time, Decimal("1.25")), "no other price is known"


async def test_what_is_over_is_not_seen(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING, State.FAILED)
    await ledger.sight({pod.pod_id: SEEN})
    assert await read(ledger, pod) == pod


@pytest.mark.parametrize("end", [State.DESTROYED, State.LOST, State.FAILED])
async def test_what_comes_back_goes_on_where_it_ended(ledger: ports.PodLedger, end: State) -> None:
    path = {
        State.DESTROYED: (State.CREATING, State.STARTING, State.DESTROYING, State.DESTROYED),
        State.LOST: (State.CREATING, State.STARTING, State.LOST),
        State.FAILED: (State.CREATING, State.FAILED),
    }[end]
    over = await pod_in(ledger, *path)
    assert over.end_time is not None
    assert await ledger.move([Move(over.pod_id, end, State.DESTROYING, sighting=SEEN)]) == {over.pod_id}
    pod = await read(ledger, over)
    assert (pod.state, pod.end_time, pod.provider_pod_id, pod.reason) == (State.DESTROYING, None, "im-1", Reason.IDLE)
    (span,) = await ledger.spans(*ALWAYS)
    assert (span.start, span.end) == (over.call_time, None), "it was billed all the time"


async def test_a_failed_intent_that_is_listed_was_called_for_by_somebody(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.FAILED)
    made = pod.create_time - timedelta(minutes=5)
    await ledger.move([Move(pod.pod_id, State.FAILED, State.DESTROYING, sighting=replace(SEEN, create_time=made))])
    assert (await read(ledger, pod)).call_time == made


async def test_orphans_enter_with_their_bill(ledger: ports.PodLedger) -> None:
    made = (await ledger.census()).now - timedelta(hours=1)
    doomed = pods.Orphan(uuid.uuid4(), "test-a", "imaginary", State.DESTROYING, replace(SEEN, create_time=made))
    adopted = pods.Orphan(uuid.uuid4(), "test-b", "imaginary", State.STARTING, Sighting("im-2", "test-b"))
    await ledger.adopt([doomed, adopted])
    await ledger.adopt([replace(doomed, pod_id=uuid.uuid4())])
    one, two = sorted((await ledger.census()).pods, key=lambda pod: pod.name)
    assert (one.state, one.reason, one.call_time, one.provider_pod_id) == (
        State.DESTROYING, Reason.ORPHAN, made, "im-1",
    )  # fmt: skip
    assert (two.state, two.reason, two.destroy_time) == (State.STARTING, Reason.NONE, None)
    assert {s.pod_id: (s.start, s.price_usd_per_hour) for s in await ledger.spans(*ALWAYS)} == {
        one.pod_id: (made, Decimal("2.5")),
        two.pod_id: (two.call_time, Decimal(0)),
    }
    assert [e.state for e in await ledger.history(one.pod_id)] == [State.DESTROYING]
    assert await ledger.redeem(SHA, two.pod_id, uuid.uuid4()) is join_tokens.Refusal.WRONG


async def test_a_token_lets_one_worker_in_and_lets_it_back_in(ledger: ports.PodLedger) -> None:
    pod = await pod_in(ledger, State.CREATING)
    other = await pod_in(ledger, State.CREATING, State.STARTING)
    first, second = uuid.uuid4(), uuid.uuid4()
    assert await ledger.redeem(b"x" * 32, pod.pod_id, first) is join_tokens.Refusal.WRONG
    assert await ledger.redeem(SHA, uuid.uuid4(), first) is join_tokens.Refusal.WRONG
    assert await ledger.redeem(SHA, pod.pod_id, first) is None
    joined = await read(ledger, pod)
    assert (joined.worker_id, joined.registered_time is None) == (first, False)
    assert await ledger.redeem(SHA, pod.pod_id, second) is join_tokens.Refusal.USED
    assert await ledger.redeem(SHA, pod.pod_id, first) is None
    assert await read(ledger, pod) == joined
    assert (await read(ledger, other)).worker_id is None
    await ledger.move([Move(pod.pod_id, State.CREATING, State.DESTROYING, Reason.OPERATOR)])
    assert await ledger.redeem(SHA, pod.pod_id, first) is join_tokens.Refusal.POD_OVER


async def test_a_token_that_nobody_used_in_time_is_dead(ledgers: Ledgers) -> None:
    ledger = ledgers(timedelta(0))
    (pod,) = await ledger.intend([new()])
    begin = Move(pod.pod_id, State.INTENDED, State.CREATING, join_token_sha256=SHA)
    await ledger.move([begin])
    assert await ledger.redeem(SHA, pod.pod_id, uuid.uuid4()) is join_tokens.Refusal.EXPIRED


async def test_pods_are_listed_page_by_page(ledger: ports.PodLedger) -> None:
    made = [(await ledger.intend([new()]))[0] for _ in range(5)]
    page = await ledger.list_pods(None, 3)
    rest = await ledger.list_pods((page[-1].create_time, page[-1].pod_id), 3)
    assert [p.pod_id for p in page + rest] == [p.pod_id for p in reversed(made)]

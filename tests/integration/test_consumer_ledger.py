"""The outbox in Postgres: what finishes is offered to every group, once, and released when all have acknowledged it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_runtime import errors
from podium_scheduler.adapters.sql import (
    archive_ledger,
    batch_ledger,
    consumer_ledger,
    database,
    job_ledger,
    migrate,
)
from podium_scheduler.app import records
from podium_scheduler.domain import batches as batch_states
from podium_scheduler.domain import jobs
from tests.support import consumer_rig
from tests.support.consumer_rig import WEEK, Ledger, told

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with consumer_rig.serving() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(pool: database.Database) -> AsyncIterator[Ledger]:
    """After each test, what may be given out is what should be."""
    made = await consumer_rig.new_app(pool)
    yield made
    assert await made.wrongly_ready() == 0


async def test_the_schema_is_what_the_migrations_make(pool: database.Database) -> None:
    url = pool.engine.url.render_as_string(hide_password=False)
    await migrate.check(url)
    await migrate.downgrade(url, "0002")
    await migrate.upgrade(url)
    await migrate.check(url)


async def test_an_app_without_groups_has_no_deliveries(ledger: Ledger) -> None:
    job_id = await ledger.done(3)
    async with ledger.database.transaction() as connection:
        query = text("SELECT count(*) FROM deliveries WHERE job_id = :job_id")
        assert await connection.scalar(query, {"job_id": job_id}) == 0


async def test_a_new_group_begins_with_what_had_finished_and_goes_on_with_the_rest(ledger: Ledger) -> None:
    job_id = await ledger.admit(3)
    leased = await ledger.lease(job_id, 3)
    await ledger.complete(leased[:1])
    me = await ledger.consumer()
    await ledger.complete(leased[1:])
    got = await ledger.take(me)
    assert told(got) == [(0, "COMPLETED"), (4, "COMPLETED"), (8, "COMPLETED")]
    await ledger.ack(me, got)
    assert told(await ledger.drain(me)) == ["COMPLETED"]
    assert await ledger.drain(me) == []


async def test_nothing_is_given_before_the_group_is_filled(ledger: Ledger) -> None:
    for _ in range(consumer_ledger._FILL_JOBS + 1):
        await ledger.done(1)
    opened = await ledger.consumers.open(uuid.uuid4(), ledger.app, "g", "")
    for filled in (False, True):
        advance = await ledger.consumers.advance(opened.consumer_id, [], [], 10)
        assert advance is not None
        assert (advance.filled, advance.deliveries) == (False, ())
        assert await ledger.consumers.fill(opened.group_id) is filled
    got = await ledger.drain(opened.consumer_id)
    assert len(got) == 2 * (consumer_ledger._FILL_JOBS + 1)


async def test_every_way_a_batch_can_end_is_offered(ledger: Ledger) -> None:
    me = await ledger.consumer()
    given_up, cancelled, expired = await ledger.admit(1), await ledger.admit(2), await ledger.admit(1)
    await ledger.fail(await ledger.lease(given_up, 1), batch_states.GiveUp(batch_states.FailureReason.OUT_OF_MEMORY))
    await ledger.lease(cancelled, 1)
    await ledger.jobs.cancel(ledger.app, cancelled, WEEK)
    await ledger.run("UPDATE jobs SET deadline = now() WHERE job_id = :job_id", job_id=expired)
    await ledger.jobs.expire_due(WEEK, max_jobs=10, max_batches=100)
    workload = f"unservable-{ledger.app}"
    unserved = await ledger.admit(1, workload)
    await ledger.batches.give_up_waiting(workload, "no such model", max_jobs=10, max_batches=100)
    got = await ledger.drain(me)
    by_job = {job_id: told(d for d in got if d.job_id == job_id) for job_id in (given_up, cancelled, expired, unserved)}
    assert by_job == {
        given_up: [(0, "FAILED"), "COMPLETED"],
        cancelled: [(0, "CANCELLED"), (4, "CANCELLED"), "CANCELLED"],
        expired: [(0, "EXPIRED"), "EXPIRED"],
        unserved: [(0, "FAILED"), "COMPLETED"],
    }
    found = [await ledger.job(job_id) for job_id in by_job]
    assert all(job.items_released == job.item_count for job in found)


async def test_the_job_comes_after_all_its_batches_were_acknowledged(ledger: Ledger) -> None:
    job_id = await ledger.done(2)
    me, other = await ledger.consumer(), await ledger.consumer()
    mine, others = await ledger.take(me, 1), await ledger.take(other)
    assert (told(mine), told(others)) == ([(0, "COMPLETED")], [(4, "COMPLETED")])
    await ledger.ack(other, others)
    assert await ledger.take(other) == []
    await ledger.ack(me, mine)
    (end,) = await ledger.take(other)
    assert end.job is not None
    assert (end.job.job_id, end.job.state, end.job.items_released) == (job_id, jobs.State.COMPLETED, 8)


async def test_two_groups_get_everything_and_only_then_is_it_released(ledger: Ledger) -> None:
    job_id = await ledger.done(2)
    one, two = await ledger.consumer("one"), await ledger.consumer("two")
    assert told(await ledger.drain(one)) == [(0, "COMPLETED"), (4, "COMPLETED"), "COMPLETED"]
    assert await ledger.states(job_id) == ["COMPLETED", "COMPLETED"]
    first, second = await ledger.take(two)
    assert await ledger.ack(two, [second]) == [records.Released(job_id, (4,), False)]
    assert (await ledger.states(job_id), (await ledger.job(job_id)).items_released) == (["COMPLETED", "DELIVERED"], 0)
    assert await ledger.ack(two, [first]) == [records.Released(job_id, (0,), True)]
    assert (await ledger.job(job_id)).items_released == 8
    assert told(await ledger.drain(two)) == ["COMPLETED"]


async def test_while_another_group_is_filled_nothing_is_released_from_under_it(ledger: Ledger) -> None:
    job_id = await ledger.done(1)
    one = await ledger.consumer("one")
    two = await ledger.consumers.open(uuid.uuid4(), ledger.app, "two", "")
    assert await ledger.ack(one, await ledger.take(one)) == []
    assert await ledger.states(job_id) == ["COMPLETED"]
    assert await ledger.consumers.fill(two.group_id)
    assert told(await ledger.drain(two.consumer_id)) == [(0, "COMPLETED"), "COMPLETED"]
    assert (await ledger.job(job_id)).items_released == 4


async def test_a_group_of_one_workload_neither_gets_nor_holds_back_the_others(ledger: Ledger) -> None:
    me = await ledger.consumer("e5 only", "e5")
    e5, hashed = await ledger.done(1, "e5"), await ledger.done(1, "hash-384")
    everything = await ledger.consumer("all")
    assert {d.job_id for d in await ledger.drain(me)} == {e5}
    assert {d.job_id for d in await ledger.drain(everything)} == {e5, hashed}
    assert (await ledger.job(hashed)).items_released == 4
    with pytest.raises(errors.FailedPrecondition) as caught:
        await ledger.consumers.open(uuid.uuid4(), ledger.app, "e5 only", "")
    assert caught.value.reason == "GROUP_HAS_ANOTHER_WORKLOAD"


async def test_an_app_cannot_have_groups_without_bound(ledger: Ledger) -> None:
    for number in range(consumer_ledger.MAX_GROUPS):
        await ledger.consumers.open(uuid.uuid4(), ledger.app, f"group-{number}", "")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await ledger.consumers.open(uuid.uuid4(), ledger.app, "one more", "")
    assert caught.value.reason == "TOO_MANY_GROUPS"
    await ledger.consumers.open(uuid.uuid4(), ledger.app, "group-0", "")


async def test_deliveries_of_a_consumer_that_closes_or_expires_go_to_others(ledger: Ledger) -> None:
    await ledger.done(2)
    closing, dying, heir = [await ledger.consumer() for _ in range(3)]
    first, second = await ledger.take(closing, 1), await ledger.take(dying, 1)
    assert await ledger.take(heir) == []
    await ledger.consumers.close(closing)
    assert await ledger.take(heir) == first
    await ledger.run("UPDATE consumers SET expire_time = now() WHERE consumer_id = :me", me=dying)
    await ledger.consumers.expire(10)
    assert await ledger.take(heir, held=[d.delivery_id for d in first]) == second
    assert await ledger.consumers.advance(dying, [], [], 1) is None


async def test_an_acknowledgement_that_comes_too_late_changes_nothing(ledger: Ledger) -> None:
    job_id = await ledger.done(1)
    late, heir = await ledger.consumer(), await ledger.consumer()
    taken = await ledger.take(late)
    await ledger.consumers.close(late)
    assert await ledger.take(heir) == taken
    assert await ledger.ack(late, taken) == []
    assert await ledger.states(job_id) == ["COMPLETED"]
    assert await ledger.ack(heir, taken) == [records.Released(job_id, (0,), True)]
    assert await ledger.ack(heir, taken) == []


async def test_an_answer_that_was_lost_comes_again(ledger: Ledger) -> None:
    await ledger.done(2)
    me = await ledger.consumer()
    lost = await ledger.take(me, 1)
    again = await ledger.take(me, 1)
    assert again[0] == lost[0]
    assert await ledger.take(me, 5, held=[d.delivery_id for d in again]) == []


async def test_what_is_returned_is_free(ledger: Ledger) -> None:
    await ledger.done(1)
    me, other = await ledger.consumer(), await ledger.consumer()
    (taken,) = await ledger.take(me)
    advance = await ledger.consumers.advance(me, [taken.delivery_id], [], 0)
    assert advance is not None
    assert await ledger.take(other) == [taken]


async def test_concurrent_consumers_never_hold_the_same(ledger: Ledger) -> None:
    for _ in range(4):
        await ledger.done(10)
    consumers = [await ledger.consumer() for _ in range(4)]
    got = await asyncio.gather(*(ledger.drain(one) for one in consumers))
    numbers = [d.delivery_id for one in got for d in one]
    assert len(numbers) == len(set(numbers)) == 44


async def test_a_lost_result_waits_and_comes_once(ledger: Ledger) -> None:
    job_id = await ledger.done(2)
    me = await ledger.consumer()
    ids = await ledger.batch_ids(job_id)
    assert await ledger.batches.recompute(job_id, list(ids.values())) == 2
    assert await ledger.take(me) == []
    await ledger.complete(await ledger.lease(job_id, 2))
    assert told(await ledger.drain(me)) == [(0, "COMPLETED"), (4, "COMPLETED"), "COMPLETED"]
    assert (await ledger.job(job_id)).items_released == 8


async def test_a_lost_result_does_not_come_again_to_a_group_that_has_acknowledged_it(ledger: Ledger) -> None:
    job_id = await ledger.admit(2)
    leased = await ledger.lease(job_id, 2)
    quick, slow = await ledger.consumer("quick"), await ledger.consumer("slow")
    await ledger.complete(leased[:1])
    assert told(await ledger.drain(quick)) == [(0, "COMPLETED")]
    await ledger.batches.recompute(job_id, [leased[0].batch_id])
    late = await ledger.consumer("late")
    await ledger.complete(leased[1:])
    assert told(await ledger.drain(quick)) == [(4, "COMPLETED")]
    await ledger.complete(await ledger.lease(job_id, 1))
    assert told(await ledger.drain(quick)) == ["COMPLETED"]
    for group in (slow, late):
        assert sorted(told(await ledger.drain(group)), key=str) == [(0, "COMPLETED"), (4, "COMPLETED"), "COMPLETED"]
    assert (await ledger.job(job_id)).items_released == 8


async def test_a_job_that_was_announced_is_not_announced_again_after_a_loss(ledger: Ledger) -> None:
    job_id = await ledger.done(1)
    quick, slow = await ledger.consumer("quick"), await ledger.consumer("slow")
    assert told(await ledger.drain(quick)) == [(0, "COMPLETED"), "COMPLETED"]
    await ledger.batches.recompute(job_id, list((await ledger.batch_ids(job_id)).values()))
    assert (await ledger.job(job_id)).state is jobs.State.RUNNING
    await ledger.complete(await ledger.lease(job_id, 1))
    assert await ledger.drain(quick) == []
    assert told(await ledger.drain(slow)) == [(0, "COMPLETED"), "COMPLETED"]


async def test_what_was_acknowledged_while_it_was_lost_is_released_when_it_is_back(ledger: Ledger) -> None:
    job_id = await ledger.done(1)
    me = await ledger.consumer()
    taken = await ledger.take(me)
    await ledger.batches.recompute(job_id, list((await ledger.batch_ids(job_id)).values()))
    assert await ledger.ack(me, taken) == []
    await ledger.complete(await ledger.lease(job_id, 1))
    assert await ledger.states(job_id) == ["DELIVERED"]
    assert told(await ledger.drain(me)) == ["COMPLETED"]


@pytest.mark.parametrize("how", ["given up", "cancelled"])
async def test_what_was_acknowledged_while_it_was_lost_is_released_however_it_ends(ledger: Ledger, how: str) -> None:
    job_id = await ledger.done(1)
    me = await ledger.consumer()
    taken = await ledger.take(me)
    await ledger.batches.recompute(job_id, list((await ledger.batch_ids(job_id)).values()))
    await ledger.ack(me, taken)
    if how == "cancelled":
        await ledger.jobs.cancel(ledger.app, job_id, WEEK)
    else:
        leased = await ledger.lease(job_id, 1)
        await ledger.fail(leased, batch_states.GiveUp(batch_states.FailureReason.OUT_OF_MEMORY))
    assert (await ledger.job(job_id)).items_released == 4


async def test_both_halves_of_a_lost_batch_come_to_the_groups_that_wait_for_it(ledger: Ledger) -> None:
    job_id = await ledger.done(1)
    quick, slow = await ledger.consumer("quick"), await ledger.consumer("slow")
    await ledger.drain(quick)
    await ledger.batches.recompute(job_id, list((await ledger.batch_ids(job_id)).values()))
    await ledger.fail(await ledger.lease(job_id, 1), batch_states.Split(1, 3))
    await ledger.complete(await ledger.lease(job_id, 2))
    assert await ledger.drain(quick) == []
    got = await ledger.drain(slow)
    assert [(d.batch.first_item, d.batch.item_count) for d in got if d.batch] == [(0, 1), (1, 3)]
    assert got[-1].job is not None
    assert (await ledger.job(job_id)).items_released == 4


async def test_a_requeued_batch_comes_again_to_every_group_and_the_end_of_its_job_too(ledger: Ledger) -> None:
    job_id, batch_id = await ledger.failed()
    quick, slow = await ledger.consumer("quick"), await ledger.consumer("slow")
    assert told(await ledger.drain(quick)) == [(0, "FAILED"), (4, "COMPLETED"), "COMPLETED"]
    assert await ledger.requeue(batch_id) is None
    job = await ledger.job(job_id)
    assert (job.state, job.items_succeeded, job.items_failed) == (jobs.State.RUNNING, 4, 0)
    assert told(await ledger.drain(slow)) == [(4, "COMPLETED")]
    assert await ledger.drain(quick) == []
    await ledger.complete(await ledger.lease(job_id, 1))
    for group in (quick, slow):
        assert told(await ledger.drain(group)) == [(0, "COMPLETED"), "COMPLETED"]
    assert (await ledger.job(job_id)).items_released == 8


async def test_a_failure_acknowledged_after_its_requeue_does_not_cost_the_new_outcome(ledger: Ledger) -> None:
    job_id, batch_id = await ledger.failed()
    me = await ledger.consumer()
    old = await ledger.take(me)
    assert told(old) == [(0, "FAILED"), (4, "COMPLETED")]
    assert await ledger.requeue(batch_id) is None
    await ledger.complete(await ledger.lease(job_id, 1))
    assert await ledger.ack(me, old) == [records.Released(job_id, (4,), False)]
    assert told(await ledger.drain(me)) == [(0, "COMPLETED"), "COMPLETED"]


async def test_a_batch_whose_failure_all_groups_have_acknowledged_is_not_requeued(ledger: Ledger) -> None:
    job_id, batch_id = await ledger.failed()
    await ledger.drain(await ledger.consumer())
    assert await ledger.requeue(batch_id) == "RESULTS_RELEASED"
    assert await ledger.states(job_id) == ["FAILED", "DELIVERED"]


async def test_results_lost_of_a_cancelled_job_come_as_failures(ledger: Ledger) -> None:
    job_id = await ledger.admit(2)
    await ledger.complete(await ledger.lease(job_id, 1))
    me = await ledger.consumer()
    await ledger.jobs.cancel(ledger.app, job_id, WEEK)
    await ledger.batches.recompute(job_id, list((await ledger.batch_ids(job_id)).values()))
    assert told(await ledger.drain(me)) == [(0, "CANCELLED"), (4, "CANCELLED"), "CANCELLED"]


async def test_a_cursor_does_not_release_what_a_group_waits_for(ledger: Ledger) -> None:
    job_id = await ledger.done(2)
    me = await ledger.consumer()
    first, second = await ledger.take(me)
    await ledger.ack(me, [first])
    released, _ = await ledger.jobs.release(ledger.app, job_id, 8, 100)
    assert released is not None
    assert (released.items_released, await ledger.states(job_id)) == (4, ["DELIVERED", "COMPLETED"])
    assert await ledger.ack(me, [second]) == [records.Released(job_id, (4,), True)]


async def lost_while_read(ledger: Ledger) -> tuple[UUID, records.Leased]:
    """A job of two read batches; the result of the first was lost, and the reader acknowledges both meanwhile."""
    job_id = await ledger.done(2)
    await ledger.batches.recompute(job_id, [(await ledger.batch_ids(job_id))[0]])
    (leased,) = await ledger.lease(job_id, 1)
    released, _ = await ledger.jobs.release(ledger.app, job_id, 8, 100)
    assert released is not None and released.items_released == 0
    return job_id, leased


@pytest.mark.parametrize("how", ["complete", "give up", "cancel", "cannot be served"])
async def test_what_was_acknowledged_while_it_was_computed_again_is_released_at_once(ledger: Ledger, how: str) -> None:
    news: list[records.Released] = []
    ledger.batches = batch_ledger.BatchLedger(ledger.database, WEEK, lambda _, released: news.extend(released))
    ledger.jobs = job_ledger.JobLedger(ledger.database, lambda _, released: news.extend(released))
    job_id, leased = await lost_while_read(ledger)
    assert await ledger.states(job_id) == ["LEASED", "DELIVERED"]
    match how:
        case "complete":
            await ledger.complete([leased])
        case "give up":
            await ledger.fail([leased], batch_states.GiveUp(batch_states.FailureReason.INTERNAL))
        case "cancel":
            await ledger.jobs.cancel(ledger.app, job_id, WEEK)
        case _:
            await ledger.fail([leased], batch_states.Retry(timedelta(0)))
            await ledger.batches.give_up_waiting("hash-384", "nobody can", max_jobs=10, max_batches=100)
    assert (await ledger.job(job_id)).items_released == 8
    assert [r for r in news if r.job_id == job_id] == [records.Released(job_id, (0,), True)]


async def test_the_halves_of_what_was_acknowledged_are_released_too(ledger: Ledger) -> None:
    job_id, leased = await lost_while_read(ledger)
    await ledger.fail([leased], batch_states.Split(2, 2))
    halves = await ledger.lease(job_id, 2)
    await ledger.complete(halves[1:])
    assert (await ledger.job(job_id)).items_released == 0
    await ledger.complete(halves[:1])
    assert (await ledger.states(job_id), (await ledger.job(job_id)).items_released) == (["DELIVERED"] * 3, 8)


async def test_a_group_still_gets_what_a_cursor_acknowledged_while_it_was_computed_again(ledger: Ledger) -> None:
    me = await ledger.consumer()
    job_id, leased = await lost_while_read(ledger)
    await ledger.complete([leased])
    assert await ledger.states(job_id) == ["COMPLETED"] * 2
    assert len(told(await ledger.drain(me))) == 3
    assert (await ledger.states(job_id), (await ledger.job(job_id)).items_released) == (["DELIVERED"] * 2, 8)


async def test_a_group_that_nobody_uses_is_retired_and_holds_nothing_back(ledger: Ledger) -> None:
    alive = await ledger.consumer("alive")
    gone = await ledger.consumer("gone")
    job_id = await ledger.done(3)
    await ledger.drain(alive)
    long_ago = "UPDATE consumer_groups SET seen_time = now() - interval '8 days' WHERE app_id = :app"
    await ledger.run(long_ago, app=ledger.app)
    assert await ledger.consumers.retire(WEEK) == []
    await ledger.consumers.close(gone)
    assert await ledger.consumers.retire(WEEK) == []
    await ledger.run(long_ago, app=ledger.app)
    assert await ledger.consumers.retire(WEEK) == [f"{ledger.app}/gone"]
    again = await ledger.consumer("gone")
    assert await ledger.states(job_id) == ["COMPLETED"] * 3
    steps = []
    while (step := await ledger.consumers.remove_retired(2))[0]:
        steps.append(step)
    # Three batches and the end of the job; the group that has its name now was filled with the three as well.
    assert [removed for removed, _ in steps] == [2, 2]
    assert [released for _, released in steps] == [[], []]
    assert len(await ledger.drain(again)) == 4
    assert await ledger.states(job_id) == ["DELIVERED"] * 3


async def test_a_retired_group_stays_until_nobody_writes_it_deliveries_any_more(ledger: Ledger) -> None:
    """Whoever finishes a batch may have looked for groups before that, and needs the group's row to be there."""
    await ledger.consumers.close(await ledger.consumer("gone"))
    await ledger.run("UPDATE consumer_groups SET seen_time = now() - interval '8 days' WHERE name = 'gone'")
    await ledger.consumers.retire(WEEK)
    left = "SELECT count(*) FROM consumer_groups WHERE app_id = :app"
    assert (await ledger.consumers.remove_retired(100), await ledger.count(left)) == ((0, []), 1)
    await ledger.run(
        "UPDATE consumer_groups SET retire_time = now() - interval '2 minutes' WHERE app_id = :app", app=ledger.app
    )
    assert (await ledger.consumers.remove_retired(100), await ledger.count(left)) == ((0, []), 0)


async def test_what_only_a_retired_group_waited_for_is_released(ledger: Ledger) -> None:
    alive, gone = await ledger.consumer("alive"), await ledger.consumer("gone")
    job_id = await ledger.done(1)
    await ledger.drain(alive)
    await ledger.consumers.close(gone)
    await ledger.run("UPDATE consumer_groups SET seen_time = now() - interval '8 days' WHERE name = 'gone'")
    assert f"{ledger.app}/gone" in await ledger.consumers.retire(WEEK)
    removed, released = await ledger.consumers.remove_retired(100)
    assert (removed, released) == (2, [records.Released(job_id, (0,), True)])
    assert (await ledger.job(job_id)).items_released == 4


async def test_a_group_that_is_opened_while_batches_finish_misses_none(ledger: Ledger) -> None:
    """The race that the job's lock decides: completions and fills of the same jobs at the same time."""
    leased = [await ledger.lease(await ledger.admit(8), 8) for _ in range(6)]

    async def finish(mine: list[records.Leased]) -> None:
        for batch in mine:
            await ledger.complete([batch])

    finishing = asyncio.gather(*(finish(mine) for mine in leased))
    opened = await asyncio.gather(ledger.consumer("one"), ledger.consumer("two"))
    await finishing
    for consumer in opened:
        got = await ledger.drain(consumer)
        places = [(d.job_id, d.batch.first_item) for d in got if d.batch]
        assert len(places) == len(set(places)) == 48
        assert len([d for d in got if d.job]) == 6


async def test_expired_results_are_not_delivered_any_more_but_the_job_is(ledger: Ledger) -> None:
    job_id = await ledger.done(1)
    me = await ledger.consumer()
    archive = archive_ledger.ArchiveLedger(ledger.database)
    await ledger.run("UPDATE jobs SET expire_time = now() WHERE job_id = :job_id", job_id=job_id)
    assert job_id in await archive.due(100)
    assert await ledger.take(me) == []
    await archive.archive([job_id], max_batches=100, max_payload_bytes=1 << 20)
    assert told(await ledger.drain(me)) == ["COMPLETED"]

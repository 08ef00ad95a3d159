"""Items that are computed once, in the ledger: who claims, who waits, what is remembered and for how long."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import event, text

from podium_scheduler.adapters.sql import database, item_claims, known_items_ledger
from podium_scheduler.app import records
from podium_scheduler.domain import batches as batch_states
from podium_scheduler.domain import deduplication
from tests.support import consumer_rig
from tests.support.consumer_rig import WEEK, Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP_S = 60.0
MADE_BY = b"made by"
TERMS = item_claims.Terms(retention=WEEK, patience=timedelta(minutes=5))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with consumer_rig.serving() as made:
        yield made


def hashes(letters: str) -> list[bytes]:
    return [letter.encode() * deduplication.BYTES for letter in letters]


@dataclass
class Items:
    """One app's items in a scope of its own."""

    ledger: Ledger
    known: known_items_ledger.KnownItemsLedger
    scope: bytes

    async def admit(
        self, *batches: str, priority: int = 3, scope: bytes = b"", window: timedelta | None = None
    ) -> UUID:
        """A job of batches whose items are letters."""
        firsts = [sum(map(len, batches[:n])) for n in range(len(batches))]
        cut = tuple(
            records.NewBatch(first, len(letters), b"payload", 1, b"".join(hashes(letters)), b"identities")
            for first, letters in zip(firsts, batches, strict=True)
        )
        new = records.NewJob(
            self.ledger.app, uuid.uuid4(), b"digest", "hash-384", 1, priority, {}, b"", window, "", cut,
            deduplicate=True, scope=scope or self.scope,
        )  # fmt: skip
        return (await self.ledger.jobs.admit(uuid.uuid4(), new))[0].job_id

    async def job(self, job_id: UUID) -> records.Job:
        found = await self.ledger.jobs.job(self.ledger.app, job_id)
        assert found is not None
        return found

    async def ids(self, job_id: UUID) -> list[int]:
        """Batches of a job, in order."""
        async with self.ledger.database.transaction() as connection:
            rows = await connection.scalars(
                text("SELECT batch_id FROM batches WHERE job_id = :job_id ORDER BY first_item"), {"job_id": job_id}
            )
            return list(rows.all())

    async def ready(self) -> list[int]:
        """Of this app's parked batches those that wait for nobody."""
        async with self.ledger.database.transaction() as connection:
            rows = await connection.scalars(
                text("SELECT batch_id FROM waiting_batches WHERE app_id = :app"), {"app": self.ledger.app}
            )
            ours = set(rows.all())
        return [b.batch_id for b in await self.known.ready(1_000) if b.batch_id in ours]

    async def waiting(self) -> dict[int, list[int]]:
        """Owners that this app's batches are noted to wait for."""
        async with self.ledger.database.transaction() as connection:
            rows = await connection.execute(
                text("SELECT batch_id, owners FROM waiting_batches WHERE app_id = :app"), {"app": self.ledger.app}
            )
            return {row.batch_id: row.owners for row in rows.all()}

    async def feed(self, job_id: UUID) -> list[int]:
        return (await self.ledger.batches.feed({job_id: 100})).get(job_id, [])

    async def remember(self, batch_id: int, letters: str, *, waits: bool = False, mark: bytes = b"") -> None:
        vectors = {h: records.Vector(mark + h[:4]) for h in hashes(letters)}
        await self.known.remember(records.Remembered(batch_id, self.scope, MADE_BY, vectors, waits))

    async def read(self, batch_id: int, letters: str) -> tuple[dict[str, bytes], str]:
        """Rows of the letters that are known, and the letters that are awaited."""
        known = await self.known.known(batch_id, self.scope, hashes(letters))
        return (
            {h[:1].decode(): v.vector.row for h, v in known.vectors.items()},
            "".join(sorted(h[:1].decode() for h in known.awaited)),
        )

    async def finish(self, job_id: UUID, *letters: str) -> None:
        """Every batch of a job is computed and remembered."""
        leased = await self.ledger.lease(job_id, len(letters))
        for batch, own in zip(leased, letters, strict=True):
            await self.remember(batch.batch_id, own)
        await self.ledger.complete(leased)

    async def run(self, statement: str, **values: Any) -> None:
        async with self.ledger.database.transaction() as connection:
            await connection.execute(text(statement), values)


@pytest_asyncio.fixture(loop_scope="module")
async def items(pool: database.Database) -> Items:
    ledger = await consumer_rig.new_app(pool)
    return Items(ledger, known_items_ledger.KnownItemsLedger(pool, TERMS, WEEK), uuid.uuid4().bytes * 2)


async def test_a_second_job_waits_for_what_the_first_computes(items: Items) -> None:
    first, second = await items.admit("abc"), await items.admit("ab", "cd")
    (owner,), (parked, computing) = await items.ids(first), await items.ids(second)
    assert await items.waiting() == {parked: [owner], computing: [owner]}
    # A parked batch is not fed; one that has something to compute is, and knows what to leave out.
    assert await items.feed(second) == [computing]
    assert await items.read(computing, "cd") == ({}, "c")
    assert await items.ready() == []
    await items.finish(first, "abc")
    assert await items.ready() == [parked]
    rows, awaited = await items.read(parked, "ab")
    assert (rows, awaited) == ({"a": b"aaaa", "b": b"bbbb"}, "")


async def test_what_is_known_already_is_ready_at_once(items: Items) -> None:
    await items.finish(await items.admit("abc"), "abc")
    again = await items.admit("cba", "ax")
    whole, partly = await items.ids(again)
    assert await items.ready() == [whole]
    assert await items.feed(again) == [partly]


async def test_an_owner_that_ends_without_a_vector_is_waited_for_no_longer(items: Items) -> None:
    first, second = await items.admit("ab"), await items.admit("ab")
    (owner,), (parked,) = await items.ids(first), await items.ids(second)
    await items.ledger.jobs.cancel(items.ledger.app, first, WEEK)
    assert await items.ready() == [parked]
    assert await items.read(parked, "ab") == ({}, "")
    # The claim is another's now, so a third job waits for that one.
    third = await items.admit("ab")
    (computing,) = await items.ids(third)
    assert (await items.waiting()).keys() == {parked}
    await items.known.let_go([parked])
    assert await items.feed(second) == [parked]
    fourth = await items.admit("ba")
    assert (await items.waiting())[(await items.ids(fourth))[0]] == [computing]
    assert owner != computing


async def parked(items: Items) -> dict[int, records.ParkedBatch]:
    """What waits for nobody any more, of all apps."""
    return {batch.batch_id: batch for batch in await items.known.ready(1_000)}


async def test_of_those_who_waited_one_takes_over_and_the_others_wait_for_it(items: Items) -> None:
    first = await items.admit("ab")
    second, third = await items.admit("ab"), await items.admit("ba")
    (heir,), (other,) = await items.ids(second), await items.ids(third)
    await items.ledger.jobs.cancel(items.ledger.app, first, WEEK)
    assert await items.ready() == [heir, other]
    found = await parked(items)
    assert await items.known.wait_again(found[heir], hashes("ab"))
    assert not await items.known.wait_again(found[other], hashes("ba"))
    assert (await items.waiting()) == {other: [heir]}
    assert await items.feed(third) == [] and await items.ready() == []
    # Once more changes nothing: who has taken it over computes it.
    assert not await items.known.wait_again(found[other], hashes("ba"))
    await items.finish(second, "ab")
    assert await items.ready() == [other]
    assert (await items.read(other, "ab"))[0].keys() == {"a", "b"}


async def test_who_takes_over_a_part_leaves_the_rest_to_others(items: Items) -> None:
    first = await items.admit("abc")
    second, third = await items.admit("ab"), await items.admit("bc")
    (one,), (other,) = await items.ids(second), await items.ids(third)
    await items.ledger.jobs.cancel(items.ledger.app, first, WEEK)
    found = await parked(items)
    assert await items.known.wait_again(found[one], hashes("ab"))
    # It computes `c`, and leaves `b` out.
    assert await items.known.wait_again(found[other], hashes("bc"))
    assert await items.waiting() == {other: [one]}
    assert await items.feed(third) == [other]
    assert await items.read(other, "bc") == ({}, "b")


async def leave_out(items: Items, batch: records.Leased, letters: str) -> None:
    """A worker has computed these, and left the others out."""
    await items.remember(batch.batch_id, letters, waits=True)
    retry = batch_states.Retry(TERMS.patience, counts=False)
    failure = records.Failure(batch.batch_id, batch.lease_token, batch.job_id, retry, "")
    assert await items.ledger.batches.fail([failure]) == {batch.batch_id}


async def test_two_that_compute_something_for_each_other_do_not_wait_for_each_other(items: Items) -> None:
    """The second waits for the first, and from when a third one's death on also the first for the second."""
    dead = await items.admit("h")
    first = await items.admit("gh")
    (at_first,) = await items.ledger.lease(first, 1)
    await items.ledger.jobs.cancel(items.ledger.app, dead, WEEK)
    second = await items.admit("hg")
    (at_second,) = await items.ledger.lease(second, 1)
    (one,), (other,) = await items.ids(first), await items.ids(second)
    assert (await items.waiting())[other] == [one]
    await leave_out(items, at_first, "g")
    assert await items.ready() == [one]
    assert not await items.known.wait_again((await parked(items))[one], hashes("h"))
    assert (await items.waiting(), await items.ready()) == ({one: [other], other: [one]}, [])
    await leave_out(items, at_second, "h")
    assert await items.ready() == [one, other]
    assert (await items.read(one, "gh"))[0].keys() == (await items.read(other, "gh"))[0].keys() == {"g", "h"}


async def test_an_item_that_failed_at_one_that_is_parked_is_waited_for_no_longer(items: Items) -> None:
    await items.admit("a")
    claimant = await items.admit("ab")
    (leased,) = await items.ledger.lease(claimant, 1)
    waiting = await items.ids(await items.admit("b"))
    await leave_out(items, leased, "")
    assert await items.ready() == waiting
    assert await items.known.wait_again((await parked(items))[waiting[0]], hashes("b"))


async def test_one_that_waits_out_a_back_off_is_waited_for(items: Items) -> None:
    await items.admit("a")
    claimant = await items.admit("ab")
    (leased,) = await items.ledger.lease(claimant, 1)
    await items.admit("b")
    retry = batch_states.Retry(timedelta(seconds=30))
    await items.ledger.batches.fail([records.Failure(leased.batch_id, leased.lease_token, claimant, retry, "")])
    assert await items.ready() == []


async def test_nobody_waits_for_an_heir_whose_turn_comes_later(items: Items) -> None:
    first = await items.admit("ab", priority=1)
    second, third = await items.admit("ab", priority=4), await items.admit("ab", priority=2)
    (idle,), (urgent,) = await items.ids(second), await items.ids(third)
    await items.ledger.jobs.cancel(items.ledger.app, first, WEEK)
    found = await parked(items)
    assert await items.known.wait_again(found[idle], hashes("ab"))
    assert await items.known.wait_again(found[urgent], hashes("ab"))
    assert await items.waiting() == {}
    assert len(await items.feed(third)) == 1


async def test_what_became_known_meanwhile_is_put_together_after_all(items: Items) -> None:
    first, second = await items.admit("ab"), await items.admit("ab")
    (waiting,) = await items.ids(second)
    await items.ledger.jobs.cancel(items.ledger.app, first, WEEK)
    batch = (await parked(items))[waiting]
    await items.remember(10**12, "ab")
    assert not await items.known.wait_again(batch, hashes("ab"))
    assert await items.ready() == [waiting]


async def test_patience_is_not_renewed_by_waiting_again(items: Items) -> None:
    first = await items.admit("ab")
    second, third = await items.admit("ab"), await items.admit("ab")
    (heir,), (other,) = await items.ids(second), await items.ids(third)
    await items.ledger.jobs.cancel(items.ledger.app, first, WEEK)
    found = await parked(items)
    await items.run("UPDATE waiting_batches SET until = now() + interval '1 hour' WHERE batch_id = :id", id=other)
    before = await until(items, other)
    await items.known.wait_again(found[heir], hashes("ab"))
    assert not await items.known.wait_again(found[other], hashes("ab"))
    assert await until(items, other) == before


async def until(items: Items, batch_id: int) -> datetime:
    async with items.ledger.database.transaction() as connection:
        found: datetime = await connection.scalar(
            text("SELECT until FROM waiting_batches WHERE batch_id = :id"), {"id": batch_id}
        )
        return found


async def test_a_batch_is_put_together_once_and_counted(items: Items) -> None:
    await items.finish(await items.admit("abc"), "abc")
    job_id = await items.admit("ab", "c")
    one, other = await items.ids(job_id)
    done = [records.Completion(one, b"", job_id, 0, 2, 0, 1, 2), records.Completion(other, b"", job_id, 2, 1, 0, 0, 1)]
    assert await items.known.assemble(done[:1]) == {one}
    assert await items.known.assemble(done[:1]) == set()
    job = await items.job(job_id)
    assert (job.state, job.items_succeeded, job.items_truncated, job.items_deduplicated) == ("RUNNING", 2, 1, 2)
    assert job.start_time is not None
    assert await items.known.assemble(done) == {other}
    job = await items.job(job_id)
    assert (job.state, job.batches_finished, job.items_succeeded, job.items_deduplicated) == ("COMPLETED", 2, 3, 3)
    # A result that is lost and made again is counted once.
    await items.ledger.batches.recompute(job_id, [one])
    (again,) = await items.ledger.lease(job_id, 1)
    await items.ledger.batches.complete([records.Completion(one, again.lease_token, job_id, 0, 2, 0, 0, 1)])
    assert (await items.job(job_id)).items_deduplicated == 2


async def test_consumers_get_what_was_put_together(items: Items) -> None:
    await items.finish(await items.admit("ab"), "ab")
    me = await items.ledger.consumer()
    await items.ledger.drain(me)
    job_id = await items.admit("ab")
    (batch_id,) = await items.ids(job_id)
    await items.known.assemble([records.Completion(batch_id, b"", job_id, 0, 2, 0, 0, 2)])
    assert len(await items.ledger.drain(me)) == 2


async def test_a_cancelled_batch_is_not_put_together(items: Items) -> None:
    await items.finish(await items.admit("ab"), "ab")
    job_id = await items.admit("ab")
    (batch_id,) = await items.ids(job_id)
    await items.ledger.jobs.cancel(items.ledger.app, job_id, WEEK)
    assert await items.known.assemble([records.Completion(batch_id, b"", job_id, 0, 2, 0, 0, 2)]) == set()
    assert await items.ready() == []
    assert batch_id in await items.known.overdue(1_000)


async def test_scopes_know_nothing_of_each_other(items: Items) -> None:
    await items.finish(await items.admit("ab"), "ab")
    elsewhere = await items.admit("ab", scope=b"another scope".ljust(32))
    assert await items.waiting() == {}
    assert await items.feed(elsewhere) == await items.ids(elsewhere)


async def test_nobody_waits_for_one_whose_turn_comes_later(items: Items) -> None:
    await items.admit("ab", priority=4)
    urgent = await items.admit("ab", priority=2)
    assert await items.waiting() == {}
    assert len(await items.feed(urgent)) == 1
    # Who computes it first makes it known to all.
    await items.remember((await items.ids(urgent))[0], "ab")
    assert (await items.read(0, "ab"))[0].keys() == {"a", "b"}


async def test_patience_ends(items: Items) -> None:
    await items.admit("ab")
    job_id = await items.admit("ab")
    (parked,) = await items.ids(job_id)
    assert await items.feed(job_id) == []
    await items.run("UPDATE waiting_batches SET until = now() WHERE batch_id = :id", id=parked)
    assert parked in await items.known.overdue(1_000)
    assert await items.read(parked, "ab") == ({}, "")
    await items.known.let_go([parked])
    assert await items.feed(job_id) == [parked]
    assert await items.waiting() == {}


async def test_who_has_a_deadline_waits_for_a_part_of_it(items: Items) -> None:
    await items.admit("ab")
    job_id = await items.admit("ab", window=timedelta(seconds=40))
    async with items.ledger.database.transaction() as connection:
        left = await connection.scalar(
            text("SELECT until - now() FROM waiting_batches WHERE job_id = :job_id"), {"job_id": job_id}
        )
    assert timedelta(0) < left <= timedelta(seconds=10)


async def test_a_batch_that_left_something_out_waits_on(items: Items) -> None:
    first, second = await items.admit("ab"), await items.admit("bc")
    (owner,), (computing,) = await items.ids(first), await items.ids(second)
    (leased,) = await items.ledger.lease(second, 1)
    await items.remember(computing, "c", waits=True)
    retry = records.Failure(computing, leased.lease_token, second, batch_states.Retry(TERMS.patience, counts=False), "")
    await items.ledger.batches.fail([retry])
    assert await items.feed(second) == []
    assert await items.ready() == []
    await items.finish(first, "ab")
    assert await items.ready() == [computing]
    assert (await items.read(computing, "bc"))[0] == {"b": b"bbbb", "c": b"cccc"}
    # One whose row has gone meanwhile waits for nobody.
    await items.known.let_go([computing])
    await items.remember(computing, "c", waits=True)
    assert await items.waiting() == {computing: []}
    assert owner != computing


async def test_the_first_vector_of_an_item_stays(items: Items) -> None:
    await items.remember(1, "a", mark=b"1")
    await items.remember(2, "ab", mark=b"2")
    assert (await items.read(3, "ab"))[0] == {"a": b"1aaaa", "b": b"2bbbb"}


async def test_items_are_forgotten_in_bounded_steps(items: Items) -> None:
    await items.remember(1, "abcdefg")
    await items.run("UPDATE known_items SET expire_time = now() WHERE scope = :scope", scope=items.scope)
    assert [await items.known.forget(3) for _ in range(4)] == [3, 3, 1, 0]
    assert (await items.read(2, "abcdefg"))[0] == {}
    # Whatever waited for them computes them.
    assert await items.feed(await items.admit("abc")) != []


async def test_few_jobs_of_an_app_wait_at_a_time(items: Items) -> None:
    await items.admit("ab")
    jobs = [await items.admit("ab") for _ in range(deduplication.MAX_WAITING_JOBS + 1)]
    fed = [await items.feed(job_id) for job_id in jobs]
    assert [bool(batches) for batches in fed] == [False] * deduplication.MAX_WAITING_JOBS + [True]


async def test_halves_of_a_batch_keep_its_identities(items: Items) -> None:
    job_id = await items.admit("abcd")
    (leased,) = await items.ledger.lease(job_id, 1)
    split = batch_states.Split(1, 3)
    await items.ledger.batches.fail([records.Failure(leased.batch_id, leased.lease_token, job_id, split, "")])
    halves = await items.ledger.lease(job_id, 2)
    assert [(b.payload_offset, b.item_count, b.identities) for b in halves] == [
        (0, 1, b"identities"), (1, 3, b"identities"),
    ]  # fmt: skip
    assert {b.dedupe_scope for b in halves} == {items.scope}


async def test_admissions_at_once_agree_on_who_computes_what(items: Items) -> None:
    letters = [chr(n) for n in range(ord("0"), ord("0") + 40)]

    async def one(seed: int) -> UUID:
        order = random.Random(seed).sample(letters, k=30)
        return await items.admit(*("".join(order[n : n + 5]) for n in range(0, 30, 5)))

    async with asyncio.timeout(STEP_S):
        jobs = await asyncio.gather(*(one(seed) for seed in range(20)))
    ids = {batch_id: n for n, job_id in enumerate(jobs) for batch_id in await items.ids(job_id)}
    waiting = await items.waiting()
    async with items.ledger.database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT batch_id FROM known_items WHERE scope = :scope"), {"scope": items.scope}
        )
        owners = [row.batch_id for row in rows.all()]
    assert len(owners) == 40 and set(owners) <= ids.keys()
    parked = ids.keys() - set(owners)
    # Whoever is waited for has something to compute at once.
    assert {owner for them in waiting.values() for owner in them} <= set(owners)
    assert parked <= waiting.keys()


async def test_a_plain_job_costs_no_statement_more(items: Items, pool: database.Database) -> None:
    said: list[str] = []

    def note(_c: object, _k: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(pool.engine.sync_engine, "before_cursor_execute", note)
    try:
        job_id = await items.ledger.admit(3)
        await items.ledger.complete(await items.ledger.lease(job_id, 3))
    finally:
        event.remove(pool.engine.sync_engine, "before_cursor_execute", note)
    assert len(said) > 5
    assert not [one for one in said if "known_items" in one or "waiting_batches" in one]
    assert not [one for one in said if "items_deduplicated =" in one]


async def test_known_items_are_found_by_their_key(items: Items) -> None:
    await items.run(
        """
        INSERT INTO known_items (scope, item_hash, batch_id, vector, made_by, expire_time)
        SELECT :scope, decode(md5(n::text), 'hex'), 1, 'v', 'm', now() FROM generate_series(1, 20000) AS n
        """.replace("n::text", "CAST(n AS text)"),
        scope=items.scope,
    )
    values = {"scope": items.scope, "hashes": [uuid.uuid4().bytes for _ in range(256)], "batch_id": 1}
    await items.run("ANALYZE known_items")
    async with items.ledger.database.engine.connect() as connection:
        explain = text(f"EXPLAIN {known_items_ledger._KNOWN.text}")
        plan: Sequence[str] = (await connection.scalars(explain, values)).all()
    assert not [line for line in plan if "Seq Scan on known_items" in line], "\n".join(plan)

"""What a worker is told of known items, what is remembered of its results, and what is put together without it."""

from __future__ import annotations

import asyncio
import unittest.mock
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import google_crc32c
import numpy as np
import pytest

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, errors
from podium_scheduler.adapters.grpc import worker_wire
from podium_scheduler.app import (
    assembler,
    attempt_plans,
    deduplication,
    records,
    remembering,
    result_checks,
    worker_frames,
    worker_sessions,
)
from podium_scheduler.domain import batches, quarantine, room
from podium_scheduler.domain.deduplication import LEFT_OUT

STEP_S = 10.0
JOB = uuid.UUID(int=1)
SCOPE = b"s" * 32


def spec(**model: Any) -> workload_pb2.Workload:
    made = workload_pb2.ModelSpec(backend="hash", model_name="toy", revision="1", **model)
    return workload_pb2.Workload(name="w", dimension=2, model=made)


def made_by(precision: str = "float32", revision: str = "1") -> bytes:
    return result_pb2.Provenance(
        model_name="toy", revision=revision, dimension=2, dtype=workload_pb2.DTYPE_FLOAT32, precision=precision
    ).SerializeToString(deterministic=True)


def hashes(letters: str) -> list[bytes]:
    return [letter.encode() * 16 for letter in letters]


def row(letter: str) -> bytes:
    return np.array([ord(letter), 0.5], dtype="<f4").tobytes()


def identities(letters: str, keys: Sequence[str] = ()) -> bytes:
    return scheduler_pb2.ItemIdentities(hashes=b"".join(hashes(letters)), keys=keys).SerializeToString()


@dataclass
class Items:
    """The ledger of known items, in memory."""

    vectors: dict[bytes, records.KnownVector] = field(default_factory=dict)
    awaited: frozenset[bytes] = frozenset()
    away: int = 0
    """So many calls find it away."""
    remembered: list[records.Remembered] = field(default_factory=list)
    parked: list[records.ParkedBatch] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    missed: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    taken_over: set[bytes] = field(default_factory=set)
    """By others that compute them now."""
    assembled: list[records.Completion] = field(default_factory=list)
    patience: timedelta = timedelta(minutes=5)

    def learn(self, letters: str, owner: int = 90, by: bytes = b"", token_count: int = 0) -> None:
        for letter, item_hash in zip(letters, hashes(letters), strict=True):
            vector = records.Vector(row(letter), token_count, 64 if token_count else 0)
            self.vectors[item_hash] = records.KnownVector(owner, vector, by or made_by())

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")

    async def known(self, batch_id: int, scope: bytes, asked: Sequence[bytes]) -> records.Known:
        self._answer()
        assert scope == SCOPE and len(set(asked)) == len(asked)
        return records.Known({h: self.vectors[h] for h in asked if h in self.vectors}, self.awaited & set(asked))

    async def remember(self, new: records.Remembered) -> None:
        self._answer()
        self.remembered.append(new)

    async def anybody_waits(self) -> bool:
        return bool(self.parked)

    async def overdue(self, limit: int) -> list[int]:
        return []

    async def ready(self, limit: int) -> list[records.ParkedBatch]:
        found, self.parked = self.parked[:limit], self.parked[limit:]
        return found

    async def let_go(self, batch_ids: Sequence[int]) -> None:
        self.gone += batch_ids

    async def wait_again(self, batch: records.ParkedBatch, missing: Sequence[bytes]) -> bool:
        self.missed.append((batch.batch_id, tuple(missing)))
        return not self.taken_over.issuperset(missing)

    async def assemble(self, completions: Sequence[records.Completion]) -> set[int]:
        self.assembled += completions
        return {c.batch_id for c in completions}


def leased(
    letters: str, *, attempt: int = 1, offset: int = 0, count: int = 0, session: uuid.UUID = JOB
) -> records.Leased:
    return records.Leased(
        7, b"token", session, attempt, JOB, "w", 1, 100, count or len(letters), b"payload", 1, offset, b"", None, "",
        False, 0.0, SCOPE, identities(letters),
    )  # fmt: skip


class Planning:
    """Plans for one worker."""

    def __init__(self, *, precision: str = "", loaded: Sequence[str] = ()) -> None:
        self.items = Items()
        self.session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        models = [worker_pb2.ResidentModel(workload="w", precision=one) for one in loaded]
        self.session.status = worker_pb2.Status(devices=[worker_pb2.DeviceStatus(models=[m]) for m in models])
        self.registry = worker_sessions.SessionRegistry()
        self.registry.add(self.session)
        items: Any = self.items
        self.use = deduplication.Deduplication(items, {"w": spec(precision=precision)}, self.registry)

    async def plan(self, letters: str, **how: int) -> attempt_plans.Plan:
        found = await self.use.plan(leased(letters, session=self.session.session_id, **how))
        assert found is not None
        return found


async def test_a_worker_is_told_rows_twins_and_what_to_leave_out() -> None:
    rig = Planning()
    rig.items.learn("b", owner=7)
    rig.items.learn("d", token_count=900)
    rig.items.awaited = frozenset(hashes("c"))
    plan = await rig.plan("abacbd")
    told = plan.message
    assert told is not None
    assert np.frombuffer(told.sources, dtype="<i4").tolist() == [0, -1, 0, LEFT_OUT, -1, -2]
    assert told.vectors == row("b") + row("d")
    assert told.provenance.SerializeToString(deterministic=True) == made_by()
    assert [(t.item_index, t.token_count, t.max_tokens) for t in told.truncations] == [(105, 900, 64)]
    assert (plan.to_compute, plan.leaves_out) == ([0], True)
    # `b` was computed by this batch in an earlier attempt.
    assert plan.items_deduplicated == 6 - 1 - 1


async def test_a_batch_of_which_nothing_is_known_is_assigned_as_ever() -> None:
    plan = await Planning().plan("abc")
    assert (plan.message, plan.to_compute, plan.items_deduplicated) == (None, [0, 1, 2], 0)


async def test_half_of_a_batch_is_told_of_its_own_items() -> None:
    rig = Planning()
    rig.items.learn("c")
    plan = await rig.plan("abcd", offset=2, count=2)
    assert list(plan.sources) == [-1, 1]


async def test_a_ledger_that_is_away_costs_the_computation() -> None:
    rig = Planning()
    rig.items.learn("a")
    rig.items.away = 1
    assert (await rig.plan("ab")).to_compute == [0, 1]


async def test_a_batch_that_has_failed_twice_computes_everything() -> None:
    rig = Planning()
    rig.items.learn("a")
    assert (await rig.plan("aa", attempt=3)).to_compute == [0, 1]


@pytest.mark.parametrize(
    ("precision", "loaded", "made", "used"),
    [
        ("", [], "float32", True),
        ("bfloat16", [], "bfloat16", True),
        ("", [], "bfloat16", False),
        ("auto", ["bfloat16"], "bfloat16", True),
        ("auto", ["bfloat16", "float32"], "bfloat16", False),
        ("auto", [], "float32", False),
    ],
)
async def test_vectors_of_another_arithmetic_are_not_mixed_in(
    precision: str, loaded: list[str], made: str, used: bool
) -> None:
    rig = Planning(precision=precision, loaded=loaded)
    rig.items.learn("a", by=made_by(made))
    assert (await rig.plan("ab")).to_compute == ([1] if used else [0, 1])


async def test_rows_of_another_length_are_not_used() -> None:
    rig = Planning()
    rig.items.learn("a")
    known = rig.items.vectors[hashes("a")[0]]
    rig.items.vectors[hashes("a")[0]] = records.KnownVector(1, records.Vector(known.vector.row[:-1]), known.made_by)
    assert (await rig.plan("ab")).to_compute == [0, 1]


# --- remembering ---------------------------------------------------------------------------------------------------


class Completer:
    """What goes on to be settled."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[batches.Outcome | None] = asyncio.Queue()

    def complete(self, *_: object) -> None:
        self.told.put_nowait(None)

    def fail(self, session: object, batch_id: int, held: object, outcome: batches.Outcome, message: str) -> None:
        self.told.put_nowait(outcome)


def result(letters: str, errors_at: Sequence[int] = (), cut_at: int = -1) -> bytes:
    good = [letter for at, letter in enumerate(letters) if at not in errors_at]
    return result_pb2.ResultChunk(
        first_item=100, item_count=len(letters), count=len(good), vectors=b"".join(map(row, good)),
        errors=[result_pb2.ItemError(item_index=100 + at) for at in errors_at],
        truncations=[result_pb2.Truncation(item_index=100 + cut_at, token_count=900, max_tokens=64)]
        if cut_at >= 0 else [],
        provenance=result_pb2.Provenance.FromString(made_by()),
    ).SerializeToString()  # fmt: skip


class Hasty(clock.FakeClock):
    """Its waits end at once, and are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def remember(
    held: worker_sessions.Held, items: Items, time: clock.Clock | None = None
) -> tuple[records.Remembered | None, batches.Outcome | None]:
    """What is kept, and how it goes on (None: to be completed)."""
    settle = Completer()
    ledger: Any = items
    completing: Any = settle
    use = remembering.Remembering(ledger, completing, time or clock.SystemClock())
    running = asyncio.create_task(use.run())
    session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
    use.done(session, 7, held)
    assert held.settling
    async with asyncio.timeout(STEP_S):
        outcome = await settle.told.get()
    running.cancel()
    return (items.remembered[-1] if items.remembered else None), outcome


def held(letters: str, sources: Sequence[int], chunk: bytes, *, left_out: bool = False) -> worker_sessions.Held:
    plan = attempt_plans.Plan(SCOPE, hashes(letters), sources, 0)
    count = len(letters)
    return worker_sessions.Held(
        b"token", 1, JOB, "w", 100, count, 100 + count, chunks=[memoryview(chunk)], plan=plan, left_out=left_out
    )


async def test_what_a_batch_has_computed_is_kept_before_it_is_completed() -> None:
    kept, outcome = await remember(held("abcd", [0, 1, -1, 3], result("abcd", [3], cut_at=1)), Items())
    assert outcome is None and kept is not None
    assert dict(kept.vectors) == dict(
        zip(hashes("ab"), [records.Vector(row("a")), records.Vector(row("b"), 900, 64)], strict=True)
    )
    assert (kept.batch_id, kept.scope, kept.made_by, kept.waits) == (7, SCOPE, made_by(), False)


async def test_a_result_that_is_not_whole_is_kept_and_waits() -> None:
    kept, outcome = await remember(held("ab", [0, LEFT_OUT], result("ab", [1]), left_out=True), Items())
    assert kept is not None and kept.waits and kept.vectors.keys() == set(hashes("a"))
    assert outcome == batches.Retry(Items().patience, counts=False)


async def test_what_cannot_be_kept_holds_no_result_back() -> None:
    time = Hasty()
    assert await remember(held("ab", [0, 1], result("ab")), Items(away=9), time) == (None, None)
    # Tried three times, by the clock that was given.
    assert time.waits == [0.25, 0.25]
    # Nothing is kept for it, so it does not wait either.
    _, outcome = await remember(held("ab", [0, LEFT_OUT], result("ab", [1]), left_out=True), Items(away=9), time)
    assert isinstance(outcome, batches.Retry) and outcome.delay < timedelta(seconds=2)
    broken = held("ab", [0, 1], b"\xff no chunk")
    assert await remember(broken, Items()) == (None, None)


# --- frames of a result that is not whole ---------------------------------------------------------------------------


class Frames:
    """A worker's frames about one batch, and what follows."""

    def __init__(self, held_: worker_sessions.Held) -> None:
        self.settle = Completer()
        self.kept: list[int] = []
        nobody: Any = unittest.mock.Mock()
        completing: Any = self.settle
        keeping: Any = self
        self.session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        self.session.in_hand[7] = held_
        policies = batches.RetryPolicy(), asyncio.Event(), quarantine.Policy()
        self.use = worker_frames.WorkerFrames({"w": spec()}, completing, *policies, nobody, nobody, nobody, keeping)

    def done(self, session: object, batch_id: int, held_: worker_sessions.Held) -> None:
        self.kept.append(batch_id)

    def say(self, letters: str, left_out: Sequence[int]) -> None:
        lease = worker_pb2.Lease(batch_id=7, lease_token=b"token", attempt=1)
        chunk = result_pb2.ResultChunk.FromString(result(letters, left_out))
        chunk.job_id, chunk.dimension, chunk.dtype = str(JOB), 2, workload_pb2.DTYPE_FLOAT32
        chunk.crc32c = google_crc32c.value(chunk.vectors)
        for error in chunk.errors:
            error.reason = result_pb2.ITEM_ERROR_REASON_LEFT_OUT
        chunk_frame = worker_pb2.BatchChunk(lease=lease, chunk=chunk)
        self.use.apply(self.session, worker_wire.read(worker_pb2.WorkerFrame(chunk=chunk_frame).SerializeToString()))
        done = worker_pb2.BatchDone(lease=lease, chunk_count=1)
        self.use.apply(self.session, worker_pb2.WorkerFrame(done=done))


def in_hand(sources: Sequence[int] | None, *, resumed: bool = False) -> worker_sessions.Held:
    plan = None if sources is None else attempt_plans.Plan(SCOPE, hashes("ab"), sources, 0)
    return worker_sessions.Held(b"token", 1, JOB, "w", 100, 2, 100, plan=plan, resumed=resumed)


async def test_a_result_is_kept_whole_or_not_where_a_plan_says_so() -> None:
    for sources, left_out in (([0, 1], []), ([0, LEFT_OUT], [1])):
        frames = Frames(in_hand(sources))
        frames.say("ab", left_out)
        assert frames.kept == [7]
        assert frames.session.in_hand[7].left_out == bool(left_out)


async def test_items_that_were_to_be_computed_cannot_be_left_out() -> None:
    for sources in (None, [0, 1], [0, 0]):
        frames = Frames(in_hand(sources))
        frames.say("ab", [1])
        assert frames.kept == []
        assert isinstance(frames.settle.told.get_nowait(), batches.Retry)


async def test_a_plain_result_goes_straight_to_be_completed() -> None:
    frames = Frames(in_hand(None))
    frames.say("ab", [])
    assert (frames.kept, frames.settle.told.get_nowait()) == ([], None)


async def test_of_a_lease_that_was_resumed_a_result_that_is_not_whole_is_not_completed() -> None:
    frames = Frames(in_hand(None, resumed=True))
    frames.say("ab", [1])
    assert frames.kept == [7] and frames.session.in_hand[7].left_out


# --- putting together ----------------------------------------------------------------------------------------------


class Redis:
    """The buffer, with `left` bytes of room."""

    def __init__(self, left: int | None = None) -> None:
        self.left = left
        self.feeds = 0
        self.results: list[tuple[uuid.UUID, int, int, Sequence[bytes]]] = []

    async def memory(self) -> room.Memory:
        return room.Memory(0, 0) if self.left is None else room.Memory(1_000_000, 1_000_000 + self.left)

    async def in_flight(self) -> dict[str, int]:
        return {}

    async def admit_results(self, results: Sequence[tuple[uuid.UUID, int, int, Sequence[bytes]]]) -> None:
        self.results += results

    async def job_changed(self, changes: object) -> None: ...

    async def feed(self) -> None:
        self.feeds += 1


def parked(letters: str, keys: Sequence[str] = (), *, offset: int = 0, count: int = 0) -> records.ParkedBatch:
    return records.ParkedBatch(
        7, JOB, "w", 100, count or len(letters), 0, offset, b"", SCOPE, identities(letters, keys), 3
    )


async def put_together(items: Items, redis: Redis | None = None) -> list[result_pb2.ResultChunk]:
    buffer: Any = redis or Redis()
    ledger: Any = items
    sizes = {"w": room.sizes(2, 100)}
    use = assembler.Assembler(ledger, buffer, buffer, buffer, buffer, buffer, {"w": spec()}, sizes, 16)
    await use.run_once()
    return [result_pb2.ResultChunk.FromString(c) for *_, chunks in buffer.results for c in chunks]


async def test_a_batch_that_is_known_is_made_as_a_worker_would() -> None:
    items = Items()
    items.learn("ab", owner=7, token_count=900)
    items.learn("c")
    items.parked = [parked("xxabacx", ["", "", "k2", "k3", "", "k5", ""], offset=2, count=4)]
    chunks = await put_together(items)
    # Two rows a chunk.
    assert [(c.first_item, c.item_count, c.count, c.chunk_index, c.last_in_batch) for c in chunks] == [
        (100, 2, 2, 0, False), (102, 2, 2, 1, True),
    ]  # fmt: skip
    assert b"".join(c.vectors for c in chunks) == b"".join(map(row, "abac"))
    assert [key for c in chunks for key in c.keys] == ["k2", "k3", "", "k5"]
    assert [t.item_index for c in chunks for t in c.truncations] == [100, 101, 102]
    assert all(c.crc32c == google_crc32c.value(c.vectors) and c.attempt == 1 for c in chunks)
    asked = result_checks.asked_by(item_pb2.EmbeddingOptions(), spec())
    for chunk in chunks:
        vectors = np.frombuffer(chunk.vectors, np.uint8)
        assert result_checks.problem(chunk, vectors, next_item=chunk.first_item, end_item=104, asked=asked) is None
    (done,) = items.assembled
    assert (done.batch_id, done.item_count, done.items_truncated, done.items_deduplicated) == (7, 4, 3, 2)
    assert items.gone == []


@pytest.mark.parametrize("is_computed", [False, True])
async def test_what_is_missing_is_taken_over_or_waited_for(is_computed: bool) -> None:
    items, redis = Items(), Redis()
    items.learn("a")
    items.taken_over = set(hashes("bc")) if is_computed else set(hashes("b"))
    items.parked = [parked("abcb")]
    assert await put_together(items, redis) == []
    assert items.missed == [(7, tuple(hashes("bc")))]
    assert (items.gone, items.assembled, redis.feeds) == ([], [], 0 if is_computed else 1)


@pytest.mark.parametrize("missing", ["one make", "the revision", "the length", "room"])
async def test_what_cannot_be_put_together_is_let_go(missing: str) -> None:
    items, redis = Items(), Redis()
    items.learn("ab")
    if missing == "one make":
        items.learn("b", by=made_by("bfloat16"))
    elif missing == "the revision":
        items.learn("ab", by=made_by(revision="0"))
    elif missing == "the length":
        known = items.vectors[hashes("b")[0]]
        items.vectors[hashes("b")[0]] = records.KnownVector(1, records.Vector(b"short"), known.made_by)
    else:
        redis = Redis(left=100)
    items.parked = [parked("ab")]
    assert await put_together(items, redis) == []
    assert (items.gone, items.assembled) == ([7], [])

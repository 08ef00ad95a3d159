"""Interactive calls at the scheduler: to whom they go, what becomes of them, what they ask for. No wire, no ledger."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, cast

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import result_pb2, workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, errors
from podium_scheduler.app import cold_starts, demand, embedding, records, worker_frames, worker_sessions
from podium_scheduler.domain import batches, interactive, quarantine

TEXTS = workload_pb2.Workload(name="texts", dimension=2)
STEP_S = 10.0
READY, FAULTED, COOLING = (
    worker_pb2.DEVICE_STATE_READY,
    worker_pb2.DEVICE_STATE_FAULTED,
    worker_pb2.DEVICE_STATE_COOLING,
)


class Ledger:
    """What demand, loads and sessions are written to and read from."""

    def __init__(self) -> None:
        self.asked: list[records.AskedFor] = []
        self.known: list[Any] = []
        self.away = False

    async def record(self, asked: Sequence[records.AskedFor]) -> None:
        if self.away:
            raise errors.Unavailable("away")
        self.asked += asked

    async def loads(self, workload: str = "") -> list[Any]:
        return self.known

    async def placed(self) -> list[Any]:
        return []


class Wakers:
    def __init__(self) -> None:
        self.placed = 0

    async def place(self) -> None:
        self.placed += 1


class Uses:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def note(self, session: object, workload: str, seconds: float, job_id: object = None, *, call: bool) -> None:
        assert call
        self.seconds.append(seconds)


class Rig:
    def __init__(self, most_calls: int = 4) -> None:
        self.ledger, self.wakers, self.uses = Ledger(), Wakers(), Uses()
        ledger, wakers, uses, nobody = cast("tuple[Any, Any, Any, Any]", (self.ledger, self.wakers, self.uses, None))
        self.clock = clock.FakeClock()
        self.registry = worker_sessions.SessionRegistry()
        self.demand = demand.Demand(ledger, wakers, self.clock)
        self.starts = cold_starts.ColdStarts({"texts": TEXTS}, ledger, ledger, self.clock)
        self.embed = embedding.Embedding(self.registry, {"texts": TEXTS}, self.demand, self.starts, most_calls)
        self.frames = worker_frames.WorkerFrames(
            {"texts": TEXTS}, nobody, batches.RetryPolicy(), asyncio.Event(), quarantine.Policy(2), nobody, nobody,
            uses, nobody,
        )  # fmt: skip

    def worker(self, *devices: tuple[worker_pb2.DeviceState, Iterable[str]], **status: Any) -> worker_sessions.Session:
        session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        told = [
            worker_pb2.DeviceStatus(index=n, state=state, resident_workloads=list(names))
            for n, (state, names) in enumerate(devices)
        ]
        session.take_status(worker_pb2.Status(devices=told, **status), {"texts"})
        self.registry.add(session)
        return session

    def warm(self) -> worker_sessions.Session:
        return self.worker((READY, ["texts"]))

    def ask(self, items: int = 1, remaining_s: float | None = STEP_S) -> asyncio.Task[scheduler_pb2.EmbedResponse]:
        request = scheduler_pb2.EmbedRequest(app_id="app", workload="texts", payload=b"items", item_count=items)
        return asyncio.create_task(self.embed(request, remaining_s))


async def sent(session: worker_sessions.Session) -> worker_pb2.SchedulerFrame:
    async with asyncio.timeout(STEP_S):
        return await session.outbox.get()


def answer(call_id: int, items: int = 1, *, flip: bool = False, counts: int | None = None) -> worker_pb2.WorkerFrame:
    rows = np.full((items, 2), 0.5, dtype="<f4").tobytes()
    chunk = result_pb2.ResultChunk(
        item_count=items, count=items, vectors=rows, dimension=2, dtype=workload_pb2.DTYPE_FLOAT32,
        crc32c=google_crc32c.value(rows) ^ flip,
    )  # fmt: skip
    token_counts = [3] * (items if counts is None else counts)
    told = worker_pb2.EmbedAnswer(call_id=call_id, chunk=chunk, token_counts=token_counts)
    told.compute_duration.FromMilliseconds(5)
    return worker_pb2.WorkerFrame(embedded=told)


def failure(call_id: int, reason: str, *, retryable: bool = True) -> worker_pb2.WorkerFrame:
    told = worker_pb2.EmbedFailure(reason=f"EMBED_FAILURE_REASON_{reason}", message="why", retryable=retryable)
    return worker_pb2.WorkerFrame(embedded=worker_pb2.EmbedAnswer(call_id=call_id, failure=told))


async def test_a_call_goes_ahead_of_batches_and_comes_back() -> None:
    rig = Rig()
    session = rig.warm()
    session.desire()
    asked = rig.ask(items=2, remaining_s=4.0)
    await asyncio.sleep(0)
    assert session.outbox.qsize() == 2
    frame = await sent(session)
    assert (frame.embed.workload, frame.embed.payload, frame.embed.item_count) == ("texts", b"items", 2)
    assert frame.embed.timeout.ToMilliseconds() == pytest.approx(4000, abs=500)
    rig.frames.apply(session, answer(frame.embed.call_id, 2))
    response = await asked
    assert (response.chunk.item_count, list(response.token_counts)) == (2, [3, 3])
    assert response.HasField("compute_time")
    assert rig.uses.seconds == [0.005]
    assert (await sent(session)).HasField("desired"), "and nothing is dropped that was answered"
    assert session.outbox.empty()


@pytest.mark.parametrize(
    "make",
    [
        lambda rig: rig.worker((READY, ["other"])),
        lambda rig: rig.worker((FAULTED, ["texts"])),
        lambda rig: rig.worker((COOLING, ["texts"])),
        lambda rig: rig.worker((READY, ["texts"]), draining=True),
        lambda rig: rig.warm().drain(),
        lambda rig: rig.warm().quarantine_for("bad results", 60),
        lambda rig: rig.warm().closed.set(),
    ],
    ids=["another model", "faulted", "too hot", "draining", "told to drain", "quarantined", "gone"],
)
async def test_who_cannot_answer_is_not_asked(make: Any) -> None:
    rig = Rig()
    make(rig)
    with pytest.raises(errors.Unavailable) as caught:
        await rig.ask()
    assert caught.value.reason == "NO_WARM_WORKER"
    assert caught.value.retry_after_s == 10.0


async def test_measured_loads_say_when_to_come_again() -> None:
    rig = Rig()
    rig.ledger.known = [records.MeasuredLoad("texts", "L4", 1, 42.0, 42.0, 0, rig.clock.now())]
    await rig.starts.run_once()
    with pytest.raises(errors.Unavailable) as caught:
        await rig.ask()
    assert caught.value.retry_after_s == 42.0


async def test_what_is_left_of_a_load_that_was_begun_for_another_call_is_told() -> None:
    rig = Rig()
    rig.ledger.known = [records.MeasuredLoad("texts", "L4", 1, 40.0, 40.0, 0, rig.clock.now())]
    await rig.starts.run_once()
    told = []
    for _ in range(5):
        with pytest.raises(errors.Unavailable) as caught:
            await rig.ask()
        told.append(caught.value.retry_after_s)
        rig.clock.advance(10.0)
    assert told == [40.0, 30.0, 20.0, 10.0, 1.0], "one that is late may end at any time"
    session = rig.warm()
    asked = rig.ask()
    rig.frames.apply(session, answer((await sent(session)).embed.call_id))
    await asked
    session.closed.set()
    with pytest.raises(errors.Unavailable) as caught:
        await rig.ask()
    assert caught.value.retry_after_s == 40.0, "another load"


async def test_the_session_with_the_fewest_calls_a_device_is_asked() -> None:
    rig = Rig()
    one, two = rig.warm(), rig.worker((READY, ["texts"]), (READY, ["texts"]))
    calls = [rig.ask() for _ in range(6)]
    async with asyncio.timeout(STEP_S):
        while len(one.calls) + len(two.calls) < 6:  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)
    assert (len(one.calls), len(two.calls)) == (2, 4)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_workers_that_are_full_say_so_and_are_no_demand() -> None:
    rig = Rig(most_calls=1)
    session = rig.warm()
    first = rig.ask()
    await sent(session)
    with pytest.raises(errors.ResourceExhausted) as caught:
        await rig.ask()
    assert caught.value.reason == "WORKERS_BUSY"
    first.cancel()
    await rig.demand.run_once()
    assert rig.ledger.asked == []


async def test_a_caller_that_goes_is_told_to_the_worker() -> None:
    rig = Rig()
    session = rig.warm()
    asked = rig.ask()
    number = (await sent(session)).embed.call_id
    asked.cancel()
    assert (await sent(session)).drop_embed.call_id == number
    assert len(session.calls) == 0
    rig.frames.apply(session, answer(number))


async def test_a_call_whose_time_is_over_is_dropped() -> None:
    rig = Rig()
    session = rig.warm()
    asked = rig.ask(remaining_s=0.01)
    number = (await sent(session)).embed.call_id
    with pytest.raises(errors.DeadlineExceeded):
        await asked
    assert (await sent(session)).drop_embed.call_id == number


async def test_of_a_call_that_is_over_nothing_is_kept_for_a_worker_that_takes_nothing() -> None:
    rig = Rig()
    session = rig.warm()
    with pytest.raises(errors.DeadlineExceeded):
        await rig.ask(remaining_s=0.01)
    assert session.outbox.qsize() == 2
    # Which a worker passes over.
    assert (await sent(session)).ByteSize() == 0
    assert (await sent(session)).HasField("drop_embed")


async def test_a_lost_session_is_followed_by_one_other_and_no_more() -> None:
    rig = Rig()
    sessions = [rig.warm() for _ in range(3)]
    asked = rig.ask()
    for turn in range(2):
        async with asyncio.timeout(STEP_S):
            while not any(len(s.calls) for s in sessions):  # noqa: ASYNC110 - turns of the loop, no time
                await asyncio.sleep(0)
        (holder,) = [s for s in sessions if len(s.calls)]
        if turn == 0:
            holder.calls.end()
            holder.closed.set()
            await asyncio.sleep(0)
        else:
            rig.frames.apply(holder, failure((await sent(holder)).embed.call_id, "EXECUTOR_LOST"))
    with pytest.raises(errors.Unavailable) as caught:
        await asked
    assert caught.value.reason == "WORKER_LOST"


async def test_one_that_was_not_begun_costs_no_try() -> None:
    rig = Rig()
    sessions = [rig.warm() for _ in range(4)]
    asked = rig.ask()
    for reason in ("NOT_RESIDENT", "BUSY", "EXECUTOR_LOST", ""):
        async with asyncio.timeout(STEP_S):
            while not any(len(s.calls) for s in sessions if not s.outbox.empty()):  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)
        (holder,) = [s for s in sessions if len(s.calls)]
        number = (await sent(holder)).embed.call_id
        rig.frames.apply(holder, failure(number, reason) if reason else answer(number))
        await asyncio.sleep(0)
    assert (await asked).chunk.count == 1


async def test_a_payload_that_is_bad_is_bad_everywhere() -> None:
    rig = Rig()
    session, other = rig.warm(), rig.warm()
    asked = rig.ask()
    async with asyncio.timeout(STEP_S):
        while not len(session.calls) + len(other.calls):  # noqa: ASYNC110 - turns of the loop
            await asyncio.sleep(0)
    holder = session if len(session.calls) else other
    rig.frames.apply(holder, failure((await sent(holder)).embed.call_id, "BAD_PAYLOAD", retryable=False))
    with pytest.raises(errors.InvalidArgument):
        await asked


@pytest.mark.parametrize("bad", [{"flip": True}, {"items": 2}, {"counts": 3}], ids=["checksum", "items", "counts"])
async def test_an_answer_is_checked_and_who_sends_bad_ones_is_quarantined(bad: dict[str, Any]) -> None:
    rig = Rig()
    session = rig.warm()
    for _ in range(2):
        asked = rig.ask()
        rig.frames.apply(session, answer((await sent(session)).embed.call_id, **bad))
        with pytest.raises(errors.Unavailable) as caught:
            await asked
        assert caught.value.reason == "WORKER_LOST"
    assert session.quarantine is not None


async def test_demand_is_written_once_a_second_and_wakes_the_placer_for_those_who_wait() -> None:
    rig = Rig()
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            await rig.ask()
    assert rig.demand.wake.is_set()
    await rig.demand.run_once()
    assert rig.ledger.asked == [records.AskedFor("texts", 3, 3)]
    assert rig.wakers.placed == 1
    rig.demand.note("texts", served=True)
    assert await rig.demand.run_once() == pytest.approx(1.0)
    assert len(rig.ledger.asked) == 1, "not again within the second"
    rig.clock.advance(1.0)
    await rig.demand.run_once()
    assert rig.ledger.asked[1:] == [records.AskedFor("texts", 1, 0)]
    assert rig.wakers.placed == 1


async def test_demand_that_cannot_be_written_is_kept() -> None:
    rig = Rig()
    rig.demand.note("texts", served=False)
    rig.ledger.away = True
    await rig.demand.run_once()
    rig.demand.note("texts", served=True)
    rig.ledger.away = False
    await rig.demand.run_once()
    assert rig.ledger.asked == [records.AskedFor("texts", 2, 1)]


HOSTS = st.lists(
    st.builds(interactive.Host, st.uuids(), st.integers(0, 4), st.integers(0, 8)),
    max_size=8,
    unique_by=lambda h: h.session_id,
)


@given(HOSTS, st.integers(1, 8))
def test_the_choice_is_able_and_none_is_less_loaded(hosts: list[interactive.Host], most: int) -> None:
    tried = {host.session_id for host in hosts[::3]}
    chosen = interactive.choose(hosts, tried, most)
    able = [h for h in hosts if h.devices and h.calls < most and h.session_id not in tried]
    assert (chosen is None) == (not able)
    if chosen is not None:
        assert chosen in able
        assert all(chosen.calls / chosen.devices <= h.calls / h.devices for h in able)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.frozensets(st.sampled_from(["a", "b", "c"])), st.booleans()), max_size=40)
)
def test_who_has_which_model_is_known_without_asking_everybody(
    words: list[tuple[int, frozenset[str], bool]],
) -> None:
    ids = [uuid.UUID(int=number) for number in range(5)]
    known, residents = dict[uuid.UUID, frozenset[str]](), interactive.Residents()
    for number, workloads, goes in words:
        known[ids[number]] = frozenset() if goes else workloads
        residents.put(ids[number], known[ids[number]])
    for workload in ("a", "b", "c"):
        assert set(residents.having(workload)) == {one for one, has in known.items() if workload in has}


def test_sessions_without_the_model_are_not_looked_at() -> None:
    rig = Rig()
    for _ in range(20):
        rig.worker((READY, ["others"]))
    warm, gone = rig.warm(), rig.warm()
    assert set(rig.registry.having("texts")) == {warm, gone}
    rig.registry.remove(gone)
    later = worker_pb2.Status(devices=[worker_pb2.DeviceStatus(state=READY, resident_workloads=["texts"])])
    gone.take_status(worker_pb2.Status(), {"texts"})
    gone.take_status(later, {"texts"})
    assert rig.registry.having("texts") == [warm]
    again = worker_sessions.Session(uuid.uuid4(), warm.worker_id)
    rig.registry.add(again)
    assert rig.registry.having("texts") == []
    again.take_status(later, {"texts"})
    assert rig.registry.having("texts") == [again]

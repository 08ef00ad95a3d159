"""What becomes of a batch of images before an executor gets it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import lz4.frame
import numpy as np
import pytest
import pytest_asyncio

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock
from podium_worker.adapters import arena, decoder_pool, intake, payloads
from podium_worker.app import ports
from podium_worker.decoder import transform
from podium_worker.domain import pictures, problems
from tests.support import pictures as files

PICTURE = pictures.Picture(64, 64, 64)
PAGES = -(-PICTURE.nbytes // 4096)
MAX_PIXELS, MAX_BYTES, MAX_PAYLOAD = 1_000_000, 200_000, 4_000_000
DEADLINE_S = 60.0
Item = str | bytes | None


class Pool(decoder_pool.DecoderPool):
    """Decodes in this process, when it is let; counts who is at work in the arena."""

    def __init__(self, memory: arena.Arena) -> None:
        super().__init__(0, memory, decoder_pool.Limits(), clock.SystemClock())
        self.memory = memory
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[int] = []
        self.urgent: list[bool] = []
        self.writing: set[int] = set()
        self.done: list[bytes] = []
        self.fault: Exception | None = None

    async def decode(
        self, data: bytes, picture: pictures.Picture, *, max_pixels: int, offset: int, urgent: bool = False
    ) -> float:
        self.asked.append(offset)
        self.urgent.append(urgent)
        self.writing.add(offset)
        cancelled = None
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError as error:
                # As the real one: to its end.
                cancelled = error
        self.writing.discard(offset)
        if cancelled is not None:
            raise cancelled
        if self.fault is not None:
            raise self.fault
        self.memory.view(offset, (picture.height, picture.width, 3))[:] = transform.decode(data, picture, max_pixels)
        self.done.append(data)
        return 0.0


class Fetcher:
    """Has the files of a made-up web."""

    def __init__(self, web: Mapping[str, bytes | Exception]) -> None:
        self.web = web
        self.gates: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []
        self.held = 0

    @asynccontextmanager
    async def body(self, url: str, max_bytes: int) -> AsyncIterator[bytes]:
        self.asked.append(url)
        if url in self.gates:
            await self.gates[url].wait()
        found = self.web[url]
        if isinstance(found, Exception):
            raise found
        self.held += 1
        try:
            yield found
        finally:
            self.held -= 1


@dataclass
class Rig:
    """An intake and all around it, and what it said."""

    memory: arena.Arena
    pool: Pool
    fetcher: Fetcher
    express: Fetcher
    intake: intake.Intake
    time: clock.FakeClock
    taken: dict[str, ports.Taken] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    said: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, key: str, body: bytes, *, urgent: bool = False) -> None:
        def done(key: str, taken: ports.Taken) -> None:
            assert key not in self.taken and key not in self.failed
            self.taken[key] = taken
            self.said.set()

        def failed(key: str, reason: str, message: str) -> None:
            assert key not in self.taken and key not in self.failed
            self.failed[key] = reason, message
            self.said.set()

        self.intake.begin(
            key, body, PICTURE,
            max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, done=done, failed=failed, urgent=urgent,
        )  # fmt: skip

    async def outcome(self, key: str) -> ports.Taken | tuple[str, str]:
        async with asyncio.timeout(DEADLINE_S):
            while key not in self.taken and key not in self.failed:
                self.said.clear()
                await self.said.wait()
        return self.taken[key] if key in self.taken else self.failed[key]

    async def pictures(self, key: str) -> ports.Taken:
        outcome = await self.outcome(key)
        assert isinstance(outcome, ports.Taken), outcome
        return outcome

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def rows(self, taken: ports.Taken) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return self.memory.view(taken.offset, (taken.nbytes // PICTURE.nbytes, 64, 64, 3))


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    memory = arena.Arena(40 * PAGES * 4096)
    pool, fetcher, express, time = Pool(memory), Fetcher({}), Fetcher({}), clock.FakeClock()
    taking = intake.Intake(fetcher, pool, memory, max_payload_bytes=MAX_PAYLOAD, time=time, express=express)
    made = Rig(memory, pool, fetcher, express, taking, time)
    yield made
    pool.gate.set()
    await made.intake.close()
    assert memory.used_bytes == 0, "every region comes back"
    assert fetcher.held == express.held == 0
    memory.close()


def assign(*items: Item, lz4_frame: bool = False, offset: int = 0, count: int | None = None) -> bytes:
    """A serialized Assign; a str is a URL, bytes are a file."""
    message = item_pb2.ImageItems()
    for number, item in enumerate(items):
        added = message.items.add(key=f"key-{number}")
        if isinstance(item, str):
            added.url = item
        elif item is not None:
            added.data = item
    payload = message.SerializeToString()
    return worker_pb2.Assign(
        job_id="job", workload="clip", first_item=100, item_count=len(items) if count is None else count,
        payload=lz4.frame.compress(payload) if lz4_frame else payload,
        payload_encoding=item_pb2.PAYLOAD_ENCODING_LZ4_FRAME if lz4_frame else item_pb2.PAYLOAD_ENCODING_IDENTITY,
        modality=workload_pb2.MODALITY_IMAGE, payload_offset=offset,
    ).SerializeToString()  # fmt: skip


async def test_every_item_gets_its_place_in_order_and_failures_are_told_in_order(rig: Rig) -> None:
    good = [files.make("jpeg", seed=number) for number in range(3)]
    rig.fetcher.web = {
        "http://a/0": good[0],
        "http://a/missing": problems.ItemProblem(problems.Reason.FETCH_FAILED, "The server answered 404."),
        "http://a/broken": files.broken("html"),
    }
    # The first ones come last.
    late = rig.fetcher.gates["http://a/0"] = rig.fetcher.gates["http://a/missing"] = asyncio.Event()
    rig.begin("b", assign("http://a/0", "http://a/missing", good[1], "http://a/broken", good[2], None, lz4_frame=True))
    await rig.until(lambda: len(rig.pool.asked) == 3)
    rig.time.advance(1.5)
    late.set()
    taken = await rig.pictures("b")
    reasons = problems.Reason
    assert [(failure.index, failure.reason) for failure in taken.failures] == [
        (1, reasons.FETCH_FAILED), (3, reasons.UNDECODABLE), (5, reasons.UNDECODABLE),
    ]  # fmt: skip
    assert taken.failures[0].message == "The server answered 404."
    assert taken.fetched_bytes == len(good[0]) + len(files.broken("html"))
    assert taken.fetch_s == 1.5
    assert taken.nbytes == 6 * PICTURE.nbytes
    for index, file in ((0, good[0]), (2, good[1]), (4, good[2])):
        assert np.array_equal(rig.rows(taken)[index], transform.decode(file, PICTURE, MAX_PIXELS))


async def test_the_executor_gets_the_batch_with_its_keys_as_its_whole_payload(rig: Rig) -> None:
    files_of = [files.make("jpeg", 40, 40, seed=number) for number in range(5)]
    rig.begin("half", assign(*files_of, offset=2, count=2))
    taken = await rig.pictures("half")
    assert np.array_equal(rig.rows(taken)[0], transform.decode(files_of[2], PICTURE, MAX_PIXELS))
    told = worker_pb2.Assign.FromString(taken.body)
    assert payloads.keys_of_images(told, 1_000) == ["key-2", "key-3"]
    assert (told.job_id, told.workload, told.first_item, told.item_count) == ("job", "clip", 100, 2)
    assert told.payload_offset == 2
    assert len(taken.body) < 200


async def test_only_pictures_that_are_to_be_computed_are_made(rig: Rig) -> None:
    good = [files.make("jpeg", seed=number) for number in range(2)]
    body = worker_pb2.Assign.FromString(assign("http://never/asked", good[0], good[0], None, good[1]))
    body.known.sources = np.array([-1, 1, 1, 3, 4], dtype="<i4").tobytes()
    rig.begin("b", body.SerializeToString())
    taken = await rig.pictures("b")
    assert sorted(rig.pool.done) == sorted(good)
    assert rig.fetcher.asked == []
    assert taken.nbytes == 3 * PICTURE.nbytes
    # Counted among those that are computed, as the places are.
    assert [failure.index for failure in taken.failures] == [1]
    assert np.array_equal(rig.rows(taken)[2], transform.decode(good[1], PICTURE, MAX_PIXELS))
    assert payloads.keys_of_images(worker_pb2.Assign.FromString(taken.body), 1_000) == [f"key-{n}" for n in range(5)]


async def test_of_a_batch_that_waits_for_a_slow_host_nothing_is_held_that_is_decoded(rig: Rig) -> None:
    rig.fetcher.gates["http://slow/"] = asyncio.Event()
    rig.fetcher.web = {"http://slow/": files.make("png")}
    body = assign(files.make("jpeg"), "http://slow/", files.make("gif"))
    counted = sys.getrefcount(body)
    rig.begin("a", body)
    await rig.until(lambda: len(rig.pool.done) == 2)
    assert sys.getrefcount(body) == counted
    # The list, the loop's own name, and the argument of the call.
    assert [sys.getrefcount(data) for data in rig.pool.done] == [3, 3]
    rig.fetcher.gates["http://slow/"].set()
    await rig.pictures("a")


async def test_failed_items_leave_no_pixels_of_earlier_batches_behind(rig: Rig) -> None:
    rig.begin("first", assign(files.make("jpeg")))
    taken = await rig.pictures("first")
    assert rig.rows(taken).any()
    rig.intake.drop("first")
    rig.begin("second", assign(b"no image"))
    again = await rig.pictures("second")
    assert again.offset == taken.offset
    assert not rig.rows(again).any()


@pytest.mark.parametrize("excess", [0, 1])
async def test_inline_files_have_the_limit_of_bytes_too(rig: Rig, excess: int) -> None:
    whole = files.make("png", 40, 40)
    rig.begin("b", assign(whole + b"\0" * (MAX_BYTES + excess - len(whole))))
    taken = await rig.pictures("b")
    assert [failure.reason for failure in taken.failures] == [problems.Reason.TOO_LARGE] * excess


async def test_a_payload_that_cannot_be_read_fails_the_batch(rig: Rig) -> None:
    rig.begin("b", assign(b"x", count=2))
    assert await rig.outcome("b") == ("BAD_PAYLOAD", "The payload holds 1 items, the batch is [0, 2) of them.")
    rig.failed.clear()
    rig.begin("b", assign(b"x"))
    await rig.pictures("b")


async def test_a_batch_that_can_never_fit_fails_and_the_next_one_is_taken(rig: Rig) -> None:
    rig.begin("large", assign(*[b"x"] * 41))
    rig.begin("small", assign(b"x"))
    reason, message = await rig.outcome("large")  # type: ignore[misc]
    assert reason == "INTERNAL" and "the arena has" in message
    await rig.pictures("small")


async def test_batches_wait_for_room_in_order_and_get_it_when_others_are_dropped(rig: Rig) -> None:
    rig.begin("a", assign(*[b"x"] * 30))
    await rig.pictures("a")
    rig.begin("b", assign(*[b"x"] * 20))
    rig.begin("c", assign(b"x"))
    rig.begin("d", assign(*[b"x"] * 10))
    await asyncio.sleep(0)
    assert rig.taken.keys() == {"a"}
    rig.intake.drop("a")
    for key in "bcd":
        await rig.pictures(key)
    assert list(rig.taken) == ["a", "b", "c", "d"]


async def test_one_that_waits_for_room_can_be_dropped(rig: Rig) -> None:
    rig.begin("a", assign(*[b"x"] * 40))
    await rig.pictures("a")
    rig.begin("b", assign(*[b"x"] * 40))
    rig.begin("c", assign(b"x"))
    await asyncio.sleep(0)
    rig.intake.drop("b")
    rig.intake.drop("a")
    await rig.pictures("c")
    assert "b" not in rig.taken


async def test_a_region_is_given_back_only_when_no_decoder_writes_into_it(rig: Rig) -> None:
    rig.pool.gate.clear()
    rig.begin("a", assign(*[files.make("jpeg")] * 40))
    await rig.until(lambda: len(rig.pool.writing) == 40)
    rig.intake.drop("a")
    rig.begin("a", assign(files.make("png")))
    await asyncio.sleep(0)
    assert rig.memory.used_bytes == rig.memory.size
    rig.pool.gate.set()
    taken = await rig.pictures("a")
    assert np.array_equal(rig.rows(taken)[0], transform.decode(files.make("png"), PICTURE, MAX_PIXELS))
    assert rig.memory.used_bytes == PAGES * 4096


async def test_a_dropped_fetch_is_cancelled_at_once(rig: Rig) -> None:
    rig.fetcher.gates["http://slow/"] = asyncio.Event()
    rig.begin("a", assign("http://slow/"))
    await rig.until(lambda: bool(rig.fetcher.asked))
    rig.intake.drop("a")
    await rig.until(lambda: rig.memory.used_bytes == 0)
    assert not rig.taken and not rig.failed


async def test_a_slow_host_does_not_keep_out_others(rig: Rig) -> None:
    rig.fetcher.gates["http://slow/"] = asyncio.Event()
    rig.begin("slow", assign(*["http://slow/"] * 20))
    rig.begin("quick", assign(*[files.make("jpeg")] * 20))
    await rig.pictures("quick")
    assert not rig.failed and "slow" not in rig.taken


async def test_items_of_earlier_batches_are_asked_for_first(rig: Rig) -> None:
    names = [f"http://h/{key}{number}" for key in "abc" for number in range(8)]
    rig.fetcher.web = dict.fromkeys(names, b"x")
    for number, key in enumerate("abc"):
        rig.begin(key, assign(*names[8 * number : 8 * number + 8]))
    for key in "abc":
        await rig.pictures(key)
    assert rig.fetcher.asked == names


async def test_dropping_is_harmless_in_every_state(rig: Rig) -> None:
    rig.intake.drop("unknown")
    rig.begin("a", assign(b"x"))
    rig.intake.drop("a")
    rig.intake.drop("a")
    rig.begin("a", assign(b"x"))
    await rig.pictures("a")
    rig.intake.drop("a")
    rig.intake.drop("a")
    assert rig.memory.used_bytes == 0


async def test_a_batch_may_be_dropped_by_whoever_is_told_of_it(rig: Rig) -> None:
    told = asyncio.Event()

    def done(key: str, _: ports.Taken) -> None:
        rig.intake.drop(key)
        told.set()

    rig.intake.begin(
        "a", assign(b"x"), PICTURE, max_pixels=1, max_bytes=1, done=done, failed=lambda *_: pytest.fail("no")
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        await told.wait()
    assert rig.memory.used_bytes == 0


async def test_a_key_in_hand_is_not_begun_again(rig: Rig) -> None:
    rig.begin("a", assign(b"x"))
    with pytest.raises(ValueError, match="in hand"):
        rig.begin("a", assign(b"x"))
    await rig.pictures("a")


async def test_what_is_unforeseen_costs_one_item(rig: Rig) -> None:
    rig.fetcher.web = {"http://a/": RuntimeError("a bug")}
    rig.pool.fault = RuntimeError("another")
    rig.begin("a", assign("http://a/", b"x"))
    taken = await rig.pictures("a")
    assert [failure.reason for failure in taken.failures] == [problems.Reason.FETCH_FAILED, problems.Reason.UNDECODABLE]
    assert all("unforeseen" in failure.message for failure in taken.failures)


async def test_without_decoders_the_batch_fails_and_not_its_items(rig: Rig) -> None:
    rig.pool.fault = decoder_pool.Unavailable("No decoder can be started.")
    rig.fetcher.web = {"http://a/": b"x"}
    rig.begin("a", assign("http://a/", b"x", b"y"))
    assert await rig.outcome("a") == ("INTERNAL", "No decoder can be started.")
    assert rig.memory.used_bytes == 0


async def test_the_images_of_a_call_are_fetched_apart_and_decoded_first(rig: Rig) -> None:
    image = files.make("jpeg")
    rig.fetcher.web = rig.express.web = {"http://a/": image}
    rig.begin("batch", assign("http://a/", image))
    await rig.pictures("batch")
    assert (rig.fetcher.asked, rig.express.asked) == (["http://a/"], [])
    assert rig.pool.urgent == [False, False]
    rig.begin("call", assign("http://a/", image), urgent=True)
    await rig.pictures("call")
    assert (rig.fetcher.asked, rig.express.asked) == (["http://a/"], ["http://a/"])
    assert rig.pool.urgent[2:] == [True, True]


async def test_a_call_waits_for_no_batch_that_waits_for_room(rig: Rig) -> None:
    rig.begin("a", assign(*[b"x"] * 30))
    await rig.pictures("a")
    rig.begin("b", assign(*[b"x"] * 20))
    # From here on it has the turn of the batches, and keeps it until "a" makes room.
    await asyncio.sleep(0)
    rig.begin("call", assign(*[b"x"] * 10), urgent=True)
    await rig.pictures("call")
    assert "b" not in rig.taken
    rig.intake.drop("a")
    await rig.pictures("b")


async def test_a_batch_gets_its_pictures_while_calls_saturate_room_and_decoders() -> None:
    """Of both there is less than the calls want."""
    memory = arena.Arena(28 * PAGES * 4096, urgent_bytes=12 * PAGES * 4096)
    pool = decoder_pool.DecoderPool(1, memory, decoder_pool.Limits(), clock.SystemClock())
    running = asyncio.create_task(pool.run())
    taking = intake.Intake(Fetcher({}), pool, memory, max_payload_bytes=MAX_PAYLOAD, time=clock.SystemClock())
    rig = Rig(memory, Pool(memory), Fetcher({}), Fetcher({}), taking, clock.FakeClock())
    image = files.make("jpeg", 300, 300)
    answered = 0

    async def calls(caller: int) -> None:
        nonlocal answered
        while "batch" not in rig.taken and answered < 1_000:
            key = f"call-{caller}-{answered}"
            rig.begin(key, assign(*[image] * 4), urgent=True)
            await rig.pictures(key)
            answered += 1
            taking.drop(key)

    callers = [asyncio.create_task(calls(number)) for number in range(8)]
    await rig.until(lambda: answered > 0)
    rig.begin("batch", assign(*[image] * 16))
    await rig.pictures("batch")
    assert answered < 1_000, "the batch came last"
    await asyncio.gather(*callers)
    await taking.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    memory.close()


async def test_real_decoders_fill_the_arena_of_many_batches() -> None:
    """All of it together: 12 batches through 2 processes and an arena that holds 3 of them."""
    memory = arena.Arena(3 * 10 * PAGES * 4096)
    pool = decoder_pool.DecoderPool(2, memory, decoder_pool.Limits(), clock.SystemClock())
    running = asyncio.create_task(pool.run())
    kinds = [kind for kind in files.KINDS if not kind.startswith("tiff_3")]
    made = [files.make(kind, 80, 60, seed=number) for number, kind in enumerate(kinds[:9])] + [files.broken("cut_png")]
    rig = Rig(
        memory, Pool(memory), Fetcher({}), Fetcher({}),
        intake.Intake(Fetcher({}), pool, memory, max_payload_bytes=MAX_PAYLOAD, time=clock.SystemClock()),
        clock.FakeClock(),
    )  # fmt: skip
    for number in range(12):
        rig.begin(str(number), assign(*made[number % 10 :], *made[: number % 10]))
    expected = [transform.decode(file, PICTURE, MAX_PIXELS) for file in made[:9]]
    for number in range(12):
        taken = await rig.pictures(str(number))
        broken = (9 - number) % 10
        assert [failure.index for failure in taken.failures] == [broken]
        for index, row in enumerate(rig.rows(taken)):
            if index != broken:
                assert np.array_equal(row, expected[(index + number) % 10]), (number, index)
        rig.intake.drop(str(number))
    await rig.intake.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert memory.used_bytes == 0
    memory.close()

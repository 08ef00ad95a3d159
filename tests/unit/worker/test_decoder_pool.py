"""Decoder processes: what they answer, what becomes of those that die, hang or want too much memory."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from podium_runtime import clock
from podium_worker.adapters import arena, decoder_pool, decoder_process
from podium_worker.decoder import transform
from podium_worker.domain import pictures, problems
from tests.support import pictures as files

PICTURE = pictures.Picture(64, 64, 64)
MAX_PIXELS = 50_000_000
MIB = 1024 * 1024
DEADLINE_S = 60.0
MOST_CALLS = 5_000
KILLER, HANGER = b"KILL THE DECODER", b"HANG THE DECODER"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[arena.Arena]:
    made = arena.Arena(8 * MIB)
    yield made
    made.close()


@contextmanager
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoders that are started meanwhile die or hang of files that say so."""
    with monkeypatch.context() as patch:
        patch.setenv("PODIUM_FAULT_DECODE_KILL", KILLER.decode())
        patch.setenv("PODIUM_FAULT_DECODE_HANG", HANGER.decode())
        yield


@asynccontextmanager
async def running(
    memory: arena.Arena, count: int = 1, time: clock.Clock | None = None, **limits: float
) -> AsyncIterator[decoder_pool.DecoderPool]:
    pool = decoder_pool.DecoderPool(count, memory, decoder_pool.Limits(**limits), time or clock.SystemClock())  # type: ignore[arg-type]
    task = asyncio.create_task(pool.run())
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield pool
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert pool.process_ids == []


async def decode(pool: decoder_pool.DecoderPool, data: bytes, offset: int = 0, max_pixels: int = MAX_PIXELS) -> float:
    return await pool.decode(data, PICTURE, max_pixels=max_pixels, offset=offset)


async def refusal(pool: decoder_pool.DecoderPool, data: bytes, max_pixels: int = MAX_PIXELS) -> problems.ItemProblem:
    with pytest.raises(problems.ItemProblem) as caught:
        await decode(pool, data, max_pixels=max_pixels)
    return caught.value


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def marked(mark: bytes) -> bytes:
    """An image file that says what it does."""
    return files.make("png", 40, 30) + mark


def anonymous_peak_bytes(pid: int) -> int:
    """Most memory of its own that a process can have had: its peak, less the pages that it shares."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    kib = {name: int(status[name].split()[0]) for name in ("VmHWM", "RssFile", "RssShmem")}
    return (kib["VmHWM"] - kib["RssFile"] - kib["RssShmem"]) * 1024


async def test_pictures_land_at_their_places_and_equal_those_of_this_process(memory: arena.Arena) -> None:
    data = [files.make(kind, seed=number) for number, kind in enumerate(("jpeg", "png_alpha", "webp", "gif", "tiff"))]
    region = await memory.allocate(len(data) * PICTURE.nbytes)
    async with running(memory, count=2) as pool:
        assert pool.process_ids == [], "nothing is started before it is needed"
        await asyncio.gather(*(decode(pool, file, region + n * PICTURE.nbytes) for n, file in enumerate(data)))
        assert len(pool.process_ids) == 2
    for number, file in enumerate(data):
        place = memory.view(region + number * PICTURE.nbytes, (64, 64, 3))
        assert np.array_equal(place, transform.decode(file, PICTURE, MAX_PIXELS))


async def test_a_refused_file_leaves_its_place_alone_and_the_process_alive(memory: arena.Arena) -> None:
    memory.view(0, (PICTURE.nbytes,))[:] = 7
    async with running(memory) as pool:
        problem = await refusal(pool, files.broken("cut_jpeg"))
        assert problem.reason is problems.Reason.UNDECODABLE
        assert "cut short" in problem.message
        pids = pool.process_ids
        assert (memory.view(0, (PICTURE.nbytes,)) == 7).all()
        await decode(pool, files.make("jpeg"))
        assert pool.process_ids == pids


async def test_an_image_that_kills_two_processes_is_poison_and_its_neighbours_are_not(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(monkeypatch):
        async with running(memory) as pool:
            good = files.make("jpeg")
            work = [decode(pool, good, PICTURE.nbytes), refusal(pool, marked(KILLER)), decode(pool, good)]
            results = await asyncio.gather(*work)
    assert isinstance(results[1], problems.ItemProblem)
    assert results[1].reason is problems.Reason.POISON


async def test_an_image_whose_process_is_killed_by_somebody_else_gets_another(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(memory) as pool:
        with faulty(monkeypatch):
            await decode(pool, files.make("jpeg"))
        first = pool.process_ids
        work = asyncio.create_task(decode(pool, marked(HANGER)))
        await until(lambda: sleeping(first[0]))
        os.kill(first[0], signal.SIGKILL)
        # The next process has no faults.
        await work
        assert pool.process_ids != first


def sleeping(pid: int) -> bool:
    """Whether it is in its injected sleep, and not waiting for a file."""
    return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()


async def test_a_process_that_died_while_idle_costs_no_image_an_attempt(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(memory) as pool:
        await decode(pool, files.make("jpeg"))
        os.kill(pool.process_ids[0], signal.SIGKILL)
        await until(lambda: pool.process_ids == [])
        await decode(pool, files.make("jpeg"))


async def test_an_image_that_takes_too_long_is_undecodable_and_its_process_is_replaced(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(monkeypatch):
        async with running(memory, decode_s=2.0) as pool:
            problem = await refusal(pool, marked(HANGER))
            assert problem.reason is problems.Reason.UNDECODABLE
            assert problem.message == "The image takes longer than 2 s to decode."
            assert pool.process_ids == []
            await decode(pool, files.make("png", 40, 30))


async def test_a_waiting_image_can_be_cancelled_and_one_in_work_ends_with_its_answer(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(memory) as pool:
        with faulty(monkeypatch):
            await decode(pool, files.make("jpeg"))
        pid = pool.process_ids[0]
        working = asyncio.create_task(decode(pool, marked(HANGER)))
        at_hand = [asyncio.create_task(decode(pool, files.make("jpeg"))) for _ in range(2)]
        waiting = asyncio.create_task(decode(pool, files.make("jpeg")))
        await until(lambda: sleeping(pid))
        at_hand[0].cancel()
        waiting.cancel()
        working.cancel()
        await asyncio.wait([waiting], timeout=DEADLINE_S)
        assert waiting.cancelled()
        working.cancel()
        await asyncio.sleep(0)
        assert not working.done() and not at_hand[0].done(), "a decoder may still write into their places"
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait([working, *at_hand], timeout=DEADLINE_S)
        assert working.cancelled() and at_hand[0].cancelled()
        assert at_hand[1].result() > 0
        await decode(pool, files.make("jpeg"))


async def test_what_waits_behind_a_killer_costs_it_nothing(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that a process had at hand when it died are not suspect, however often it happens."""
    with faulty(monkeypatch):
        async with running(memory) as pool:
            work = asyncio.gather(*(refusal(pool, marked(KILLER)) for _ in range(3)))
            good = asyncio.gather(*(decode(pool, files.make("jpeg"), PICTURE.nbytes) for _ in range(2)))
            killers, seconds = await work, await good
    assert [one.reason for one in killers] == [problems.Reason.POISON] * 3
    assert min(seconds) > 0


async def test_an_image_behind_a_slow_one_is_not_late(memory: arena.Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(monkeypatch):
        async with running(memory, decode_s=1.5) as pool:
            slow = [refusal(pool, marked(HANGER)) for _ in range(2)]
            problem, *_, seconds = await asyncio.gather(*slow, decode(pool, files.make("jpeg")))
    assert isinstance(problem, problems.ItemProblem) and problem.reason is problems.Reason.UNDECODABLE
    assert isinstance(seconds, float)


async def test_images_are_decoded_in_the_order_in_which_they_came(memory: arena.Arena) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        await decode(pool, files.make("jpeg", 50, 50))
        order.append(number)

    async with running(memory) as pool:
        await asyncio.gather(*(one(number) for number in range(12)))
    assert order == list(range(12))


async def test_who_asks_again_and_again_does_not_overtake_who_waits(memory: arena.Arena) -> None:
    order: list[str] = []

    async def greedy() -> None:
        for _ in range(3):
            await decode(pool, files.make("jpeg", 50, 50))
            order.append("greedy")

    async def patient() -> None:
        await decode(pool, files.make("jpeg", 50, 50))
        order.append("patient")

    async with running(memory) as pool:
        await asyncio.gather(greedy(), patient())
    assert order == ["greedy", "patient", "greedy", "greedy"]


async def test_what_is_urgent_is_decoded_before_all_that_no_process_has_at_hand(memory: arena.Arena) -> None:
    order: list[str] = []

    async def one(name: str, *, urgent: bool) -> None:
        await pool.decode(files.make("jpeg", 50, 50), PICTURE, max_pixels=MAX_PIXELS, offset=0, urgent=urgent)
        order.append(name)

    async with running(memory) as pool:
        usual = [one(f"usual {number}", urgent=False) for number in range(5)]
        await asyncio.gather(*usual, *(one(f"urgent {number}", urgent=True) for number in range(2)))
    assert order == ["usual 0", "usual 1", "usual 2", "urgent 0", "urgent 1", "usual 3", "usual 4"]


async def test_images_of_batches_keep_their_share_while_those_of_calls_wait_all_the_time(memory: arena.Arena) -> None:
    image = files.make("jpeg", 400, 400)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    over = asyncio.Event()

    async def one(*, urgent: bool) -> None:
        seconds[urgent].append(
            await pool.decode(image, PICTURE, max_pixels=MAX_PIXELS, offset=PICTURE.nbytes * urgent, urgent=urgent)
        )

    async def calls() -> None:
        while not over.is_set() and len(seconds[True]) < MOST_CALLS:
            await one(urgent=True)

    async with running(memory) as pool:
        # One is decoded, two are at hand, and the others wait.
        callers = [asyncio.create_task(calls()) for _ in range(8)]
        await until(lambda: bool(seconds[True]))
        before = len(seconds[True])
        await asyncio.gather(*(one(urgent=False) for _ in range(40)))
        meanwhile = seconds[True][before:]
        over.set()
        await asyncio.gather(*callers)
    assert len(seconds[True]) < MOST_CALLS, "batches came last"
    # Half of all, the lead that calls have, and what was on its way and not measured yet, twice.
    assert sum(meanwhile) <= sum(seconds[False]) + 0.5 + 8 * max(seconds[True])


async def test_what_calls_cost_counts_also_when_nothing_comes_of_it(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that stall a decoder cost the most of all."""
    order: list[str] = []

    async def usual(number: int) -> None:
        await decode(pool, files.make("jpeg", 50, 50))
        order.append(f"usual {number}")

    async def urgent(number: int) -> None:
        with pytest.raises(problems.ItemProblem):
            await pool.decode(marked(HANGER), PICTURE, max_pixels=MAX_PIXELS, offset=0, urgent=True)
        order.append(f"urgent {number}")

    with faulty(monkeypatch):
        async with running(memory, decode_s=1.5) as pool:
            first = [usual(number) for number in range(3)]
            await asyncio.gather(*first, urgent(0), urgent(1), usual(3), usual(4))
    assert order[3:] == ["urgent 0", "usual 3", "usual 4", "urgent 1"]


async def test_idle_processes_end_and_come_back_when_they_are_needed(memory: arena.Arena) -> None:
    time = clock.FakeClock()
    async with running(memory, time=time, idle_s=10.0) as pool:
        await decode(pool, files.make("jpeg"))
        time.advance(5.0)
        await until_woken()
        assert len(pool.process_ids) == 1
        time.advance(5.0)
        await until(lambda: pool.process_ids == [])
        await decode(pool, files.make("jpeg"))


async def until_woken() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_end_of_the_pool_ends_what_is_under_way(memory: arena.Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(monkeypatch):
        async with running(memory) as pool:
            work = [asyncio.create_task(decode(pool, marked(HANGER))) for _ in range(3)]
            await until(lambda: any(sleeping(pid) for pid in pool.process_ids))
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [decoder_pool.Unavailable] * 3


async def test_processes_that_cannot_be_started_are_no_fault_of_the_image(
    memory: arena.Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with running(memory) as pool:
        with pytest.raises(decoder_pool.Unavailable, match="could not be started"):
            await decode(pool, files.make("jpeg"))


@pytest.mark.parametrize("kind", ["bomb_png", "bomb_webp", "bomb_tiff_tile", "bomb_jpeg", "bomb_gif"])
async def test_a_bomb_that_the_workloads_limit_lets_through_bursts_inside_the_memory_limit(
    memory: arena.Arena, kind: str
) -> None:
    limit = 200 * MIB
    async with running(memory, memory_bytes=limit) as pool:
        await decode(pool, files.make("jpeg"))
        pid = pool.process_ids[0]
        problem = await refusal(pool, files.broken(kind), max_pixels=2**40)
        assert problem.reason is problems.Reason.TOO_LARGE
        assert pool.process_ids == [pid], "it survives"
        assert anonymous_peak_bytes(pid) < limit
        await decode(pool, files.make("jpeg"))


async def test_memory_has_a_bound_that_files_cannot_talk_away(memory: arena.Arena) -> None:
    """The tile of this one is far larger than the image that its header tells."""
    async with running(memory, memory_bytes=200 * MIB) as pool:
        problem = await refusal(pool, files.broken("bomb_tiff_tile"))
        assert problem.message == "The image takes more memory than a decoder has."
        limits = Path(f"/proc/{pool.process_ids[0]}/limits").read_text()
        bound = next(line for line in limits.splitlines() if line.startswith("Max address space")).split()[3]
        assert 200 * MIB <= int(bound) < 2_000 * MIB


async def test_an_image_needs_no_more_memory_than_its_pixels_are_counted_for(memory: arena.Arena) -> None:
    """Of a progressive JPEG every coefficient is kept, which costs more than its pixels do."""
    file = io.BytesIO()
    Image.new("RGB", (3_000, 3_400)).save(file, "JPEG", progressive=True, subsampling=0)
    async with running(memory, memory_bytes=3_000 * 3_400 * 16) as pool:
        await decode(pool, file.getvalue())
    async with running(memory, memory_bytes=3_000 * 3_400 * 16 - 16) as pool:
        problem = await refusal(pool, file.getvalue())
        assert problem.message == "The image has more than 10199999 pixels."


async def test_decoders_do_not_outlive_a_front_that_dies() -> None:
    """Not even one that is at work: its own alarm ends it."""
    program = (
        "import asyncio, os, signal, sys\n"
        "from podium_runtime import clock\n"
        "from podium_worker.adapters import arena, decoder_pool\n"
        "from podium_worker.domain import pictures\n"
        "async def main():\n"
        "    limits = decoder_pool.Limits(decode_s=1.0)\n"
        "    pool = decoder_pool.DecoderPool(2, arena.Arena(1 << 20), limits, clock.SystemClock())\n"
        "    def go(data): return pool.decode(data, pictures.Picture(8, 8, 8), max_pixels=9999, offset=0)\n"
        "    await asyncio.gather(go(b''), go(b''), return_exceptions=True)\n"
        "    asyncio.create_task(go(b'HANG'))\n"
        "    for _ in range(20): await asyncio.sleep(0)\n"
        "    print(*pool.process_ids, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    front = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PODIUM_FAULT_DECODE_HANG": "HANG"},
    )  # fmt: skip
    output, _ = await front.communicate()
    pids = [int(pid) for pid in output.splitlines()[-1].split()]
    assert len(pids) == 2
    await until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_decoder_imports_neither_torch_nor_grpc_nor_protobuf() -> None:
    import subprocess

    program = "import sys, podium_worker.decoder.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    heavy = {name.split(".")[0] for name in loaded} & {"torch", "torchvision", "grpc", "google", "structlog", "aiohttp"}
    assert heavy == set()


def test_a_decoder_gets_no_token_and_no_key() -> None:
    secret = {"PODIUM_JOIN_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "x"}
    given = {"PATH": "/bin", "PYTHONPATH": "here", "PODIUM_FAULT_DECODE_KILL": "x"}
    assert decoder_process.environment(secret | given) == given | {"OPENBLAS_NUM_THREADS": "1"}

"""A real worker process against a scheduler in the test's memory: the life of its sessions and batches."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import lz4.frame
import numpy as np
import numpy.typing as npt

from podium.common.v1 import item_pb2, job_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import fake_scheduler as fake
from tests.support import processes

TEXTS = [f"text {number}, Übergröße 漢字" for number in range(300)]


def _matrix(chunks: list[worker_pb2.BatchChunk]) -> npt.NDArray[np.float32]:
    rows = [np.frombuffer(c.chunk.vectors, dtype="<f4").reshape(c.chunk.count, c.chunk.dimension) for c in chunks]
    return np.concatenate(rows)


def _expected(texts: list[str], dimension: int = 64) -> npt.NDArray[np.float32]:
    return hash_vectors([text.encode() for text in texts], dimension)


def _offers(workload: str) -> Callable[[worker_pb2.Status], bool]:
    def wanted(status: worker_pb2.Status) -> bool:
        return any(w.workload == workload and w.credits > 0 for w in status.workloads)

    return wanted


async def _result_on_a_stream_with_words(session: fake.Session) -> None:
    """A batch's result; until then the lease is renewed, however long a busy machine takes to start an executor."""
    result = asyncio.create_task(session.result())
    while not result.done():
        session.say(desired=worker_pb2.Desired())
        await asyncio.wait([result], timeout=0.2)
    await result


async def test_a_batch_comes_back_exact_and_is_forgotten_after_its_ack(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()], max_chunk_bytes=64 * 1024)
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path) as process:
        session = await scheduler.session()
        assert session.hello.devices[0].uuid == "cpu"
        assert "hash" in session.hello.backends
        await session.status(_offers("hash-64"))
        keys = [f"key-{number}" for number in range(len(TEXTS))]
        assign = scheduler.assignment("hash-64", TEXTS, payload=fake.payload(TEXTS, keys), first_item=1000)
        session.say(assign=assign)
        chunks, done = await session.result()

        assert np.array_equal(_matrix(chunks), _expected(TEXTS))
        assert done.lease == assign.lease
        # 300 rows of 256 bytes: 256 rows fill the 64 KB of the first chunk.
        assert [c.chunk.item_count for c in chunks] == [256, 44]
        assert done.chunk_count == 2
        assert [c.chunk.first_item for c in chunks] == [1000, 1256]
        assert [c.chunk.last_in_batch for c in chunks] == [False, True]
        assert all(c.chunk.crc32c == google_crc32c.value(c.chunk.vectors) for c in chunks)
        assert [key for c in chunks for key in c.chunk.keys] == keys
        made_by = chunks[0].chunk.provenance
        assert (made_by.backend, made_by.dimension, made_by.dtype) == ("hash", 64, workload_pb2.DTYPE_FLOAT32)

        await session.status(lambda s: [lease.batch_id for lease in s.in_hand] == [assign.lease.batch_id])
        session.statuses.clear()
        session.acknowledge(assign.lease)
        await session.status(lambda s: not s.in_hand)
        assert process.ready()["service"] == "worker"


async def test_compressed_payload_and_half_of_a_bisected_batch(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        assign = scheduler.assignment(
            "hash-64",
            TEXTS,
            payload=lz4.frame.compress(fake.payload(TEXTS)),
            payload_encoding=item_pb2.PAYLOAD_ENCODING_LZ4_FRAME,
            payload_offset=150,
            item_count=100,
            first_item=150,
        )
        session.say(assign=assign)
        chunks, _ = await session.result()
        assert np.array_equal(_matrix(chunks), _expected(TEXTS[150:250]))
        assert chunks[0].chunk.batch_first_item == 150


async def test_what_cannot_be_read_fails_for_good(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        half = item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_FLOAT16)
        for changes in (
            {"payload": b"\xff\xff"},
            {"payload": b"no frame", "payload_encoding": item_pb2.PAYLOAD_ENCODING_LZ4_FRAME},
            {"payload_offset": 1},
            {"options": half},
        ):
            session.say(assign=scheduler.assignment("hash-64", ["one"], **changes))
            failed = await session.next("failed")
            assert failed.reason == job_pb2.BATCH_FAILURE_REASON_BAD_PAYLOAD, changes
            assert not failed.retryable


async def test_an_unknown_backend_is_told_and_not_offered(tmp_path: Path) -> None:
    clip = fake.hash_workload("clip")
    clip.model.backend = "open_clip_of_tomorrow"
    scheduler = fake.FakeScheduler([clip, fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        status = await session.status(_offers("hash-64"))
        offer = next(w for w in status.workloads if w.workload == "clip")
        assert offer.credits == 0
        assert "open_clip_of_tomorrow" in offer.unavailable_reason


async def test_missing_model_files_are_one_clear_sentence(tmp_path: Path) -> None:
    lost = fake.minilm_workload()
    lost.model.local_path = str(tmp_path / "nowhere")
    scheduler = fake.FakeScheduler([lost])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        status = await session.status(lambda s: bool(s.workloads))
        assert status.workloads[0].credits == 0
        assert "nowhere" in status.workloads[0].unavailable_reason
        session.say(assign=scheduler.assignment("minilm", ["text"]))
        failed = await session.next("failed")
        assert failed.reason == job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE
        assert failed.retryable


async def test_a_killed_executor_is_replaced_and_the_stream_stays(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload("wide", 4096)])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path) as process:
        session = await scheduler.session()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_IDLE)
        executor = process.executors()[0]
        await processes.freeze(executor)
        assigned = [scheduler.assignment("wide", TEXTS) for _ in range(3)]
        for assign in assigned:
            session.say(assign=assign)
        await session.status(lambda s: len(s.in_hand) == 3)
        os.kill(executor, signal.SIGKILL)
        failed = [await session.next("failed") for _ in assigned]
        assert [f.lease for f in failed] == [a.lease for a in assigned]
        # It was stopped before it began: none of the three can have killed it.
        assert [f for f in failed if not (f.retryable and f.handed_back)] == []

        session.statuses.clear()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_IDLE and not s.in_hand)
        session.say(assign=scheduler.assignment("wide", TEXTS))
        chunks, _ = await session.result()
        assert np.array_equal(_matrix(chunks), _expected(TEXTS, 4096))
        assert len(process.executors()) == 2


async def test_finished_results_survive_a_broken_stream(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        first = await scheduler.session()
        kept = scheduler.assignment("hash-64", TEXTS)
        first.say(assign=kept)
        chunks, _ = await first.result()
        first.cut()

        second = await scheduler.session()
        assert second.hello.worker_id == first.hello.worker_id
        assert list(second.hello.in_hand) == [kept.lease]
        again, done = await second.result()
        assert [c.SerializeToString() for c in again] == [c.SerializeToString() for c in chunks]
        second.acknowledge(done.lease)
        await second.status(lambda s: not s.in_hand)


async def test_what_is_not_resumed_is_dropped(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    scheduler.resume = False
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        first = await scheduler.session()
        first.say(assign=scheduler.assignment("hash-64", TEXTS))
        await first.result()
        first.cut()
        second = await scheduler.session()
        await second.status(lambda s: not s.in_hand)
        other = scheduler.assignment("hash-64", TEXTS[:5])
        second.say(assign=other)
        _, done = await second.result()
        assert done.lease == other.lease


async def test_a_silent_stream_is_given_up_while_its_leases_are_good(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()], lease_ttl=fake.seconds(4))
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        kept = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=kept)
        await _result_on_a_stream_with_words(session)
        again = await scheduler.session()
        assert again.hello.worker_id == session.hello.worker_id
        assert list(again.hello.in_hand) == [kept.lease]


async def test_leases_are_dropped_when_no_scheduler_says_a_word(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()], lease_ttl=fake.seconds(2))
    async with (
        fake.served(scheduler) as address,
        fake.worker(address, tmp_path, connect_timeout_s="0.5") as process,
    ):
        session = await scheduler.session()
        session.say(assign=scheduler.assignment("hash-64", TEXTS))
        await _result_on_a_stream_with_words(session)
        scheduler.welcoming = False
        async with asyncio.timeout(fake.STEP_S):
            metrics = process.ready()["metrics"]
            while not await processes.metric(metrics, "podium_worker_fenced_total"):  # noqa: ASYNC110 - by the worker
                await asyncio.sleep(0.02)
        scheduler.welcoming = True
        again = await scheduler.session()
        # The Hello that is answered first may be one that was on its way before.
        if again.hello.in_hand:
            again = await scheduler.session()
        assert again.hello.worker_id == session.hello.worker_id
        assert not again.hello.in_hand


async def test_sigterm_finishes_what_is_in_hand_and_says_goodbye(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path) as process:
        session = await scheduler.session()
        assign = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=assign)
        _, done = await session.result()
        process.process.terminate()
        status = await session.status(lambda s: s.draining)
        assert all(w.credits == 0 for w in status.workloads)
        late = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=late)
        refused = await session.next("failed")
        assert refused.lease == late.lease and refused.handed_back
        session.acknowledge(done.lease)
        goodbye = await session.next("goodbye")
        assert not goodbye.in_hand
        session.cut()
        assert await process.ended() == 0


async def test_a_drain_that_takes_too_long_hands_back(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with (
        fake.served(scheduler) as address,
        fake.worker(address, tmp_path, shutdown_grace_s="0.2") as process,
    ):
        session = await scheduler.session()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_IDLE)
        finished = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=finished)
        await session.result()
        executor = process.executors()[0]
        await processes.freeze(executor)
        waiting = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=waiting)
        await session.status(lambda s: len(s.in_hand) == 2)
        session.say(desired=worker_pb2.Desired(drain=True))
        failed = await session.next("failed")
        assert failed.lease == waiting.lease and failed.handed_back
        goodbye = await session.next("goodbye")
        assert list(goodbye.in_hand) == [finished.lease]
        session.cut()
        assert await process.ended() == 0


async def test_the_next_replica_is_tried_when_one_is_away(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(f"127.0.0.1:1,{address}", tmp_path):
        session = await scheduler.session()
        await session.status(_offers("hash-64"))


async def test_executors_end_with_their_front(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path) as process:
        session = await scheduler.session()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_IDLE)
        executor = os.pidfd_open(process.executors()[0])
        try:
            process.process.kill()
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(executor, ended.set)
            async with asyncio.timeout(fake.STEP_S):
                await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(executor)
            os.close(executor)


async def test_minilm_is_loaded_when_desired_and_truncation_is_told(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.minilm_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        session.say(desired=worker_pb2.Desired(resident_workloads=["minilm"]))
        status = await session.status(lambda s: list(s.devices[0].resident_workloads) == ["minilm"])
        assert status.workloads[0].load_duration.ToMilliseconds() > 0
        session.say(assign=scheduler.assignment("minilm", ["short", "word " * 1000], first_item=40))
        chunks, done = await session.result()
        (chunk,) = (c.chunk for c in chunks)
        assert list(chunk.truncations) == [result_pb2.Truncation(item_index=41, token_count=1002, max_tokens=256)]
        assert np.allclose(np.linalg.norm(_matrix(chunks), axis=1), 1, atol=1e-5)
        # "[CLS] short [SEP]" and 256 tokens of the long one.
        assert done.token_count == 3 + 256
        assert chunk.provenance.pooling == workload_pb2.POOLING_MEAN
        assert chunk.provenance.precision == "float32"


async def test_a_batch_in_the_executor_is_stopped_at_the_next_micro_batch(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path, fault_delay_s="0.2") as process:
        session = await scheduler.session()
        slow = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=slow)
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_BUSY)
        session.say(cancel=worker_pb2.Cancel(lease=slow.lease))
        await session.status(lambda s: not s.in_hand)
        after = scheduler.assignment("hash-64", TEXTS[:3])
        session.say(assign=after)
        _, done = await session.result()
        assert done.lease == after.lease
        metrics = process.ready()["metrics"]
        assert await processes.metric(metrics, "podium_worker_batches_total", outcome="dropped") == 1
        # All of it would have been 300 items.
        assert await processes.metric(metrics, "podium_worker_items_computed_total") < 150


async def test_an_executor_that_stands_still_is_replaced_and_its_batch_told(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    settings = {"fault_hang": "never returns", "stillness_limit_s": "2"}
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path, **settings) as process:
        session = await scheduler.session()
        stuck = scheduler.assignment("hash-64", ["this one never returns"])
        waiting = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=stuck)
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_BUSY)
        session.say(assign=waiting)
        told = {f.lease.batch_id: f for f in [await session.next("failed") for _ in range(2)]}
        assert told[stuck.lease.batch_id].reason == job_pb2.BATCH_FAILURE_REASON_EXECUTOR_HUNG
        assert not told[stuck.lease.batch_id].handed_back
        assert told[waiting.lease.batch_id].handed_back
        again = scheduler.assignment("hash-64", TEXTS)
        session.statuses.clear()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_IDLE)
        session.say(assign=again)
        chunks, _ = await session.result()
        assert np.array_equal(_matrix(chunks), _expected(TEXTS))
        assert len(process.executors()) == 2


async def test_a_device_that_is_faulted_is_out_of_service_until_its_canary_passes(tmp_path: Path) -> None:
    # Side by side, for it has to rest for 5 s.
    async with asyncio.TaskGroup() as both:
        for fault in (_computes_nans, _loses_its_context):
            folder = tmp_path / fault.__name__
            folder.mkdir()
            both.create_task(fault(folder))


async def _computes_nans(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path, fault_corrupt="nan") as process:
        session = await scheduler.session()
        small = scheduler.assignment("hash-64", TEXTS[:3])
        session.say(assign=small)
        await session.result()
        session.acknowledge(small.lease)
        large = scheduler.assignment("hash-64", TEXTS)
        session.say(assign=large)
        failed = await session.next("failed")
        assert failed.lease == large.lease and failed.handed_back
        status = await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_FAULTED)
        assert (
            status.devices[0].reason == "The canary of workload 'hash-64' failed: its vectors hold a NaN or an infinity"
        )
        assert all(w.credits == 0 for w in status.workloads)
        session.statuses.clear()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_READY)
        assert len(process.executors()) == 2
        session.say(assign=scheduler.assignment("hash-64", TEXTS[:3]))
        chunks, _ = await session.result()
        assert np.array_equal(_matrix(chunks), _expected(TEXTS[:3]))


async def _loses_its_context(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path, fault_corrupt="error") as process:
        session = await scheduler.session()
        session.say(assign=scheduler.assignment("hash-64", TEXTS))
        failed = await session.next("failed")
        # It may be the batch's fault: the attempt counts.
        assert failed.reason == job_pb2.BATCH_FAILURE_REASON_INTERNAL and not failed.handed_back
        status = await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_FAULTED)
        assert "the device's context is lost" in status.devices[0].reason
        session.statuses.clear()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_READY)
        assert len(process.executors()) == 2
        session.say(assign=scheduler.assignment("hash-64", TEXTS[:3]))
        chunks, _ = await session.result()
        assert np.array_equal(_matrix(chunks), _expected(TEXTS[:3]))


async def test_a_check_is_answered_in_the_status(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path) as process:
        session = await scheduler.session()
        session.say(desired=worker_pb2.Desired(resident_workloads=["hash-64"]))
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_READY)
        session.say(desired=worker_pb2.Desired(resident_workloads=["hash-64"], check=7))
        await session.status(lambda s: s.checked == 7)
        metrics = process.ready()["metrics"]
        assert await processes.metric(metrics, "podium_worker_canaries_total", outcome="passed") == 1


async def test_the_heartbeat_is_the_schedulers_to_set_at_any_time(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()], heartbeat_interval=fake.seconds(600))
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        session.say(desired=worker_pb2.Desired(resident_workloads=["hash-64"], heartbeat_interval=fake.seconds(0.06)))
        await session.status(_offers("hash-64"))
        # Nothing changes any more; at the old cadence there would be no other for ten minutes.
        many = len(session.statuses) + 20
        await session.status(lambda _: len(session.statuses) >= many)


async def test_a_model_that_computes_what_was_recorded_is_offered_and_another_is_not(tmp_path: Path) -> None:
    right, wrong = fake.hash_workload("right"), fake.hash_workload("wrong")
    right.model.canaries.add(text=TEXTS[0], elements=_expected(TEXTS[:1])[0].tolist())
    wrong.model.canaries.add(text=TEXTS[0], elements=_expected(TEXTS[1:2])[0].tolist())
    scheduler = fake.FakeScheduler([right, wrong])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path):
        session = await scheduler.session()
        session.say(desired=worker_pb2.Desired(resident_workloads=["right", "wrong"]))
        status = await session.status(lambda s: any(w.unavailable_reason for w in s.workloads))
        (refused,) = [w for w in status.workloads if w.unavailable_reason]
        assert (refused.workload, refused.credits) == ("wrong", 0)
        assert refused.unavailable_reason.startswith("The vector of 'text 0, ")
        assert refused.unavailable_reason.endswith("these are other model files, or wrong canaries in the registry.")
        # The device is sound: the other model is served.
        session.say(assign=scheduler.assignment("right", TEXTS))
        chunks, _ = await session.result()
        assert np.array_equal(_matrix(chunks), _expected(TEXTS))


async def test_an_executor_that_is_stopped_does_not_outlive_its_worker(tmp_path: Path) -> None:
    scheduler = fake.FakeScheduler([fake.hash_workload()])
    async with fake.served(scheduler) as address, fake.worker(address, tmp_path) as process:
        session = await scheduler.session()
        await session.status(lambda s: s.devices[0].state == worker_pb2.DEVICE_STATE_IDLE)
        (executor,) = process.executors()
        handle = os.pidfd_open(executor)
        os.kill(executor, signal.SIGSTOP)
        process.process.kill()
        try:
            # A pidfd can be read once its process has ended.
            assert (await asyncio.to_thread(select.select, [handle], [], [], fake.STEP_S))[0]
        finally:
            os.close(handle)

"""An executor that dies in the middle of image work, at each stage of it: nothing is lost, nothing comes twice, and
what is computed again is at most what was in its hands."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from podium_client import AsyncClient
from podium_worker.adapters.hash_backend import PICTURE, hash_vectors
from podium_worker.decoder import transform
from tests.support import image_server, pictures, processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
ITEMS, BATCH = 640, 64
FILES = [pictures.make("png", 24 + number, 20 + number % 7, seed=number) for number in range(40)]
# Of the ten batches of the job: the bound has to be one that computing everything twice would break.
IN_HAND = 2


def expected() -> np.ndarray:
    seen = [transform.decode(data, PICTURE, 1 << 20).tobytes() for data in FILES]
    rows = hash_vectors(seen, 64)
    return np.stack([rows[number % len(FILES)] for number in range(ITEMS)])


async def embed(running: stack.Stack, items: list[bytes | str]) -> np.ndarray:
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        result = await client.embed_images(items, workload="hash-image")
    assert result.ok.all()
    return np.asarray(result.vectors)


@pytest.mark.parametrize("stage", ["load", "prepare", "compute", "send"])
async def test_an_executor_dies_at(stage: str, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    async with stack.running(tmp_path, fault_stage=f"{stage}:{marker}", max_batches_in_hand=str(IN_HAND)) as running:
        (worker,) = running.workers
        vectors = await embed(running, [FILES[number % len(FILES)] for number in range(ITEMS)])
        computed = await processes.metric(worker.metrics, "podium_worker_items_computed_total", workload="hash-image")
        deaths = await processes.metric(worker.metrics, "podium_worker_executor_restarts_total")
        sessions = await processes.metric(worker.metrics, "podium_worker_sessions_total")
    assert marker.exists()
    assert (deaths, sessions) == (1, 1)
    np.testing.assert_array_equal(vectors, expected())
    assert ITEMS <= computed <= ITEMS + IN_HAND * BATCH


async def test_an_executor_that_dies_while_images_are_fetched_costs_no_fetch(tmp_path: Path) -> None:
    held = asyncio.Event()
    async with image_server.ImageServer() as server:
        urls = [server.held(f"/{number}.png", data, held) for number, data in enumerate(FILES)]
        async with stack.running(tmp_path, fetch_allow=f"127.0.0.1:{server.port}") as running:
            (worker,) = running.workers
            embedding = asyncio.create_task(embed(running, [urls[number % len(urls)] for number in range(ITEMS)]))
            await server.until(lambda: sum(server.requests.values()) > 0, STEP_S)
            executors = processes.children(worker.process.pid)
            os.kill(executors[0], signal.SIGKILL)
            held.set()
            vectors = await embedding
            deaths = await processes.metric(worker.metrics, "podium_worker_executor_restarts_total")
    assert deaths == 1
    np.testing.assert_array_equal(vectors, expected())
    assert sum(server.requests.values()) == ITEMS


async def test_a_decoder_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:
        (worker,) = running.workers
        embedding = asyncio.create_task(embed(running, [FILES[number % len(FILES)] for number in range(ITEMS)]))
        async with asyncio.timeout(STEP_S):
            while len(family := processes.children(worker.process.pid)) < 2:  # noqa: ASYNC110 - by the worker
                await asyncio.sleep(0.01)
        for pid in family[1:]:
            os.kill(pid, signal.SIGKILL)
        vectors = await embedding
    np.testing.assert_array_equal(vectors, expected())

"""Items that kill the process that computes them: each stands alone in the end, and takes no other item with it."""

from __future__ import annotations

import asyncio
import math
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ITEMS = 1_000
MARKER = "kills its reader"
STEP_S = 200.0
BOUND = 2 * math.log2(ITEMS) + 2


async def embed(texts: list[str], directory: Path, *, workers: int = 1) -> tuple[Embeddings, int]:
    """The client's result, and how many executors died for it."""
    async with stack.running(directory, workers=workers, fault_poison=MARKER) as running:
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            result = await client.embed_texts(texts, workload="hash-384", on_error="return")
            (job_id,) = result.jobs
            progress = (await client.job(job_id)).progress
        deaths = [await asyncio.to_thread(executor_deaths, worker.metrics) for worker in running.workers]
    failed = len(result.errors)
    assert (progress.items_succeeded, progress.items_failed) == (len(texts) - failed, failed)
    return result, sum(deaths)


def executor_deaths(metrics: str) -> int:
    """What a worker counts itself."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    found = re.findall(r"^podium_worker_executor_restarts_total\{.*\} (\S+)$", text, re.MULTILINE)
    return int(sum(float(count) for count in found))


def texts_with(poison: set[int]) -> list[str]:
    return [f"text {n}" + (f" {MARKER}" if n in poison else "") for n in range(ITEMS)]


def assert_only_lost(result: Embeddings, texts: list[str], poison: set[int]) -> None:
    """Every other text has exactly its own vector; each poison has one typed error at its place."""
    assert [(e.index, e.reason) for e in result.errors] == [(n, "EXECUTOR_CRASHED") for n in sorted(poison)]
    assert {e.message for e in result.errors} == {"this item alone kills the process that computes it"}
    assert set(np.flatnonzero(~result.ok)) == poison
    expected = hash_vectors([t.encode() for t in texts], 384)
    expected[sorted(poison)] = 0
    np.testing.assert_array_equal(result.vectors, expected)


async def test_one_poison_item_in_a_thousand(tmp_path: Path) -> None:
    texts = texts_with({617})
    result, deaths = await embed(texts, tmp_path)
    assert_only_lost(result, texts, {617})
    assert 1 <= deaths <= BOUND, deaths


@pytest.mark.parametrize("poison", [{300, 301}, {0, 999}], ids=["neighbours", "far apart"])
async def test_two_poison_items(tmp_path: Path, poison: set[int]) -> None:
    texts = texts_with(poison)
    result, deaths = await embed(texts, tmp_path)
    assert_only_lost(result, texts, poison)
    assert 1 <= deaths <= 2 * BOUND, deaths


async def test_poison_spares_the_other_worker_s_items(tmp_path: Path) -> None:
    texts = texts_with({42})
    result, deaths = await embed(texts, tmp_path, workers=2)
    assert_only_lost(result, texts, {42})
    assert 1 <= deaths <= BOUND, deaths

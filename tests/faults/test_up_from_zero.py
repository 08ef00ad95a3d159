"""`podium up --pods N` as a person runs it: no worker until there is work, and none when there was none for a while.

Among the faults because the while is a minute, as it is for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from podium_scheduler.adapters import pods_file
from tests.support import up_command

pytestmark = [pytest.mark.faults, pytest.mark.timeout(420)]

TEXTS = [f"text number {number}" for number in range(300)]
ROUNDS_S = 60.0
"""For the rounds of autoscaler and keeper that it takes to notice, drain and destroy; more than it needs."""


def workers(stack: up_command.Up) -> list[psutil.Process]:
    """Of all pods."""
    found = []
    for process in stack.family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[-2:] == ["-m", "podium_worker"]:
                found.append(process)
    return found


async def pods(stack: up_command.Up, *states: str, within_s: float) -> list[Any]:
    """All pods there ever were, newest first, once they are in these states."""
    async with asyncio.timeout(within_s):
        while True:
            found = await stack.podium("pods", "--all")
            if [pod["state"].removeprefix("POD_STATE_") for pod in found] == list(states):
                return found
            await asyncio.sleep(1)


async def test_work_has_a_pod_started_which_ends_when_it_is_idle(tmp_path: Path) -> None:
    async with up_command.up(tmp_path, "--pods", "1") as stack:
        idle_s = pods_file.load(tmp_path / "pods.yaml").idle_s
        assert stack.facts["workers"] == [] and workers(stack) == []
        assert await stack.podium("pods", "--all") == []
        async with stack.client() as client, asyncio.timeout(up_command.READY_S):
            first = await client.embed_texts(TEXTS, workload="hash-384")
        assert first.ok.all()
        (pod,) = await pods(stack, "READY", within_s=ROUNDS_S)
        assert (pod["provider"], pod["price_usd_per_hour"]) == ("local", 0)
        assert len(workers(stack)) == 1
        (gone,) = await pods(stack, "DESTROYED", within_s=idle_s + ROUNDS_S)
        assert (gone["pod_id"], gone["cause"]) == (pod["pod_id"], "POD_REASON_IDLE")
        assert workers(stack) == []
        # From zero again; and it ends with the command.
        async with stack.client() as client, asyncio.timeout(up_command.READY_S):
            assert (await client.embed_texts([f"{text}!" for text in TEXTS], workload="hash-384")).ok.all()
        await pods(stack, "READY", "DESTROYED", within_s=ROUNDS_S)
        family = stack.family
        assert await stack.end(signal.SIGINT) == 0
        await up_command.gone(family)

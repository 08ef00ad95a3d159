"""After the faults: waiting until all is quiet, the last reads, and a look at everything that still runs."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis import exceptions

from podium_client import AsyncClient, PodiumError
from tests.faults.nemesis import clients, ledger, logs, plan
from tests.faults.nemesis.cluster import LEDGER_AWAY, WORKLOADS, Cluster
from tests.faults.nemesis.consumers import Crowd
from tests.faults.nemesis.consumption import Consumption
from tests.faults.nemesis.history import History, Submission
from tests.support import stack

QUIET_S = 180.0
_LAST_READ_S = 90.0
_CONSUME_S = 90.0
_CALM_S = 20.0
_SWEPT_S = 90.0
_BETWEEN_LOOKS_S = 0.3
_READERS = 4
_PREFIX = "podium"
_METRIC = re.compile(r"^(podium_\w+)(?:\{([^}]*)\})? ([-+.\de]+)$", re.MULTILINE)


async def become_quiet(cluster: Cluster) -> list[str]:
    """Waits until nothing is left to do; what still is when patience ends."""
    restless = await _patiently(lambda: _restless(cluster), QUIET_S)
    return [f"not quiet after {QUIET_S:.0f} s: {words}" for words in restless]


async def _patiently(look: Callable[[], Awaitable[list[str]]], seconds: float) -> list[str]:
    """Looks until nothing is wrong any more, or until patience ends; returns the last look."""
    give_up = asyncio.get_running_loop().time() + seconds
    while found := await look():
        if asyncio.get_running_loop().time() > give_up:
            return found
        await asyncio.sleep(_BETWEEN_LOOKS_S)
    return []


async def _restless(cluster: Cluster) -> list[str]:
    if away := [m.name for m in cluster.members.values() if not m.ready]:
        return [f"{name} is not ready" for name in away]
    try:
        async with cluster.ledger() as connection:
            found = await ledger.violations(connection, quiet=True)
            attached = await connection.fetchval("SELECT count(*) FROM sessions WHERE state = 'OPEN'")
        if attached != len(plan.WORKERS):
            found.append(f"{attached} sessions are open, {len(plan.WORKERS)} workers run")
        return found + await _work_streams(cluster)
    except (*LEDGER_AWAY, exceptions.RedisError) as error:
        return [f"{type(error).__name__}: {error}"]


async def _work_streams(cluster: Cluster) -> list[str]:
    found = []
    async with cluster.buffer() as client:
        for workload in WORKLOADS:
            key = f"{_PREFIX}:work:{workload}"
            if length := await client.xlen(key):
                found.append(f"redis: {length} entries left in {key}")
            for group in await client.xinfo_groups(key) if await client.exists(key) else ():
                if group["pending"]:
                    found.append(f"redis: {group['pending']} entries of {key} are pending")
    return found


async def last_reads(cluster: Cluster, history: History) -> list[str]:
    """Reads to the end and releases what no client has released; what could not be read in time."""
    waiting = asyncio.Semaphore(_READERS)
    unreleased = await _unreleased(cluster)

    async def one(sdk: AsyncClient, submission: Submission) -> list[str]:
        async with waiting:
            try:
                async with asyncio.timeout(_LAST_READ_S):
                    # Once is enough: what was acknowledged and is unreleased all the same is for the verdict.
                    if submission.job_id in unreleased and submission.read_up_to < submission.item_count:
                        await clients.read(sdk, submission, "last look")
                        await clients.release(sdk, submission)
            except TimeoutError:
                return [f"job {submission.job_id}: its results cannot be read to the end"]
            except PodiumError as error:
                return [f"job {submission.job_id}: {type(error).__name__} {error.reason}: {error.message}"]
        return []

    async with AsyncClient(cluster.gateways, stack.APP_TOKEN, retry=clients.PATIENCE) as sdk:
        found = await asyncio.gather(*(one(sdk, s) for s in history.accepted))
    return [words for some in found for words in some]


async def consumed(cluster: Cluster, consumption: Consumption) -> list[str]:
    """Waits until the consumers have acknowledged everything of their app; what the ledger still has to deliver."""

    async def look() -> list[str]:
        try:
            async with cluster.ledger() as connection:
                waiting = await connection.fetchval("SELECT count(*) FROM deliveries")
        except LEDGER_AWAY as error:
            return [f"{type(error).__name__}: {error}"]
        found = [f"{waiting} deliveries are waiting"] if waiting else []
        if ends := {s.job_id for s in consumption.accepted} - consumption.acknowledged_ends:
            found.append(f"the ends of {len(ends)} jobs were not acknowledged, such as {min(map(str, ends))}")
        return found

    return [f"consumers, after {_CONSUME_S:.0f} s: {words}" for words in await _patiently(look, _CONSUME_S)]


async def nothing_more(cluster: Cluster, crowd: Crowd) -> list[str]:
    """The consumers have left: nothing comes to one who comes now, and the ledger keeps nothing of theirs."""

    async def look() -> list[str]:
        async with cluster.ledger() as connection:
            rows = {t: await connection.fetchval(f"SELECT count(*) FROM {t}") for t in ("deliveries", "consumers")}
        return [f"consumers: {count} rows are left in {table}" for table, count in rows.items() if count]

    left = await _patiently(look, _CALM_S)
    if not left:
        crowd.drained()
        await crowd.last_sitting()
        left = await _patiently(look, _CALM_S)
    return left


async def leftovers(cluster: Cluster) -> list[str]:
    """Keys of Redis for results that nobody waits for any more. All jobs are read and released, so there is none."""

    async def look() -> list[str]:
        keys = await _result_keys(cluster)
        return [f"redis: {len(keys)} keys left, every result was released: {', '.join(keys[:5])}"] if keys else []

    return await _patiently(look, _SWEPT_S)


async def _result_keys(cluster: Cluster) -> list[str]:
    async with cluster.buffer() as client:
        keys = [key.decode() async for key in client.scan_iter(match=f"{_PREFIX}:*")]
    return [key for key in keys if re.match(r"\w+:(results|index):", key)]


async def keys_of_released(cluster: Cluster) -> list[str]:
    """Result keys of jobs that are unknown or wholly released; before the last reads, when others may have keys.

    A scheduler that died between a release and its drop, or a late attempt, leaves some: the leader sweeps.
    """

    async def look() -> list[str]:
        waited_for = await _unreleased(cluster)
        left = [key for key in await _result_keys(cluster) if key.split("{")[1].rstrip("}") not in waited_for]
        return [f"redis: {len(left)} keys of jobs without unread results: {', '.join(left[:5])}"] if left else []

    return await _patiently(look, _SWEPT_S)


async def _unreleased(cluster: Cluster) -> set[str]:
    """Jobs with results that nobody has acknowledged."""
    async with cluster.ledger() as connection:
        rows = await connection.fetch("SELECT job_id FROM jobs WHERE items_released < item_count")
    return {str(row["job_id"]) for row in rows}


async def health(cluster: Cluster) -> list[str]:
    """Every server must say SERVING; a starved machine may make the ledger seem away for a moment."""
    return await _patiently(lambda: _health(cluster), _CALM_S)


async def _health(cluster: Cluster) -> list[str]:
    found = []
    for name in (*plan.GATEWAYS, *plan.SCHEDULERS):
        service = cluster.members[name].service
        assert service is not None
        await service.become_ready()
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    found.append(f"{name} is ready and its health says {answer}")
            except grpc.aio.AioRpcError as error:
                found.append(f"{name} does not say how it is: {error.code()}")
    return found


async def metrics(cluster: Cluster) -> list[str]:
    """One replica leads; its gauges show an empty system; what was refused as stale was counted, each time."""
    return await _patiently(lambda: _metrics(cluster), _CALM_S)


async def _metrics(cluster: Cluster) -> list[str]:
    samples = {name: await _scrape(cluster, name) for name in plan.SCHEDULERS}
    leaders = [name for name, some in samples.items() if some.get(("podium_leader", "")) == 1]
    if len(leaders) != 1:
        return [f"metrics: leaders are {leaders}"]
    found = []
    for (name, labels), value in samples[leaders[0]].items():
        if name in ("podium_batches", "podium_queue_stream_batches", "podium_queue_pending_batches") and value:
            found.append(f"metrics: {leaders[0]} says {name}{{{labels}}} {value:g} when all is done")
    for name, some in samples.items():
        service = cluster.members[name].service
        assert service is not None
        told = logs.count([service.log], {"stale_outcome_dropped": None})["stale_outcome_dropped"]
        counted = some.get(("podium_stale_completions_total", ""), 0)
        if told != counted:
            found.append(f"metrics: {name} dropped {told} stale outcomes and counted {counted:g}")
    return found


async def _scrape(cluster: Cluster, name: str) -> dict[tuple[str, str], float]:
    service = cluster.members[name].service
    assert service is not None
    await service.become_ready()
    url = f"http://{service.metrics}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    text = await asyncio.to_thread(get)
    return {(n, labels): float(value) for n, labels, value in _METRIC.findall(text)}


async def farewell(cluster: Cluster) -> None:
    """Ends everybody politely, the workers first; a bad end is a finding of its member."""
    for group in (plan.WORKERS, plan.GATEWAYS, plan.SCHEDULERS):
        await asyncio.gather(*(cluster.members[name].terminate() for name in group))


def traces(cluster: Cluster) -> list[str]:
    """Unexpected words in any log, of the lives that are over too."""
    found = [words for life in cluster.lives() for words in logs.unexpected(life.log)]
    return found + logs.unexpected_of_postgres(cluster.postgres.log_file)

"""How each kind of fault is done to the cluster, and undone: one coroutine a kind, which undoes it even cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

import psutil

from podium_embedded import EmbeddedPostgres, EmbeddedRedis
from tests.faults.nemesis.cluster import LEDGER_AWAY, Cluster
from tests.faults.nemesis.plan import POSTGRES, REDIS, SERVICES, Fault, Kind
from tests.support.tcp_proxy import Conditions, Flow

_ORPHANS_S = 30.0
_WEATHER = {
    Kind.REFUSE: Conditions(listening=False),
    Kind.HOLD: Conditions(up=Flow.HOLD, down=Flow.HOLD),
    Kind.HOLD_UP: Conditions(up=Flow.HOLD),
    Kind.HOLD_DOWN: Conditions(down=Flow.HOLD),
    Kind.SWALLOW: Conditions(up=Flow.SWALLOW, down=Flow.SWALLOW),
    Kind.SWALLOW_UP: Conditions(up=Flow.SWALLOW),
    Kind.SWALLOW_DOWN: Conditions(down=Flow.SWALLOW),
}


def _conditions(fault: Fault) -> Conditions:
    if fault.kind is Kind.DELAY:
        return Conditions(delay_s=fault.strength)
    if fault.kind is Kind.THROTTLE:
        return Conditions(bytes_per_s=fault.strength)
    return _WEATHER[fault.kind]


class Injuries:
    """Carries out a plan. `counted`: the faults that really happened, by label; `log`: when, for people."""

    def __init__(self, cluster: Cluster) -> None:
        self.counted: Counter[str] = Counter()
        self.log: list[str] = []
        self._cluster = cluster
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._start = asyncio.get_running_loop().time()

    async def carry_out(self, faults: Iterable[Fault]) -> None:
        """Does every fault at its time; returns when the last is undone. Raises what none of them may."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(self._start + fault.at_s - asyncio.get_running_loop().time())
        async with contextlib.AsyncExitStack() as held:
            # On a busy machine what was planned to be over may not be; in one order, so that nobody waits in a ring.
            for name in sorted(fault.held):
                await held.enter_async_context(self._locks[name])
            happened = await _WAYS[fault.kind](self._cluster, fault)
        done_s = asyncio.get_running_loop().time() - self._start
        self.log.append(f"{fault}, over at {done_s:.2f} s{'' if happened else ': nothing to do it to'}")
        if happened:
            self.counted[fault.label] += 1


async def heal(cluster: Cluster) -> None:
    """Undoes whatever is left."""
    for proxy in cluster.edges.values():
        await proxy.heal()
    for member in cluster.members.values():
        member.signal(signal.SIGCONT)
        member.restart()


async def _kill(cluster: Cluster, fault: Fault) -> bool:
    return await _away(cluster, fault, lambda name: cluster.members[name].kill())


async def _terminate(cluster: Cluster, fault: Fault) -> bool:
    return await _away(cluster, fault, lambda name: cluster.members[name].terminate())


async def _away(cluster: Cluster, fault: Fault, end: Callable[[str], Awaitable[None]]) -> bool:
    there = any(cluster.members[name].pid is not None for name in fault.targets)
    try:
        await asyncio.gather(*(end(name) for name in fault.targets))
        await asyncio.sleep(fault.lasts_s)
    finally:
        for name in fault.targets:
            cluster.members[name].restart()
    return there


async def _pause(cluster: Cluster, fault: Fault) -> bool:
    victims = [p for name in fault.targets for p in _processes(cluster, name)]
    return await _stopped(victims, fault.lasts_s)


async def _pause_leader(cluster: Cluster, fault: Fault) -> bool:
    leader = await _leader(cluster)
    return leader is not None and await _stopped(_processes(cluster, leader), fault.lasts_s)


async def _leader(cluster: Cluster) -> str | None:
    try:
        async with cluster.ledger() as connection:
            name: str = await connection.fetchval("SELECT leader_replica_id FROM cluster")
            return name if name in cluster.members else None
    except LEDGER_AWAY:
        # Postgres is down just now, and so nobody leads.
        return None


async def _kill_executor(cluster: Cluster, fault: Fault) -> bool:
    victims = _executors(cluster, fault.targets)
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    return bool(victims)


async def _pause_executor(cluster: Cluster, fault: Fault) -> bool:
    return await _stopped(_executors(cluster, fault.targets), fault.lasts_s)


async def _stopped(victims: Sequence[psutil.Process], seconds: float) -> bool:
    try:
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.suspend()
        await asyncio.sleep(seconds)
    finally:
        for victim in reversed(victims):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.resume()
    return bool(victims)


async def _weather(cluster: Cluster, fault: Fault) -> bool:
    conditions = _conditions(fault)
    proxies = [cluster.edges[name] for name in fault.targets]
    try:
        for proxy in proxies:
            await proxy.impose(conditions)
            if not conditions.listening:
                proxy.reset_all()
        await asyncio.sleep(fault.lasts_s)
    finally:
        for proxy in proxies:
            await proxy.heal()
    return True


async def _reset(cluster: Cluster, fault: Fault) -> bool:
    return sum(cluster.edges[name].reset_all() for name in fault.targets) > 0


async def _redis_flush(cluster: Cluster, fault: Fault) -> bool:
    async with cluster.buffer() as client:
        await client.flushall()
    return True


async def _redis_away(cluster: Cluster, fault: Fault) -> bool:
    server = cluster.redis
    polite = fault.kind is Kind.REDIS_RESTART
    await _end_server(server, signal.SIGTERM if polite else signal.SIGKILL)
    if fault.kind is Kind.REDIS_WIPE:
        shutil.rmtree(server.folder)
    if fault.kind is Kind.REDIS_FORGET:
        file = server.folder / "appendonly.aof"
        os.truncate(file, int(file.stat().st_size * (1 - fault.strength)))
    await asyncio.sleep(fault.lasts_s)
    await _start_server(cluster, REDIS, server)
    return True


async def _redis_client_pause(cluster: Cluster, fault: Fault) -> bool:
    async with cluster.buffer() as client:
        await client.client_pause(int(fault.lasts_s * 1000) + 1)
    # It ends by itself; nobody could tell it anything meanwhile.
    await asyncio.sleep(fault.lasts_s)
    return True


async def _redis_full(cluster: Cluster, fault: Fault) -> bool:
    async with cluster.buffer() as client:
        limit = str((await client.config_get("maxmemory"))["maxmemory"])
        used = (await client.info("memory"))["used_memory"]
        try:
            await client.config_set("maxmemory", int(used * 0.9))
            await asyncio.sleep(fault.lasts_s)
        finally:
            await client.config_set("maxmemory", limit)
    return True


async def _postgres_away(cluster: Cluster, fault: Fault) -> bool:
    server = cluster.postgres
    assert server.pid is not None
    orphans = psutil.Process(server.pid).children(recursive=True)
    await _end_server(server, signal.SIGQUIT if fault.kind is Kind.POSTGRES_RESTART else signal.SIGKILL)
    # A postmaster that is killed leaves backends, which notice soon; the next must not meet them.
    _, alive = await asyncio.to_thread(psutil.wait_procs, orphans, _ORPHANS_S)
    for orphan in alive:
        orphan.kill()
    await asyncio.to_thread(psutil.wait_procs, alive, _ORPHANS_S)
    await asyncio.sleep(fault.lasts_s)
    await _start_server(cluster, POSTGRES, server)
    return True


async def _postgres_crash_backend(cluster: Cluster, fault: Fault) -> bool:
    try:
        async with cluster.ledger() as connection:
            pid = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1"
            )
    except LEDGER_AWAY:
        return False
    if pid is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()
    return True


async def _postgres_terminate(cluster: Cluster, fault: Fault) -> bool:
    try:
        async with cluster.ledger() as connection:
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < $1",
                fault.strength,
            )
    except LEDGER_AWAY:
        return False
    return bool(ended)


async def _end_server(server: EmbeddedPostgres | EmbeddedRedis, number: signal.Signals) -> None:
    assert server.pid is not None
    psutil.Process(server.pid).send_signal(number)
    await server.wait()
    await server.stop()


async def _start_server(cluster: Cluster, name: str, server: EmbeddedPostgres | EmbeddedRedis) -> None:
    """On another port, which only the proxies have to know."""
    await server.start()
    for edge, proxy in cluster.edges.items():
        if edge.endswith(f">{name}"):
            proxy.target_port = server.port


def _processes(cluster: Cluster, name: str) -> list[psutil.Process]:
    """A member's own process, or a server with all its children."""
    if name in SERVICES:
        pid = cluster.members[name].pid
        return [psutil.Process(pid)] if pid is not None and psutil.pid_exists(pid) else []
    pid = (cluster.postgres if name == POSTGRES else cluster.redis).pid
    assert pid is not None
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


def _executors(cluster: Cluster, targets: Iterable[str]) -> list[psutil.Process]:
    return [e for t in targets for e in cluster.members[t.removeprefix("executor of ")].executors()]


_WAYS: dict[Kind, Callable[[Cluster, Fault], Awaitable[bool]]] = {
    Kind.KILL: _kill,
    Kind.TERMINATE: _terminate,
    Kind.PAUSE: _pause,
    Kind.PAUSE_LEADER: _pause_leader,
    Kind.KILL_EXECUTOR: _kill_executor,
    Kind.PAUSE_EXECUTOR: _pause_executor,
    Kind.RESET: _reset,
    Kind.REDIS_FLUSH: _redis_flush,
    Kind.REDIS_RESTART: _redis_away,
    Kind.REDIS_CRASH: _redis_away,
    Kind.REDIS_WIPE: _redis_away,
    Kind.REDIS_FORGET: _redis_away,
    Kind.REDIS_CLIENT_PAUSE: _redis_client_pause,
    Kind.REDIS_FULL: _redis_full,
    Kind.POSTGRES_RESTART: _postgres_away,
    Kind.POSTGRES_KILL: _postgres_away,
    Kind.POSTGRES_CRASH_BACKEND: _postgres_crash_backend,
    Kind.POSTGRES_TERMINATE: _postgres_terminate,
    **dict.fromkeys((*_WEATHER, Kind.DELAY, Kind.THROTTLE), _weather),
}
assert set(_WAYS) == set(Kind)

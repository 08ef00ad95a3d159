"""The embedded servers as real processes: durable, exclusive, side by side, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import stat
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis import asyncio as redis_asyncio
from redis import exceptions as redis_exceptions

from podium_embedded import DirectoryInUse, EmbeddedError, EmbeddedPostgres, EmbeddedRedis, child, identity

DEADLINE_S = 60.0

# Starts both, writes, says "ready PID PID", and waits to be killed.
HOLDER = """
import asyncio, sys
from pathlib import Path
import asyncpg
from redis import asyncio as redis_asyncio
from podium_embedded import EmbeddedPostgres, EmbeddedRedis

async def main(folder):
    async with EmbeddedPostgres(folder) as postgres, EmbeddedRedis(folder) as redis:
        connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
        await connection.execute("CREATE TABLE kept (value text)")
        await connection.execute("INSERT INTO kept VALUES ('still here')")
        client = redis_asyncio.Redis.from_url(redis.url)
        await client.xadd("kept", {"value": "still here"})
        print("ready", postgres.pid, redis.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


async def killed_holder(folder: Path) -> list[int]:
    """Runs a holder of both servers, kills it with SIGKILL, and returns the pids of its servers."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    line = await asyncio.wait_for(holder.stdout.readline(), DEADLINE_S)
    word, *pids = line.decode().split()
    assert word == "ready"
    holder.send_signal(signal.SIGKILL)
    # Not communicate(): the servers have nothing of the holder's pipe, but the test should not depend on it.
    await holder.wait()
    return [int(pid) for pid in pids]


async def ended(pid: int) -> None:
    """Returns when the process is gone (or waits, dead, for the machine's init to notice)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(psutil.TimeoutExpired):
                await asyncio.to_thread(process.wait, 0.1)


async def value_in_postgres(server: EmbeddedPostgres) -> str:
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    try:
        return str(await connection.fetchval("SELECT value FROM kept"))
    finally:
        await connection.close()


async def entries_in_redis(server: EmbeddedRedis) -> int:
    client = redis_asyncio.Redis.from_url(server.url)
    try:
        return int(await client.xlen("kept"))
    finally:
        await client.aclose()


async def test_data_survives_a_killed_owner_and_the_servers_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "data with space"
    pids = await killed_holder(folder)
    # At once: the start has to cope with servers that are still on their way out.
    async with EmbeddedPostgres(folder) as postgres, EmbeddedRedis(folder) as redis:
        assert await value_in_postgres(postgres) == "still here"
        assert await entries_in_redis(redis) == 1
        async with asyncio.timeout(DEADLINE_S):
            for pid in pids:
                await ended(pid)


async def test_a_second_start_on_the_same_directory_names_the_holder(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path):
        with pytest.raises(DirectoryInUse, match=rf"redis in .* in use by another process \(pid {os.getpid()}\)"):
            await EmbeddedRedis(tmp_path).start()
    async with EmbeddedRedis(tmp_path):
        pass


async def test_two_directories_at_once(tmp_path: Path) -> None:
    first, second = EmbeddedPostgres(tmp_path / "a"), EmbeddedPostgres(tmp_path / "b")
    async with first, second:
        assert first.port != second.port
        assert first.url != second.url


async def test_a_stale_pid_file_of_somebody_elses_pid_does_not_stop_the_start(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        cluster = postgres.cluster
    # As after a container's restart, where small pids are soon somebody else's.
    (cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{cluster}\n")
    async with EmbeddedPostgres(tmp_path):
        pass


async def test_no_password_no_entry_and_no_secret_is_readable(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres, EmbeddedRedis(tmp_path) as redis:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1", port=postgres.port, user="podium", password="guess", database="podium"
            )
        stranger = redis_asyncio.Redis(host="127.0.0.1", port=redis.port)
        with pytest.raises(redis_exceptions.RedisError, match="authenticat"):
            await stranger.ping()
        await stranger.aclose()
        for name in ("postgres.secret", "redis.secret", "redis.conf"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        secrets = [(tmp_path / f"{name}.secret").read_text().strip() for name in ("postgres", "redis")]
        for pid in (postgres.pid, redis.pid):
            command = " ".join(psutil.Process(pid).cmdline())
            assert not any(value in command for value in secrets)


async def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        cluster = postgres.cluster
    (cluster / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        await EmbeddedPostgres(tmp_path).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
@pytest.mark.parametrize(("capability", "reached"), [(identity.CAP_DAC_READ_SEARCH, True), (-1, False)])
async def test_the_kept_capability_reaches_into_a_private_folder(
    tmp_path: Path, capability: int, reached: bool
) -> None:
    """As in a clone inside a private folder; by access(2), with which initdb looks for its own files."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "file").touch(mode=0o700)
    nobody = pwd.getpwnam("nobody")
    numbers = (signal.SIGTERM.value, os.getpid(), nobody.pw_uid, nobody.pw_gid, capability)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", child.__file__, *map(str, numbers)),
        *("/usr/bin/env", "test", "-r", str(private / "file")),
        env={"PATH": "/usr/bin:/bin"},
    )
    assert (await process.wait() == 0) is reached


async def test_wait_returns_when_the_server_ends(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path) as redis:
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        assert await asyncio.wait_for(redis.wait(), DEADLINE_S) == -signal.SIGKILL


@pytest.mark.parametrize("folder", ["a folder, 100 %", "d" * 100])
async def test_redis_answers_on_a_socket_where_its_path_allows_one(tmp_path: Path, folder: str) -> None:
    async with EmbeddedRedis(tmp_path / folder) as server:
        client = redis_asyncio.Redis.from_url(server.local_url)
        assert await client.ping()
        await client.aclose()
        assert server.local_url == server.url or server.local_url.startswith("unix://")
    assert len(folder) < 100 or server.local_url == server.url

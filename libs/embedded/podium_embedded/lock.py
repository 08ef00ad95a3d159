"""One owner per data directory, by an flock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from podium_embedded.errors import EmbeddedError


class DirectoryInUse(EmbeddedError):
    """Another process holds the directory."""


class DataDirLock:
    """Holds `path` (a file, made when missing) locked; the file names the holder's pid for the others."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises DirectoryInUse, naming the holder, when another process (or object) has the lock."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by children (PEP 446), so a leftover child never keeps the lock of a dead parent.
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise DirectoryInUse(f"{self._what} is in use by another process (pid {holder})") from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Lets go; the file stays, because removing it would race with the next holder."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

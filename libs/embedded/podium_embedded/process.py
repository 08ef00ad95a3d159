"""One server as our child process: start until it answers, stop, and never leave it behind.

Ends with its parent by the kernel's parent-death signal. That signal follows the *thread* that started the
child, so `start` must be awaited on a loop whose thread lives as long as the server should.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from podium_embedded import child, leftovers
from podium_embedded.errors import EmbeddedError
from podium_embedded.identity import Identity
from podium_embedded.lock import DataDirLock

START_DEADLINE_S = 60.0
STOP_PATIENCE_S = 30.0
PROBE_EVERY_S = 0.05
PORT_ATTEMPTS = 5
LOG_TAIL_BYTES = 4096
LOG_KEEP_BYTES = 16 * 1024 * 1024


class ServerProcess(ABC):
    """Base of the embedded servers. Subclasses say what to run and how to tell that it answers."""

    name: str
    polite_signal: signal.Signals
    environment: ClassVar[Mapping[str, str]] = {}
    """For the server's process, beyond the plain one."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "logs" / f"{self.name}.log"
        self.port = 0
        self._lock = DataDirLock(self.data_dir / f"{self.name}.lock", f"{self.name} in {self.data_dir}")
        self._record = self.data_dir / f"{self.name}.pid"
        self._process: asyncio.subprocess.Process | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the password; valid once started."""

    @abstractmethod
    async def _prepare(self) -> Identity:
        """Makes the data ready to be served; answers as whom to serve."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The server's command line for self.port."""

    @abstractmethod
    async def _probe(self) -> None:
        """One real connection; raises when the server does not answer yet."""

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None else self._process.pid

    async def start(self, port: int = 0) -> None:
        """Starts the server and returns when it answers. port: the one to take, 0 for a free one.

        Raises EmbeddedError, with the end of its log, when it does not; DirectoryInUse when it already runs
        for somebody else.
        """
        self._make_folders()
        self._lock.acquire()
        try:
            await leftovers.end(self._record, self.polite_signal, STOP_PATIENCE_S)
            identity = await self._prepare()
            await self._start_on_some_port(identity, port)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the server gracefully and waits for it; harmless when it does not run."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.polite_signal)
            try:
                await asyncio.wait_for(process.wait(), STOP_PATIENCE_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if process is not None:
            leftovers.forget(self._record)
        self._lock.release()

    async def wait(self) -> int:
        """Waits until the server ends, wanted or not; returns its exit code."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} is not running")
        return await self._process.wait()

    def log_tail(self) -> str:
        """The end of the server's log."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, self.log_file.stat().st_size - LOG_TAIL_BYTES))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return "(no log)"

    async def run_tool(self, identity: Identity, command: list[str]) -> None:
        """Runs a short command as the server's identity, its output into the log; raises when it fails."""
        process = await self._spawn(identity, command)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if code != 0:
            raise EmbeddedError(f"{Path(command[0]).name} failed ({code}):\n{self.log_tail()}")

    async def _start_on_some_port(self, identity: Identity, port: int) -> None:
        """Between choosing a free port and the server's bind somebody may take it: then choose again."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.port = port or _free_port()
            self._process = await self._spawn(identity, self._command())
            leftovers.record(self._record, self._process.pid)
            if await self._answers(self._process):
                return
            tail = self.log_tail()
            if port or attempt == PORT_ATTEMPTS or "in use" not in tail:
                raise EmbeddedError(f"{self.name} ended while starting ({self._process.returncode}):\n{tail}")

    async def _answers(self, process: asyncio.subprocess.Process) -> bool:
        """Whether the server answers before it ends. Raises when it does neither in time."""
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                while not ended.done():
                    try:
                        await self._probe()
                        return True
                    except OSError as error:
                        # Refused, reset, "starting up": not there yet. Wait a little, or until it ends.
                        last = error
                        await asyncio.wait([ended], timeout=PROBE_EVERY_S)
        except TimeoutError:
            reason = f"{self.name} did not answer within {START_DEADLINE_S:.0f} s ({last})"
            raise EmbeddedError(f"{reason}:\n{self.log_tail()}") from None
        finally:
            ended.cancel()
        return False

    async def _spawn(self, identity: Identity, command: list[str]) -> asyncio.subprocess.Process:
        wrapper = [str(self.polite_signal.value), str(os.getpid())]
        wrapper += [str(number) for number in (identity.uid, identity.gid, identity.capability)]
        with self.log_file.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", child.__file__, *wrapper, *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env={**_plain_environment(), **self.environment},
                # Out of the terminal's process group: Ctrl-C must reach the owner, who stops in order.
                start_new_session=True,
            )  # fmt: skip

    def _make_folders(self) -> None:
        # As root the server runs as somebody else, who must walk in (but not list) to reach its own folder.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=mode)
        self.log_file.parent.mkdir(exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_KEEP_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _plain_environment() -> dict[str, str]:
    """Nothing of the caller's that could steer the server (PGDATA, PGPORT, LC_*, secrets of Podium ...)."""
    keep = {key: os.environ[key] for key in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if key in os.environ}
    return {**keep, "LC_ALL": "C", "TZ": "UTC"}

"""One service of the stack as a child process that is kept alive.

`start` returns when the service said it is ready, through its ready file. After that `keep` waits for it to
end and starts it again, with growing pauses when it keeps ending. The first start must succeed; a later one
may fail as often as it likes. A worker that ends well was told to leave, and stays away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

READY_DEADLINE_S = 120.0
STOP_PATIENCE_S = 30.0
POLL_S = 0.02
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
LOG_TAIL_BYTES = 4096
LOG_KEEP_BYTES = 64 * 1024 * 1024

Report = Callable[[str], None]


class StackError(Exception):
    """The stack cannot start; the message says what failed, with the end of its log."""


class Service:
    """`python -m MODULE` with an environment of its own.

    listen_variables: for each address in its ready file that others know it by (`grpc`, `http`), the PODIUM_..._LISTEN
    that decides it. After the first start it is pinned to the port that was bound.
    may_leave: whether its end with exit code 0 is somebody's wish (a drain, or a SIGTERM) that is to be respected.
    """

    def __init__(
        self,
        name: str,
        module: str,
        environment: Mapping[str, str],
        data_dir: Path,
        *,
        listen_variables: Mapping[str, str] | None = None,
        may_leave: bool = False,
    ) -> None:
        self.name = name
        self.log_file = data_dir / "logs" / f"{name}.log"
        self.ready: dict[str, str] = {}
        self._module = module
        self._environment = dict(environment)
        self._listen_variables = dict(listen_variables or {})
        self._may_leave = may_leave
        self._ready_file = data_dir / "run" / f"{name}.json"
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def address(self) -> str:
        """Where its gRPC server listens."""
        return self.ready["grpc"]

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it and waits until it is ready. StackError when it ends or dawdles instead."""
        self._process = process = await self._spawn()
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                while (ready := self._read_ready()) is None:
                    if ended.done():
                        raise StackError(f"{self.name} ended while starting ({ended.result()}):\n{self.log_tail()}")
                    await asyncio.wait([ended], timeout=POLL_S)
        except TimeoutError:
            raise StackError(f"{self.name} was not ready within {READY_DEADLINE_S:.0f} s:\n{self.log_tail()}") from None
        finally:
            ended.cancel()
        self.ready = ready
        self._environment.update({variable: ready[name] for name, variable in self._listen_variables.items()})

    async def keep(self, report: Report) -> None:
        """Starts it again whenever it ends, until it is stopped, or has left."""
        pause = FIRST_PAUSE_S
        while True:
            assert self._process is not None
            since = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if code == 0 and self._may_leave:
                report(f"{self.name} was told to leave and has left; it is started again by the next podium up")
                return
            pause = FIRST_PAUSE_S if time.monotonic() - since > HEALTHY_AFTER_S else min(pause * 2, LONGEST_PAUSE_S)
            report(f"{self.name} ended ({_meaning(code)}); starting it again in {pause:g} s (log: {self.log_file})")
            await asyncio.sleep(pause)
            try:
                await self.start()
                report(f"{self.name} is back (pid {self.pid})")
            except StackError as error:
                report(str(error).splitlines()[0])
                await self._end(self._process, hurry=True)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ends it: SIGTERM, then SIGKILL when patience, or `hurry`, says so."""
        self._stopping = True
        if self._process is not None:
            await self._end(self._process, hurry=hurry.is_set(), hurried=hurry)
        with contextlib.suppress(FileNotFoundError):
            self._ready_file.unlink()

    def log_tail(self) -> str:
        """The end of its log."""
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    async def _end(
        self, process: asyncio.subprocess.Process, *, hurry: bool, hurried: asyncio.Event | None = None
    ) -> None:
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill() if hurry else process.terminate()
        waits = [asyncio.ensure_future(process.wait())]
        if hurried is not None and not hurry:
            waits.append(asyncio.ensure_future(hurried.wait()))
        await asyncio.wait(waits, timeout=STOP_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        for folder in (self.log_file.parent, self._ready_file.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            self._ready_file.unlink()
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_KEEP_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        environment = {
            **self._environment,
            "PODIUM_READY_FILE": str(self._ready_file),
            "PODIUM_PARENT_PID": str(os.getpid()),
        }
        with self.log_file.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _read_ready(self) -> dict[str, str] | None:
        try:
            loaded: dict[str, object] = json.loads(self._ready_file.read_text())
        except FileNotFoundError:
            return None
        return {key: str(value) for key, value in loaded.items()}


def _meaning(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

"""One decoder process, as the pool sees it: started when it gets an image, given some images ahead of its answers.

Promises: answers come in the order of the images; the first image without an answer is the one that the process is at,
so it is the one that killed it or takes too long; images that were only sent ahead come back untouched. Clock: the
event loop's. Failure: a process that cannot be started, or dies before it listens, is the pool's to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from podium_runtime import logs
from podium_worker.adapters import arena, wire
from podium_worker.domain import pictures, problems

log = logs.get_logger(__name__)

_MIB = 1024 * 1024
_KEPT = frozenset({"PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV"})
_KEPT_BEGINNINGS = ("LC_", "LD_", "PYTHON", "OPENBLAS_", "PODIUM_FAULT_DECODE_")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder may take."""

    memory_bytes: int = 1024 * _MIB
    """Its own, the interpreter's 40 MiB and the image file included. A 16th of it is the most pixels of an image."""
    decode_s: float = 20.0
    start_s: float = 30.0
    idle_s: float = 60.0


@dataclass(slots=True, eq=False)
class Request:
    """An image to decode. `answer`: the seconds that it took, or what was wrong with it."""

    data: bytes
    header: bytes
    answer: asyncio.Future[float]
    deaths: int = 0
    """Processes that died of it."""
    sent: bool = False
    """Whether a process may be at it."""
    urgent: bool = False
    """Whether it goes before those that are not."""

    def fail(self, error: Exception) -> None:
        """Unless it has ended already."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Died(Exception):
    """The process has gone before it listened."""


class Pool(Protocol):
    """Whom a process tells. Nothing here blocks."""

    def took(self, request: Request, seconds: float) -> None:
        """A process was at an image for so long, whatever came of it."""

    def answered(self, process: Process) -> None:
        """It has room for another image."""

    def ended(self, process: Process, culprit: Request | None, untouched: Sequence[Request]) -> None:
        """It is gone: of the culprit, if it was at one; the others have not been looked at."""


@functools.lru_cache(maxsize=64)
def _described(picture: pictures.Picture) -> str:
    return json.dumps(asdict(picture), separators=(",", ":"))


def header(picture: pictures.Picture, max_pixels: int, offset: int) -> bytes:
    """What a decoder is told of an image; written by hand, since it is written for every image."""
    return b'{"offset":%d,"max_pixels":%d,"picture":%s}' % (offset, max_pixels, _described(picture).encode())


class Process(asyncio.Protocol):
    """One place for a process. `taken`: the images that it was given and has not answered."""

    def __init__(self, memory: arena.Arena, limits: Limits, pool: Pool) -> None:
        self.taken: deque[Request] = deque()
        self.used_at = 0.0
        self._memory = memory
        self._limits = limits
        self._pool = pool
        self._child: asyncio.subprocess.Process | None = None
        self._transport: asyncio.Transport | None = None
        self._heard = bytearray()
        self._listens: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Of the process, while it is alive."""
        alive = self._child is not None and self._child.returncode is None
        return self._child.pid if self._child is not None and alive else None

    @property
    def listens(self) -> bool:
        """Whether it takes images now."""
        connected = self._transport is not None and self._listens is not None and self._listens.done()
        return connected and self.pid is not None

    def take(self, request: Request) -> None:
        """One more image; it is sent at once, or when the process listens."""
        self.taken.append(request)
        if self.listens:
            self._send(request)

    async def start(self) -> None:
        """Until it listens; then it gets what it has taken. Raises OSError or Died."""
        await self.end()
        ours, theirs = socket.socketpair()
        try:
            self._child, self._killed = await self._spawn(theirs), False
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        self._listens = loop.create_future()
        self._heard.clear()
        self._transport, _ = await loop.create_connection(lambda: self, sock=ours)
        try:
            async with asyncio.timeout(self._limits.start_s):
                await self._listens
        except (TimeoutError, Died) as error:
            pid = self._child.pid
            await self.end()
            raise Died(f"process {pid} did not listen") from error
        log.debug("decoder_started", pid=self._child.pid)
        for request in self.taken:
            self._send(request)

    async def end(self) -> None:
        """At once, and until it is gone; the pool is not told."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._stop_timer()
        self.kill()
        child = self._child
        if child is not None:
            await child.wait()
            # Somebody else may have waited for the same end, and started the next one.
            if self._child is child:
                self._child = None

    def kill(self) -> None:
        """Whoever waits for its answer hears that it died."""
        # Once: a second signal could take the dead one's status away from the event loop.
        if self._child is not None and self._child.returncode is None and not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._heard += data
        try:
            while (frame := wire.cut(self._heard)) is not None:
                self._hear(frame)
        except wire.BrokenFrame as error:
            log.error("decoder_speaks_nonsense", pid=self.pid, error=str(error))
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._listens is not None and not self._listens.done():
            self._listens.set_exception(Died())
            return
        if self._transport is None:
            # It was ended from this side.
            return
        self._transport = None
        culprit = self.taken.popleft() if self.taken and self.taken[0].sent else None
        if culprit is not None and self._timer is not None:
            begun = self._timer.when() - self._limits.decode_s
            self._pool.took(culprit, asyncio.get_running_loop().time() - begun)
        self._gone(culprit)

    # --- inside

    def _send(self, request: Request) -> None:
        assert self._transport is not None, "it listens"
        request.sent = True
        prefix = wire.prefix(wire.Kind.DECODE, len(request.header), len(request.data))
        self._transport.writelines((prefix, request.header, request.data))
        if request is self.taken[0]:
            self._start_timer()

    def _hear(self, frame: wire.Frame) -> None:
        if frame.kind is wire.Kind.READY and self._listens is not None and not self._listens.done():
            self._listens.set_result(None)
            return
        if frame.kind is not wire.Kind.DECODED or not self.taken:
            raise wire.BrokenFrame(f"{frame.kind.name} is no answer to anything")
        request, answer = self.taken.popleft(), frame.header
        seconds = float(answer["seconds"])
        self._stop_timer()
        if self.taken:
            self._start_timer()
        if "reason" in answer:
            request.fail(problems.ItemProblem(problems.Reason(answer["reason"]), answer["message"]))
        elif not request.answer.done():
            request.answer.set_result(seconds)
        self._pool.took(request, seconds)
        self._pool.answered(self)

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limits.decode_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        request = self.taken.popleft()
        log.warning("decoder_too_slow", pid=self.pid, bytes=len(request.data))
        self._pool.took(request, self._limits.decode_s)
        message = f"The image takes longer than {self._limits.decode_s:g} s to decode."
        self._gone(None, late=(request, problems.ItemProblem(problems.Reason.UNDECODABLE, message)))

    def _gone(self, culprit: Request | None, late: tuple[Request, problems.ItemProblem] | None = None) -> None:
        """Sees to the end of the process, and only then lets anybody go on: it could still write."""
        self._stop_timer()
        untouched = list(self.taken)
        self.taken.clear()
        for request in untouched:
            request.sent = False
        ending = asyncio.get_running_loop().create_task(self.end(), name="end of a decoder")

        def ended(_: asyncio.Task[None]) -> None:
            if late is not None:
                late[0].fail(late[1])
            self._pool.ended(self, culprit, untouched)

        ending.add_done_callback(ended)

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        fds = theirs.fileno(), self._memory.fd
        arguments = {
            "--fd": fds[0],
            "--arena-fd": fds[1],
            "--arena-bytes": self._memory.size,
            "--max-memory": self._limits.memory_bytes,
            "--alarm-s": 2 * self._limits.decode_s,
        }
        flat = [str(part) for pair in arguments.items() for part in pair]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "podium_worker.decoder",
            *flat,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=fds,
            env=environment(os.environ),
            start_new_session=True,
        )


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What Python and its libraries need, and faults: whoever takes over a decoder is to find no token or key in it."""
    kept = {name: value for name, value in ours.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)}
    # NumPy would bring a pool of threads for linear algebra, with memory for each.
    return kept | {"OPENBLAS_NUM_THREADS": "1"}

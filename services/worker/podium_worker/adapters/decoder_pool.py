"""The processes that decode images, as the front sees them.

Promises: an image is decoded by one process at a time, and a process has one image at a time; whoever asks first is
served first. When `decode` has ended, however it ended, no process writes at its offset any more: a call that is
cancelled while its image is being decoded ends only with the answer. A process that dies of an image is replaced and
the image gets one more, fresh process; one that takes too long is killed. A process is started when it is first needed
and ended when it has had nothing to do for a while, so that a worker of texts has none. No decoder outlives the front.

Clock: injected for pauses and idleness; the event loop's for what a process may take. Failure: processes that cannot be
started, or die before they listen, are no image's fault: Unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import socket
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from podium_runtime import clock, logs
from podium_worker.adapters import arena, wire
from podium_worker.domain import backoff, pictures, problems

log = logs.get_logger(__name__)

_MIB = 1024 * 1024
_READ_BUFFER_BYTES = 64 * 1024
_STARTS = 3
_STOP_GRACE_S = 0.5
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


class Unavailable(Exception):
    """No decoder can be had."""


class DecoderPool:
    """At most `count` decoders."""

    def __init__(self, count: int, memory: arena.Arena, limits: Limits, time: clock.Clock) -> None:
        self._limits = limits
        self._clock = time
        self._decoders = [_Decoder(memory, limits) for _ in range(count)]
        # The one that was busy last comes first; the others grow idle and end.
        self._free = list(self._decoders)
        # Not a queue of them: who asks just as one comes free would overtake all who wait there.
        self._turns = asyncio.Semaphore(count)
        self._closed = False

    @property
    def count(self) -> int:
        """Images that can be decoded at the same time."""
        return len(self._decoders)

    @property
    def process_ids(self) -> list[int]:
        """Of the decoders that are alive."""
        return [decoder.pid for decoder in self._decoders if decoder.pid is not None]

    async def run(self) -> None:
        """Ends idle decoders until cancelled; then all of them, and what they were decoding is Unavailable."""
        try:
            while True:
                await self._clock.sleep(self._limits.idle_s / 2)
                idle_since = self._clock.monotonic() - self._limits.idle_s
                for decoder in self._decoders:
                    if not decoder.lock.locked() and decoder.used_at <= idle_since:
                        async with decoder.lock:
                            await decoder.end()
        finally:
            self._closed = True
            for decoder in self._decoders:
                decoder.kill()
            for decoder in self._decoders:
                async with decoder.lock:
                    await decoder.end()

    async def decode(self, data: bytes, picture: pictures.Picture, *, max_pixels: int, offset: int) -> float:
        """Puts the picture of an image file at `offset` of the arena; returns the seconds that it took.

        Raises problems.ItemProblem (UNDECODABLE, TOO_LARGE, POISON), or Unavailable.
        """
        header = {"offset": offset, "max_pixels": max_pixels, "picture": dataclasses.asdict(picture)}
        async with self._turns:
            decoder = self._free.pop()
            try:
                return await _to_its_end(self._decoded(decoder, header, data))
            finally:
                decoder.used_at = self._clock.monotonic()
                self._free.append(decoder)

    async def _decoded(self, decoder: _Decoder, header: dict[str, object], data: bytes) -> float:
        async with decoder.lock:
            for last in (False, True):
                await self._started(decoder)
                try:
                    return await decoder.ask(header, data)
                except _Died as death:
                    log.warning("decoder_died", pid=death.pid, status=death.status, bytes=len(data), last_attempt=last)
        raise problems.ItemProblem(problems.Reason.POISON, "The image has killed two processes that decoded it.")

    async def _started(self, decoder: _Decoder) -> None:
        for failures in range(1, _STARTS + 1):
            if self._closed:
                raise Unavailable("The decoders are being ended.")
            try:
                await decoder.start()
            except (OSError, _Died) as error:
                log.error("decoder_start_failed", error=str(error))
                await self._clock.sleep(backoff.delay_s(failures, random.random()))
            else:
                # The end of the pool does not see a process that is not there yet.
                if not self._closed:
                    return
        raise Unavailable(f"{_STARTS} decoder processes in a row could not be started.")


class _Died(Exception):
    """The process has gone, and said nothing."""

    def __init__(self, pid: int, status: int | None) -> None:
        super().__init__(f"process {pid} ended with {status}")
        self.pid = pid
        self.status = status


class _Decoder:
    """One place for a process. Whoever calls what waits holds the lock."""

    def __init__(self, memory: arena.Arena, limits: Limits) -> None:
        self.lock = asyncio.Lock()
        self.used_at = 0.0
        self._memory = memory
        self._limits = limits
        self._killed = False
        self._process: asyncio.subprocess.Process | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def pid(self) -> int | None:
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and alive else None

    async def start(self) -> None:
        """Until it listens, unless it does. Raises OSError or _Died."""
        if self.pid is not None:
            return
        await self.end()
        ours, theirs = socket.socketpair()
        try:
            self._process, self._killed = await self._spawn(theirs), False
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._streams = await asyncio.open_connection(sock=ours, limit=_READ_BUFFER_BYTES)
        try:
            async with asyncio.timeout(self._limits.start_s):
                await self._heard(wire.Kind.READY)
        except TimeoutError:
            raise await self._dead() from None
        log.debug("decoder_started", pid=self._process.pid)

    async def ask(self, header: dict[str, object], data: bytes) -> float:
        """Raises problems.ItemProblem, or _Died."""
        assert self._streams is not None, "it was started"
        writer = self._streams[1]
        try:
            async with asyncio.timeout(self._limits.decode_s):
                writer.write(wire.encode(wire.Kind.DECODE, header, len(data)))
                writer.write(data)
                answer = (await self._heard(wire.Kind.DECODED)).header
        except TimeoutError:
            log.warning("decoder_too_slow", pid=self.pid, bytes=len(data))
            await self.end()
            message = f"The image takes longer than {self._limits.decode_s:g} s to decode."
            raise problems.ItemProblem(problems.Reason.UNDECODABLE, message) from None
        if "reason" in answer:
            raise problems.ItemProblem(problems.Reason(answer["reason"]), answer["message"])
        return float(answer["seconds"])

    async def end(self) -> None:
        """At once: whatever it writes is unwanted."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()
        self.kill()
        if self._process is not None:
            await self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Whoever waits for its answer hears that it died."""
        # Once: a second signal could take the dead one's status away from the event loop.
        if self._process is not None and self._process.returncode is None and not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _heard(self, kind: wire.Kind) -> wire.Frame:
        assert self._streams is not None, "it was started"
        try:
            frame = await wire.read_async(self._streams[0])
        except (asyncio.IncompleteReadError, ConnectionError, wire.BrokenFrame) as error:
            raise await self._dead() from error
        if frame.kind is not kind:
            raise await self._dead()
        return frame

    async def _dead(self) -> _Died:
        """Ends it, and says how it ended by itself if it did."""
        process = self._process
        assert process is not None, "it was started"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_GRACE_S):
                await process.wait()
        await self.end()
        return _Died(process.pid, process.returncode)

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
            env=_environment(os.environ),
            start_new_session=True,
        )


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What Python and its libraries need, and faults: whoever takes over a decoder is to find no token or key in it."""
    kept = {name: value for name, value in ours.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)}
    # NumPy would bring a pool of threads for linear algebra, with memory for each.
    return kept | {"OPENBLAS_NUM_THREADS": "1"}


async def _to_its_end(work: Coroutine[Any, Any, float]) -> float:
    """Awaits work that cannot be left half done; a cancellation is raised when it has ended."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            # Nobody wants to know.
            task.exception()
        raise cancelled
    return task.result()

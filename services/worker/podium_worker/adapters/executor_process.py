"""One executor process and its life: spawned, spoken to over a socket pair, spawned again when it dies.

Promises: the front never blocks on an executor; an executor never outlives the front (the socket's end tells it, and on
Linux the kernel does); a death is told once, and a fresh process follows after a growing pause, or a short one when a
batch is to blame. Clock: injected, for the pauses. Failure: a process that cannot be spawned counts as one that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from podium.common.v1 import job_pb2, result_pb2
from podium_runtime import clock, logs
from podium_worker.adapters import wire
from podium_worker.app import ports
from podium_worker.domain import backoff, devices, pictures

log = logs.get_logger(__name__)

_READ_BUFFER_BYTES = 4 * 1024 * 1024
_STOP_GRACE_S = 0.5
# A process that lived this long did not die of its start; the pause begins small again.
_HEALTHY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Command:
    """What an executor is started with."""

    threads: int
    max_payload_bytes: int
    log_level: str
    log_format: str
    arena_fd: int = -1
    """Memory with the pictures of image batches, which the process inherits; -1: none."""
    arena_bytes: int = 0
    call_share: float = 0.5
    """Of the device's time that interactive calls may take from batches that wait."""
    call_slice_s: float = 0.075
    """What a micro-batch may take while interactive calls come; 0: no bound."""


class CallListener(Protocol):
    """Who hears what the executor says of interactive calls."""

    def begun(self, device: int, keys: Sequence[str]) -> None: ...
    def answered(self, device: int, key: str, workload: str, items: int, seconds: float, frame: bytes) -> None: ...
    def lost(self, device: int) -> None: ...


class Listener(Protocol):
    """Who hears what the executor says. All methods return at once."""

    @property
    def calls(self) -> CallListener: ...
    def executor_up(self, device: int) -> None: ...
    def executor_ready(self, device: int) -> None: ...
    def executor_lost(self, device: int) -> int: ...
    def loading(self, device: int, workload: str) -> None: ...
    def loaded(self, device: int, workload: str, facts: ports.Facts) -> None: ...
    def unloaded(self, device: int, workload: str, unreturned_bytes: int) -> None: ...
    def budget(self, device: int, workload: str, budget: int) -> None: ...
    def unavailable(self, device: int, workload: str, reason: str) -> None: ...
    def checked(self, device: int, workload: str) -> None: ...
    def faulty(self, device: int, workload: str, reason: str) -> None: ...
    def preparing(self, device: int, key: str) -> None: ...
    def computing(self, device: int, key: str) -> None: ...
    def progressed(self, device: int, key: str, workload: str, items: int, frame: bytes) -> None: ...
    def dropped(self, device: int, key: str, workload: str, items: int) -> None: ...
    def finished(self, device: int, key: str, result: ports.Result) -> None: ...
    def failed(self, device: int, key: str, failure: ports.Failure) -> None: ...


class ExecutorProcess:
    """The executor of one device."""

    def __init__(self, device: devices.Device, command: Command, listener: Listener, time: clock.Clock) -> None:
        self._device = device
        self._command = command
        self._listener = listener
        self._clock = time
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._identified = asyncio.Event()
        if not device.trouble:
            self._identified.set()

    def identify(self, device: devices.Device) -> None:
        """Its device, of which nothing was known, can be reached: the first process starts."""
        self._device = device
        self._identified.set()

    @property
    def device(self) -> devices.Device:
        return self._device

    @property
    def up(self) -> bool:
        return self._writer is not None

    def know(self, workload: ports.Workload, *, load_now: bool, budget: int = 0) -> None:
        self._send(wire.Kind.LOAD, {"now": load_now, "budget": budget}, workload.spec)

    def unload(self, workload: str) -> None:
        self._send(wire.Kind.UNLOAD, {"workload": workload})

    def assign(self, assignment: ports.Assignment, max_chunk_bytes: int, taken: ports.Taken | None = None) -> None:
        header: dict[str, object] = {"key": assignment.lease.key, "max_chunk_bytes": max_chunk_bytes}
        if assignment.alone:
            header["alone"] = True
        if taken is None:
            self._send(wire.Kind.ASSIGN, header, assignment.body)
        else:
            header["pictures"] = _pictures(taken)
            self._send(wire.Kind.ASSIGN, header, taken.body)

    def cancel(self, key: str) -> None:
        self._send(wire.Kind.CANCEL, {"key": key})

    def embed(self, key: str, call: ports.Call, left_s: float, taken: ports.Taken | None = None) -> None:
        header: dict[str, object] = {"key": key, "call_id": call.call_id, "left_s": left_s}
        if taken is not None:
            header["pictures"] = _pictures(taken)
        self._send(wire.Kind.EMBED, header, call.body if taken is None else taken.body)

    def drop_embed(self, key: str) -> None:
        self._send(wire.Kind.DROP_EMBED, {"key": key})

    def check(self, workload: str) -> None:
        self._send(wire.Kind.CHECK, {"workload": workload})

    def kill(self) -> None:
        # Nothing reaches it any more, even if a driver holds the process for a while.
        self._writer = None
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def run(self) -> None:
        """Keeps one process alive until cancelled; then ends it. Without a device that can be reached there is none."""
        await self._identified.wait()
        while True:
            started = self._clock.monotonic()
            failures = await self._one_life()
            if self._clock.monotonic() - started >= _HEALTHY_AFTER_S:
                failures = 1
            pause_s = backoff.delay_s(failures, random.random())
            log.warning("executor_respawn", device=self._device.index, pause_s=round(pause_s, 3))
            await self._clock.sleep(pause_s)

    async def _one_life(self) -> int:
        """From the spawn to the death; returns what executor_lost does."""
        ours, theirs = socket.socketpair()
        try:
            process = await self._spawn(theirs)
        except OSError as error:
            log.error("executor_spawn_failed", device=self._device.index, error=str(error))
            ours.close()
            return self._listener.executor_lost(self._device.index)
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=_READ_BUFFER_BYTES)
        self._writer, self._process = writer, process
        log.info("executor_started", device=self._device.index, pid=process.pid)
        self._listener.executor_up(self._device.index)
        try:
            await self._listen(reader)
        finally:
            self._writer = self._process = None
            writer.close()
            await _end(process)
        log.error("executor_died", device=self._device.index, pid=process.pid, status=process.returncode)
        self._listener.calls.lost(self._device.index)
        return self._listener.executor_lost(self._device.index)

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        fd = theirs.fileno()
        arguments = {
            "--fd": fd,
            "--index": self._device.index,
            "--device": self._device.torch_name,
            "--threads": self._command.threads,
            "--max-payload-bytes": self._command.max_payload_bytes,
            "--call-share": self._command.call_share,
            "--call-slice-s": self._command.call_slice_s,
            "--log-level": self._command.log_level,
            "--log-format": self._command.log_format,
        }
        inherited = [fd]
        if self._command.arena_fd >= 0:
            arguments |= {"--arena-fd": self._command.arena_fd, "--arena-bytes": self._command.arena_bytes}
            inherited.append(self._command.arena_fd)
        visible = {"CUDA_VISIBLE_DEVICES": self._device.visible} if self._device.visible else {}
        flat = [str(part) for pair in arguments.items() for part in pair]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "podium_worker.executor",
            *flat,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=inherited,
            env=os.environ | visible | {"PODIUM_PARENT_PID": str(os.getpid())},
            # Ctrl-C goes to a terminal's whole process group; the front alone decides how this ends.
            start_new_session=True,
        )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Until the process has gone."""
        try:
            while True:
                self._hear(await wire.read_async(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        except wire.BrokenFrame as error:
            log.error("executor_broken_frame", device=self._device.index, error=str(error))

    def _hear(self, frame: wire.Frame) -> None:
        index, header, listener = self._device.index, frame.header, self._listener
        match frame.kind:
            case wire.Kind.EMBEDDED:
                listener.calls.answered(
                    index, header["key"], header["workload"], header["items"], header["seconds"], frame.body
                )
            case wire.Kind.EMBEDDING:
                listener.calls.begun(index, header["keys"])
            case wire.Kind.RESULT:
                listener.finished(index, header["key"], _result(frame))
            case wire.Kind.PREPARING:
                listener.preparing(index, header["key"])
            case wire.Kind.COMPUTING:
                listener.computing(index, header["key"])
            case wire.Kind.PROGRESS:
                listener.progressed(index, header["key"], header["workload"], header["items"], frame.body)
            case wire.Kind.DROPPED:
                listener.dropped(index, header["key"], header["workload"], header["items"])
            case wire.Kind.FAILED:
                listener.failed(index, header["key"], _failure(frame))
            case wire.Kind.READY:
                listener.executor_ready(index)
            case wire.Kind.LOADING:
                listener.loading(index, header["workload"])
            case wire.Kind.LOADED:
                listener.loaded(index, header["workload"], _facts(header))
            case wire.Kind.UNLOADED:
                listener.unloaded(index, header["workload"], header["unreturned_bytes"])
            case wire.Kind.BUDGET:
                listener.budget(index, header["workload"], header["budget"])
            case wire.Kind.UNAVAILABLE:
                listener.unavailable(index, header["workload"], header["reason"])
            case wire.Kind.CHECKED:
                listener.checked(index, header["workload"])
            case wire.Kind.FAULTY:
                listener.faulty(index, header["workload"], header["reason"])
            case _:
                raise wire.BrokenFrame(f"an executor does not say {frame.kind.name}")

    def _send(self, kind: wire.Kind, header: dict[str, object], body: bytes = b"") -> None:
        """Never waits: what can pile up here is bounded by the batches in hand."""
        if self._writer is None:
            return
        head = wire.encode(kind, header, len(body))
        if len(body) <= wire.SMALL_BYTES:
            self._writer.write(head + body)
        else:
            self._writer.write(head)
            self._writer.write(body)


def _result(frame: wire.Frame) -> ports.Result:
    frames, start = [], 0
    for size in frame.header["sizes"]:
        frames.append(frame.body[start : start + size])
        start += size
    header = frame.header
    return ports.Result(
        frames=frames,
        workload=header["workload"],
        items=header["items"],
        items_failed=header["items_failed"],
        items_truncated=header["items_truncated"],
        tokens=header["tokens"],
        wait_s=header["wait_s"],
        prepare_s=header["prepare_s"],
        compute_s=header["compute_s"],
        idle_s=header["idle_s"],
        fetch_s=header["fetch_s"],
    )


def _facts(header: dict[str, Any]) -> ports.Facts:
    seen = header["picture"]
    return ports.Facts(
        seconds=header["seconds"],
        memory_bytes=header["memory_bytes"],
        budget=header["budget"],
        precision=header["precision"],
        picture=pictures.Picture(**seen) if seen else None,
    )


def _pictures(taken: ports.Taken) -> dict[str, object]:
    return {
        "offset": taken.offset,
        "height": taken.picture.height,
        "width": taken.picture.width,
        "fetch_s": taken.fetch_s,
        "errors": [
            [
                failure.index,
                result_pb2.ItemErrorReason.Value(f"ITEM_ERROR_REASON_{failure.reason.value}"),
                failure.message,
            ]
            for failure in taken.failures
        ],
    }


def _failure(frame: wire.Frame) -> ports.Failure:
    name = job_pb2.BatchFailureReason.Name(frame.header["reason"])
    return ports.Failure(
        reason=name.removeprefix("BATCH_FAILURE_REASON_"),
        message=frame.header["message"],
        retryable=frame.header["retryable"],
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """The closed socket has told it; whoever does not listen is killed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_GRACE_S):
            await process.wait()
            return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()

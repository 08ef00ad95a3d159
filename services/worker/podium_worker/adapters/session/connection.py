"""The worker's sessions, one after the other, for as long as it lives.

Promises: there is always a session or an attempt at one, at the next replica after each failure, with a growing and
jittered pause; batches in hand are carried over; a stream that is silent for half of the lease_ttl is given up, and
without a word from any replica for all of it everything in hand is dropped. Clock: monotonic, injected; the scheduler's
clock is never read. Failure: every error of a stream ends in another attempt; only `leave` ends the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from podium.worker.v1 import worker_pb2
from podium_runtime import auth, channels, clock, logs, settings, two_lanes
from podium_worker.adapters import metrics
from podium_worker.adapters.session import messages
from podium_worker.adapters.session.outbox import SessionOutbox
from podium_worker.app.worker import Worker
from podium_worker.domain import backoff, leases

log = logs.get_logger(__name__)

_METHOD = "/podium.worker.v1.WorkerService/Connect"
# Changes that come in a burst are told in one Status.
_STATUS_SPACING_S = 0.05
_FENCE_STEP_S = 1.0
_SILENCE_SHARE = 0.5
_DEFAULT_LEASE_TTL_S = 30.0
_DEFAULT_CHUNK_BYTES = 1 << 20


class SessionOver(Exception):
    """A session ended, for the reason given."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What Hello says, apart from what is in hand."""

    worker_id: str
    hostname: str
    version: str
    devices: Sequence[worker_pb2.Device]
    backends: Sequence[str]
    workloads: Sequence[str]
    pod_id: str

    def hello(self, held: Sequence[leases.Lease]) -> worker_pb2.WorkerFrame:
        hello = worker_pb2.Hello(
            worker_id=self.worker_id,
            hostname=self.hostname,
            version=self.version,
            devices=self.devices,
            backends=self.backends,
            workloads=self.workloads,
            in_hand=messages.lease_messages(held),
            pod_id=self.pod_id,
            reads_token_ids=True,
        )
        return worker_pb2.WorkerFrame(hello=hello)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect and how."""

    addresses: Sequence[str]
    token: str | None
    tls: settings.Tls | None
    connect_timeout_s: float = 10.0


@dataclass(slots=True)
class _Trust:
    """When the scheduler was last heard, and how long that is good for."""

    last_word_at: float
    ttl_s: float = _DEFAULT_LEASE_TTL_S
    heard: asyncio.Event = field(default_factory=asyncio.Event)


class Connection:
    """Keeps a session with the scheduler."""

    def __init__(
        self, target: Target, identity: Identity, worker: Worker, outbox: SessionOutbox, time: clock.Clock
    ) -> None:
        self._target = target
        self._identity = identity
        self._worker = worker
        self._outbox = outbox
        self._clock = time
        self._trust = _Trust(time.monotonic())
        self._heartbeat_s = 1.0
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()
        self._renewed = asyncio.Event()
        self._in_session = False
        self.welcomed = asyncio.Event()
        """Set at the first Welcome."""
        self.drain_wanted = asyncio.Event()
        """Set when the scheduler wants this worker to drain."""

    async def run(self) -> None:
        """Holds one session after another until left."""
        failures = 0
        attempt = 0
        try:
            while not self._leaving.is_set():
                address = self._target.addresses[attempt % len(self._target.addresses)]
                attempt += 1
                try:
                    await self._one_session(address)
                except (SessionOver, grpc.aio.AioRpcError, TimeoutError, OSError) as error:
                    failures = 1 if self._in_session else failures + 1
                    self._note_failure(address, error, failures)
                finally:
                    self._in_session = False
                    self._outbox.close()
                    self._worker.calls.end_session()
                if not self._leaving.is_set():
                    await self._pause(failures)
        finally:
            self._ended.set()

    async def fence(self) -> None:
        """Drops what is in hand when the scheduler has not been heard for too long. Runs until cancelled."""
        await self.welcomed.wait()
        while True:
            now = self._clock.monotonic()
            left_s = leases.trust_left_s(self._trust.last_word_at, self._trust.ttl_s, now)
            if left_s > 0:
                # Short steps: the next Welcome may bring another lease_ttl.
                await self._clock.sleep(min(left_s, _FENCE_STEP_S))
                continue
            self._trust.heard.clear()
            if not self._worker.emptied.is_set():
                metrics.FENCED.inc()
                self._worker.fence()
            await self._trust.heard.wait()

    async def leave(self, reason: str, timeout_s: float) -> None:
        """Says Goodbye with whatever is still in hand and ends the loop; waits for the scheduler at most this long."""
        self._outbox.say(messages.goodbye_message(reason, self._worker.in_hand()))
        self._leaving.set()
        self._outbox.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()

    def introduce(self, devices: Sequence[worker_pb2.Device]) -> None:
        """What Hello says of the devices has changed: it is said anew, in another session that goes on with what is in
        hand."""
        self._identity = dataclasses.replace(self._identity, devices=devices)
        self._renewed.set()

    # --- one session

    async def _one_session(self, address: str) -> None:
        async with _channel(address, self._target) as channel:
            open_stream: Any = channel.stream_stream(
                _METHOD,
                # Results come serialized from the executor and travel as they are.
                request_serializer=None,
                response_deserializer=worker_pb2.SchedulerFrame.FromString,
            )
            call = open_stream(metadata=auth.authorization(self._target.token) if self._target.token else ())
            try:
                await self._converse(call, address)
            finally:
                call.cancel()

    async def _converse(self, call: Any, address: str) -> None:
        self._renewed.clear()
        async with asyncio.timeout(self._target.connect_timeout_s):
            await call.write(self._identity.hello(self._worker.in_hand()).SerializeToString())
            first = await call.read()
        if first is grpc.aio.EOF:
            await _raise_status(call)
        if first.WhichOneof("frame") != "welcome":
            raise SessionOver("the first frame was no Welcome")
        queue = self._outbox.open()
        self._adopt(first.welcome, address)
        tasks = [
            asyncio.create_task(self._write_all(call, queue), name="session-write"),
            asyncio.create_task(self._read_all(call), name="session-read"),
            asyncio.create_task(self._tell_status(), name="session-status"),
            asyncio.create_task(self._until_silent(), name="session-silence"),
            asyncio.create_task(self._until_renewed(), name="session-renewal"),
        ]
        try:
            done, _ = await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _adopt(self, welcome: worker_pb2.Welcome, address: str) -> None:
        self._trust.ttl_s = messages.seconds_of(welcome.lease_ttl) or _DEFAULT_LEASE_TTL_S
        self._heartbeat_s = messages.seconds_of(welcome.heartbeat_interval) or 1.0
        self._hear()
        self._in_session = True
        metrics.SESSIONS.inc()
        log.info("session_opened", session_id=welcome.session_id, address=address, resumed=len(welcome.resumed))
        self._worker.welcome(
            messages.workloads_of(welcome.workloads),
            [messages.lease_of(lease) for lease in welcome.resumed],
            welcome.max_chunk_bytes or _DEFAULT_CHUNK_BYTES,
        )
        self.welcomed.set()

    async def _write_all(self, call: Any, queue: two_lanes.TwoLanes[bytes | None]) -> None:
        while (frame := await queue.get()) is not None:
            await call.write(frame)
        await call.done_writing()

    async def _read_all(self, call: Any) -> None:
        """Until the stream ends. A clean end is only expected after Goodbye."""
        while (frame := await call.read()) is not grpc.aio.EOF:
            self._hear()
            self._obey(frame)
        if not self._leaving.is_set():
            await _raise_status(call)

    def _obey(self, frame: worker_pb2.SchedulerFrame) -> None:
        match frame.WhichOneof("frame"):
            case "assign":
                self._worker.assign(messages.assignment_of(frame.assign))
            case "embed":
                self._worker.calls.take(messages.call_of(frame.embed, self._clock.monotonic()))
            case "drop_embed":
                self._worker.calls.drop(frame.drop_embed.call_id)
            case "ack":
                self._worker.acknowledge(messages.lease_of(frame.ack.lease))
            case "cancel":
                refused = frame.cancel.reason == worker_pb2.CANCEL_REASON_RESULT_REFUSED
                self._worker.cancel(messages.lease_of(frame.cancel.lease), refused=refused)
            case "desired":
                self._worker.desire(frame.desired.resident_workloads, frame.desired.check)
                if frame.desired.HasField("heartbeat_interval"):
                    # As many workers as there are, so seldom does each have to say that it is alive.
                    self._heartbeat_s = messages.seconds_of(frame.desired.heartbeat_interval) or self._heartbeat_s
                if frame.desired.drain:
                    self.drain_wanted.set()
            case _:
                # A newer scheduler may say more than this worker knows.
                log.debug("frame_ignored")

    async def _tell_status(self) -> None:
        """A Status at the scheduler's cadence, and at once on a change that matters. Never ends by itself."""
        while True:
            self._worker.changed.clear()
            self._outbox.say(messages.status_message(self._worker.view()))
            await self._clock.sleep(_STATUS_SPACING_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._heartbeat_s - _STATUS_SPACING_S)):
                    await self._worker.changed.wait()

    async def _until_silent(self) -> None:
        """Ends a session that has heard nothing for half of its trust: the stream may be half open, and what is in hand
        can still be taken along to the next replica."""
        while True:
            limit_s = max(self._trust.ttl_s * _SILENCE_SHARE, 2 * self._heartbeat_s)
            left_s = leases.trust_left_s(self._trust.last_word_at, limit_s, self._clock.monotonic())
            if left_s <= 0:
                raise SessionOver(f"no word from the scheduler for {limit_s:g} s")
            await self._clock.sleep(min(left_s, _FENCE_STEP_S))

    async def _until_renewed(self) -> None:
        await self._renewed.wait()
        raise SessionOver("its devices have changed")

    # --- around it

    def _hear(self) -> None:
        self._trust.last_word_at = self._clock.monotonic()
        self._trust.heard.set()

    async def _pause(self, failures: int) -> None:
        if failures == 0:
            return
        # The first failures try every replica without delay; only then does waiting make sense.
        if failures < len(self._target.addresses):
            return
        waits = [
            asyncio.create_task(self._clock.sleep(backoff.delay_s(failures, random.random()))),
            asyncio.create_task(self._leaving.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _note_failure(self, address: str, error: Exception, failures: int) -> None:
        metrics.CONNECT_FAILURES.inc()
        if isinstance(error, grpc.aio.AioRpcError):
            text = f"{error.code().name}: {error.details()}"
        else:
            text = str(error) or type(error).__name__
        log.warning("session_lost", address=address, error=text, failures=failures)


async def _raise_status(call: Any) -> None:
    """The stream has ended: says why."""
    code, details = await call.code(), await call.details()
    raise SessionOver(f"{code.name}: {details}" if code is not grpc.StatusCode.OK else "the scheduler closed it")


@contextlib.asynccontextmanager
async def _channel(address: str, target: Target) -> AsyncIterator[grpc.aio.Channel]:
    channel = channels.open_channel(address, tls=target.tls)
    try:
        yield channel
    finally:
        await channel.close(None)

"""Wiring of the front process. It never imports torch: no wedged device can take the stream down."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import importlib.util
import os
import random
import signal
import socket
import sys
import uuid
from collections.abc import Sequence

from podium_runtime import clock, heap, lifecycle, logs, settings
from podium_runtime import metrics as metrics_server
from podium_worker.adapters import arena, decoder_pool, executor_process, fetch, intake, metrics
from podium_worker.adapters.devices import discovery, monitor
from podium_worker.adapters.session import connection, messages
from podium_worker.adapters.session.outbox import SessionOutbox
from podium_worker.app import drain, watchdog
from podium_worker.app.worker import Worker
from podium_worker.domain import devices
from podium_worker.settings import WorkerSettings

log = logs.get_logger(__name__)

# Some batches of images, as they pass through.
_KEPT_BYTES = 128 * 1024 * 1024
# Of the arena, one in so many bytes is for interactive calls alone.
_URGENT_SHARE = 8


def main() -> None:
    """`python -m podium_worker`."""
    heap.keep_freed(_KEPT_BYTES)
    config = settings.load(WorkerSettings)
    logs.configure(config.log_level, config.log_format, "worker")
    lifecycle.run_service(lambda stop: serve(config, stop))


async def serve(config: WorkerSettings, stop: asyncio.Event) -> None:
    """Runs the worker until `stop`, or until the scheduler drains it."""
    time = clock.SystemClock()
    try:
        known = await discovery.discover(config.devices, os.environ)
    except discovery.NoDevices as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    found = known.devices
    backends = available_backends()
    outbox = SessionOutbox()
    pictures = arena.Arena(
        config.arena_bytes, urgent_bytes=config.arena_bytes // _URGENT_SHARE, call_share=config.call_share
    )
    limits = decoder_pool.Limits(memory_bytes=config.decoder_memory_bytes)
    decoders = decoder_pool.DecoderPool(config.decoder_count, pictures, limits, time, call_share=config.call_share)
    fetcher, express = _fetcher(config, config.fetch_limits, time), _fetcher(config, _express(config), time)
    images = intake.Intake(
        fetcher, decoders, pictures, max_payload_bytes=config.max_payload_bytes, time=time, express=express
    )
    worker = Worker(
        outbox,
        metrics.PrometheusObserver(),
        time,
        limits=config.limits,
        backends=backends,
        stillness=config.stillness,
        intake=images,
    )
    executors = _executors(config, found, worker, pictures, time)
    worker.attach(executors, {device.index: config.capacity(device.vram_bytes) for device in found})
    session = connection.Connection(
        connection.Target(_in_turn(config.addresses), config.token, config.tls, config.connect_timeout_s),
        _identity(config, found, backends),
        worker,
        outbox,
        time,
    )
    watch = monitor.Monitor(
        found, known.source, worker, time, found=_whoever_uses_devices(config, executors, worker, session)
    )
    metrics_address = metrics_server.serve(config.metrics_listen)
    log.info("worker_started", devices=[device.name for device in found], backends=backends, metrics=metrics_address)
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(executor.run()) for executor in executors]
        decoding = group.create_task(decoders.run())
        background.append(group.create_task(watch.run()))
        background.append(group.create_task(watchdog.watch(worker, time)))
        background.append(group.create_task(session.fence()))
        background.append(group.create_task(_report_ready(config, session, metrics_address)))
        background.append(group.create_task(session.run()))
        reason = await _until_end(stop, session)
        await drain.drain(worker, session, reason, config.shutdown_grace_s, _second_signal(stop))
        # First, for nobody wants its images any more, and one of them could take its whole time.
        decoding.cancel()
        await images.close()
        for task in background:
            task.cancel()
    await fetcher.close()
    await express.close()
    pictures.close()


def available_backends() -> tuple[str, ...]:
    """Backends that can be used here, found without importing them."""
    if importlib.util.find_spec("torch") is None:
        return ("hash",)
    on_torch = ("sentence_transformers", "open_clip", "timm")
    return ("hash", *(name for name in on_torch if importlib.util.find_spec(name) is not None))


def _executors(
    config: WorkerSettings,
    found: Sequence[devices.Device],
    worker: Worker,
    pictures: arena.Arena,
    time: clock.Clock,
) -> list[executor_process.ExecutorProcess]:
    command = executor_process.Command(
        threads=config.threads(len(found)),
        max_payload_bytes=config.max_payload_bytes,
        log_level=config.log_level,
        log_format=config.log_format,
        arena_fd=pictures.fd,
        arena_bytes=pictures.size,
        call_share=config.call_share,
        call_slice_s=config.call_slice_s,
    )
    return [executor_process.ExecutorProcess(device, command, worker, time) for device in found]


def _whoever_uses_devices(
    config: WorkerSettings,
    executors: Sequence[executor_process.ExecutorProcess],
    worker: Worker,
    session: connection.Connection,
) -> monitor.Found:
    """Are told about a GPU that was in trouble from the start and can be reached now."""
    by_index = {executor.device.index: executor for executor in executors}

    def tell(device: devices.Device) -> None:
        log.info("gpu_found", index=device.index, uuid=device.uuid)
        by_index[device.index].identify(device)
        worker.identified(device.index, config.capacity(device.vram_bytes))
        session.introduce([messages.device_message(executor.device) for executor in executors])

    return tell


def _fetcher(config: WorkerSettings, limits: fetch.FetchLimits, time: clock.Clock) -> fetch.Fetcher:
    return fetch.Fetcher(
        limits, config.fetch_rules, s3_access=config.s3_access, time=time, observe=metrics.image_fetched
    )


def _express(config: WorkerSettings) -> fetch.FetchLimits:
    """Interactive calls fetch beside the batches, not behind them."""
    usual = config.fetch_limits
    return dataclasses.replace(
        usual,
        concurrency=max(1, usual.concurrency // 2),
        per_host=max(1, usual.per_host // 2),
        memory_bytes=max(1, usual.memory_bytes // 4),
    )


def _in_turn(addresses: Sequence[str]) -> Sequence[str]:
    """Each worker begins with a replica of its own choice, so that they spread over all of them."""
    return random.sample(addresses, len(addresses))


def _identity(config: WorkerSettings, found: Sequence[devices.Device], backends: Sequence[str]) -> connection.Identity:
    return connection.Identity(
        worker_id=str(uuid.uuid4()),
        hostname=config.hostname or socket.gethostname(),
        version=importlib.metadata.version("podium-worker"),
        devices=[messages.device_message(device) for device in found],
        backends=backends,
        workloads=config.workloads,
        pod_id=config.pod_id,
    )


async def _report_ready(config: WorkerSettings, session: connection.Connection, metrics_address: str) -> None:
    await session.welcomed.wait()
    ready = {"service": "worker", "pid": os.getpid(), "metrics": metrics_address}
    lifecycle.write_ready_file(config.ready_file, ready)


def _second_signal(stop: asyncio.Event) -> asyncio.Event:
    """Set by the next SIGTERM or SIGINT after the one that set `stop`, or by the first if the scheduler drains us."""
    hurry = asyncio.Event()

    def heard() -> None:
        stop.set()
        hurry.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, heard)
    return hurry


async def _until_end(stop: asyncio.Event, session: connection.Connection) -> str:
    """Waits for whoever ends this worker first; returns why."""
    waits = {
        asyncio.create_task(stop.wait()): "terminated",
        asyncio.create_task(session.drain_wanted.wait()): "drained by the scheduler",
    }
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return waits[next(iter(done))]

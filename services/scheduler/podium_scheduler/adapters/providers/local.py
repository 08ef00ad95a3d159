"""Pods on the scheduler's own machine: each is a child process. What `podium up` rents.

Promises: no process without a record (`local_launch` sees to that) and no record that `list` leaves out, so a scheduler
that was killed at any moment finds them all again. A name is started once: creating it again answers with what is
there. A pod whose processes have ended stays listed as STOPPED until it is destroyed; a destroyed one until no process
of it is left. Zombies of our own are reaped whenever anybody looks. Whether pods end with the scheduler is a setting.
Clock: the injected one for the grace between SIGTERM and SIGKILL; monotonic time for the deadline of a launch.
Failure: a program that cannot be run is Refused and leaves nothing. A launch that says nothing in time is Ambiguous; by
`list_lag_s` it is listed, or never will be. A scheduler that ends within a grace leaves the rest to the next destroy.
Linux only.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from podium_runtime import logs
from podium_runtime.clock import Clock
from podium_scheduler.adapters.providers import local_gpus, local_launch, local_records, prefixes
from podium_scheduler.app import providers

log = logs.get_logger(__name__)

_START_S = 10.0
_LOGS_KEPT = 20
_EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True, slots=True)
class Settings:
    """How pods run on this machine."""

    folder: Path
    """For their records and logs; outlives the scheduler, and belongs to one cluster alone."""
    prefix: str
    """What names of the cluster's pods begin with."""
    program: Sequence[str] = (sys.executable, "-m", "podium_worker")
    """Stands for the order's image; the order's command are its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What pods have beside the order's; see `inheritable`."""
    max_count: int = 1
    """Pods at a time. They share the machine's GPUs."""
    price_usd_per_hour: float = 0.0
    """Of one pod."""
    end_with_scheduler: bool = True
    """Whether a pod gets SIGTERM when the scheduler ends, however it ends. If not, the next one finds it running."""
    grace_s: float = 30.0
    """Between SIGTERM and SIGKILL, in seconds."""

    def __post_init__(self) -> None:
        prefixes.check(self.prefix)


def inheritable(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the scheduler's environment that pods may see: its own settings, secrets among them, are left out."""
    return {name: value for name, value in environment.items() if not name.startswith("PODIUM_")}


class Local:
    """Child processes."""

    name = "local"
    list_lag_s = _START_S + 1.0

    def __init__(self, settings: Settings, clock: Clock, discover: local_gpus.Discover | None = None) -> None:
        """`discover`: finds the machine's GPUs; nvidia-smi by default. Raises OSError for a folder that is no use."""
        self._settings = settings
        self._clock = clock
        self._discover = discover or local_gpus.discover
        self._records = local_records.Records(settings.folder)
        self._one_at_a_time = asyncio.Lock()
        self._gpus: local_gpus.Gpus | None = None
        self.unreaped: dict[int, str] = {}
        """Our own children that have not been waited for: pid to pod."""
        self._ends: dict[str, str] = {}
        self._graces: dict[str, asyncio.Task[None]] = {}

    async def offers(self) -> Sequence[providers.Offer]:
        """One: this machine, with all its GPUs."""
        self._gpus = self._gpus or await self._discover()
        gpus = self._gpus or local_gpus.Gpus()
        return (
            providers.Offer(
                provider=self.name,
                gpu_type=gpus.name,
                gpu_count=gpus.count,
                price_usd_per_hour=self._settings.price_usd_per_hour,
                vram_bytes=gpus.vram_bytes,
                compute_capability=gpus.compute_capability,
                device_name=gpus.name,
                max_count=self._settings.max_count,
            ),
        )

    async def create(self, order: providers.Order) -> providers.Listed:
        """Returns when the program runs. Raises ProviderError."""
        if not local_records.is_name(order.name):
            raise providers.Refused(f"{order.name} is no name for a pod.")
        async with self._one_at_a_time:
            now = await asyncio.to_thread(local_records.Snapshot)
            there = self._records.all()
            if all(record.name != order.name for record in there):
                if sum(bool(self._records.living(record, now)) for record in there) >= self._settings.max_count:
                    raise providers.NoCapacity(f"This machine may have {self._settings.max_count} pods, and has them.")
                self._records.prune_logs(_LOGS_KEPT)
                await self._launch(order)
                now = await asyncio.to_thread(local_records.Snapshot)
        record = self._records.one(order.name)
        if record is None:
            raise providers.Ambiguous(f"{order.name} was started, and has no record.")
        return self._listed(record, self._records.living(record, now))

    async def list(self) -> Sequence[providers.Listed]:
        """Reads the folder and /proc, and forgets what was destroyed and has ended."""
        now = await asyncio.to_thread(local_records.Snapshot)
        self._reap()
        listed = []
        for record in self._records.all():
            living = self._records.living(record, now)
            if not living and record.name in self._graces:
                self._forget(record.name)
            elif record.name.startswith(self._settings.prefix):
                listed.append(self._listed(record, living))
        return listed

    async def destroy(self, provider_pod_id: str) -> None:
        """SIGTERM to its process group now, SIGKILL to all that is left after the grace. Returns at once."""
        record = self._records.one(provider_pod_id)
        if record is None or (provider_pod_id in self._graces and not self._graces[provider_pod_id].done()):
            return
        if not await self._signalled(record, signal.SIGTERM):
            self._forget(record.name)
            return
        self._graces[record.name] = asyncio.create_task(self._kill_after_grace(record), name=f"grace of {record.name}")

    async def close(self) -> None:
        """Leaves the processes to their own devices."""
        graces = [task for task in self._graces.values() if not task.done()]
        for task in graces:
            task.cancel()
        await asyncio.gather(*graces, return_exceptions=True)

    async def _launch(self, order: providers.Order) -> None:
        read_end, write_end = os.pipe()
        try:
            pid = self._spawn(order, write_end)
        except OSError as error:
            os.close(read_end)
            words = f"{self._settings.program[0]} cannot be started: {error.strerror}."
            raise (providers.NoCapacity if error.errno in _EXHAUSTED else providers.Refused)(words) from None
        finally:
            os.close(write_end)
        self.unreaped[pid] = order.name
        complaint = await _read_to_end(read_end)
        # Taken by a launch that was on its way when an earlier scheduler was killed: it is the same pod.
        if complaint and complaint != local_launch.NAME_TAKEN:
            raise providers.Refused(f"The pod's program cannot be run: {complaint}.")

    def _spawn(self, order: providers.Order, report_fd: int) -> int:
        """Not through asyncio, which kills its children when it is closed, nor by fork, which gRPC's threads forbid.

        In the loop's own thread, because the kernel takes the end of the thread that spawned for the parent's end.
        """
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            sys.executable,
            [
                *(sys.executable, "-I", "-S", local_launch.__file__, str(self._records.path(order.name))),
                *(str(time.monotonic() + _START_S), self._facts(order), *self._settings.program, *order.command),
            ],
            self._environment(order),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._records.log(order.name)), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, report_fd, local_launch.REPORT_FD),
            ],
        )

    def _environment(self, order: providers.Order) -> dict[str, str]:
        own = {local_records.MARK: str(self._records.path(order.name))}
        if self._settings.end_with_scheduler:
            own["PODIUM_PARENT_PID"] = str(os.getpid())
        return {**self._settings.environment, **order.environment, **own}

    def _facts(self, order: providers.Order) -> str:
        return json.dumps({
            "name": order.name,
            "image": order.image,
            "gpu_type": order.offer.gpu_type,
            "gpu_count": order.offer.gpu_count,
            "price_usd_per_hour": order.offer.price_usd_per_hour,
            "create_time": self._clock.now().timestamp(),
        })  # fmt: skip

    def _listed(self, record: local_records.Record, living: Sequence[local_records.Process]) -> providers.Listed:
        runs = any(process.pid == record.pid for process in living)
        detail = "" if runs else self._ends.get(record.name, "Its process has ended.")
        if living and not runs:
            detail += f" {len(living)} of its children still run."
        return providers.Listed(
            provider_pod_id=record.name,
            name=record.name,
            status=providers.Status.RUNNING if runs else providers.Status.STOPPED,
            price_usd_per_hour=record.price_usd_per_hour,
            gpu_type=record.gpu_type,
            gpu_count=record.gpu_count,
            create_time=record.create_time,
            detail=detail,
        )

    async def _kill_after_grace(self, record: local_records.Record) -> None:
        await self._clock.sleep(self._settings.grace_s)
        if await self._signalled(record, signal.SIGKILL):
            log.warning("pod_killed", pod=record.name, grace_s=self._settings.grace_s)

    async def _signalled(self, record: local_records.Record, number: signal.Signals) -> bool:
        """Whether there was still a process to signal."""
        now = await asyncio.to_thread(local_records.Snapshot)
        self._reap()
        living = self._records.living(record, now)
        group = [process for process in living if process.group == record.pid]
        # Whoever leads a group of its own is the first one's to end, as long as that lives.
        targets = group if group and number is signal.SIGTERM else living
        return any([process.signal(number) for process in targets])

    def _reap(self) -> None:
        for pid, name in list(self.unreaped.items()):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped:
                del self.unreaped[pid]
                record = self._records.one(name)
                # A launch that came second has ended too, and the pod is not its.
                if record is not None and record.pid == pid:
                    self._ends[name] = _meaning(os.waitstatus_to_exitcode(status))

    def _forget(self, name: str) -> None:
        self._records.forget(name)
        self._graces.pop(name, None)
        self._ends.pop(name, None)


async def _read_to_end(read_end: int) -> str:
    """What a launch says. Raises Ambiguous when it neither says something nor ends in time."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(read_end, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        async with asyncio.timeout(_START_S + 0.5):
            return (await reader.read()).decode("utf-8", "replace")
    except TimeoutError:
        raise providers.Ambiguous(f"The pod's process said nothing for {_START_S:g} s.") from None
    finally:
        transport.close()


def _meaning(code: int) -> str:
    return f"Its process was killed by signal {-code}." if code < 0 else f"Its process ended with exit code {code}."

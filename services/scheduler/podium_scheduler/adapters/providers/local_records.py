"""What is known of local pods: a folder with a file for each, and /proc.

A pod is a process and all that come of it. The file names the first one by pid, start time and boot, so that a pid
which the kernel has given to somebody else since is never taken for it. The others bear the file's path in their
environment, wherever they have gone: a worker's executors lead sessions of their own, and may outlive it. Zombies
compute nothing, and count as gone. Everything here is synchronous and blocks for no longer than small files take.
Linux only.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from podium_scheduler.adapters.providers import local_launch

MARK = "PODIUM_POD_RECORD"
"""Environment variable of every process of a pod: the path of its record."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DEAD = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class Record:
    """A pod, as it was when its first process began."""

    name: str
    pid: int
    """Also its process group."""
    start_ticks: int
    """Clock ticks since boot."""
    boot_id: str
    image: str
    """That was ordered. What runs is the machine's own program."""
    gpu_type: str
    gpu_count: int
    price_usd_per_hour: float
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Process:
    """A process that lives."""

    pid: int
    group: int
    start_ticks: int
    mark: str
    """The path of its pod's record; empty: none."""

    def signal(self, number: signal.Signals) -> bool:
        """Whether it was still there to be signalled, it and no other of its pid."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            now = _look(self.pid)
            if now is None or now.start_ticks != self.start_ticks:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


class Snapshot:
    """The processes that live at a moment."""

    def __init__(self) -> None:
        pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
        self.by_pid = {pid: process for pid in pids if (process := _look(pid)) is not None}
        self.by_mark: dict[str, list[Process]] = collections.defaultdict(list)
        for process in self.by_pid.values():
            self.by_mark[process.mark].append(process)


def _look(pid: int) -> Process | None:
    """None when it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = local_launch.stat_fields(stat)
    if fields[0] in _DEAD:
        return None
    return Process(pid, int(fields[2]), local_launch.start_ticks(fields), _mark(pid))


def _mark(pid: int) -> str:
    """Other people's environments cannot be read, and their processes are none of ours."""
    with contextlib.suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(f"{MARK}=".encode()):
                return os.fsdecode(variable.partition(b"=")[2])
    return ""


def is_name(name: str) -> bool:
    """Whether a pod may be called so; records of others are not found."""
    return _NAME.fullmatch(name) is not None


class Records:
    """The folder. Its files are written by `local_launch` alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot_id = local_launch.boot_id()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Of a pod's record."""
        return self._folder / f"{name}.json"

    def log(self, name: str) -> Path:
        """What a pod prints."""
        return self._folder / f"{name}.log"

    def all(self) -> list[Record]:
        """Every pod that was begun and is not forgotten, by name."""
        names = sorted(path.stem for path in self._folder.glob("*.json") if is_name(path.stem))
        return [record for name in names if (record := self.one(name)) is not None]

    def one(self, name: str) -> Record | None:
        """None when there is no such pod."""
        if not is_name(name):
            return None
        try:
            return _parse(json.loads(self.path(name).read_text("utf-8")))
        except FileNotFoundError:
            return None

    def forget(self, name: str) -> None:
        """Its log stays for a while."""
        self.path(name).unlink(missing_ok=True)

    def prune_logs(self, keep: int) -> None:
        """Drops the oldest logs of forgotten pods."""
        idle = [log for log in self._folder.glob("*.log") if not self.path(log.stem).exists()]
        for log in sorted(idle, key=lambda log: log.stat().st_mtime, reverse=True)[keep:]:
            log.unlink(missing_ok=True)

    def living(self, record: Record, now: Snapshot) -> list[Process]:
        """The pod's processes, the first one in front if it lives."""
        first = now.by_pid.get(record.pid)
        if first is None or (record.boot_id, record.start_ticks) != (self._boot_id, first.start_ticks):
            return list(now.by_mark.get(str(self.path(record.name)), ()))
        return [first, *(one for one in now.by_mark.get(str(self.path(record.name)), ()) if one is not first)]


def _parse(record: dict[str, Any]) -> Record:
    return Record(**record | {"create_time": datetime.fromtimestamp(record["create_time"], UTC)})

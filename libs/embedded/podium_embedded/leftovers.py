"""Servers that outlived a killed parent: recognised by pid and start time together, and ended politely.

A pid alone proves nothing: after a reboot, or in a restarted container, it belongs to somebody else.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import psutil

# The kernel reports start times in clock ticks.
SAME_START_S = 0.05


def record(path: Path, pid: int) -> None:
    """Notes a child, so that the next start can find it."""
    path.write_text(json.dumps({"pid": pid, "create_time": psutil.Process(pid).create_time()}))


def find(path: Path) -> psutil.Process | None:
    """The recorded process, when it is still alive."""
    try:
        noted = json.loads(path.read_text())
        process = psutil.Process(int(noted["pid"]))
        if abs(process.create_time() - float(noted["create_time"])) > SAME_START_S:
            return None
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def forget(path: Path) -> None:
    """Drops the note of a child that has ended."""
    path.unlink(missing_ok=True)


async def end(path: Path, polite: signal.Signals, patience_s: float) -> None:
    """Ends the recorded process, if any, and forgets it: politely first, by SIGKILL after patience_s."""
    process = find(path)
    if process is not None:
        for signal_number in (polite, signal.SIGKILL):
            try:
                process.send_signal(signal_number)
                await asyncio.to_thread(process.wait, patience_s)
                break
            except psutil.NoSuchProcess:
                break
            except psutil.TimeoutExpired:
                continue
    forget(path)

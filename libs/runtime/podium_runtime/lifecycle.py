"""A service process from start to end: signals, the ready file, and not outliving the parent."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from podium_runtime import logs

log = logs.get_logger(__name__)
_PR_SET_PDEATHSIG = 1
# Objects made and not yet freed, net, before the youngest are looked through; Python's own is 700.
_COLLECT_AFTER = 20_000


def run_service(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `serve(stop)` to its end. SIGTERM and SIGINT set `stop`; a crash is logged and exits with 1."""
    collect_rarely()
    asyncio.run(_run(serve))


def collect_rarely() -> None:
    """What the imports have left stays for good and need not be looked through again and again; of what comes, nearly
    all is freed by its count, and cycles can wait. Called once, when everything is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


async def _run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    die_with_parent()
    try:
        await serve(stop)
    except Exception:
        log.exception("service_crashed")
        raise SystemExit(1) from None


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Asks the kernel for a signal when the parent dies, if PODIUM_PARENT_PID names it.

    The caller sets the variable when the child must not outlive it (`podium up`, tests). Linux only; elsewhere the
    parent's own clean-up has to do.
    """
    expected = os.environ.get("PODIUM_PARENT_PID")
    if expected is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != int(expected):
        # The parent died before the request was in place, so no signal would ever come.
        os.kill(os.getpid(), number)


def write_ready_file(path: Path | None, content: Mapping[str, object]) -> None:
    """Writes one line of JSON atomically; a reader sees all of it or no file."""
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    temporary.replace(path)

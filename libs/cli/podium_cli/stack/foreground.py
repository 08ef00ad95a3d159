"""A stack in the foreground: starts it, says where everything is, and ends it on Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

from rich.console import Console

from podium_cli.stack.options import StackOptions
from podium_cli.stack.stack import Stack
from podium_client.config import CONNECTION_FILE
from podium_embedded import ServerProcess

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

messages = Console(stderr=True, highlight=False, soft_wrap=True)


async def run(options: StackOptions, json_output: bool) -> None:
    """Runs a stack until a signal. StackError or EmbeddedError when it cannot start or go on."""
    stop = asyncio.Event()
    stack = Stack(options, _say)

    def wanted() -> None:
        # The first asks, the second insists.
        if stop.is_set():
            stack.hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOPPING_SIGNALS:
        loop.add_signal_handler(number, wanted)
    started = await _unless(stop, stack.start())
    if not started:
        _say("stopped")
        return
    try:
        _announce(stack, json_output)
        await _unless(stop, stack.watch())
        _say("stopping (again to hurry)")
    finally:
        await stack.stop()
        _say("stopped")


async def _unless(stop: asyncio.Event, work: Any) -> bool:
    """Awaits `work` unless `stop` comes first, which cancels it; whether it came to its end."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        _raise_first(task)
        return True
    finally:
        stopping.cancel()


def _raise_first(task: asyncio.Future[Any]) -> None:
    """The task's error; out of a group of them, the first."""
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


def _say(line: str) -> None:
    messages.print(f"podium: {line}", markup=False)


def _announce(stack: Stack, json_output: bool) -> None:
    if json_output:
        print(json.dumps(_facts(stack)), flush=True)
        return
    facts = _facts(stack)
    rows = [
        ("gateway", f"{facts['gateway']['grpc']}  metrics http://{facts['gateway']['metrics']}/metrics"),
        ("openai", f"OPENAI_BASE_URL={facts['openai_base_url']}  OPENAI_API_KEY: the token in {CONNECTION_FILE}"),
        ("scheduler", f"{facts['scheduler']['grpc']}  metrics http://{facts['scheduler']['metrics']}/metrics"),
        *((w["name"], f"pid {w['pid']}  metrics http://{w['metrics']}/metrics") for w in facts["workers"]),
        ("postgres", facts["postgres"]),
        ("redis", facts["redis"]),
        ("data", facts["data_dir"]),
    ]
    messages.print("Podium is ready.", style="bold green")
    for name, text in rows:
        messages.print(f"  {name:<10} {text}", markup=False)
    messages.print("Try: podium submit FILE --workload minilm --out vectors.parquet    Ctrl-C ends it.", markup=False)


def _facts(stack: Stack) -> dict[str, Any]:
    """What runs where. No secrets: those are in the connection file."""
    gateway, scheduler = stack.gateway, stack.scheduler
    assert gateway is not None and scheduler is not None
    return {
        "address": gateway.address,
        "openai_base_url": gateway.ready["openai_base_url"],
        "operator_address": scheduler.address,
        "connection_file": str(stack.options.data_dir / CONNECTION_FILE),
        "data_dir": str(stack.options.data_dir),
        "gateway": {**gateway.ready, "pid": gateway.pid},
        "scheduler": {**scheduler.ready, "pid": scheduler.pid},
        "workers": [{"name": worker.name, **worker.ready, "pid": worker.pid} for worker in stack.workers],
        "postgres": _where(stack.postgres),
        "redis": _where(stack.redis),
    }


def _where(server: ServerProcess | None) -> str:
    return "yours" if server is None else f"127.0.0.1:{server.port} (embedded, pid {server.pid})"

"""Which event loop a service runs on."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys

import pytest
import uvloop

from podium_runtime import lifecycle
from podium_runtime.settings import EventLoop


def loop_of(event_loop: EventLoop) -> type[asyncio.AbstractEventLoop]:
    with asyncio.Runner(loop_factory=lifecycle._loop_factory(event_loop)) as runner:
        return type(runner.get_loop())


@pytest.mark.parametrize(("asked", "uses_uvloop"), [("auto", True), ("uvloop", True), ("asyncio", False)])
def test_uvloop_is_taken_unless_it_is_not_wanted(asked: EventLoop, uses_uvloop: bool) -> None:
    assert issubclass(loop_of(asked), uvloop.Loop) is uses_uvloop


def test_without_uvloop_asyncio_serves_unless_uvloop_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not issubclass(loop_of("auto"), uvloop.Loop)
    with pytest.raises(SystemExit):
        loop_of("uvloop")
    assert "PODIUM_EVENT_LOOP" in capsys.readouterr().err


_STARTS_PROCESSES = """
import asyncio, sys
from podium_gateway.main import lifecycle
import grpc

async def serve(stop):
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/nobody/Knows")
        for _ in range(20):
            asked = [asyncio.ensure_future(call(b"").initial_metadata()) for _ in range(8)]
            child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "")
            assert await child.wait() == 0
            await asyncio.gather(*asked, return_exceptions=True)
    await server.stop(None)

lifecycle.run_service(serve, "uvloop")
"""


def test_processes_are_started_beside_grpc() -> None:
    """uvloop forks, and gRPC's handlers of that have been seen to crash the child while its threads are busy."""
    run = subprocess.run(
        [sys.executable, "-c", _STARTS_PROCESSES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")

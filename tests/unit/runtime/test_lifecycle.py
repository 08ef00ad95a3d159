"""Which event loop a service runs on."""

from __future__ import annotations

import asyncio
import importlib.util

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

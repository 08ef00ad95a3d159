"""What several files of tests are given: the `podium` command against a fake gateway; an empty buffer in a Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podium_cli import main
from podium_embedded import EmbeddedRedis
from podium_scheduler.adapters.redis import buffer as adapter
from tests.support import fake_gateway
from tests.support.command import Ended, Run
from tests.support.fake_gateway import FakeGateway, serve_fake_gateway


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FakeGateway]:
    async with serve_fake_gateway() as gateway:
        monkeypatch.setenv("PODIUM_DATA_DIR", str(tmp_path / "no-data"))
        monkeypatch.setenv("PODIUM_ADDRESS", gateway.address)
        monkeypatch.setenv("PODIUM_TOKEN", fake_gateway.TOKEN)
        yield gateway


@pytest.fixture
def podium(capsys: pytest.CaptureFixture[str]) -> Run:
    async def run(*arguments: object) -> Ended:
        code = await asyncio.to_thread(main.run, [str(one) for one in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
async def buffer(tmp_path: Path) -> AsyncIterator[adapter.Buffer]:
    async with EmbeddedRedis(tmp_path) as server:
        made = adapter.Buffer(server.url, prefix="test", consumer="me", result_ttl_s=60)
        yield made
        await made.close()

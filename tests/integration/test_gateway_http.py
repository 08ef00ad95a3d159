"""The HTTP edge of a real gateway process: where it listens, whose tokens it takes, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest

from tests.integration import gateway_rig

WAIT_S = 20.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path, PODIUM_GATEWAY_HTTP_LISTEN="127.0.0.1:0") as running:
        yield running


def client_of(rig: gateway_rig.Rig, token: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://{rig.gateway.http}/v1", api_key=token, max_retries=0)


async def test_it_says_where_it_listens_and_takes_the_apps_tokens(rig: gateway_rig.Rig) -> None:
    told = json.loads(await asyncio.to_thread(rig.gateway.ready_file.read_text))
    assert told["openai_base_url"] == f"http://{told['http']}/v1"
    assert urlsplit(told["openai_base_url"]).port not in (0, None)
    async with client_of(rig, "token-of-b") as client, client_of(rig, "nobody") as stranger:
        assert [m.id for m in (await client.models.list()).data] == ["e5", "short", "texts"]
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
        with pytest.raises(openai.BadRequestError, match="input"):
            await client.embeddings.create(model="texts", input="x" * 101)
    assert rig.ledger.calls.count("AuthenticateApp") == 2


async def test_a_ledger_that_is_away_is_told_with_a_time(rig: gateway_rig.Rig) -> None:
    rig.ledger.unavailable = True
    async with client_of(rig, "token-of-a") as client:
        with pytest.raises(openai.InternalServerError) as away:
            await client.models.list()
    assert away.value.status_code == 503
    assert away.value.response.headers["x-podium-reason"] == "LEDGER_UNAVAILABLE"
    assert away.value.response.headers["retry-after"] == "3"


async def test_it_ends_with_the_gateway(rig: gateway_rig.Rig) -> None:
    assert rig.gateway.http is not None
    host, _, port = rig.gateway.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    rig.gateway.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WAIT_S):
        assert await reader.read() == b""
        assert await rig.gateway.process.wait() == 0
    writer.close()
    assert not [event for event in rig.gateway.log if event.get("level") in ("error", "warning")]


async def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    async with gateway_rig.rig(tmp_path) as rig:
        assert rig.gateway.http is None


async def test_without_tokens_it_stays_on_loopback(tmp_path: Path) -> None:
    process, _ = await gateway_rig.start(
        "127.0.0.1:1", "redis://127.0.0.1:1", tmp_path,
        PODIUM_INSECURE="1", PODIUM_GATEWAY_HTTP_LISTEN="0.0.0.0:0",
    )  # fmt: skip
    _, log = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 1
    assert b"INSECURE_NEEDS_LOOPBACK" in log or b"only on loopback, not on 0.0.0.0:0" in log

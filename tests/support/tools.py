"""Programs that the tests call: Node and buf, from the folder where `make node` puts them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUF = ROOT / "node_modules" / ".bin" / "buf"
TIMEOUT_S = 30.0


def node() -> str:
    """The Node program: the machine's, or that of the virtual environment."""
    found = shutil.which("node") or shutil.which("node", path=str(ROOT / ".venv" / "bin"))
    assert found is not None, "node is missing: make node"
    return found


async def output_of(*command: object, stdin: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; AssertionError with its errors when it fails."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            printed, errors = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{command[0]} ended with {process.returncode}: {errors.decode()}"
    return printed.decode()


def json_documents(text: str) -> list[Any]:
    """The JSON documents in a text, one after the other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text):
        document, place = decoder.raw_decode(text, place)
        found.append(document)
        while place < len(text) and text[place].isspace():
            place += 1
    return found

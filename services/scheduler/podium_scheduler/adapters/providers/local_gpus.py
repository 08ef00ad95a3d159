"""The machine's own GPUs, as the scheduler needs them: what they are called, how many, how large.

The worker looks far more closely (`podium_worker.adapters.devices`); this only names the offer. A driver that hangs
costs its bound and no more.
"""

from __future__ import annotations

import asyncio
import csv
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from podium_runtime import logs

log = logs.get_logger(__name__)

_WITHIN_S = 15.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gpus:
    """Of one machine. Where they differ, the first one names them and the smallest bounds them."""

    name: str = ""
    """NVML's product name; empty: none."""
    count: int = 0
    vram_bytes: int = 0
    """Of one."""
    compute_capability: str = ""


Discover = Callable[[], Awaitable[Gpus | None]]
"""Finds them; None: they cannot be asked now."""


async def discover(program: str = "nvidia-smi") -> Gpus | None:
    """Asks nvidia-smi. A machine without it has no GPUs; one where it fails is asked again another time."""
    if shutil.which(program) is None:
        return Gpus()
    # A driver that is too old for the last field refuses the whole query.
    for fields in ("name,memory.total,compute_cap", "name,memory.total"):
        code, said = await _ask(program, f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        if code == 0:
            return parse(said)
    log.warning("nvidia_smi_unusable", exit_code=code, said=said[:300])
    return None


def parse(answer: str) -> Gpus:
    """Reads lines of `name, MiB[, compute capability]`. Lines that are something else do not count."""
    rows = [row for row in csv.reader(answer.splitlines(), skipinitialspace=True) if len(row) >= 2 and row[1].isdigit()]
    if not rows:
        return Gpus()
    capability = rows[0][2] if len(rows[0]) > 2 else ""
    return Gpus(
        name=rows[0][0],
        count=len(rows),
        vram_bytes=min(int(row[1]) for row in rows) * _MIB,
        compute_capability=capability if capability.replace(".", "", 1).isdigit() else "",
    )


async def _ask(program: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output; 124 for a tool that did not come back."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_WITHIN_S):
            said, _ = await process.communicate()
    except TimeoutError:
        # Not waited for: a driver may hold it where no signal reaches it.
        process.kill()
        return 124, "no answer"
    return process.returncode or 0, said.decode("utf-8", "replace")

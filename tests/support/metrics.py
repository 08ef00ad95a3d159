"""What a service's Prometheus endpoint says."""

from __future__ import annotations

import asyncio
import re
import urllib.request

TIMEOUT_S = 60.0


async def metric(address: str, pattern: str) -> float:
    """Sum of the samples that match."""

    def read() -> float:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line))

    return await asyncio.to_thread(read)

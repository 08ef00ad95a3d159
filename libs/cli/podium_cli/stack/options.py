"""What a stack can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Settings of one `podium up`; everything else comes from PODIUM_ variables, which the services inherit."""

    data_dir: Path
    """Where the servers' data, the secrets, the logs and the connection file live."""
    workers: int = 1
    """Local worker processes; 0 when all workers are elsewhere."""
    pods: int = 0
    """Most pods on this machine that the scheduler may start when there is work for them; 0: it starts none."""
    gateway_listen: str = "127.0.0.1:0"
    http_listen: str = "127.0.0.1:0"
    """Of the gateway's OpenAI-compatible edge."""
    scheduler_listen: str = "127.0.0.1:0"
    metrics_host: str = "127.0.0.1"
    """Each service's metrics get a free port on this address."""
    registry: Path | None = None
    """The registry of workloads; None for the one that is shipped."""
    postgres_url: str | None = None
    """Somebody else's Postgres; None for the embedded one."""
    redis_url: str | None = None
    """Somebody else's Redis; None for the embedded one."""

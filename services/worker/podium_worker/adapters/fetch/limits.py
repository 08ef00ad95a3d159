"""How much of the worker, and how much patience, fetching may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds over all fetches of one worker. Times are in seconds."""

    concurrency: int = 32
    """Requests under way."""
    per_host: int = 8
    """Of these to one host and port."""
    memory_bytes: int = 256 * 1024 * 1024
    """Bodies in memory, as they come in and until whoever wanted them is done. No body may be larger than this."""
    connect_s: float = 5.0
    """To find the address, connect and shake hands."""
    read_s: float = 10.0
    """From the request to the end of the answer's header, and between two pieces of its body."""
    total_s: float = 60.0
    """For one item, with all its redirects and attempts; waiting for a turn or for memory here is not counted."""
    attempts: int = 3
    max_redirects: int = 5
    """In one attempt."""
    pause_s: float = 0.25
    """Longest pause after the first failure; it doubles with each."""
    max_pause_s: float = 10.0
    """No pause is longer. A server that asks for more by Retry-After is not asked again."""
    dns_ttl_s: float = 10.0
    """How long an answer of the resolver is used for further connections. 0: never."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "per_host", "memory_bytes", "connect_s", "read_s", "total_s", "attempts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        for name in ("max_redirects", "pause_s", "max_pause_s", "dns_ttl_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")

"""Leases as the worker sees them, and how long it may trust them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to finish one attempt of one batch."""

    batch_id: int
    token: bytes
    attempt: int

    @property
    def key(self) -> str:
        """Names the attempt inside this worker."""
        return f"{self.batch_id}.{self.token.hex()}"


def trust_left_s(last_word_at: float, ttl_s: float, now: float) -> float:
    """Seconds for which leases may still be trusted: the scheduler was last heard at `last_word_at`. 0: not any more.

    All on the worker's monotonic clock. The ledger's own expiry is later, so the worker lets go first.
    """
    return max(0.0, last_word_at + ttl_s - now)

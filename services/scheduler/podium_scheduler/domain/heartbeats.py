"""How often workers say Status: each as often as is asked for, until there are so many that it would cost too much.

What matters a worker says at once. Its heartbeat only says that it is alive and renews its session, and for that a few
in the time of a lease are enough.
"""

from __future__ import annotations

PER_S = 100.0
"""Heartbeats of all workers of a replica together, as far as the time of a lease allows."""
IN_A_LEASE = 4
"""Of each worker, at least: one that is late, or lost with its stream, costs no lease."""


def interval_s(workers: int, shortest_s: float, lease_ttl_s: float) -> float:
    """Seconds between two heartbeats of one of so many workers; never less than `shortest_s`."""
    return max(shortest_s, min(workers / PER_S, lease_ttl_s / IN_A_LEASE))

"""Join tokens: how a worker proves that it runs on the pod that it names.

A token is 32 random bytes, made for one pod just before its create call and known to nobody else; the ledger has only
its SHA-256. The first worker that shows it becomes the pod's worker, and from then on the token is good for that worker
alone: a stream that breaks may come back with it for as long as the pod lives, even after the expiry, which bounds only
the first use. A container that restarts as another worker is refused: nobody knows what became of the first one, and
its pod ends as WORKER_GONE.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from podium_scheduler.domain import pods

TOKEN_BYTES = 32
_ADMITS = frozenset({pods.State.CREATING, pods.State.STARTING, pods.State.READY, pods.State.DRAINING})


class Refusal(StrEnum):
    """Why a token does not let a worker in."""

    WRONG = "WRONG"
    """It is not this pod's token, or there is no such pod."""
    POD_OVER = "POD_OVER"
    """The pod is being destroyed, or gone."""
    EXPIRED = "EXPIRED"
    """Nobody used it in time."""
    USED = "USED"
    """It is another worker's."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the ledger knows of a pod's token."""

    state: pods.State
    sha256: bytes | None = field(repr=False)
    """None: the pod has no token."""
    expire_time: datetime | None
    worker_id: UUID | None
    """Who used it first."""


def refusal(grant: Grant | None, sha256: bytes, worker_id: UUID, now: datetime) -> Refusal | None:
    """Why this worker may not join with a token of this digest; None: it may."""
    if grant is None or grant.sha256 is None or not hmac.compare_digest(grant.sha256, sha256):
        return Refusal.WRONG
    if grant.state not in _ADMITS:
        return Refusal.POD_OVER
    if grant.worker_id is not None:
        return None if grant.worker_id == worker_id else Refusal.USED
    if grant.expire_time is None or now >= grant.expire_time:
        return Refusal.EXPIRED
    return None

"""Join tokens: made for a pod just before its create call, redeemed by its worker. See `domain/join_tokens.py`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from uuid import UUID

from podium_runtime import ids, logs
from podium_scheduler.app import ports
from podium_scheduler.domain import join_tokens

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """A fresh token: the words go to the pod and nowhere else, the digest to the ledger."""

    words: str = field(repr=False)
    sha256: bytes = field(repr=False)


def digest(words: str) -> bytes:
    """What the ledger has of a token."""
    return hashlib.sha256(words.encode()).digest()


def looks_like_one(words: str) -> bool:
    """Whether it is worth to look it up: it has the form of a token."""
    return len(words) == 2 * join_tokens.TOKEN_BYTES and set(words) <= set("0123456789abcdef")


def issue(make: ids.Ids) -> Token:
    """A token that nobody has had before: 32 random bytes in hex."""
    words = b"".join(make.token() for _ in range(join_tokens.TOKEN_BYTES // 16)).hex()
    return Token(words, digest(words))


class JoinTokens:
    """Redeems tokens, on any replica."""

    def __init__(self, ledger: ports.PodLedger) -> None:
        self._ledger = ledger

    async def redeem(self, words: str, pod_id: UUID, worker_id: UUID) -> join_tokens.Refusal | None:
        """None: the worker is the pod's. Raises errors.Unavailable while the ledger is away."""
        refusal = await self._ledger.redeem(digest(words), pod_id, worker_id)
        if refusal is not None:
            log.warning("join_token_refused", pod_id=str(pod_id), worker_id=str(worker_id), refusal=refusal.value)
        return refusal

"""By what identical items are recognised: 16 bytes for each item, equal for items of equal content.

What else decides a vector (the app, the workload, its model, the options) is the same for all items of a job, and added
by the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

BYTES = 16
"""Of one identity: a cryptographic hash, so that nobody can make two items of their own collide."""
UNKNOWN = bytes(BYTES)
"""Of an item that is never taken for another: what a URL leads to may change."""
_TOKEN_IDS = b"podium.token_ids"


def of_texts(texts: Iterable[str | bytes]) -> bytes:
    """Identities of texts, one after the other; about a microsecond each. Token ids come as bytes, and are never
    identical to a text: what they stand for, the model's tokenizer alone knows."""
    return b"".join([_of_text(text) for text in texts])


def _of_text(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return blake2b(text, digest_size=BYTES, person=_TOKEN_IDS).digest()
    return blake2b(text.encode(), digest_size=BYTES).digest()


def of_images(files: Iterable[bytes]) -> bytes:
    """Identities of encoded image files, one after the other; an empty one is an image given by URL."""
    return b"".join([blake2b(file, digest_size=BYTES).digest() if file else UNKNOWN for file in files])

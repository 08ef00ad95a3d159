"""Recent vectors of interactive calls, the least recently used forgotten first; bounded in bytes.

An entry is one item's: its key says whose it is and everything that its vector depends on, so that nobody is answered
with another app's items, and a model that changes forgets by itself.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

# What an entry takes beside its row: key, objects, the table. Measured on CPython 3.11, rounded up.
_OVERHEAD_BYTES = 512
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One item's outcome."""

    row: bytes
    """Its vector, as it is packed."""
    provenance: bytes
    """Serialized."""
    token_count: int
    """0 where there are none."""
    max_tokens: int = 0
    """Of a truncated text: how many tokens the model read. 0: not truncated."""
    whole_tokens: int = 0
    """Of a truncated text: tokens of all of it."""

    @property
    def nbytes(self) -> int:
        """What it takes, about."""
        return len(self.row) + len(self.provenance) + _OVERHEAD_BYTES


def key(app_id: str, fingerprint: bytes, options: bytes, item: bytes) -> bytes:
    """Names an item of an app: `fingerprint` is the workload's, `options` and `item` are as serialized."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES, key=fingerprint[:64])
    for part in (app_id.encode(), options, item):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class VectorCache:
    """Entries by key."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` of 0: nothing is kept."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.nbytes = 0
        """Taken now."""

    @property
    def on(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    def find(self, name: bytes) -> Entry | None:
        """An entry, which is then the most recent one."""
        found = self._entries.get(name)
        if found is not None:
            self._entries.move_to_end(name)
        return found

    def keep(self, name: bytes, entry: Entry) -> None:
        """Keeps an entry as the most recent one; one that is larger than everything together is not kept."""
        old = self._entries.pop(name, None)
        if old is not None:
            self.nbytes -= old.nbytes
        if entry.nbytes > self._max_bytes:
            return
        self._entries[name] = entry
        self.nbytes += entry.nbytes
        while self.nbytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.nbytes -= oldest.nbytes

"""What one consumer holds: deliveries that it was sent and has not acknowledged, bounded in number and in bytes.

A delivery of the ledger is a batch or the end of a job; what the consumer acknowledges is a chunk. A batch is settled
when its last chunk was sent and all its chunks are acknowledged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})-([0-9a-f]{8})")


class BadDeliveryId(ValueError):
    """The text is no delivery id at all."""


class DeliveryIds:
    """Writes and reads the delivery ids of one stream, told from those of others by its tag (8 hex digits).

    No id names two messages: of a delivery that was sent, lost and sent again, perhaps cut into other chunks, the
    acknowledgements of what came first must not count for what came later.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag

    def encode(self, delivery: int, chunk: int) -> str:
        """The id of a chunk of a delivery; `chunk` is its number in the stream."""
        return f"{delivery}-{chunk}-{self._tag}"

    def decode(self, text: str) -> tuple[int, int] | None:
        """(delivery, chunk); None when it is another stream's. Raises BadDeliveryId."""
        found = _ID.fullmatch(text)
        if found is None:
            raise BadDeliveryId("is not a delivery id")
        return (int(found[1]), int(found[2])) if found[3] == self._tag else None


@dataclass(slots=True)
class _Sent:
    """Sizes of a delivery's chunks that are not acknowledged, by their number."""

    waiting: dict[int, int] = field(default_factory=dict)
    complete: bool = False


class Window:
    """Counts what is out. `settled` are the deliveries that the ledger is to be told of."""

    def __init__(self, size: int, max_bytes: int) -> None:
        self.size = size
        self._max_bytes = max_bytes
        self._sent: dict[int, _Sent] = {}
        self._chunks = 0
        self._bytes = 0
        self.settled: set[int] = set()

    @property
    def room(self) -> int:
        """Chunks that may go out now, as far as their number goes."""
        return 0 if self.full else self.size - self._chunks

    @property
    def full(self) -> bool:
        """Whether the next chunk has to wait for an acknowledgement."""
        return self._chunks >= self.size or self._bytes >= self._max_bytes

    @property
    def deliveries(self) -> set[int]:
        """Those sent in part or whole and not settled."""
        return set(self._sent)

    def sent(self, delivery: int, chunk: int, size: int, *, last: bool) -> None:
        """A chunk went out."""
        entry = self._sent.setdefault(delivery, _Sent())
        entry.waiting[chunk] = size
        entry.complete = last
        self._chunks += 1
        self._bytes += size

    def acknowledge(self, delivery: int, chunk: int) -> bool:
        """Whether that was still waited for."""
        entry = self._sent.get(delivery)
        if entry is None or chunk not in entry.waiting:
            return False
        self._take(entry.waiting.pop(chunk))
        if entry.complete and not entry.waiting:
            del self._sent[delivery]
            self.settled.add(delivery)
        return True

    def forget(self, delivery: int) -> None:
        """The delivery goes back; what was sent of it will come again."""
        entry = self._sent.pop(delivery, None)
        for size in entry.waiting.values() if entry else ():
            self._take(size)

    def _take(self, size: int) -> None:
        self._chunks -= 1
        self._bytes -= size

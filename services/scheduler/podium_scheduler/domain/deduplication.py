"""Identical items are computed once: who computes what, and who waits for whom.

An item is known by a hash of its content; what else decides its vector is the scope (see app.scopes). Of each hash in a
scope there is one *claim*: the batch that had it first. When that batch has computed the item, its vector is kept with
the claim, and the item is *known*. A batch that was admitted later computes what is its own; what is another's it
leaves out of its first attempt, *waits*, and is put together from known vectors when those it waits for have ended.

Nobody waits for a batch that itself computes nothing before others have: a claim belongs to the batch that computes it
at once. So there are no chains, and no cycles. Waiting is bounded by a patience, after which a batch computes all that
is not known; a claim that nobody makes good only costs that.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

BYTES = 16
"""Of a hash."""
UNIQUE = bytes(BYTES)
"""Hash of an item that is not to be taken for another."""
LEFT_OUT = -(2**31)
"""Source of an item that an attempt leaves out."""
PLAIN_FROM_ATTEMPT = 3
"""From this attempt on a batch computes everything itself, whatever it was that failed."""
MAX_WAITING_JOBS = 32
"""Of one app. The feeder looks at so many jobs of an app before it gives up, so few of them may have nothing for it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What there is of a hash."""

    owner: int
    """The batch that had it first, or that has computed it."""
    known: bool
    """Its vector is there."""
    awaitable: bool = False
    """It is not, but its owner is on its way and comes no later than whoever asks."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A batch that others compute something for. Without owners: all of it is known already."""

    batch_id: int
    owners: tuple[int, ...]
    parked: bool
    """It has nothing to compute itself."""


def split(hashes: bytes, offset: int, count: int) -> list[bytes]:
    """The hashes of `count` items from the one at `offset` on."""
    return [hashes[at * BYTES : (at + 1) * BYTES] for at in range(offset, offset + count)]


def first_owners(batches: Iterable[tuple[int, Sequence[bytes]]]) -> dict[bytes, int]:
    """Each hash and the first of the batches that has it."""
    owners: dict[bytes, int] = {}
    for batch_id, hashes in batches:
        for item_hash in hashes:
            owners.setdefault(item_hash, batch_id)
    owners.pop(UNIQUE, None)
    return owners


def waits(
    batches: Iterable[tuple[int, Sequence[bytes]]], ours: Mapping[bytes, int], others: Mapping[bytes, Claim]
) -> list[Wait]:
    """Which of the batches wait, and for whom. `ours`: the batch of this job that has claimed a hash; `others`: claims
    that were there before.

    A batch with an item that is UNIQUE waits for nobody: nobody would remember that item for it meanwhile.
    """
    found = []
    for batch_id, hashes in batches:
        if UNIQUE in hashes:
            continue
        owners: set[int] = set()
        computes = False
        for item_hash in set(hashes):
            claim = others.get(item_hash) or Claim(ours[item_hash], known=False, awaitable=True)
            if claim.known:
                continue
            if claim.awaitable and claim.owner != batch_id:
                owners.add(claim.owner)
            else:
                computes = True
        if owners or not computes:
            found.append(Wait(batch_id, tuple(sorted(owners)), parked=not computes))
    return found


def sources(hashes: Sequence[bytes], rows: Mapping[bytes, int], awaited: Set[bytes]) -> list[int]:
    """For each item where its vector comes from, as KnownItems.sources says it: from a known row, from itself or an
    identical item before it, or (LEFT_OUT) not from this attempt.

    An attempt that would compute nothing leaves nothing out.
    """
    first: dict[bytes, int] = {}
    found = []
    for item, item_hash in enumerate(hashes):
        if item_hash == UNIQUE:
            found.append(item)
        elif item_hash in rows:
            found.append(-1 - rows[item_hash])
        elif item_hash in awaited:
            found.append(LEFT_OUT)
        else:
            found.append(first.setdefault(item_hash, item))
    if LEFT_OUT in found and not any(source == item for item, source in enumerate(found)):
        return sources(hashes, rows, frozenset())
    return found


def computed(of: Sequence[int]) -> list[int]:
    """Items that an attempt with these sources computes."""
    return [item for item, source in enumerate(of) if source == item]


def packed(of: Sequence[int]) -> bytes:
    """Sources as they travel: little-endian int32."""
    return struct.pack(f"<{len(of)}i", *of)


def most_common(values: Iterable[bytes]) -> bytes | None:
    """The value that occurs most often; None when there is none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None

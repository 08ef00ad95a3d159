"""Items of a batch that need not be computed: which ones are, and how the outcome of these becomes that of all.

In between, the batch is as long as what is computed of it: the intake, the backend and the checks know of no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from podium.common.v1 import result_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import payloads
from podium_worker.app import backend

LEFT_OUT = int(np.iinfo(np.int32).min)
"""Source of an item that this attempt has no outcome of."""
_Indices = npt.NDArray[np.intp]
_Error = TypeVar("_Error")


@dataclass(frozen=True, slots=True)
class Plan:
    """Where each item's outcome comes from; see KnownItems in the contract."""

    sources: _Indices
    """Shape (items of the batch,)."""
    computed: _Indices
    """Items that are computed, ascending."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The outcome of all items of a batch."""

    encoded: npt.NDArray[np.uint8]
    """Shape (rows, bytes of a row)."""
    places: _Indices
    """Item of each row, ascending."""
    sources: Mapping[int, int]
    """Item without a row -> the computed item, counted among those that are computed, whose error it shares."""
    left_out: Sequence[int]
    """Items of which this attempt has no outcome."""


def plan(assign: worker_pb2.Assign) -> Plan | None:
    """What of a batch is to be computed; None: all of it. Raises payloads.BadPayload."""
    if not assign.HasField("known"):
        return None
    raw = assign.known.sources
    if len(raw) != 4 * assign.item_count:
        raise payloads.BadPayload(f"{len(raw)} bytes of sources came for {assign.item_count} items.")
    sources = np.frombuffer(raw, dtype="<i4").astype(np.intp)
    items = np.arange(len(sources))
    named = sources[sources >= 0]
    if (named >= len(sources)).any() or (sources[named] != named).any():
        raise payloads.BadPayload("An item is said to be identical to one that is not computed.")
    return Plan(sources, np.flatnonzero(sources == items))


def rows(known: worker_pb2.KnownItems, row_bytes: int) -> npt.NDArray[np.uint8]:
    """The vectors that came with a batch, shape (rows, row_bytes). Raises payloads.BadPayload."""
    if len(known.vectors) % row_bytes:
        raise payloads.BadPayload(f"{len(known.vectors)} bytes of known vectors are no rows of {row_bytes} bytes.")
    return np.frombuffer(known.vectors, dtype=np.uint8).reshape(-1, row_bytes)


def spread(of: Plan, encoded: npt.NDArray[Any], places: _Indices, known: npt.NDArray[np.uint8]) -> Spread:
    """From the rows of computed items (`places` counts among these) and the known rows to the rows of all items.

    Raises payloads.BadPayload when an item's row is not among the known ones.
    """
    mine = np.ascontiguousarray(encoded).view(np.uint8).reshape(len(encoded), known.shape[1])
    # From an item to its place among the computed ones, and from there to its row; -1: it has none.
    rank = np.zeros(len(of.sources), dtype=np.intp)
    rank[of.computed] = np.arange(len(of.computed))
    row_of = np.full(len(of.computed), -1, dtype=np.intp)
    row_of[places] = np.arange(len(places))
    taken = np.full(len(of.sources), -1, dtype=np.intp)
    here = np.flatnonzero(of.sources >= 0)
    taken[here] = row_of[rank[of.sources[here]]]
    there = np.flatnonzero((of.sources < 0) & (of.sources != LEFT_OUT))
    if len(there) and -1 - of.sources[there].min() >= len(known):
        raise payloads.BadPayload(f"An item's vector is not among the {len(known)} known ones.")
    taken[there] = len(mine) - 1 - of.sources[there]
    found = np.flatnonzero(taken >= 0)
    failed = here[taken[here] < 0].tolist()
    return Spread(
        encoded=np.concatenate([mine, known])[taken[found]],
        places=found,
        sources={item: int(rank[of.sources[item]]) for item in failed},
        left_out=np.flatnonzero(of.sources == LEFT_OUT).tolist(),
    )


def truncations(
    of: Plan, made: Sequence[backend.Truncated], told: Sequence[result_pb2.Truncation], first_item: int
) -> list[backend.Truncated]:
    """Truncations of all items, ascending: those that were `made` here, of their twins too, and what was told."""
    found = [
        backend.Truncated(int(item), cut.token_count, cut.max_tokens)
        for cut in made
        for item in np.flatnonzero(of.sources == of.computed[cut.index])
    ]
    found += [backend.Truncated(cut.item_index - first_item, cut.token_count, cut.max_tokens) for cut in told]
    return sorted(found, key=lambda cut: cut.index)

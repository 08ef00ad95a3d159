"""The pictures that the front has had decoded: memory that it shares with this process, which only reads it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from podium_worker.domain import problems


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the pictures of one batch are: a place for each item, of height x width x 3 bytes."""

    offset: int
    """Of the first one, in bytes."""
    height: int
    width: int
    fetch_s: float
    """Seconds it took to fetch and decode them."""
    failures: Sequence[problems.ItemFailure]
    """Items whose place holds nothing."""


class Album:
    """The whole memory, mapped once. `fd` stays the caller's; nothing is read before a batch names its place."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self._memory = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)

    def pictures(self, shelf: Shelf, item_count: int) -> npt.NDArray[np.uint8]:
        """Pictures of the items that have one, in order: read-only, shape (count, height, width, 3), RGB.

        A view of the shared memory when none has failed, else a copy. Raises ValueError outside of the memory.
        """
        places: npt.NDArray[Any] = np.frombuffer(
            self._memory, np.uint8, item_count * shelf.height * shelf.width * 3, shelf.offset
        ).reshape(item_count, shelf.height, shelf.width, 3)
        if not shelf.failures:
            return places
        return np.delete(places, [failure.index for failure in shelf.failures], axis=0)

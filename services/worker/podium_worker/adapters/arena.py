"""The memory in which pictures go from decoders to executors: a file that all of them map and no folder shows.

Only the front gives regions out and takes them back, on its event loop; children map the whole and are told offsets.
Waiting is first come, first served: whoever needs much is not overtaken by those who need little. What is urgent waits
apart from the rest, and has the end of the memory to itself, but for what is larger than all before that end and comes
when nothing is given out. It may have what is before that end, too, and goes first, until it has had its share of what
was given out there while others waited; then it is their turn. A region that nobody has released is never given to
another. Its bytes are whatever was there before.

Regions come from the lowest address that has room, so that a steady load keeps to the same pages. Pages are given back
to the system once the arena has been empty for a while, not at each release: the kernel would have to fill them with
zeros again for every batch.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

from podium_worker.domain import shares

_LINGER_S = 5.0


class Memory:
    """The arena as a child process sees it: mapped, and nothing else."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(fd, size)

    def view(self, offset: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """The bytes from `offset` on, without a copy; writing into it is seen by every process.

        Raises ValueError when they are not all inside.
        """
        if offset < 0 or offset + math.prod(shape) > self.size:
            raise ValueError(f"{shape} at {offset} is not inside the arena of {self.size} bytes.")
        return np.ndarray(shape, np.uint8, buffer=self._map, offset=offset)

    def close(self) -> None:
        """Unmaps it, unless a view is still in use: then the last one does."""
        with contextlib.suppress(BufferError):
            self._map.close()


def open_arena(fd: int, size: int) -> Memory:
    """Maps an inherited arena of `size` bytes. Raises OSError, or ValueError when the file is smaller."""
    return Memory(fd, size)


class Arena(Memory):
    """The arena as the front owns it. Children inherit `fd`."""

    def __init__(
        self, size: int, linger_s: float = _LINGER_S, *, urgent_bytes: int = 0, call_share: float = 0.5
    ) -> None:
        """`size` in bytes, rounded up to whole pages; they cost nothing until they are used. Raises OSError.

        `urgent_bytes`: at the end, for what is urgent alone. `call_share`: of the rest, what is urgent may take from
        others that wait.
        """
        self._file = os.fdopen(_anonymous_file(), "r+b", buffering=0)
        size = _whole_pages(size)
        os.truncate(self._file.fileno(), size)
        super().__init__(self._file.fileno(), size)
        self._usual_bytes = self.size - _whole_pages(min(urgent_bytes, self.size))
        # Bytes. Urgent regions may fill that share of the rest before it is the others' turn.
        self._lead = shares.Lead(call_share, call_share * self._usual_bytes)
        self._linger_s = linger_s
        self._regions: dict[int, int] = {}
        self._waiting: dict[bool, collections.deque[tuple[int, asyncio.Future[int]]]] = {
            urgent: collections.deque() for urgent in (True, False)
        }
        self._trimming: asyncio.TimerHandle | None = None

    @property
    def fd(self) -> int:
        return self._file.fileno()

    @property
    def used_bytes(self) -> int:
        """What is given out, whole pages each."""
        return sum(self._regions.values())

    async def allocate(self, nbytes: int, *, urgent: bool = False) -> int:
        """The offset of a region of `nbytes`; waits for its turn and for room. ValueError when it can never fit."""
        nbytes = _whole_pages(max(nbytes, 1))
        if nbytes > self.size:
            raise ValueError(f"{nbytes} bytes are wanted, the arena has {self.size}.")
        waiting = self._waiting[urgent]
        if not waiting and (offset := self._take(nbytes, urgent=urgent)) is not None:
            return offset
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting.append((nbytes, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(turn.result())
            else:
                # It may have been first, and in the way of others.
                self._serve()
            raise

    def release(self, offset: int) -> None:
        """Takes a region back. KeyError for one that is not given out: twice could hit its next owner."""
        del self._regions[offset]
        self._serve()
        if not self._regions and self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(self._linger_s, self._trim)

    def close(self) -> None:
        """Nobody waits any more, and the memory is free as soon as the children have gone."""
        for _, turn in (*self._waiting[True], *self._waiting[False]):
            turn.cancel()
        if self._trimming is not None:
            self._trimming.cancel()
        super().close()
        self._file.close()

    def _take(self, nbytes: int, *, urgent: bool) -> int | None:
        offset = self._place(nbytes, urgent=urgent)
        if offset is not None:
            self._count(offset, nbytes, urgent=urgent)
            self._regions[offset] = nbytes
            if self._trimming is not None:
                self._trimming.cancel()
                self._trimming = None
        return offset

    def _place(self, nbytes: int, *, urgent: bool) -> int | None:
        """Where there is room for a region that may be given out now."""
        if not urgent:
            whole = nbytes > self._usual_bytes and not self._regions
            return self._fit(nbytes, 0, self.size if whole else self._usual_bytes)
        others_turn = self._wanted > 0 and not self._lead.allows
        if others_turn and self._wanted > self._usual_bytes:
            # It comes when nothing is given out.
            return None
        # Its own end first: what it takes of the rest, the others have to wait for.
        offset = self._fit(nbytes, self._usual_bytes, self.size)
        return self._fit(nbytes, 0, self.size) if offset is None and not others_turn else offset

    @property
    def _wanted(self) -> int:
        """By the first that waits and is not urgent; 0: none does."""
        return self._waiting[False][0][0] if self._waiting[False] else 0

    def _count(self, offset: int, nbytes: int, *, urgent: bool) -> None:
        if not urgent:
            self._lead.repay(nbytes)
        elif self._wanted and (offset < self._usual_bytes or self._wanted > self._usual_bytes):
            # It is in the way of who waits.
            self._lead.take(nbytes)

    def _fit(self, nbytes: int, begin: int, end: int) -> int | None:
        """First fit in [begin, end)."""
        at = begin
        for offset, length in sorted(self._regions.items()):
            if min(offset, end) - at >= nbytes:
                return at
            at = max(at, offset + length)
        return at if end - at >= nbytes else None

    def _serve(self) -> None:
        """Whoever has waited longest, as long as there is room; the urgent first."""
        while self._served(urgent=True) or self._served(urgent=False):
            pass

    def _served(self, *, urgent: bool) -> bool:
        """Whether the first that waits has its region now, or had gone."""
        waiting = self._waiting[urgent]
        if not waiting:
            return False
        nbytes, turn = waiting[0]
        if not turn.done():
            offset = self._take(nbytes, urgent=urgent)
            if offset is None:
                return False
            turn.set_result(offset)
        waiting.popleft()
        return True

    def _trim(self) -> None:
        """Gives every page back to the system; where that is not possible, they stay."""
        self._trimming = None
        with contextlib.suppress(AttributeError, OSError):
            self._map.madvise(mmap.MADV_REMOVE)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("podium-arena", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE

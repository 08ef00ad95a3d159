"""What a decoder may take from the machine: bounds that it puts on itself before the first image."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
from pathlib import Path

from podium_runtime import heap

_STATM = Path("/proc/self/statm")
# Behind everything that has to answer within a time: the front's heartbeat, the executor's own work.
_NICENESS = 5
# Measured: 4 for most files, 10 for a progressive JPEG; what it costs to turn and to convert comes on top.
_BYTES_PER_PIXEL = 16
# An image of 12 million pixels, as it is decoded.
_KEPT_BYTES = 64 * 1024 * 1024


def bind(max_memory_bytes: int) -> None:
    """At most `max_memory_bytes` of memory of its own; beyond, an allocation fails and the image with it.

    The bound is on addresses, the only one that a process can put on itself: what is mapped by now, the shared arena
    and the libraries among it, is counted off. Linux only; elsewhere the pixel limit has to do.
    """
    heap.keep_freed(_KEPT_BYTES)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        mapped, resident = (int(pages) * mmap.PAGESIZE for pages in _STATM.read_text().split()[:2])
        bound = mapped - resident + max_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def pixels(max_memory_bytes: int) -> int:
    """How many pixels an image may have so that memory is no question.

    libjpeg, for one, does not say that memory was what it lacked; the file would be called broken.
    """
    return max_memory_bytes // _BYTES_PER_PIXEL


def alarm(seconds: float) -> None:
    """Ends this process unless it is called again in time; 0: not any more.

    The front ends a decoder that takes too long. This is for one whose front has died.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)

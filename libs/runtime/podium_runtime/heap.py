"""What the C library does with memory that was freed.

By default glibc takes large pieces from the kernel one by one and gives each back at once, so that every chunk of a
result, every forward pass and every image pays for the same pages again: 3,700 page faults an image for ViT-B/32 on a
CPU, 7% of its time, and a tenth of a decoder's; 100 faults a megabyte of vectors in the scheduler and the gateway.
What is kept instead is bounded, and the worker's `adapters/torch/memory.py` gives it back when a model goes.

Whoever owns the process calls this: services, the `podium` command. The SDK does not, since it is a guest.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The most that glibc takes; larger pieces still come and go one by one.
_LARGEST_BYTES = 32 * 1024 * 1024


def keep_freed(most_bytes: int) -> None:
    """Keeps about so many freed bytes at hand. Other C libraries have no such setting."""
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    if setting is not None:
        setting(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        setting(_M_TRIM_THRESHOLD, most_bytes)


def give_back() -> None:
    """All that is kept."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

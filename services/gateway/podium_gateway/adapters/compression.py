"""LZ4 frames."""

from __future__ import annotations

from typing import cast

import lz4.frame


def lz4_frame(data: memoryview) -> bytes:
    """One LZ4 frame that holds `data`, at the fastest level and with its size in the header."""
    return cast(bytes, lz4.frame.compress(data, compression_level=0, store_size=True))

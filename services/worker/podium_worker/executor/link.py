"""The executor's end of the socket to the front: one thread reads, any may tell.

Failure: a front that has gone ends the process. Nothing is worth finishing then, for nobody could be told.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from podium_worker.adapters import wire


class Link:
    """Frames to and from the front."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def read(self) -> wire.Frame:
        """The next frame. Does not return once the front has gone."""
        frame = wire.read_blocking(self._connection)
        if frame is None:
            os._exit(0)
        return frame

    def tell(
        self,
        kind: wire.Kind,
        header: dict[str, Any] | None = None,
        *bodies: bytes,
        halfway: Callable[[], None] | None = None,
    ) -> None:
        """Returns when the front can read it even if this process dies now. `halfway`: called before the bodies go."""
        size = sum(map(len, bodies))
        head = wire.encode(kind, header or {}, size)
        if halfway is None and size <= wire.SMALL_BYTES:
            # One piece wakes the front once, and this may be where somebody waits for it.
            head, bodies = b"".join([head, *bodies]), ()
        try:
            with self._sending:
                self._connection.sendall(head)
                if halfway is not None:
                    halfway()
                for body in bodies:
                    self._connection.sendall(body)
        except ConnectionError:
            os._exit(0)

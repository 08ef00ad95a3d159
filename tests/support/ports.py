"""Ports for what tests listen on, such that test processes side by side never get the same.

Promises: each process has a range of its own for as long as it lives. The range is whose process holds its first port,
bound and never listened on: the kernel lets one have it, and takes it back however the process ends. Within the range a
port comes again only after all others, so whoever has just been given one has time to bind it. The ranges lie below
what the kernel gives to outgoing connections, so that a port can be left and taken again, as by a restarted service.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator

RANGE = 100
FIRSTS = range(15_000, 30_000, RANGE)


class Ports:
    """A range of ports that nobody else has while this is not closed."""

    def __init__(self, firsts: range = FIRSTS) -> None:
        """Raises OSError when every range is taken."""
        for first in random.sample(firsts, len(firsts)):
            self._holder = socket.socket()
            try:
                # Without SO_REUSEADDR: a second one must fail.
                self._holder.bind(("127.0.0.1", first))
            except OSError:
                self._holder.close()
                continue
            self.range = range(first + 1, first + firsts.step)
            self._turns: Iterator[int] = itertools.cycle(self.range)
            return
        raise OSError("every range of ports is taken by some test process")

    def free(self) -> int:
        """A loopback port of the range that nobody listens on. OSError when there is none."""
        for port in itertools.islice(self._turns, len(self.range)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise OSError(f"no port of {self.range} is free")

    def close(self) -> None:
        """Gives the range back."""
        self._holder.close()


_mine: list[Ports] = []


def free_port() -> int:
    """A free port of this process's own range."""
    if not _mine:
        _mine.append(Ports())
    return _mine[0].free()

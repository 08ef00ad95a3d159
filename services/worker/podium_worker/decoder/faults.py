"""Faults on purpose, for tests. Off unless the environment names them, as in adapters/faults.py.

PODIUM_FAULT_DECODE_KILL   a file that contains this kills the process that decodes it
PODIUM_FAULT_DECODE_HANG   a file that contains this is never decoded
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

_FOR_EVER_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in this process."""

    kill: bytes = b""
    hang: bytes = b""

    def strike(self, data: bytes) -> None:
        """Before a file is decoded."""
        if self.kill and self.kill in data:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.hang and self.hang in data:
            time.sleep(_FOR_EVER_S)


def from_environment(environment: Mapping[str, str]) -> Faults:
    """Reads the variables above."""
    return Faults(
        kill=environment.get("PODIUM_FAULT_DECODE_KILL", "").encode(),
        hang=environment.get("PODIUM_FAULT_DECODE_HANG", "").encode(),
    )

"""NVML, opened by the first who needs it, and opened anew when a GPU was in trouble.

A handle that was had before a GPU was lost or reset stays bad, and so does all of NVML in this process until it is shut
down and initialised again. That takes everybody's handles, so it is done while nobody is inside: who comes in waits a
moment for those who are to leave, and goes on with the old session when one of them hangs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

# Longer than anybody who is well stays inside; well within the bound of a reading.
_LEAVE_WITHIN_S = 2.0
# Opening wakes every GPU; one that stays lost is asked often.
_DOUBTS_A_REOPENING = 5


class Session:
    """Who may call NVML, and since when its handles are good. For threads."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        self._condition = threading.Condition()
        self._inside = 0
        self._open = False
        self._doubts = 0
        self._generation = 0

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """To be held while NVML is called. Gives the generation that handles belong to. Raises NVMLError."""
        with self._condition:
            if self._open and self._doubts >= _DOUBTS_A_REOPENING:
                self._condition.wait_for(lambda: not self._inside or not self._doubts, _LEAVE_WITHIN_S)
                if self._doubts and not self._inside:
                    self._open = False
                    # What cannot be shut down is opened over.
                    with contextlib.suppress(self._nvml.NVMLError):
                        self._nvml.nvmlShutdown()
                self._doubts = 0
            if not self._open:
                self._nvml.nvmlInit()
                self._open = True
                self._generation += 1
            self._inside += 1
            generation = self._generation
        try:
            yield generation
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    def doubt(self) -> None:
        """A GPU was in trouble: after a few of these NVML is opened anew."""
        with self._condition:
            self._doubts += 1

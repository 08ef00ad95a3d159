"""How full Redis is. Feeding stops first, admission later, so that Redis itself never has to refuse a result."""

from __future__ import annotations

from podium_runtime import errors
from podium_scheduler.app import loops, ports


class PressureGauge(loops.PatientLoop):
    """Reads Redis' memory once a second. Feeding stops at `feed_share`, admission at `admit_share`."""

    name = "pressure"

    def __init__(self, buffer: ports.WorkBuffer, feed_share: float = 0.8, admit_share: float = 0.9) -> None:
        super().__init__()
        self._buffer = buffer
        self._feed_share = feed_share
        self._admit_share = admit_share
        self.share = 0.0

    @property
    def may_feed(self) -> bool:
        """Whether there is room for more work."""
        return self.share < self._feed_share

    def refuse_when_full(self) -> None:
        """Raises errors.ResourceExhausted."""
        if self.share >= self._admit_share:
            raise errors.ResourceExhausted(
                "results wait to be read and the buffer is nearly full",
                reason="BUFFER_FULL",
                retry_after_s=5.0,
            )

    async def round(self) -> float:
        """Reads the gauge."""
        self.share = await self._buffer.memory_share()
        return 1.0

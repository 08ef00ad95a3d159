"""How full Redis is, for those who only need to know: admission refuses, waiting readers are asked to acknowledge.

Feeding looks for itself, batch by batch (see domain.room). This also warns of a Redis that cannot be relied on: one
that evicts loses results without a word, one without a limit takes memory until the machine has none.
"""

from __future__ import annotations

from prometheus_client import Gauge

from podium_runtime import errors, logs
from podium_scheduler.app import loops, ports
from podium_scheduler.domain import room

log = logs.get_logger(__name__)
SHARE = Gauge("podium_buffer_memory_share", "Used share of Redis' maxmemory; 0 without a limit.")
EVICTS = Gauge("podium_buffer_evicts", "1 when Redis' maxmemory-policy may evict what is not read yet.")
_WARN_EVERY = 60


class PressureGauge(loops.PatientLoop):
    """Reads Redis' memory once a second."""

    name = "pressure"

    def __init__(self, buffer: ports.WorkBuffer) -> None:
        super().__init__()
        self._buffer = buffer
        self._rounds = 0
        self.memory = room.Memory(0, 0)

    @property
    def share(self) -> float:
        """Used share of Redis' memory, at the last look."""
        return self.memory.share

    @property
    def asks_for_acknowledgement(self) -> bool:
        """Whether results wait to be read and hold back work."""
        return self.share >= room.ASK_SHARE

    def refuse_when_full(self) -> None:
        """Raises errors.ResourceExhausted."""
        if self.share >= room.ADMIT_SHARE:
            raise errors.ResourceExhausted(
                "results wait to be read and the buffer is nearly full",
                reason="BUFFER_FULL",
                retry_after_s=5.0,
            )

    async def round(self) -> float:
        """Reads the gauge."""
        memory = self.memory = await self._buffer.memory()
        SHARE.set(memory.share)
        EVICTS.set(int(memory.evicts))
        if self._rounds % _WARN_EVERY == 0:
            _warn(memory)
        self._rounds += 1
        return 1.0


def _warn(memory: room.Memory) -> None:
    if memory.evicts:
        log.error("buffer_evicts", advice="set maxmemory-policy noeviction: results are lost before they are read")
    if not memory.limit:
        log.warning("buffer_unlimited", advice="set maxmemory: without it nothing holds back what nobody reads")

"""What interactive calls ask for, told to the ledger: so that a model is loaded, and a pod rented, for those that come.

Nothing waits for it: what was asked is noted here, and written once a second at most for each workload. What is noted
while the ledger is away is kept, within bounds; what a replica has noted when it is killed is lost, and the next call
says it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from podium_runtime import clock
from podium_scheduler.app import loops, ports, records, wakers

_INTERVAL_S = 1.0


@dataclass(slots=True)
class _Asked:
    calls: int = 0
    unserved: int = 0


class Demand(loops.PatientLoop):
    """Notes what was asked and writes it."""

    name = "demand"

    def __init__(self, ledger: ports.DemandLedger, wake: wakers.Wakers, time: clock.Clock) -> None:
        super().__init__()
        self._ledger = ledger
        self._wakers = wake
        self._clock = time
        self._asked: dict[str, _Asked] = {}
        self._written_at = float("-inf")

    def note(self, workload: str, *, served: bool) -> None:
        """A call of a workload of the registry has come. `served`: a worker has answered it."""
        asked = self._asked.setdefault(workload, _Asked())
        asked.calls += 1
        if not served:
            asked.unserved += 1
            # Somebody waits for a model.
            self.wake.set()

    async def round(self) -> float:
        """Writes what was noted."""
        rest_s = self._written_at + _INTERVAL_S - self._clock.monotonic()
        if not self._asked:
            return _INTERVAL_S
        if rest_s > 0:
            return rest_s
        noted, self._asked = self._asked, {}
        asked = [records.AskedFor(name, one.calls, one.unserved) for name, one in sorted(noted.items())]
        try:
            await self._ledger.record(asked)
        except BaseException:
            for name, one in noted.items():
                again = self._asked.setdefault(name, _Asked())
                again.calls, again.unserved = again.calls + one.calls, again.unserved + one.unserved
            raise
        self._written_at = self._clock.monotonic()
        if any(one.unserved for one in asked):
            await self._wakers.place()
        return _INTERVAL_S

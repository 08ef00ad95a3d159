"""How fast workloads run on types of device, as finished batches tell: noted here, written to the ledger now and then.

Each replica notes its own workers'. What counts is the time on the device alone, so that a pod that waits for work is
not taken for a slow one. Nothing waits for the ledger; what could not be written is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from podium_scheduler.app import loops, ports, records, worker_sessions

_INTERVAL_S = 5.0
_LEAST_S = 1e-4
_MOST_ITEMS_PER_S = 1e9
_MAX_NAME = 200
_MAX_NOTED = 1_000


@dataclass(slots=True)
class _Sum:
    items: int = 0
    seconds: float = 0.0
    batches: int = 0


class Throughputs(loops.PatientLoop):
    """Notes batches and writes their mean speed."""

    name = "throughputs"

    def __init__(self, ledger: ports.ScalingLedger) -> None:
        super().__init__()
        self._ledger = ledger
        self._noted: dict[tuple[str, str], _Sum] = {}

    def note(self, session: worker_sessions.Session, workload: str, items: int, seconds: float) -> None:
        """A batch is done. `seconds`: on its device; those of one worker have to be of one type."""
        # Of a GPU that has been in trouble from the start nothing is known, its name neither.
        names = {device.name for device in session.hello.devices if device.name}
        if len(names) != 1 or items < 1 or seconds < _LEAST_S or len(self._noted) >= _MAX_NOTED:
            return
        name = names.pop().replace("\x00", "")[:_MAX_NAME]
        found = self._noted.setdefault((workload, name), _Sum())
        found.items += items
        found.seconds += seconds
        found.batches += 1

    async def round(self) -> float:
        """Writes what was noted."""
        noted, self._noted = self._noted, {}
        # While the ledger is away a mean more or less does not matter.
        if noted:
            await self._ledger.record_throughputs(list(_speeds(noted.items())))
        return _INTERVAL_S


def _speeds(noted: Iterable[tuple[tuple[str, str], _Sum]]) -> Iterable[records.Throughput]:
    for (workload, name), found in noted:
        yield records.Throughput(workload, name, min(found.items / found.seconds, _MOST_ITEMS_PER_S), found.batches)

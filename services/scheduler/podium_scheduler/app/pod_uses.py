"""What jobs have of pods, as finished batches and loads tell: noted here, written to the ledger now and then.

Each replica notes its own workers'. What is noted while the ledger is away is kept; what a replica has noted and not
written when it is killed is lost, and its share of the bill stays unattributed: no job pays for what is not known.
"""

from __future__ import annotations

from uuid import UUID

from podium_scheduler.app import loops, ports, records, worker_sessions

_INTERVAL_S = 2.0
_MAX_NOTED = 100_000
_MAX_S = 3_600.0
"""More than any batch or load takes; a worker that says more is not believed."""


class PodUses(loops.PatientLoop):
    """Notes uses and writes them."""

    name = "pod_uses"

    def __init__(self, ledger: ports.CostLedger) -> None:
        super().__init__()
        self._ledger = ledger
        self._noted: list[records.PodUse] = []

    def note(
        self,
        session: worker_sessions.Session,
        workload: str,
        seconds: float,
        job_id: UUID | None = None,
        *,
        call: bool = False,
    ) -> None:
        """A batch of a job, or an interactive call or a load without one, took a GPU of the pod for so long."""
        pod_id = session.pod_id
        if pod_id is not None and 0 < seconds <= _MAX_S and len(self._noted) < _MAX_NOTED:
            self._noted.append(records.PodUse(pod_id, workload, seconds, job_id, call))

    async def round(self) -> float:
        """Writes what was noted."""
        noted = list(self._noted)
        if noted:
            await self._ledger.record(noted)
            # Only now: while the ledger is away they stay.
            del self._noted[: len(noted)]
        return _INTERVAL_S

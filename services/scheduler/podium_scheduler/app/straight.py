"""From admission straight to an idle worker: what the feeder would do next, done by the statement that admits.

Promises: it is what the feeder would have done. A job goes this way only at the replica that leads, while its feeder
rests and at its last round left nothing of the workload behind, neither in the ledger nor in the work stream; and only
as far as that round found room for results. So nobody is overtaken by more than a look of the lookout, and as nobody
else waits, nobody's share is charged for it: an app that was idle starts at the present of the others. Whoever makes
something wait wakes the feeder, or the lookout does, and that closes this way until the next round is over. Failure:
that of `app.handover`; without it the job goes the ordinary way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from podium_scheduler.app import handover, ports, records, wakers
from podium_scheduler.domain import room


class Straight:
    """Of one replica: opened and closed by its feeder, used by its admission."""

    def __init__(self, hand_over: handover.Handover, wake: wakers.Wakers, sizes: Mapping[str, room.Sizes]) -> None:
        self._handover = hand_over
        self._wakers = wake
        self._sizes = sizes
        self._ledger: ports.FeedLedger | None = None
        self._left = room.Room(room.Memory(0, 0), 0)
        self._behind: Collection[str] = ()
        self._under_way = self._unseen = 0
        """Bytes that the results of what is being written will take; those of it that the feeder's look may miss."""

    def open(self, ledger: ports.FeedLedger, left: room.Room, behind: Collection[str]) -> None:
        """The feeder, which writes to `ledger`, is done, with this room left; something of `behind` still waits."""
        self._ledger, self._left, self._behind = ledger, left, behind
        left.take(self._unseen)

    def close(self) -> None:
        """The feeder looks anew, or there is none here any more."""
        self._ledger, self._unseen = None, self._under_way

    async def admit(self, job_id: UUID, new: records.NewJob) -> tuple[records.Job, int] | None:
        """The job, and how many of its batches are with workers already; None: it is to be admitted as always."""
        ledger, left = self._ledger, self._left
        idle = self._handover.idle(new.workload, self._most(new)) if ledger is not None else []
        if ledger is None or not idle:
            return None
        nbytes = len(idle) * self._sizes[new.workload].batch
        left.take(nbytes)
        self._under_way += nbytes
        try:
            begun = await self._handover.admit(ledger, job_id, new, idle)
        except BaseException:
            # It may be written, and part of it may wait.
            self._wakers.feeder.set()
            raise
        finally:
            self._under_way -= nbytes
        if begun is None:
            left.take(-nbytes)
        return begun

    def _most(self, new: records.NewJob) -> int:
        """Batches that may go this way now."""
        if self._wakers.feeder.is_set() or new.workload in self._behind:
            return 0
        fit, reserve = self._left.batches(self._sizes[new.workload].batch)
        if reserve:
            return 0
        return len(new.batches) if fit is None else min(fit, len(new.batches))

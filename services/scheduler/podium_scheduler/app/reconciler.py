"""The reconciler: makes Redis agree with the ledger again. Runs on the leader only.

Three kinds of difference. A work entry whose batch waits no more (its job was cancelled): the entry goes. A batch that
has been QUEUED for a while without an entry (a crash between commit and push, or a loss): it is fed again. And Redis
as a whole: it lives another life than the one that the ledger has filled (it is empty, or was restarted, or a replica
took over); then results may be gone too, perhaps only the last second's, and those batches are computed again, and
results that were dropped before may be back. Those are also looked for now and then: whoever died between the release
and the drop, or was late with a result of his own, has left some.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from podium_runtime import ids, logs
from podium_scheduler.app import loops, lost_results, ports, returned_results

log = logs.get_logger(__name__)

_INTERVAL_S = 2.0
_QUEUED_AGE = timedelta(seconds=5)
_PAGE = 1_000
_LEFT_BEHIND_EVERY = 15


class Reconciler(loops.PatientLoop):
    """Compares Redis with the ledger."""

    name = "reconciler"

    def __init__(
        self,
        batches: ports.BatchLedger,
        cluster: ports.ClusterLedger,
        buffer: ports.WorkBuffer,
        lost: lost_results.LostResults,
        returned: returned_results.ReturnedResults,
        workloads: list[str],
        make: ids.Ids,
    ) -> None:
        super().__init__()
        self._batches = batches
        self._cluster = cluster
        self._buffer = buffer
        self._lost = lost
        self._returned = returned
        self._workloads = workloads
        self._ids = make
        self._rounds = 0
        self._gone_through = ""
        """The life for which all results have been looked for once."""

    async def round(self) -> float:
        """Looks for all three."""
        known = await self._cluster.redis_epoch()
        life = await self._buffer.life(str(self._ids.uuid4()))
        await self._buffer.ensure_groups(self._workloads)
        if life != known:
            log.warning("buffer_is_another", known=known, found=life)
            await self._requeue(timedelta(0))
            await self._recompute_lost()
            await self._returned.drop()
            # Twice: a batch whose result was written into the life before may have been completed since.
            if self._gone_through == life:
                await self._cluster.set_redis_epoch(life)
            self._gone_through = life
        else:
            await self._requeue(_QUEUED_AGE)
        if self._rounds % _LEFT_BEHIND_EVERY == 0:
            await self._returned.drop()
        self._rounds += 1
        await self._prune()
        return _INTERVAL_S

    async def _requeue(self, age: timedelta) -> None:
        queued = await self._batches.queued_since(age, _PAGE)
        if not queued:
            return
        present = {e.batch_id for e in await self._buffer.entries(sorted(set(queued.values())))}
        missing = [batch_id for batch_id in queued if batch_id not in present]
        if missing:
            count = await self._batches.unqueue(missing)
            log.warning("lost_entries_requeued", batches=count)

    async def _prune(self) -> None:
        entries = await self._buffer.entries(self._workloads)
        if not entries:
            return
        done = await self._batches.not_queued([e.batch_id for e in entries])
        settled = [e for e in entries if e.batch_id in done]
        if settled:
            await self._buffer.settle(settled)

    async def _recompute_lost(self) -> None:
        after = UUID(int=0)
        while page := await self._batches.jobs_with_results(after, _PAGE):
            after = page[-1]
            for job_id in page:
                await self._lost.recompute(job_id)

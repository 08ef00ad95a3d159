"""Use case: what jobs cost. The rule, in domain.costs: a pod's bill is shared by GPU-seconds.

A job pays for the time in which a pod computed for it, and for its share, by how busy it kept the pod, of the loads of
its workload's model and of the time in which the pod was there and had nothing to do. A pod's way up and its end, and
pods that computed for nobody, are nobody's: unattributed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from podium_scheduler.app import ports, records
from podium_scheduler.domain import costs

_EVER = datetime(2000, 1, 1, tzinfo=UTC)
_OTHERS = UUID(int=0)
"""Stands for all other jobs of a pod."""


class JobCosts:
    """Adds up."""

    def __init__(self, ledger: ports.CostLedger) -> None:
        self._ledger = ledger

    async def of_job(self, job_id: UUID, now: datetime) -> costs.JobCost:
        """What a job has cost up to now; zero for one that no pod computed for."""
        own, shares, spans = await self._ledger.of_job(job_id)
        mine = {use.pod_id: use for use in own}
        uses = {share.pod_id: _shared_out(share, mine.get(share.pod_id)) for share in shares}
        return costs.attribute(costs.bills(spans, _EVER, now), uses).jobs.get(job_id, costs.JobCost())

    async def since(self, start: datetime, now: datetime) -> costs.Attribution:
        """What pods cost since then; all jobs together are one. Of a pod that lived longer, what it did is taken to be
        spread over its life."""
        shares, spans = await self._ledger.between(start, now)
        bills = costs.bills(spans, start, now)
        lives = costs.bills(spans, _EVER, now)
        uses = {}
        for share in shares:
            life_s = lives[share.pod_id].pod_seconds if share.pod_id in lives else 0.0
            part = bills[share.pod_id].pod_seconds / life_s if life_s > 0 else 0.0
            uses[share.pod_id] = [_scaled(use, part) for use in _shared_out(share, None)]
        return costs.attribute(bills, uses)


def _shared_out(share: records.PodShare, own: records.PodUse | None) -> list[costs.Use]:
    """A job's use of a pod and that of all others, with their loads and their waiting."""
    busy = _busy(share.work, own)
    loads = {work.workload: work.load_s for work in share.work}
    taken = sum(use.busy_s for use in busy) + sum(loads.values())
    return costs.share_out(busy, loads, max(0.0, share.served_s * share.gpu_count - taken))


def _busy(work: Sequence[records.PodWork], own: records.PodUse | None) -> list[costs.Use]:
    others: defaultdict[str, float] = defaultdict(float, {one.workload: one.busy_s for one in work})
    found = []
    if own is not None and own.job_id is not None:
        others[own.workload] -= own.seconds
        found.append(costs.Use(own.job_id, own.workload, own.seconds))
    return found + [costs.Use(_OTHERS, workload, seconds) for workload, seconds in others.items() if seconds > 0]


def _scaled(use: costs.Use, part: float) -> costs.Use:
    return replace(use, busy_s=use.busy_s * part, load_s=use.load_s * part, idle_s=use.idle_s * part)

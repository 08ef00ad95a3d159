"""Use case: what jobs cost. The rule, in domain.costs: a pod's bill is shared by GPU-seconds.

A job pays for the time in which a pod computed for it, and for its share, by how busy it kept the pod, of the loads of
its workload's model and of the time in which the pod was there and had nothing to do. Interactive calls take their
share of these like a job, and nobody pays for it. So what calls took, a pod's way up and its end, and pods that
computed for nobody, are nobody's: unattributed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
        return (await self.of_jobs([job_id], now)).get(job_id, costs.JobCost())

    async def of_jobs(self, job_ids: Sequence[UUID], now: datetime) -> Mapping[UUID, costs.JobCost]:
        """The same of several; those that no pod computed for are left out."""
        if not job_ids:
            return {}
        own, shares, spans = await self._ledger.of_jobs(job_ids)
        mine: defaultdict[UUID, list[records.PodUse]] = defaultdict(list)
        for use in own:
            mine[use.pod_id].append(use)
        uses = {share.pod_id: _shared_out(share, mine[share.pod_id]) for share in shares}
        found = costs.attribute(costs.bills(spans, _EVER, now), uses).jobs
        return {job_id: found[job_id] for job_id in job_ids if job_id in found}

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
            uses[share.pod_id] = [_scaled(use, part) for use in _shared_out(share, ())]
        return costs.attribute(bills, uses)


def _shared_out(share: records.PodShare, own: Sequence[records.PodUse]) -> list[costs.Use]:
    """Some jobs' use of a pod and that of all others, with their loads and their waiting."""
    busy = _busy(share.work, own)
    loads = {work.workload: work.load_s for work in share.work}
    taken = sum(use.busy_s for use in busy) + sum(loads.values())
    return costs.share_out(busy, loads, max(0.0, share.served_s * share.gpu_count - taken))


def _busy(work: Sequence[records.PodWork], own: Sequence[records.PodUse]) -> list[costs.Use]:
    others: defaultdict[str, float] = defaultdict(float, {one.workload: one.busy_s - one.call_s for one in work})
    found = [costs.Use(None, one.workload, one.call_s) for one in work if one.call_s > 0]
    for use in own:
        if use.job_id is not None:
            others[use.workload] -= use.seconds
            found.append(costs.Use(use.job_id, use.workload, use.seconds))
    return found + [costs.Use(_OTHERS, workload, seconds) for workload, seconds in others.items() if seconds > 0]


def _scaled(use: costs.Use, part: float) -> costs.Use:
    return replace(use, busy_s=use.busy_s * part, load_s=use.load_s * part, idle_s=use.idle_s * part)

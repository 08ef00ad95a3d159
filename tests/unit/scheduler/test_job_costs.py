"""What jobs cost, and that nothing of a bill is lost or charged twice."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from podium.worker.v1 import worker_pb2
from podium_runtime import errors
from podium_scheduler.app import job_costs, pod_uses, records, worker_sessions
from podium_scheduler.domain import costs

START = datetime(2026, 1, 1, tzinfo=UTC)
POD, UNUSED, FIRST, SECOND = (uuid.UUID(int=n) for n in range(4))


class Ledger:
    def __init__(
        self,
        shares: Sequence[records.PodShare] = (),
        spans: Sequence[costs.Span] = (),
        uses: Sequence[records.PodUse] = (),
    ) -> None:
        self.shares, self.spans, self.uses = list(shares), list(spans), list(uses)
        self.written: list[records.PodUse] = []
        self.away = False

    async def of_jobs(
        self, job_ids: Sequence[uuid.UUID]
    ) -> tuple[list[records.PodUse], list[records.PodShare], list[costs.Span]]:
        own = [use for use in self.uses if use.job_id in job_ids]
        pods = {use.pod_id for use in own}
        return own, [s for s in self.shares if s.pod_id in pods], [span for span in self.spans if span.pod_id in pods]

    async def between(self, start: datetime, end: datetime) -> tuple[list[records.PodShare], list[costs.Span]]:
        return self.shares, self.spans

    async def record(self, uses: Sequence[records.PodUse]) -> None:
        if self.away:
            raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")
        self.written += uses


def an_hour() -> Ledger:
    """A pod of $3.60 that served 3,000 s of its hour for two jobs, and one that served nobody."""
    uses = [records.PodUse(POD, "minilm", 600.0, FIRST), records.PodUse(POD, "minilm", 1200.0, SECOND)]
    work = [records.PodWork("minilm", 1800.0, 300.0), records.PodWork("clip", 0.0, 100.0)]
    end = START + timedelta(hours=1)
    spans = [costs.Span(pod, START, end, Decimal("3.60")) for pod in (POD, UNUSED)]
    shares = [records.PodShare(POD, 3000.0, 1, work), records.PodShare(UNUSED, 3000.0, 1, [])]
    return Ledger(shares, spans, uses)


async def test_a_job_pays_for_what_it_used_and_for_its_share_of_loads_and_waiting() -> None:
    ledger: Any = an_hour()
    end = START + timedelta(hours=1)
    first = await job_costs.JobCosts(ledger).of_job(FIRST, end)
    second = await job_costs.JobCosts(ledger).of_job(SECOND, end)
    # A third of 300 s of loads, and of the 800 s in which it stood idle; what no job used is nobody's.
    assert first.gpu_seconds == 600 + 100 + 800 / 3
    assert second.gpu_seconds == 1200 + 200 + 1600 / 3
    assert abs(first.micro_usd - first.gpu_seconds * 1000) <= 1
    day = await job_costs.JobCosts(ledger).since(START, end)
    assert day.bill.micro_usd == 7_200_000
    assert sum(cost.micro_usd for cost in day.jobs.values()) + day.unattributed_micro_usd == day.bill.micro_usd
    (all_jobs,) = day.jobs.values()
    assert abs(all_jobs.micro_usd - first.micro_usd - second.micro_usd) <= 2
    half = await job_costs.JobCosts(ledger).since(START + timedelta(minutes=30), end)
    assert half.bill.micro_usd == 3_600_000, "of a part of their lives"
    assert abs(2 * half.unattributed_micro_usd - day.unattributed_micro_usd) <= 4


async def test_what_calls_took_is_nobodys_so_that_jobs_and_the_unattributed_are_the_bill() -> None:
    ledger: Any = an_hour()
    end = START + timedelta(hours=1)
    before = await job_costs.JobCosts(ledger).since(START, end)
    shares, spans, uses = ledger.shares, ledger.spans, ledger.uses
    served = replace(shares[0], work=[records.PodWork("minilm", 2400.0, 300.0, 600.0), *shares[0].work[1:]])
    calls_only = replace(shares[1], work=[records.PodWork("clip", 900.0, 60.0, 900.0)])
    calls: Any = Ledger([served, calls_only], spans, uses)
    day = await job_costs.JobCosts(calls).since(START, end)
    jobs = sum([(await job_costs.JobCosts(calls).of_job(job, end)).micro_usd for job in (FIRST, SECOND)])
    assert day.bill == before.bill
    assert abs(jobs + day.unattributed_micro_usd - day.bill.micro_usd) <= 2
    # The calls took a quarter of the time in which the first pod computed, and so of its loads and its waiting. The
    # second one's hour is nobody's, as it was.
    assert abs(day.unattributed_micro_usd - (before.unattributed_micro_usd + 600_000 + 75_000 + 50_000)) <= 2


async def test_a_job_that_no_pod_computed_for_costs_nothing() -> None:
    ledger: Any = an_hour()
    assert await job_costs.JobCosts(ledger).of_job(uuid.uuid4(), START) == costs.JobCost()


async def test_batches_and_loads_of_pods_are_noted_and_outlast_an_absence_of_the_ledger() -> None:
    ledger: Any = Ledger()
    uses = pod_uses.PodUses(ledger)
    on_pod = worker_sessions.Session(uuid.uuid4(), uuid.uuid4(), worker_pb2.Hello(pod_id=str(POD)))
    elsewhere = worker_sessions.Session(uuid.uuid4(), uuid.uuid4(), worker_pb2.Hello(pod_id="a cupboard"))
    uses.note(on_pod, "minilm", 1.5, FIRST)
    uses.note(on_pod, "minilm", 20.0)
    uses.note(on_pod, "minilm", -1.0, FIRST)
    uses.note(elsewhere, "minilm", 1.5, FIRST)
    ledger.away = True
    await uses.run_once()
    ledger.away = False
    await uses.run_once()
    await uses.run_once()
    assert ledger.written == [records.PodUse(POD, "minilm", 1.5, FIRST), records.PodUse(POD, "minilm", 20.0)]

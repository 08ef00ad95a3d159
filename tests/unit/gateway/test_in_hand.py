"""How much of memory the requests of all apps together take, and what becomes of those beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from podium.common.v1 import item_pb2, job_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import admitted, callers, in_hand, submit, workloads
from podium_runtime import clock, errors

TEXTS = workload_pb2.Workload(
    name="texts",
    modalities=[workload_pb2.MODALITY_TEXT],
    limits=workload_pb2.WorkloadLimits(max_text_bytes=10_000),
    batch=workload_pb2.BatchShape(max_items=10, max_bytes=1 << 20),
)
REQUEST_ID = "0af76519-16cd-43dd-8448-eb211c80319c"
DEADLINE_S = 10.0


def test_what_ends_makes_room_however_it_ends() -> None:
    hand = in_hand.InHand(100, retry_after_s=2.0)
    with hand.share() as first:
        first.grow(60)
        first.grow(30)
        with pytest.raises(errors.ResourceExhausted) as caught, hand.share() as second:
            second.grow(10)
            second.grow(1)
        assert hand.nbytes == 90
    assert hand.nbytes == 0
    assert (caught.value.reason, caught.value.retry_after_s) == ("GATEWAY_BUSY", 2.0)


def test_one_alone_may_be_larger_than_all_together() -> None:
    """Or whoever sets the bound too low would refuse it for ever."""
    hand = in_hand.InHand(100, retry_after_s=2.0)
    with hand.share() as alone:
        alone.grow(90)
        alone.grow(90)
        with pytest.raises(errors.ResourceExhausted), hand.share() as other:
            other.grow(1)


@dataclass
class Ledger:
    """Admits jobs when it is let; counts."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    items: int = 0

    async def list_workloads(self) -> Sequence[workload_pb2.Workload]:
        return (TEXTS,)

    async def admit(
        self, caller: callers.Caller, admission: scheduler_pb2.AdmitJobRequest
    ) -> scheduler_pb2.AdmitJobResponse:
        self.asked += 1
        await self.gate.wait()
        return scheduler_pb2.AdmitJobResponse(job=job_pb2.Job(job_id="job", workload="texts"))

    def admitted(self, items: int, batches: int) -> None:
        self.items += batches


def _request(size: int) -> gateway_pb2.SubmitBatchRequest:
    texts = item_pb2.TextItems(items=[item_pb2.TextItem(text="x" * size)])
    return gateway_pb2.SubmitBatchRequest(request_id=REQUEST_ID, workload="texts", texts=texts)


async def test_jobs_of_all_apps_are_in_hand_with_so_many_bytes_and_more_are_refused_at_once() -> None:
    ledger, time = Ledger(), clock.FakeClock()
    take = submit.SubmitBatch(
        ledger,  # type: ignore[arg-type]
        workloads.Registry(ledger, time),  # type: ignore[arg-type]
        lambda data: bytes(data),
        ledger,  # type: ignore[arg-type]
        admitted.AdmittedJobs(time),
        most_bytes=20_000,
    )
    async with asyncio.timeout(DEADLINE_S):
        under_way = [asyncio.create_task(take(callers.Caller(app), _request(9_000))) for app in "ab"]
        while ledger.asked < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with pytest.raises(errors.ResourceExhausted) as caught:
            await take(callers.Caller("c"), _request(9_000))
        assert (caught.value.reason, ledger.asked) == ("GATEWAY_BUSY", 2)
        assert caught.value.retry_after_s > 0
        under_way[0].cancel()
        await asyncio.wait(under_way[:1])
        under_way[0] = asyncio.create_task(take(callers.Caller("c"), _request(9_000)))
        ledger.gate.set()
        await asyncio.gather(*under_way)
    assert ledger.asked == 3

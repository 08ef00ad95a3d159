"""What a call that finds no worker is told to wait: by loads, by pods of the past, and by who is there to load it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.worker.v1 import worker_pb2
from podium_gateway.app import callers, embed_texts, workloads
from podium_gateway.domain import requests
from podium_runtime import clock, errors
from podium_scheduler.app import cold_starts, records
from podium_scheduler.domain import pods
from tests.support import http_edge
from tests.unit.scheduler.test_pods import NOW, pod

GB = 1 << 30
WORKLOADS = {
    name: workload_pb2.Workload(
        name=name,
        model=workload_pb2.ModelSpec(backend="open_clip"),
        needs=workload_pb2.DeviceNeeds(vram_bytes=vram),
    )
    for name, vram in (("small", 4 * GB), ("large", 40 * GB))
}
LOAD_S, POD_S = 10.0, 120.0
"""What is assumed."""
REQUEST_S = 60.0
"""Over HTTP."""
STEP_S = 10.0


class Ledger:
    """Loads, sessions and pods."""

    def __init__(self) -> None:
        self.known: list[records.MeasuredLoad] = []
        self.opened: list[records.PlacedSession] = []
        self.past: list[pods.Pod] = []
        self.away = False

    async def loads(self, workload: str = "") -> list[records.MeasuredLoad]:
        if self.away:
            raise errors.Unavailable("away")
        return self.known

    async def placed(self) -> list[records.PlacedSession]:
        return self.opened

    async def list_pods(self, before: object, limit: int) -> list[pods.Pod]:
        return self.past[:limit]

    def load(self, workload: str, device: str, seconds: float) -> None:
        self.known.append(records.MeasuredLoad(workload, device, 1, seconds, seconds, 0, NOW))

    def worker(
        self,
        *vram: int,
        only: tuple[str, ...] = (),
        device: str = "L4",
        status: worker_pb2.Status | None = None,
        **decided: Any,
    ) -> None:
        hello = worker_pb2.Hello(
            backends=["open_clip"],
            workloads=only,
            devices=[worker_pb2.Device(index=n, name=device, vram_bytes=size) for n, size in enumerate(vram)],
        )
        values: dict[str, Any] = {"drain": False, "quarantine_reason": "", "wanted": ()} | decided
        said = (status or worker_pb2.Status()).SerializeToString()
        self.opened.append(records.PlacedSession(uuid.uuid4(), hello.SerializeToString(), said, **values))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def looked(ledger: Ledger, *, rents: bool = True, time: clock.Clock | None = None) -> cold_starts.ColdStarts:
    starts = cold_starts.ColdStarts(WORKLOADS, ledger, ledger, time or clock.FakeClock(), ledger if rents else None)
    await starts.run_once()
    return starts


async def test_without_workers_a_pod_has_to_come_first(ledger: Ledger) -> None:
    assert (await looked(ledger)).left_s("small") == POD_S + LOAD_S
    assert (await looked(ledger, rents=False)).left_s("small") == LOAD_S


async def test_pods_of_the_past_say_how_long_one_takes(ledger: Ledger) -> None:
    came = [pod(pods.State.DESTROYED, create_time=NOW, ready_time=NOW + timedelta(seconds=s)) for s in (40, 60)]
    ledger.past = [*came, pod(pods.State.FAILED), pod(pods.State.STARTING)]
    ledger.load("small", "A100", 7.0)
    starts = await looked(ledger)
    assert (starts.left_s("small"), starts.left_s("large")) == (57.0, 60.0)


async def test_a_worker_that_can_load_it_needs_no_pod(ledger: Ledger) -> None:
    ledger.worker(24 * GB)
    assert (await looked(ledger)).left_s("small") == LOAD_S


@pytest.mark.parametrize(
    ("vram", "changes"),
    [
        ((2 * GB,), {}),
        ((24 * GB,), {"only": ("large",)}),
        ((24 * GB,), {"drain": True}),
        ((24 * GB,), {"quarantine_reason": "bad results"}),
        ((24 * GB,), {"status": worker_pb2.Status(draining=True)}),
        (
            (24 * GB, 2 * GB),
            {"status": worker_pb2.Status(devices=[worker_pb2.DeviceStatus(state=worker_pb2.DEVICE_STATE_FAULTED)])},
        ),
        (
            (24 * GB,),
            {
                "status": worker_pb2.Status(
                    workloads=[worker_pb2.WorkloadStatus(workload="small", unavailable_reason="no such file")]
                )
            },
        ),
    ],
    ids=[
        "too little memory",
        "limited to others",
        "told to leave",
        "quarantined",
        "leaves",
        "faulted",
        "cannot load it",
    ],
)
async def test_a_worker_that_cannot_serve_it_spares_no_pod(
    ledger: Ledger, vram: tuple[int, ...], changes: dict[str, Any]
) -> None:
    ledger.worker(*vram, **changes)
    assert (await looked(ledger)).left_s("small") == POD_S + LOAD_S


async def test_each_workload_waits_for_what_it_needs(ledger: Ledger) -> None:
    ledger.worker(24 * GB)
    starts = await looked(ledger)
    assert (starts.left_s("small"), starts.left_s("large")) == (LOAD_S, POD_S + LOAD_S)


async def test_a_device_that_is_not_known_can_serve_all(ledger: Ledger) -> None:
    ledger.worker()
    assert (await looked(ledger)).left_s("large") == LOAD_S


async def test_the_quickest_device_that_can_load_it_counts(ledger: Ledger) -> None:
    for device, seconds in (("H100", 4.0), ("L4", 30.0), ("T4", 50.0), ("CPU", 60.0)):
        ledger.load("small", device, seconds)
    assert (await looked(ledger, rents=False)).left_s("small") == 36.0, "the mean of all that ever did"
    ledger.worker(24 * GB, device="L4")
    ledger.worker(16 * GB, device="T4")
    ledger.worker(80 * GB, device="H100", only=("large",))
    assert (await looked(ledger)).left_s("small") == 30.0


async def test_it_is_within_sane_bounds(ledger: Ledger) -> None:
    ledger.load("small", "L4", 0.001)
    ledger.load("large", "L4", 9_000.0)
    starts = await looked(ledger, rents=False)
    assert (starts.left_s("small"), starts.left_s("large")) == (1.0, 600.0)


async def test_what_was_known_is_kept_while_the_ledger_is_away(ledger: Ledger) -> None:
    ledger.worker(24 * GB)
    starts = await looked(ledger)
    ledger.opened, ledger.away = [], True
    await starts.run_once()
    assert starts.left_s("small") == LOAD_S
    ledger.away = False
    await starts.run_once()
    assert starts.left_s("small") == POD_S + LOAD_S


async def test_a_load_that_does_not_end_is_counted_anew(ledger: Ledger) -> None:
    time = clock.FakeClock()
    starts = await looked(ledger, rents=False, time=time)
    told = []
    for _ in range(7):
        told.append(starts.left_s("small"))
        time.advance(5.0)
    assert told == [10.0, 5.0, 1.0, 1.0, 10.0, 5.0, 1.0]


async def test_each_workload_has_its_own_load(ledger: Ledger) -> None:
    time = clock.FakeClock()
    starts = await looked(ledger, rents=False, time=time)
    starts.left_s("small")
    time.advance(4.0)
    assert (starts.left_s("small"), starts.left_s("large")) == (6.0, 10.0)
    starts.loaded("large")
    time.advance(4.0)
    assert (starts.left_s("small"), starts.left_s("large")) == (2.0, 10.0)


async def test_the_load_begins_when_the_pod_is_there(ledger: Ledger) -> None:
    time = clock.FakeClock()
    starts = await looked(ledger, time=time)
    assert starts.left_s("small") == POD_S + LOAD_S
    time.advance(POD_S)
    assert starts.left_s("small") == LOAD_S
    ledger.worker(24 * GB)
    await starts.run_once()
    assert starts.left_s("small") == LOAD_S


@given(load_s=st.floats(1.0, 58.0))
def test_http_callers_wait_at_the_gateway_for_any_load_that_ends_in_their_time(load_s: float) -> None:
    """The gateway's rule and the scheduler's estimates together, by one clock."""

    async def run() -> None:
        time, ledger, lane = clock.FakeClock(), Ledger(), http_edge.Lane()
        ledger.worker(24 * GB, device="L4")
        ledger.load("small", "L4", load_s)
        starts = await looked(ledger, time=time)

        async def embed(caller: callers.Caller, request: gateway_pb2.EmbedRequest) -> gateway_pb2.EmbedResponse:
            if time.monotonic() < load_s:
                left_s = starts.left_s("small")
                raise errors.Unavailable("cold", reason="NO_WARM_WORKER", retry_after_s=left_s)
            return await lane(caller, request)

        caller = callers.Caller("app", lambda: REQUEST_S - time.monotonic())
        registry = workloads.Registry(cast(Any, lane), time)
        asked = asyncio.create_task(
            embed_texts.EmbedTexts(embed, registry, time)(caller, "texts", ["a"], requests.Options())
        )
        async with asyncio.timeout(STEP_S):
            while not await http_edge.is_done(asked):
                time.advance(embed_texts.LOOK_AGAIN_S)
        assert len((await asked).pieces) == 1
        assert time.monotonic() < load_s + 3 * embed_texts.LOOK_AGAIN_S

    asyncio.run(run())

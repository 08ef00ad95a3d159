"""What is given up because no worker can serve it, and what only waits for its turn."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import clock
from podium_scheduler.app import records, unservable

PATIENCE_S = 20.0
IDLE, FAULTED = worker_pb2.DEVICE_STATE_IDLE, worker_pb2.DEVICE_STATE_FAULTED


def status(reason: str = "", *states: worker_pb2.DeviceState, draining: bool = False) -> worker_pb2.Status:
    """Of a worker that offers no credit for the workload."""
    return worker_pb2.Status(
        workloads=[worker_pb2.WorkloadStatus(workload="clip", unavailable_reason=reason)],
        devices=[worker_pb2.DeviceStatus(index=n, state=state) for n, state in enumerate(states)],
        draining=draining,
    )


class World:
    """The ledger, and the gateways that are told."""

    def __init__(self, sessions: Sequence[records.PlacedSession]) -> None:
        self.sessions = sessions
        self.given_up: list[tuple[str, str]] = []

    async def placed(self) -> Sequence[records.PlacedSession]:
        return self.sessions

    async def give_up_waiting(self, workload: str, reason: str, **limits: int) -> list[uuid.UUID]:
        self.given_up.append((workload, reason))
        return []


def session(said: worker_pb2.Status, *, drain: bool = False, quarantine: str = "") -> records.PlacedSession:
    return records.PlacedSession(uuid.uuid4(), b"", said.SerializeToString(), drain, quarantine, ())


@pytest.mark.parametrize(
    ("others", "given_up"),
    [
        ([], True),
        ([session(status())], False),
        ([session(status("", IDLE, FAULTED))], False),
        ([session(status("", FAULTED, FAULTED))], True),
        ([session(status("no files either"))], True),
        ([session(status(draining=True))], True),
        ([session(status(), drain=True)], True),
        ([session(status(), quarantine="BAD_RESULTS")], True),
    ],
    ids=["alone", "full", "half", "faulted", "failed too", "draining", "drained", "quarantined"],
)
async def test_it_is_given_up_when_nobody_else_could_ever_serve_it(
    others: list[records.PlacedSession], given_up: bool
) -> None:
    world: Any = World([session(status("no device here is large enough")), *others])
    time = clock.FakeClock()
    loop = unservable.Unservable(world, world, world, time, PATIENCE_S)
    await loop.round()
    time.advance(PATIENCE_S)
    await loop.round()
    assert [workload for workload, _ in world.given_up] == ["clip"] * given_up

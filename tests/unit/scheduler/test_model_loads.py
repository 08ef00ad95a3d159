"""Load times out of Status frames: each load once, whatever the ledger does."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import errors
from podium_scheduler.app import model_loads, records, worker_sessions

Loads = Sequence[tuple[int, str, float]]


class Ledger:
    def __init__(self) -> None:
        self.recorded: list[tuple[str, str, float, int]] = []
        self.away = False

    async def record(self, loads: Sequence[records.ModelLoad]) -> None:
        if self.away:
            raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")
        self.recorded += [(x.workload, x.device_name, x.seconds, x.memory_bytes) for x in loads]


class Rig:
    def __init__(self) -> None:
        self.ledger = Ledger()
        fake: Any = self.ledger
        self.loads = model_loads.ModelLoads(fake, ["minilm", "clip"])
        self.worker = uuid.uuid4()

    def session(self) -> worker_sessions.Session:
        devices = [worker_pb2.Device(index=n, name=f"GPU {n}") for n in range(2)]
        return worker_sessions.Session(uuid.uuid4(), self.worker, worker_pb2.Hello(devices=devices))

    def say(self, session: worker_sessions.Session, loads: Loads, memory: int = 7) -> None:
        frame = worker_pb2.Status(devices=[worker_pb2.DeviceStatus(index=n) for n in range(3)])
        for index, workload, seconds in loads:
            model = frame.devices[index].models.add(workload=workload, memory_bytes=memory)
            model.load_duration.FromNanoseconds(round(seconds * 1e9))
        session.take_status(frame, ["minilm"])
        self.loads.note(session)

    async def recorded(self) -> list[tuple[str, str, float, int]]:
        await self.loads.run_once()
        found, self.ledger.recorded = self.ledger.recorded, []
        return found


async def test_each_load_is_recorded_once() -> None:
    rig = Rig()
    session = rig.session()
    rig.say(session, [])
    rig.say(session, [(0, "minilm", 2.5)])
    for _ in range(3):
        rig.say(session, [(0, "minilm", 2.5), (1, "minilm", 3.5), (1, "clip", 9.0)])
    assert await rig.recorded() == [
        ("minilm", "GPU 0", 2.5, 7), ("minilm", "GPU 1", 3.5, 7), ("clip", "GPU 1", 9.0, 7),
    ]  # fmt: skip
    assert await rig.recorded() == []


async def test_a_model_that_is_loaded_again_is_another_load() -> None:
    rig = Rig()
    session = rig.session()
    for loads in ([(0, "minilm", 2.5)], [(0, "minilm", 2.75)], [], [(0, "minilm", 2.75)]):
        rig.say(session, loads)
    assert [seconds for _, _, seconds, _ in await rig.recorded()] == [2.5, 2.75, 2.75]


async def test_a_stream_that_breaks_loads_nothing_again() -> None:
    rig = Rig()
    rig.say(rig.session(), [(0, "minilm", 2.5)])
    rig.say(rig.session(), [(0, "minilm", 2.5)])
    assert len(await rig.recorded()) == 1


async def test_what_is_noted_outlasts_an_absence_of_the_ledger_within_bounds() -> None:
    rig = Rig()
    session = rig.session()
    rig.ledger.away = True
    for n in range(3_000):
        rig.say(session, [(0, "minilm", float(n))])
    assert await rig.recorded() == []
    rig.ledger.away = False
    assert [seconds for _, _, seconds, _ in await rig.recorded()] == [float(n) for n in range(1_000)]
    rig.say(session, [(0, "minilm", 1.5)])
    assert len(await rig.recorded()) == 1


@pytest.mark.parametrize(
    ("index", "workload", "seconds"),
    [(0, "unknown", 1.0), (2, "minilm", 1.0), (0, "minilm", -1.0), (0, "minilm", 1e9)],
)
async def test_what_cannot_be_is_not_recorded(index: int, workload: str, seconds: float) -> None:
    rig = Rig()
    rig.say(rig.session(), [(index, workload, seconds)])
    assert await rig.recorded() == []


async def test_words_from_outside_fit_into_the_ledger() -> None:
    rig = Rig()
    hello = worker_pb2.Hello(devices=[worker_pb2.Device(index=0, name="a\x00" + "b" * 500)])
    rig.say(worker_sessions.Session(uuid.uuid4(), rig.worker, hello), [(0, "minilm", 1.0)], memory=(1 << 64) - 1)
    assert await rig.recorded() == [("minilm", "a" + "b" * 199, 1.0, (1 << 63) - 1)]


async def test_a_model_whose_load_was_not_timed_is_passed_over() -> None:
    rig = Rig()
    session = rig.session()
    device = worker_pb2.DeviceStatus(index=0, models=[worker_pb2.ResidentModel(workload="minilm")])
    session.take_status(worker_pb2.Status(devices=[device]), [])
    rig.loads.note(session)
    assert await rig.recorded() == []

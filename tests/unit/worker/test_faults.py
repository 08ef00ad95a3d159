"""What the environment says of faults. That they strike is tested where processes can die."""

from __future__ import annotations

from pathlib import Path

import pytest

from podium.common.v1 import result_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import faults


def test_nothing_is_wrong_unless_it_is_asked_for() -> None:
    injected = faults.from_environment({})
    injected.reach("load")
    assert injected.spoiled([b"frame"]) == [b"frame"]


@pytest.mark.parametrize("value", ["compute", "compute:", "lunch:/tmp/x", ":/tmp/x"])
def test_a_stage_needs_a_name_and_a_marker(value: str) -> None:
    with pytest.raises(ValueError, match="must be STAGE:PATH with a stage of load, prepare, compute, send"):
        faults.from_environment({"PODIUM_FAULT_STAGE": value})


def test_a_process_lives_on_once_another_has_died(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    marker.touch()
    faults.from_environment({"PODIUM_FAULT_STAGE": f"send:{marker}"}).reach("send")


def _frame(vectors: bytes, count: int) -> bytes:
    chunk = result_pb2.ResultChunk(vectors=vectors, count=count, dimension=9)
    return worker_pb2.WorkerFrame(chunk=worker_pb2.BatchChunk(chunk=chunk)).SerializeToString()


def test_results_are_spoiled_whatever_their_encoding() -> None:
    def spoiled(how: str, frame: bytes) -> result_pb2.ResultChunk:
        (found,) = faults.from_environment({"PODIUM_FAULT_CORRUPT": how}).spoiled([frame])
        return worker_pb2.WorkerFrame.FromString(found).chunk.chunk

    packed = _frame(b"\x10\x20\x30\x40", 2)
    assert spoiled("flip", packed).vectors == b"\x11\x20\x30\x40"
    short = spoiled("count", packed)
    assert (short.vectors, short.count) == (b"\x10\x20", 1)
    assert spoiled("flip", _frame(b"", 0)).vectors == b""

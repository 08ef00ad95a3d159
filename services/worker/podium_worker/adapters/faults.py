"""Faults on purpose, for tests of the system. Off unless the environment names them.

Of the `hash` backend, where an image's text is the bytes of its picture (see hash_backend):

PODIUM_FAULT_POISON    a text that contains this kills the process that computes it
PODIUM_FAULT_HANG      a text that contains this is never computed; a workload of this name is never loaded
PODIUM_FAULT_DELAY_S   each micro-batch (16 items then) takes this many seconds longer
PODIUM_FAULT_CORRUPT   `nan`: from the first batch of 8 items on, the process computes NaNs only;
                       `flip`: a bit of each result flips after its checksum was made;
                       `count`: each result lacks its last row;
                       `error`: from the first batch of 8 items on, all that the process computes ends in an error

Of executors with any backend:

PODIUM_FAULT_STAGE     `STAGE:PATH`: the first executor to come so far dies, and creates the file PATH, which must not
                       be there; while it is there nothing happens. STAGE is
                       `load`: a model is loaded and its canary passed, and nobody has been told;
                       `prepare`: a batch is prepared, and waits for the device;
                       `compute`: a micro-batch is computed;
                       `send`: half of a result has gone to the front
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from podium.worker.v1 import worker_pb2

_DELAYED_MICROBATCH = 16
_SICK_FROM_ITEMS = 8
_FOR_EVER_S = 3_600.0
Stage = Literal["load", "prepare", "compute", "send"]
_STAGES = ("load", "prepare", "compute", "send")


@dataclass(slots=True)
class Faults:
    """What goes wrong in this process."""

    poison: bytes = b""
    hang: bytes = b""
    delay_s: float = 0.0
    corrupt: str = ""
    stage: str = ""
    marker: Path = Path()
    """Where the file is made that says that the process has died in `stage`."""
    _sick: bool = field(default=False, init=False)

    @property
    def microbatch(self) -> int:
        """Items of a micro-batch; 0: the backend's choice."""
        return _DELAYED_MICROBATCH if self.delay_s else 0

    def reach(self, stage: Stage) -> None:
        """The executor has come so far."""
        if stage != self.stage:
            return
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return
        _die()

    def strike_load(self, workload: str) -> None:
        """Before a model is loaded."""
        if self.hang and workload.encode() == self.hang:
            _hang()

    def strike(self, texts: Sequence[bytes]) -> None:
        """Before a micro-batch is computed."""
        if self.poison and any(self.poison in text for text in texts):
            _die()
        if self.hang and any(self.hang in text for text in texts):
            _hang()
        if self.delay_s:
            time.sleep(self.delay_s)

    def poisoned(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the device makes of a batch."""
        if self.corrupt not in ("nan", "error"):
            return vectors
        self._sick = self._sick or len(vectors) >= _SICK_FROM_ITEMS
        if self._sick and self.corrupt == "error":
            raise RuntimeError("the device's context is lost")
        if self._sick:
            vectors[:] = np.nan
        return vectors

    def spoiled(self, frames: Sequence[bytes]) -> Sequence[bytes]:
        """What becomes of a batch's serialized frames on their way out."""
        if self.corrupt not in ("flip", "count"):
            return frames
        return [_spoiled(frame, self.corrupt) for frame in frames]


NONE = Faults()


def from_environment(environment: Mapping[str, str]) -> Faults:
    """The faults that the environment asks for. Raises ValueError for a stage that there is not."""
    given = environment.get("PODIUM_FAULT_STAGE", "")
    stage, _, marker = given.partition(":")
    if given and (stage not in _STAGES or not marker):
        raise ValueError(f"PODIUM_FAULT_STAGE must be STAGE:PATH with a stage of {', '.join(_STAGES)}")
    return Faults(
        poison=environment.get("PODIUM_FAULT_POISON", "").encode(),
        hang=environment.get("PODIUM_FAULT_HANG", "").encode(),
        delay_s=float(environment.get("PODIUM_FAULT_DELAY_S", "0")),
        corrupt=environment.get("PODIUM_FAULT_CORRUPT", ""),
        stage=stage,
        marker=Path(marker),
    )


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    while True:
        time.sleep(_FOR_EVER_S)


def _spoiled(frame: bytes, how: str) -> bytes:
    message: Any = worker_pb2.WorkerFrame.FromString(frame)
    if not message.HasField("chunk") and not message.HasField("embedded"):
        return frame
    chunk = message.chunk.chunk if message.HasField("chunk") else message.embedded.chunk
    if not chunk.count:
        return frame
    if how == "flip":
        chunk.vectors = bytes([chunk.vectors[0] ^ 1]) + chunk.vectors[1:]
    else:
        chunk.vectors = chunk.vectors[: -(len(chunk.vectors) // chunk.count)]
        chunk.count -= 1
    spoiled: bytes = message.SerializeToString()
    return spoiled

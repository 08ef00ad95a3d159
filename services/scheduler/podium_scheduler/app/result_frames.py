"""A chunk of a result as it comes from a worker: what is looked at, and what is passed on as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podium.common.v1 import result_pb2
from podium.worker.v1 import worker_pb2


@dataclass(frozen=True, slots=True)
class ResultFrame:
    """A BatchChunk, its vectors apart."""

    lease: worker_pb2.Lease
    chunk: result_pb2.ResultChunk
    """All but the vectors."""
    vectors: npt.NDArray[np.uint8]
    """The bytes of the vectors, shape (bytes,), read-only."""
    serialized: memoryview
    """The whole ResultChunk, vectors included; keeps the frame's memory."""


Frame = worker_pb2.WorkerFrame | ResultFrame
"""What a worker says; results never come as a WorkerFrame."""

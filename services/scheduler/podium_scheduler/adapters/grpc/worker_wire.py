"""Frames of workers off the wire. A result's vectors are neither copied nor serialized again on their way to Redis.

Whatever is laid out in another way than our own workers do it goes through the parser, and means the same.
"""

from __future__ import annotations

import grpc
import numpy as np

from podium.common.v1 import result_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import protowire
from podium_scheduler.adapters.grpc import worker_servicer
from podium_scheduler.app import result_frames

SERVICE_NAME = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
_CHUNK_OF_FRAME = worker_pb2.WorkerFrame.CHUNK_FIELD_NUMBER
_LEASE_OF_BATCH = worker_pb2.BatchChunk.LEASE_FIELD_NUMBER
_CHUNK_OF_BATCH = worker_pb2.BatchChunk.CHUNK_FIELD_NUMBER
_VECTORS = result_pb2.ResultChunk.VECTORS_FIELD_NUMBER


def add_to_server(servicer: worker_servicer.WorkerServicer, server: grpc.aio.Server) -> None:
    """Registers WorkerService, its frames read by `read`."""
    connect = grpc.stream_stream_rpc_method_handler(servicer.Connect, read, worker_pb2.SchedulerFrame.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, {"Connect": connect}),))


def read(data: bytes) -> result_frames.Frame:
    """One frame. Raises google.protobuf.message.DecodeError when it is none."""
    try:
        found = _result(data)
    except protowire.Malformed:
        found = None
    if found is not None:
        return found
    frame = worker_pb2.WorkerFrame.FromString(data)
    return _parsed(frame.chunk) if frame.WhichOneof("frame") == "chunk" else frame


def _result(data: bytes) -> result_frames.ResultFrame | None:
    """A frame that is a lease and a chunk whose first field is its vectors, and nothing else; None for others."""
    outer = protowire.field(data, 0, len(data))
    if (outer.number, outer.kind, outer.stop) != (_CHUNK_OF_FRAME, protowire.LENGTH, len(data)):
        return None
    lease = protowire.field(data, outer.start, outer.stop)
    chunk = protowire.field(data, lease.stop, outer.stop)
    vectors = protowire.field(data, chunk.start, chunk.stop)
    shape = [(f.number, f.kind) for f in (lease, chunk, vectors)]
    if shape != [(n, protowire.LENGTH) for n in (_LEASE_OF_BATCH, _CHUNK_OF_BATCH, _VECTORS)]:
        return None
    if chunk.stop != outer.stop:
        return None
    rest = result_pb2.ResultChunk.FromString(data[vectors.stop : chunk.stop])
    if rest.vectors:
        # Said twice; the last one counts.
        return None
    return result_frames.ResultFrame(
        worker_pb2.Lease.FromString(data[lease.start : lease.stop]),
        rest,
        np.frombuffer(data, np.uint8, vectors.stop - vectors.start, vectors.start),
        memoryview(data)[chunk.start : chunk.stop],
    )


def _parsed(batch: worker_pb2.BatchChunk) -> result_frames.ResultFrame:
    serialized = batch.chunk.SerializeToString()
    vectors = np.frombuffer(batch.chunk.vectors, np.uint8)
    batch.chunk.ClearField("vectors")
    return result_frames.ResultFrame(batch.lease, batch.chunk, vectors, memoryview(serialized))

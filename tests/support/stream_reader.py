"""A client process that stores each result message with its cursor and may be killed at any byte.

`python -m tests.support.stream_reader ADDRESS TOKEN JOB FILE`: appends length-prefixed StreamResultsResponse messages
to FILE, going on after the last whole one in it. The file is what a careful client's database would be.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc

_LENGTH = struct.Struct("<I")


def stored(path: Path) -> Iterator[gateway_pb2.StreamResultsResponse]:
    """The whole messages in the file; a torn last one is cut off."""
    data = path.read_bytes() if path.exists() else b""
    place = 0
    while place + _LENGTH.size <= len(data):
        (size,) = _LENGTH.unpack_from(data, place)
        end = place + _LENGTH.size + size
        if end > len(data):
            break
        yield gateway_pb2.StreamResultsResponse.FromString(data[place + _LENGTH.size : end])
        place = end
    if place < len(data):
        os.truncate(path, place)


async def read(address: str, token: str, job_id: str, file: str) -> None:
    """Reads to the end of the stream."""
    path = Path(file)
    cursor = ""
    for message in stored(path):
        cursor = message.cursor
    options = [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        request = gateway_pb2.StreamResultsRequest(job_id=job_id, after_cursor=cursor)
        # Blocking writes are the point: nothing is read on before this much is stored.
        with path.open("ab") as out:  # noqa: ASYNC230
            async for message in stub.StreamResults(request, metadata=(("authorization", f"Bearer {token}"),)):
                content = message.SerializeToString()
                out.write(_LENGTH.pack(len(content)) + content)
                out.flush()


if __name__ == "__main__":
    asyncio.run(read(*sys.argv[1:]))

"""`python -m podium_runtime.health_check HOST:PORT [SERVICE]`: exit code 0 when the server says SERVING.

For containers' health checks; needs no token. With TLS on the server, set PODIUM_TLS_CA (or PODIUM_TLS_CA_PEM) as for
its clients.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from podium_runtime import settings

DEADLINE_S = 3.0


async def serving(address: str, service: str = "", ca: settings.Pem | None = None) -> bool:
    """Whether the server at `host:port` answers that `service` ("" for all of it) is SERVING."""
    channel = (
        grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(await asyncio.to_thread(settings.read_pem, ca)))
        if ca is not None
        else grpc.aio.insecure_channel(address)
    )
    async with channel:
        try:
            # The stubs of grpcio-health-checking have no types for the calls.
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            print(f"{address}: {error.code().name}: {error.details()}", file=sys.stderr)
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    """Ends the process with 0 or 1; 2 for bad usage."""
    if not 2 <= len(sys.argv) <= 3:
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    file, text = os.environ.get("PODIUM_TLS_CA"), os.environ.get("PODIUM_TLS_CA_PEM")
    ca = Path(file) if file else text.encode() if text else None
    address, service = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else ""
    good = asyncio.run(serving(address, service, ca))
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()

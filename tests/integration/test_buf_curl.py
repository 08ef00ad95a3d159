"""`buf curl` with nothing but an address: reflection lists the services, a job is submitted and its results read."""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from podium_client import AsyncClient
from tests.support import stack, tools

SERVICE = "podium.gateway.v1.GatewayService"
TEXTS = ["a first text", "a second text", "a third"]


async def curl(address: str, *arguments: str) -> str:
    """buf curl over plain HTTP/2, outside any module, so that no local proto can help."""
    return await tools.output_of(
        tools.BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc",
        "--header", f"authorization: Bearer {stack.APP_TOKEN}", *arguments,
    )  # fmt: skip


async def call(address: str, method: str, request: dict[str, Any]) -> list[Any]:
    url = f"http://{address}/{SERVICE}/{method}"
    return tools.json_documents(await curl(address, "--reflect", "--data", json.dumps(request), url))


async def test_buf_curl_lists_submits_and_streams(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:
        address = running.gateway.address
        services = (await curl(address, "--list-services", f"http://{address}")).split()
        assert {SERVICE, "grpc.health.v1.Health"} <= set(services)
        methods = await curl(address, "--list-methods", f"http://{address}")
        assert f"{SERVICE}/StreamResults" in methods

        request = {
            "requestId": str(uuid.uuid4()),
            "workload": "hash-384",
            "texts": {"items": [{"text": text} for text in TEXTS]},
        }
        (submitted,) = await call(address, "SubmitBatch", request)
        *parts, last = await call(address, "StreamResults", {"jobId": submitted["job"]["jobId"]})
        async with AsyncClient(address, stack.APP_TOKEN) as client:
            expected = await client.embed_texts(TEXTS, workload="hash-384")
    assert last["end"]["job"]["state"] == "JOB_STATE_COMPLETED"
    packed = b"".join(base64.b64decode(part["chunk"]["vectors"]) for part in parts)
    np.testing.assert_array_equal(np.frombuffer(packed, dtype="<f4").reshape(3, 384), expected.vectors)

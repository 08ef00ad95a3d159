"""A Node client made from proto/ alone talks to the real stack, and gets what the Python SDK gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from podium_client import AsyncClient
from tests.support import stack, tools

CLIENT = Path(__file__).with_name("node") / "client.mjs"
TEXTS = [f"text {n}: {'word ' * (n % 7)}Grüße, 世界 🌍" for n in range(300)]


async def test_node_submits_streams_and_decodes(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:
        address = running.gateway.address
        printed = await tools.output_of(
            tools.node(), CLIENT, address, "hash-384", stdin=json.dumps(TEXTS),
            environment={"PODIUM_TOKEN": stack.APP_TOKEN},
        )  # fmt: skip
        async with AsyncClient(address, stack.APP_TOKEN) as client:
            expected = await client.embed_texts(TEXTS, workload="hash-384")
    answer = json.loads(printed)
    assert answer["dimension"] == 384
    np.testing.assert_array_equal(np.array(answer["vectors"], dtype=np.float32), expected.vectors)

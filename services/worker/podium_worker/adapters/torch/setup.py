"""Settings of torch for the whole executor process, then the model."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

# Their progress bars and advice would go between the structured lines of the log.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from podium_worker.adapters.torch import memory
from podium_worker.app import backend

_BACKENDS = {f"{__package__}.{name}" for name in ("text_model", "clip_model", "timm_model")}


def load(model: backend.Model, device: str, threads: int) -> backend.Backend:
    """Loads a model of any backend that computes with torch. Raises backend.ModelUnavailable.

    The library behind a backend is imported with its first model.
    """
    # Even where there are as many already: only this keeps MKL from making and ending threads at each of its calls,
    # which doubles what a forward pass of a few images costs.
    torch.set_num_threads(threads)
    # By default cuDNN rounds what it convolves to 10 bits, for some shapes and not for others; whoever wants speed for
    # accuracy asks for another precision.
    torch.backends.cudnn.allow_tf32 = False
    first = _BACKENDS.isdisjoint(sys.modules)
    make = _backend(model)
    if first:
        # Half a million objects stay for good: every collection that looks for a closed model's memory would look
        # through them, for a third of a second. Not those of the next library: a model among them would stay as well.
        gc.freeze()
    return make(model, torch.device(device))


def _backend(model: backend.Model) -> Callable[[backend.Model, torch.device], backend.Backend]:
    if model.backend == "sentence_transformers":
        from podium_worker.adapters.torch import text_model

        return text_model.TextModel
    if model.backend == "open_clip":
        from podium_worker.adapters.torch import clip_model

        return clip_model.ClipModel
    if model.backend == "timm":
        from podium_worker.adapters.torch import timm_model

        return timm_model.TimmModel
    raise backend.ModelUnavailable(f"This worker has no backend {model.backend!r}.")


def release() -> int:
    """Gives back what no model uses; bytes of the device that the process keeps nevertheless, its context apart."""
    return memory.release()

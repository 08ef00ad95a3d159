"""Putting everything that a model needs into this machine's caches, for images that are to start without a network."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from podium_worker.adapters.torch import hub, setup
from podium_worker.app import backend


def prefetch(model: backend.Model) -> None:
    """Downloads what is missing, unless HF_HUB_OFFLINE is set, and proves that the model works from the caches alone.

    Loads it on the CPU and computes one item of each kind it takes. Raises backend.ModelUnavailable.
    """
    try:
        _prove(model)
        return
    except backend.ModelUnavailable:
        if hub.is_offline() or not hub.is_remote(model):
            raise
    # Loading is what downloads; whatever the libraries need is asked for on the way, tokenizers included.
    _load(model).close()
    _prove(model)


def _prove(model: backend.Model) -> None:
    with hub.offline():
        loaded = _load(model)
        try:
            for prepared in _samples(model, loaded):
                if not np.isfinite(loaded.compute(prepared, lambda _: True).vectors).all():
                    raise backend.ModelUnavailable(
                        f"Workload {model.workload!r}: its model computes what is not finite; its files are damaged."
                    )
        finally:
            loaded.close()


def _load(model: backend.Model) -> Any:
    # A budget that is given is not measured. The CPU's arithmetic: the files are in question, not a device.
    one = dataclasses.replace(model, precision="float32", token_budget=1, image_budget=1)
    return setup.load(one, "cpu", threads=torch.get_num_threads())


def _samples(model: backend.Model, loaded: backend.Backend) -> list[backend.Prepared]:
    samples = []
    if model.takes_texts:
        samples.append(loaded.prepare_texts(["A text."]))
    picture = loaded.picture
    if picture is not None:
        samples.append(loaded.prepare_pictures(np.zeros((1, picture.height, picture.width, 3), dtype=np.uint8)))
    return samples

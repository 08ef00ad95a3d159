"""Putting everything that a model needs into this machine's caches, for images that are to start without a network."""

from __future__ import annotations

import dataclasses
import os

from podium_worker.adapters.torch import hub, setup
from podium_worker.app import backend


def fetch(model: backend.Model) -> backend.Backend:
    """The model, loaded on the CPU from the caches alone, into which everything goes that is missing in them.

    Nothing does where HF_HUB_OFFLINE is set. Raises backend.ModelUnavailable.
    """
    try:
        return _from_caches(model)
    except backend.ModelUnavailable:
        if hub.is_offline() or not hub.is_remote(model):
            raise
    # Loading is what downloads; whatever the libraries need is asked for on the way, tokenizers included.
    _load(model).close()
    return _from_caches(model)


def _from_caches(model: backend.Model) -> backend.Backend:
    with hub.offline():
        return _load(model)


def _load(model: backend.Model) -> backend.Backend:
    # The CPU's arithmetic, and a budget that need not be measured: the files are in question, not a device.
    modest = dataclasses.replace(model, precision="float32", token_budget=4096, image_budget=2)
    return setup.load(modest, "cpu", max(1, os.cpu_count() or 1))

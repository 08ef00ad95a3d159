"""The `open_clip` backend: the text and the image tower of one model, in one space.

The towers are the library's, and so are their vectors. What is ours: micro-batches, pixels scaled on the device, texts
no longer than the longest of their micro-batch where the tower cannot see what follows anyway, and normalisation in
float32. A tower that the workload does not take is dropped. `budget` is that of images where both are taken: texts are
cheaper, and their budget is found, or lowered, apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters.torch import clip_files, clip_text, image_tower, memory, precision
from podium_worker.app import backend
from podium_worker.domain import pictures

# Attributes of the library's classes that make up the text tower.
_TEXT_PARTS = (
    "text", "text_decoder", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection",
    "attn_mask",
)  # fmt: skip
_RESIZE: dict[str, pictures.Resize] = {"shortest": "shortest", "longest": "longest", "squash": "squash"}


class ClipModel:
    """One loaded model of open_clip on one device."""

    def __init__(self, model: backend.Model, device: torch.device) -> None:
        self._model = model
        dtype = precision.dtype(model, device)
        loaded = clip_files.load(model)
        look = _look(model, loaded.model) if model.takes_images else None
        self._towers = _towers(model, loaded.model).to(device=device, dtype=dtype)
        self._memory_bytes = memory.weights_bytes([self._towers])
        self._images = (
            image_tower.ImageTower(model, device, dtype, look, self._towers.encode_image) if look is not None else None
        )
        self._texts = clip_text.TextTower(model, device, self._towers, loaded.tokenizer) if model.takes_texts else None
        self._description = backend.Description(
            pooling="none", normalized=model.normalized, precision=precision.name(dtype)
        )

    @property
    def description(self) -> backend.Description:
        return self._description

    @property
    def picture(self) -> pictures.Picture | None:
        return self._images.picture if self._images is not None else None

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    @property
    def budget(self) -> int:
        tower = self._images or self._texts
        return tower.budget if tower is not None else 0

    def prepare_texts(self, texts: Sequence[backend.Text]) -> backend.Prepared:
        if self._texts is None:
            raise TypeError(f"workload {self._model.workload!r} takes images only")
        return self._texts.prepare(backend.plain(texts))

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        if self._images is None:
            raise TypeError(f"workload {self._model.workload!r} takes texts only")
        return self._images.prepare(rows)

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        if isinstance(prepared.work, image_tower.Pictures):
            assert self._images is not None
            return self._images.compute(prepared.work, progress, company)
        assert self._texts is not None
        return self._texts.compute(prepared.work, progress, company)

    def close(self) -> None:
        self._images = self._texts = None
        del self._towers
        memory.release()


def _towers(model: backend.Model, loaded: Any) -> Any:
    """The same object without the tower that is not taken."""
    dropped = () if model.takes_texts else _TEXT_PARTS
    for name in (*dropped, *(() if model.takes_images else ("visual",))):
        if hasattr(loaded, name):
            delattr(loaded, name)
    return loaded


def _look(model: backend.Model, loaded: Any) -> image_tower.Look:
    """From the configuration that the library attaches to the loaded model. Raises backend.ModelUnavailable."""
    said: dict[str, Any] = loaded.visual.preprocess_cfg
    size = said["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    resize = _RESIZE[said["resize_mode"]]
    if height != width and resize != "squash":
        raise backend.ModelUnavailable(
            f"The model of workload {model.workload!r} looks at {width} x {height} pixels by {resize!r}; "
            "only square pictures, or squashed ones, are served."
        )
    picture = pictures.Picture(
        height=height,
        width=width,
        edge=height,
        resize=resize,
        # As open_clip.transform.image_transform: whatever is not bilinear is bicubic.
        interpolation="bilinear" if said["interpolation"] == "bilinear" else "bicubic",
        fill=int(said["fill_color"]),
    )
    return image_tower.Look(picture, tuple(said["mean"]), tuple(said["std"]))

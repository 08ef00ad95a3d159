"""What all models that look at images share: from pictures to rows.

Pictures come as they were decoded: RGB, 8 bits, so that a quarter of the bytes travel. Scaling to [0, 1], mean and
deviation are done on the device, in float32, in the order and with the roundings of ToTensor and Normalize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters.torch import lane, probing
from podium_worker.app import backend
from podium_worker.domain import microbatches, pictures

Encode = Callable[[torch.Tensor], torch.Tensor]
"""From pixels (count, 3, height, width) to features (count, dimension), both of the model's own type."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a model looks at images. `mean` and `deviation`: of its three channels, on a scale from 0 to 1."""

    picture: pictures.Picture
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of one batch: uint8, shape (count, height, width, 3)."""

    rows: npt.NDArray[np.uint8]


class ImageTower:
    """One image model on one device."""

    def __init__(
        self, model: backend.Model, device: torch.device, dtype: torch.dtype, look: Look, encode: Encode
    ) -> None:
        self.picture = look.picture
        self._model = model
        self._dtype = dtype
        self._encode = encode
        # Tensors and not numbers: CUDA multiplies by the reciprocal of a number, which rounds differently.
        self._full = torch.tensor(255.0, device=device)
        self._mean = _channels(look.mean, device)
        self._deviation = _channels(look.deviation, device)
        self._lane = lane.Lane(model, device, model.image_budget or model.remembered_budget or 1)
        if not (model.image_budget or model.remembered_budget):
            self._lane.budget = probing.images(device, self._rehearse)

    @property
    def budget(self) -> int:
        """Images of one micro-batch."""
        return self._lane.budget

    def prepare(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        """Takes a batch as it is. Raises ValueError for another shape than the picture's."""
        wanted = (self.picture.height, self.picture.width, 3)
        if rows.shape[1:] != wanted or rows.dtype != np.uint8:
            raise ValueError(f"pictures of {wanted} uint8 are wanted, got {rows.shape[1:]} {rows.dtype}")
        return backend.Prepared(work=Pictures(rows), item_count=len(rows))

    def compute(
        self, work: Pictures, progress: lane.Progress, company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        """As backend.Backend.compute."""

        def stage(cut: microbatches.Microbatch, riders: backend.Prepared | None) -> lane.Inputs:
            # All count the same, so their order was kept.
            some = work.rows[cut.indices[0] : cut.indices[-1] + 1]
            pixels = self._lane.empty((len(some) + cut.riders, *some.shape[1:]), torch.uint8)
            np.copyto(pixels.numpy()[: len(some)], some)
            if riders is not None:
                others: Pictures = riders.work
                np.copyto(pixels.numpy()[len(some) :], others.rows)
            return {"pixels": pixels}

        return self._lane.compute([1] * len(work.rows), stage, self._forward, progress, company)

    def _forward(self, inputs: lane.Inputs) -> torch.Tensor:
        features = self._encode(self._pixels(inputs["pixels"])).float()
        return torch.nn.functional.normalize(features, p=2, dim=1) if self._model.normalized else features

    def _pixels(self, rows: torch.Tensor) -> torch.Tensor:
        """(count, height, width, 3) uint8 to (count, 3, height, width), still channels last in memory."""
        scaled = rows.permute(0, 3, 1, 2).to(torch.float32).div_(self._full)
        return scaled.sub_(self._mean).div_(self._deviation).to(self._dtype)

    def _rehearse(self, count: int) -> None:
        shape = (count, self.picture.height, self.picture.width, 3)
        self._lane.rehearse({"pixels": self._lane.empty(shape, torch.uint8).fill_(127)}, self._forward)


def _channels(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)

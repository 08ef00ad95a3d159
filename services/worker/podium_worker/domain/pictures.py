"""How an image becomes what a model looks at: the model's own inference transform, as far as whole pixels go.

Scaling to [0, 1] and the model's mean and deviation are left to the device, so that three bytes a pixel travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resize = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]


@dataclass(frozen=True, slots=True)
class Picture:
    """The result is RGB, 8 bits, shape (height, width, 3), row-major.

    `shortest`: the shorter edge becomes `edge`, then (height, width) is cut out of the middle, padded with `fill` where
    the image is smaller; `longest`: the longer edge becomes `edge`, then the same; `squash`: resized to (height, width)
    whatever its shape.
    """

    height: int
    width: int
    edge: int
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    fill: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one picture."""
        return self.height * self.width * 3

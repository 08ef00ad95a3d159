"""A CLIP with random weights, saved as open_clip's `local-dir:`. What weights say does not change how long they take.

`python -m tests.bench.seeded_clip FOLDER [--small | --architecture NAME]`: a process of its own, so that the
benchmark's holds no torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from podium.common.v1 import workload_pb2

NAME = "clip-bench"
ARCHITECTURE = "ViT-B-32"
"""As open_clip calls it."""
_LIMITS = {"max_text_bytes": 1 << 16, "max_image_bytes": 20 << 20, "max_image_pixels": 50_000_000}
_REVISION = "seeded"


@dataclass(frozen=True, slots=True)
class Clip:
    """A saved model."""

    folder: Path
    dimension: int
    what: str
    """For reports."""
    batch_items: int = 64
    """As of clip-vit-b-32 in the shipped registry."""

    def workload(self, precision: str) -> workload_pb2.Workload:
        """As a scheduler would tell it."""
        return workload_pb2.Workload(
            name=NAME,
            modalities=[workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE],
            dimension=self.dimension,
            limits=workload_pb2.WorkloadLimits(**_LIMITS),
            model=workload_pb2.ModelSpec(
                backend="open_clip",
                model_name=self.what,
                revision=_REVISION,
                local_path=str(self.folder),
                pooling=workload_pb2.POOLING_NONE,
                normalized=True,
                precision=precision,
            ),
        )

    def registry(self, shipped: str) -> str:
        """The text of the shipped registry file, and this workload behind it."""
        return f"""{shipped.rstrip()}

  {NAME}:
    description: {self.what}
    modality: text and image
    dimension: {self.dimension}
    limits: {{max_text_bytes: 64KiB, max_image_bytes: 20MiB, max_image_pixels: 50000000}}
    batch: {{max_items: {self.batch_items}, max_bytes: 8MiB}}
    model:
      backend: open_clip
      name: {self.what}
      revision: {_REVISION}
      local_path: {self.folder}
      pooling: none
      normalized: true
"""


async def saved(folder: Path, *, small: bool, architecture: str = ARCHITECTURE) -> Clip:
    """Makes the model in `folder`. `small`: one that computes next to nothing."""
    arguments = [str(folder), *(["--small"] if small else ["--architecture", architecture])]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.seeded_clip", *arguments)
    if await process.wait():
        raise RuntimeError("the seeded model could not be saved")
    dimension = int(json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"])
    return Clip(folder, dimension, "Small CLIP", 2) if small else Clip(folder, dimension, f"CLIP {architecture}")


def main() -> None:
    """Saves."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.seeded_clip", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--architecture", default=ARCHITECTURE)
    asked = parser.parse_args()

    from tests.support import seeded_models

    if asked.small:
        seeded_models.save_clip(asked.folder)
        return
    # After the line above, which sees to what open_clip's import needs.
    import open_clip

    seeded_models.save_clip(asked.folder, open_clip.get_model_config(asked.architecture))


if __name__ == "__main__":
    main()

"""The bare loop over images: plain open_clip, its tensors decoded and on the device before the clock starts.

Says first what it is: {"threads", "batch", "rates"}; `batch` is the fastest of the sizes that it has tried. Then reads
one JSON line for each run: {"folder": of image files, "out": path for the vectors or ""}. Files are decoded by
open_clip's own transform, once for each folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import children

_SIZES = {"cpu": (8, 16, 32, 64), "cuda": (64, 128, 256, 512)}
_TRIALS = 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bare_clip", description=__doc__)
    parser.add_argument("--folder", required=True, help="of the model, open_clip's local-dir")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--quick", action="store_true", help="try one batch size only")
    return parser.parse_args()


def main() -> None:
    """Loads the model, finds the best batch, then answers."""
    asked = _options()
    from podium_worker.adapters.torch import torchvision_ops

    torchvision_ops.declare_missing()
    import open_clip
    import torch

    torch.set_num_threads(asked.threads)
    loop = _Loop(open_clip, asked)
    sizes = _SIZES[loop.device.type][: 1 if asked.quick else None]
    loop.rate(sizes[0])
    rates = {size: loop.rate(size) for size in sizes}
    batch = max(sizes, key=lambda size: rates[size])
    children.say(threads=torch.get_num_threads(), torch=torch.__version__, batch=batch, rates=rates)
    ready: dict[str, Any] = {}
    for line in sys.stdin:
        question = json.loads(line)
        folder = question["folder"]
        if folder not in ready:
            ready = {folder: loop.tensors(Path(folder))}
        started = time.perf_counter()
        vectors = loop.run(ready[folder], batch)
        seconds = time.perf_counter() - started
        if question["out"]:
            loop.save(vectors, Path(question["out"]))
        children.say(seconds=seconds)


class _Loop:
    """The model, and the loop that anybody would write."""

    def __init__(self, open_clip: Any, asked: argparse.Namespace) -> None:
        import torch

        self._torch = torch
        self.device = torch.device(asked.device)
        self._dtype = getattr(torch, asked.precision)
        model, self._transform = open_clip.create_model_from_pretrained(f"local-dir:{asked.folder}")
        self._model = model.to(device=self.device, dtype=self._dtype).eval()

    def tensors(self, folder: Path) -> Any:
        """Of all files in the order of their names, (count, 3, height, width), on the device."""
        from PIL import Image

        rows = [self._transform(Image.open(path)) for path in sorted(folder.iterdir())]
        return self._torch.stack(rows).to(device=self.device, dtype=self._dtype)

    def run(self, tensors: Any, batch: int) -> Any:
        """Vectors of all, float32, in the host's memory."""
        torch = self._torch
        with torch.inference_mode():
            parts = [
                self._model.encode_image(tensors[at : at + batch], normalize=True).float().cpu()
                for at in range(0, len(tensors), batch)
            ]
        return torch.cat(parts)

    def rate(self, size: int) -> float:
        """Images/s at this batch size, the better of two trials."""
        edge = self._model.visual.image_size
        height, width = (edge, edge) if isinstance(edge, int) else edge
        tensors = self._torch.randn(size, 3, height, width, device=self.device, dtype=self._dtype)
        seconds = []
        for _ in range(_TRIALS):
            started = time.perf_counter()
            self.run(tensors, size)
            seconds.append(time.perf_counter() - started)
        return size / min(seconds)

    def save(self, vectors: Any, path: Path) -> None:
        """As .npy."""
        import numpy as np

        np.save(path, vectors.numpy())


if __name__ == "__main__":
    main()

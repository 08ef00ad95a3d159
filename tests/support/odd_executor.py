"""An executor whose model does what the texts say, for what the `hash` backend cannot do.

`nan`           its vector holds a NaN
`long`          its vector has length 2
`starved`       there is no memory for it, and the budget is halved
`error`         computing it fails
`lost`          the model is found out not to be usable after all
`slow`          it takes a fifth of a second
`until cancelled`  it is computed again and again until its batch is taken back
anything else   a unit vector, by the number of its characters

A workload with revision `sick` computes NaNs for everything, `no-load` cannot be loaded, `no-pictures` looks at none,
`measured` has a larger budget with each load.
`unreturned_bytes` are the models that are not closed.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from podium_worker.app import backend
from podium_worker.domain import pictures
from podium_worker.executor import album, pipeline

PICTURE = pictures.Picture(height=4, width=6, edge=4)


class Odd:
    """A loaded model."""

    description = backend.Description("none", normalized=True, precision="float32")
    memory_bytes = 1000
    open_models = 0
    loads = 0

    def __init__(self, model: backend.Model) -> None:
        if model.revision == "no-load":
            raise backend.ModelUnavailable("There are no files.")
        self.picture = PICTURE if model.takes_images and model.revision != "no-pictures" else None
        Odd.loads += 1
        self.budget = model.remembered_budget or (64 * Odd.loads if model.revision == "measured" else 64)
        self._model = model
        Odd.open_models += 1

    def prepare_texts(self, texts: Sequence[backend.Text]) -> backend.Prepared:
        return backend.Prepared(list(texts), len(texts), token_count=len(texts), token_counts=[1] * len(texts))

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        return backend.Prepared(["picture" for _ in rows], len(rows))

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        texts: list[str] = prepared.work
        vectors = np.zeros((len(texts), self._model.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            riders = company.board(1, len(texts) - row, self.budget).riders
            others: list[str] = riders.work if riders is not None else []
            rows = np.zeros((len(others), self._model.dimension), dtype=np.float32)
            for place, other in enumerate(others):
                self._make(other, rows[place], progress)
            self._make(text, vectors[row], progress)
            company.landed(1 + len(others), 1, rows)
            if not progress(row + 1):
                raise backend.Abandoned
        starved = frozenset(row for row, text in enumerate(texts) if text == "starved")
        return backend.Computed(vectors, starved)

    def close(self) -> None:
        Odd.open_models -= 1

    def _make(self, text: str, vector: npt.NDArray[np.float32], progress: Callable[[int], bool]) -> None:
        vector[len(text) % self._model.dimension] = 1.0
        self._obey(text, vector, progress)

    def _obey(self, text: str, vector: npt.NDArray[np.float32], progress: Callable[[int], bool]) -> None:
        if text == "nan" or self._model.revision == "sick":
            vector[0] = np.nan
        elif text == "long":
            vector *= 2
        elif text == "starved":
            self.budget //= 2
        elif text == "error":
            raise RuntimeError("this computes nothing")
        elif text == "lost":
            raise backend.ModelUnavailable("It has another dimension.")
        elif text == "slow":
            time.sleep(0.2)
        elif text == "until cancelled":
            while progress(0):
                time.sleep(0.002)
            raise backend.Abandoned


class Loader:
    """Makes them."""

    def load(self, model: backend.Model) -> backend.Backend:
        return Odd(model)

    def release(self) -> int:
        return Odd.open_models


def main() -> None:
    """As podium_worker.executor does."""
    parser = argparse.ArgumentParser()
    for name in ("--fd", "--index", "--threads", "--max-payload-bytes", "--arena-fd", "--arena-bytes"):
        parser.add_argument(name, type=int)
    parser.add_argument("--device")
    options = parser.parse_args()
    shared = album.Album(options.arena_fd, options.arena_bytes)
    connection = socket.socket(fileno=options.fd)
    pipeline.Pipeline(connection, Loader(), max_payload_bytes=options.max_payload_bytes, shared=shared).run()


if __name__ == "__main__":
    main()

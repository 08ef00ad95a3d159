"""The canary: a loaded model computes known texts before, and whenever, its vectors are in doubt.

Promises: returns only if the vectors are finite, of the right shape and length, the same twice, the same alone as in
company, within what the model's precision allows, and those that the registry has recorded. These were computed
elsewhere, so what must agree is the direction, nearly, and the length, about. Runs on the thread that owns the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from podium_worker.adapters import results
from podium_worker.app import backend

TEXTS = (
    "A canary.",
    "Podium hands batches of texts to GPUs and streams vectors back.",
    "Übergröße, naïve café, 漢字とかな 한국어 עברית 😀",
    "word " * 200,
)
# Of the largest element of the batch. Measured on a CPU: 2e-6; other kernels and hardware are farther apart.
_AGREEMENT = {"": 1e-4, "float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}
# Of vectors that were recorded on other hardware, by other versions of the libraries, or in another precision.
MIN_COSINE = 0.999
_LENGTHS = 0.05


class Unsound(Exception):
    """The device computes what cannot be. The message says what."""


class NotAsRecorded(Exception):
    """The vectors are sound, but not those of the registry: another model, or wrong numbers there."""


def examine(model: backend.Model, loaded: backend.Backend) -> None:
    """Raises Unsound, NotAsRecorded or backend.ModelUnavailable."""
    first = _vectors(model, loaded, TEXTS)
    atol = _AGREEMENT.get(model.precision, _AGREEMENT["float32"]) * float(np.abs(first).max())
    _agree(first, _vectors(model, loaded, TEXTS), atol, "two computations of the same texts differ")
    alone = _vectors(model, loaded, TEXTS[1:2])
    _agree(first[1:2], alone, atol, "a text alone has another vector than in company")
    for known in model.canaries:
        _recognise(known, _vectors(model, loaded, [known.text])[0])


def _recognise(known: backend.Canary, computed: npt.NDArray[np.float32]) -> None:
    recorded = np.asarray(known.elements, dtype=np.float64)
    found = computed[: len(recorded)].astype(np.float64)
    lengths = float(np.linalg.norm(found)), float(np.linalg.norm(recorded))
    cosine = float(found @ recorded) / (lengths[0] * lengths[1]) if all(lengths) else 0.0
    if cosine < MIN_COSINE or abs(lengths[0] - lengths[1]) > _LENGTHS * lengths[1]:
        raise NotAsRecorded(
            f"The vector of {known.text[:40]!r} begins with {_shown(found)}, the registry says {_shown(recorded)}; "
            f"their cosine is {cosine:.4f}, at least {MIN_COSINE} is wanted: "
            "these are other model files, or wrong canaries in the registry."
        )


def _vectors(model: backend.Model, loaded: backend.Backend, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    computed = loaded.compute(loaded.prepare(texts), lambda _: True)
    vectors = computed.vectors
    if computed.out_of_memory:
        raise backend.ModelUnavailable("There is no memory left on the device to compute even the canary.")
    if vectors.shape != (len(texts), model.dimension) or vectors.dtype != np.float32:
        raise Unsound(f"its vectors are {vectors.dtype} {vectors.shape}, not float32 {len(texts), model.dimension}")
    if not np.isfinite(vectors).all():
        raise Unsound("its vectors hold a NaN or an infinity")
    if model.normalized and (np.abs(np.linalg.norm(vectors, axis=1) - 1.0) > results.NORM_TOLERANCE).any():
        raise Unsound("its vectors do not have length 1")
    return vectors


def _agree(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], atol: float, otherwise: str) -> None:
    off = float(np.abs(one - other).max())
    if off > atol:
        raise Unsound(f"{otherwise}: by {off:.3g}, {atol:.3g} is allowed")


def _shown(vector: npt.NDArray[np.floating]) -> str:
    return "[" + ", ".join(f"{element:.4f}" for element in vector[:4]) + ", ...]"

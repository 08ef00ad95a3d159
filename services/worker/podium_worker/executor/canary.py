"""The canary: a loaded model computes known items before, and whenever, its vectors are in doubt.

Promises: returns only if the vectors are finite, of the right shape and length, the same twice, the same alone as in
company, within what the precision in use allows, and those that the registry has recorded. These were computed
elsewhere, so what must agree is the direction, nearly, and the length, about. A model that takes texts and images is
examined with both. Runs on the thread that owns the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from podium_worker.adapters import results
from podium_worker.app import backend
from podium_worker.domain import pictures, problems

TEXTS = (
    "A canary.",
    "Podium hands batches of texts to GPUs and streams vectors back.",
    "Übergröße, naïve café, 漢字とかな 한국어 עברית 😀",
    "word " * 200,
)
# Of the largest element of the batch. Measured on a CPU: 2e-6; other kernels and hardware are farther apart.
# bfloat16 is 1.0e-2 (MiniLM) to 1.7e-2 (ViT-L) off float32 there, and two kernels may be so in opposite directions.
_AGREEMENT = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-3}
# Of vectors that were recorded on other hardware, by other versions of the libraries, or in another precision.
MIN_COSINE = 0.999
_LENGTHS = 0.05
# The registry holds no larger one; its files are small.
_MAX_PIXELS = 50_000_000

_Vectors = npt.NDArray[np.float32]
_Pictures = npt.NDArray[np.uint8]


class Unsound(Exception):
    """The device computes what cannot be. The message says what."""


class NotAsRecorded(Exception):
    """The vectors are sound, but not those of the registry: another model, or wrong numbers there."""


def examine(model: backend.Model, loaded: backend.Backend) -> None:
    """Raises Unsound, NotAsRecorded or backend.ModelUnavailable."""
    if model.takes_texts:
        twice = _texts(model, loaded, TEXTS), _texts(model, loaded, TEXTS)
        _agree("text", loaded, *twice, _texts(model, loaded, TEXTS[1:2]))
    if loaded.picture is not None:
        # Two are company, and a large model takes seconds for one on a CPU.
        patterns = built_in(loaded.picture)
        twice = _images(model, loaded, patterns), _images(model, loaded, patterns)
        _agree("image", loaded, *twice, _images(model, loaded, patterns[1:2]))
    for known in model.canaries:
        if known.image:
            _recognise(known, _images(model, loaded, _decoded(known, loaded.picture))[0])
        else:
            _recognise(known, _texts(model, loaded, [known.text])[0])


def built_in(picture: pictures.Picture) -> _Pictures:
    """Two pictures that any machine makes alike: slopes of colour, and noise. uint8, shape (2, height, width, 3)."""
    down, along, colour = np.indices((picture.height, picture.width, 3), dtype=np.uint32)
    slopes = (255 * down // picture.height * (colour + 1) + 255 * along // picture.width) % 256
    noise = (down * np.uint32(0x9E3779B9) + along * np.uint32(0x85EBCA6B) + colour * np.uint32(0xC2B2AE35)) >> 15
    noise = noise * np.uint32(0x846CA68B) >> 24
    return np.stack([slopes, noise]).astype(np.uint8)


def _decoded(known: backend.Canary, picture: pictures.Picture | None) -> _Pictures:
    if picture is None:
        raise NotAsRecorded("The registry has an image among the canaries of a model that takes none.")
    # Here and not above: an executor without such canaries never pays for the image library.
    from podium_worker.decoder import transform

    try:
        return transform.decode(known.image, picture, _MAX_PIXELS)[np.newaxis]
    except problems.ItemProblem as problem:
        raise NotAsRecorded(f"An image among the registry's canaries cannot be used: {problem.message}") from problem


def _recognise(known: backend.Canary, computed: _Vectors) -> None:
    recorded = np.asarray(known.elements, dtype=np.float64)
    found = computed[: len(recorded)].astype(np.float64)
    lengths = float(np.linalg.norm(found)), float(np.linalg.norm(recorded))
    cosine = float(found @ recorded) / (lengths[0] * lengths[1]) if all(lengths) else 0.0
    if cosine < MIN_COSINE or abs(lengths[0] - lengths[1]) > _LENGTHS * lengths[1]:
        of = f"an image of {len(known.image):,} bytes" if known.image else repr(known.text[:40])
        raise NotAsRecorded(
            f"The vector of {of} begins with {_shown(found)}, the registry says {_shown(recorded)}; "
            f"their cosine is {cosine:.4f}, at least {MIN_COSINE} is wanted: "
            "these are other model files, or wrong canaries in the registry."
        )


def _texts(model: backend.Model, loaded: backend.Backend, texts: Sequence[str]) -> _Vectors:
    return _vectors(model, loaded, loaded.prepare_texts(texts), len(texts))


def _images(model: backend.Model, loaded: backend.Backend, rows: _Pictures) -> _Vectors:
    return _vectors(model, loaded, loaded.prepare_pictures(rows), len(rows))


def _vectors(model: backend.Model, loaded: backend.Backend, prepared: backend.Prepared, count: int) -> _Vectors:
    computed = loaded.compute(prepared, lambda _: True)
    vectors = computed.vectors
    if computed.out_of_memory:
        raise backend.ModelUnavailable("There is no memory left on the device to compute even the canary.")
    if vectors.shape != (count, model.dimension) or vectors.dtype != np.float32:
        raise Unsound(f"its vectors are {vectors.dtype} {vectors.shape}, not float32 {count, model.dimension}")
    if not np.isfinite(vectors).all():
        raise Unsound("its vectors hold a NaN or an infinity")
    if model.normalized and (np.abs(np.linalg.norm(vectors, axis=1) - 1.0) > results.NORM_TOLERANCE).any():
        raise Unsound("its vectors do not have length 1")
    return vectors


def _agree(item: str, loaded: backend.Backend, first: _Vectors, again: _Vectors, second_alone: _Vectors) -> None:
    """The same items twice, and the second of them alone."""
    precision = _AGREEMENT.get(loaded.description.precision, _AGREEMENT["float32"])
    atol = precision * float(np.abs(first).max())
    for one, other, otherwise in (
        (first, again, f"two computations of the same {item}s differ"),
        (first[1:2], second_alone, f"a single {item} has another vector than in company"),
    ):
        off = float(np.abs(one - other).max())
        if off > atol:
            raise Unsound(f"{otherwise}: by {off:.3g}, {atol:.3g} is allowed")


def _shown(vector: npt.NDArray[np.floating]) -> str:
    return "[" + ", ".join(f"{element:.4f}" for element in vector[:4]) + ", ...]"

"""The canary on models that compute what the test wants: what passes, and what is said of what does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from podium_worker.adapters import hash_backend
from podium_worker.app import backend
from podium_worker.executor import canary

Vectors = npt.NDArray[Any]
MODEL = backend.Model("hash-48", "hash", dimension=48)
TEXT = "A text whose vector is known."


def hashed(texts: Sequence[str]) -> Vectors:
    return hash_backend.hash_vectors([text.encode() for text in texts], MODEL.dimension)


def unit(texts: Sequence[str]) -> Vectors:
    vectors = hashed(texts)
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


class Computes:
    """A loaded model that computes this."""

    description = backend.Description(pooling="none", normalized=False, precision="float32")

    def __init__(self, vectors: Callable[[Sequence[str]], Vectors], *, memory: bool = True) -> None:
        self._vectors = vectors
        self._memory = memory

    def prepare(self, texts: Sequence[str]) -> backend.Prepared:
        return backend.Prepared(list(texts), len(texts))

    def compute(self, prepared: backend.Prepared, progress: Callable[[int], bool]) -> backend.Computed:
        assert progress(prepared.item_count)
        lost = frozenset[int]() if self._memory else frozenset({0})
        return backend.Computed(self._vectors(prepared.work), lost)


def spoiled(value: float, *, at: int = 0) -> Callable[[Sequence[str]], Vectors]:
    def vectors(texts: Sequence[str]) -> Vectors:
        found = hashed(texts)
        found[at, 3] = value
        return found

    return vectors


def with_canary(elements: Vectors, text: str = TEXT, **changes: Any) -> backend.Model:
    return dataclasses.replace(MODEL, canaries=(backend.Canary(text, tuple(elements.tolist())),), **changes)


def test_a_sound_model_passes_with_and_without_unit_length() -> None:
    canary.examine(MODEL, Computes(hashed))
    canary.examine(dataclasses.replace(MODEL, normalized=True), Computes(unit))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_unsound(value: float) -> None:
    with pytest.raises(canary.Unsound, match="hold a NaN or an infinity"):
        canary.examine(MODEL, Computes(spoiled(value)))


@pytest.mark.parametrize(
    ("vectors", "found"),
    [
        (lambda texts: hashed(texts)[:, :-1], r"float32 \(4, 47\)"),
        (lambda texts: hashed(texts)[:-1], r"float32 \(3, 48\)"),
        (lambda texts: hashed(texts).astype(np.float64), r"float64 \(4, 48\)"),
    ],
)
def test_other_shapes_and_types_are_unsound(vectors: Callable[[Sequence[str]], Vectors], found: str) -> None:
    with pytest.raises(canary.Unsound, match=found):
        canary.examine(MODEL, Computes(vectors))


def test_vectors_that_are_to_have_length_1_have_it() -> None:
    with pytest.raises(canary.Unsound, match="do not have length 1"):
        canary.examine(dataclasses.replace(MODEL, normalized=True), Computes(lambda texts: 1.01 * unit(texts)))


def drifting(drift: float) -> Callable[[Sequence[str]], Vectors]:
    """A device that computes something else each time."""
    calls = iter(range(100))
    return lambda texts: hashed(texts) + np.float32(drift * next(calls))


def test_the_same_texts_have_the_same_vectors_twice_within_the_precision() -> None:
    with pytest.raises(canary.Unsound, match="two computations of the same texts differ: by "):
        canary.examine(MODEL, Computes(drifting(1e-3)))
    canary.examine(dataclasses.replace(MODEL, precision="bfloat16"), Computes(drifting(1e-3)))
    canary.examine(MODEL, Computes(drifting(1e-6)))


def test_a_text_alone_is_what_it_is_in_company() -> None:
    """Padding or a mask that leaks."""
    with pytest.raises(canary.Unsound, match="alone has another vector than in company"):
        canary.examine(MODEL, Computes(lambda texts: hashed(texts) * np.float32(1.0 if len(texts) > 1 else 0.9)))


def test_a_device_without_memory_is_no_faulty_one() -> None:
    with pytest.raises(backend.ModelUnavailable, match="no memory left"):
        canary.examine(MODEL, Computes(hashed, memory=False))


@pytest.mark.parametrize("count", [16, 48])
def test_recorded_vectors_pass_whole_or_in_part(count: int) -> None:
    canary.examine(with_canary(hashed([TEXT])[0][:count]), Computes(hashed))


def test_another_text_s_vector_is_not_the_recorded_one() -> None:
    model = with_canary(hashed(["Another text."])[0])
    with pytest.raises(canary.NotAsRecorded) as caught:
        canary.examine(model, Computes(hashed))
    message = str(caught.value)
    assert message.startswith("The vector of 'A text whose vector is known.' begins with [")
    assert "at least 0.999 is wanted: these are other model files, or wrong canaries in the registry." in message


def rotated(cosine: float) -> Vectors:
    """A vector of the recorded one's length at this angle to it."""
    known = hashed([TEXT])[0].astype(np.float64)
    aside = hashed(["aside"])[0].astype(np.float64)
    aside -= known * (aside @ known) / (known @ known)
    aside *= np.linalg.norm(known) / np.linalg.norm(aside)
    turned: Vectors = cosine * known + np.sqrt(1 - cosine**2) * aside
    return turned


def test_the_cosine_decides_and_its_bound_is_what_is_said() -> None:
    canary.examine(with_canary(rotated(0.9991)), Computes(hashed))
    with pytest.raises(canary.NotAsRecorded, match=r"their cosine is 0\.9989"):
        canary.examine(with_canary(rotated(0.9989)), Computes(hashed))


@pytest.mark.parametrize("factor", [0.9, 1.1, -1.0])
def test_another_length_or_sign_is_not_as_recorded(factor: float) -> None:
    with pytest.raises(canary.NotAsRecorded):
        canary.examine(with_canary(factor * hashed([TEXT])[0]), Computes(hashed))


def test_a_canary_is_read_as_it_is_recorded_prefix_included() -> None:
    """The registry has put the prefix there; the worker adds none."""
    canary.examine(with_canary(hashed(["query: " + TEXT])[0], "query: " + TEXT), Computes(hashed))
    with pytest.raises(canary.NotAsRecorded):
        canary.examine(with_canary(hashed([TEXT])[0], "query: " + TEXT), Computes(hashed))

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
from podium_worker.domain import pictures
from podium_worker.executor import canary
from tests.support import pictures as image_files

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

    picture: pictures.Picture | None = None
    memory_bytes = 0
    budget = 0

    def __init__(
        self, vectors: Callable[[Sequence[str]], Vectors], *, memory: bool = True, precision: str = "float32"
    ) -> None:
        self._vectors = vectors
        self._memory = memory
        self.description = backend.Description(pooling="none", normalized=False, precision=precision)

    def prepare_texts(self, texts: Sequence[backend.Text]) -> backend.Prepared:
        return backend.Prepared(list(texts), len(texts))

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        raise AssertionError("no image was to be looked at")

    def close(self) -> None:
        raise AssertionError("nobody closes what is examined")

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
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
    # What it computes in counts, not what the registry asks for.
    canary.examine(dataclasses.replace(MODEL, precision="auto"), Computes(drifting(1e-3), precision="bfloat16"))
    # As much as two kernels of a large model may differ in, and no more.
    largest = float(np.abs(hashed(canary.TEXTS)).max())
    canary.examine(MODEL, Computes(drifting(0.02 * largest), precision="bfloat16"))
    with pytest.raises(canary.Unsound, match="differ: by "):
        canary.examine(MODEL, Computes(drifting(0.1 * largest), precision="bfloat16"))
    canary.examine(MODEL, Computes(drifting(1e-6)))


def test_a_text_alone_is_what_it_is_in_company() -> None:
    """Padding or a mask that leaks."""
    with pytest.raises(canary.Unsound, match="a single text has another vector than in company"):
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


BOTH = dataclasses.replace(MODEL, takes_images=True)


class Looks(Computes):
    """A model of texts and images that computes this of pictures."""

    picture = hash_backend.PICTURE

    def __init__(self, seen: Callable[[Sequence[bytes]], Vectors]) -> None:
        super().__init__(hashed)
        self._seen = seen
        self.looked_at = 0

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        assert rows.dtype == np.uint8 and rows.shape[1:] == (8, 8, 3)
        self.looked_at += len(rows)
        return backend.Prepared([row.tobytes() for row in rows], len(rows))

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        if isinstance(prepared.work[0], bytes):
            return backend.Computed(self._seen(prepared.work))
        return super().compute(prepared, progress)


def seen(shown: Sequence[bytes]) -> Vectors:
    return hash_backend.hash_vectors(shown, MODEL.dimension)


def test_a_model_of_texts_and_images_is_examined_with_both_and_with_few_images() -> None:
    looks = Looks(seen)
    canary.examine(BOTH, looks)
    assert looks.looked_at == 5
    with pytest.raises(canary.Unsound, match="hold a NaN"):
        canary.examine(BOTH, Looks(lambda shown: seen(shown) * np.float32(np.nan)))
    broken = Looks(seen)
    broken._vectors = spoiled(np.nan)
    with pytest.raises(canary.Unsound, match="hold a NaN"):
        canary.examine(BOTH, broken)


def test_a_model_of_images_alone_is_given_no_text() -> None:
    blind = Looks(seen)
    blind._vectors = spoiled(np.nan)
    canary.examine(dataclasses.replace(BOTH, takes_texts=False), blind)


def test_images_have_the_same_vectors_twice_and_in_company() -> None:
    calls = iter(range(100))
    with pytest.raises(canary.Unsound, match="two computations of the same images differ"):
        canary.examine(BOTH, Looks(lambda shown: seen(shown) + np.float32(1e-3 * next(calls))))
    with pytest.raises(canary.Unsound, match="a single image has another vector than in company"):
        canary.examine(BOTH, Looks(lambda shown: seen(shown) * np.float32(1.0 if len(shown) > 1 else 0.9)))


def test_the_built_in_pictures_are_the_same_everywhere_and_unlike() -> None:
    wide = pictures.Picture(height=5, width=300, edge=5)
    shown = canary.built_in(wide)
    assert shown.shape == (2, 5, 300, 3)
    assert [int(picture.sum()) for picture in canary.built_in(hash_backend.PICTURE)] == [26376, 24191]
    for picture in shown:
        assert picture.std() > 30
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 30


def recorded(data: bytes) -> backend.Model:
    from podium_worker.decoder import transform

    vector = seen([transform.decode(data, hash_backend.PICTURE, 1_000_000).tobytes()])[0]
    return dataclasses.replace(BOTH, canaries=(backend.Canary("", tuple(vector.tolist()), data),))


def test_recorded_images_are_decoded_as_any_other() -> None:
    model = recorded(image_files.make("png", 20, 30, seed=1))
    canary.examine(model, Looks(seen))
    other = image_files.make("png", 20, 30, seed=2)
    wrong = dataclasses.replace(model, canaries=(dataclasses.replace(model.canaries[0], image=other),))
    with pytest.raises(canary.NotAsRecorded, match=f"The vector of an image of {len(other):,} bytes begins with"):
        canary.examine(wrong, Looks(seen))


def test_a_recorded_image_that_cannot_be_used_is_the_registry_s_fault() -> None:
    canaries = (backend.Canary("", (1.0,), b"no image"),)
    with pytest.raises(canary.NotAsRecorded, match="An image among the registry's canaries cannot be used: "):
        canary.examine(dataclasses.replace(BOTH, canaries=canaries), Looks(seen))
    with pytest.raises(canary.NotAsRecorded, match="of a model that takes none"):
        canary.examine(dataclasses.replace(MODEL, canaries=canaries), Computes(hashed))

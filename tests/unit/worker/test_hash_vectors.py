"""The hash backend's function against its written definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from podium_worker.adapters.hash_backend import PICTURE, HashBackend, hash_vectors
from podium_worker.app import backend

MASK = 2**32 - 1


def _element(text: bytes, j: int) -> float:
    digest = hashlib.blake2b(text, digest_size=8).digest()
    low, high = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
    x = (low + j * 0x9E3779B9) & MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = x ^ high ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK
    x ^= x >> 16
    signed = x - 2**32 if x >> 31 else x
    return (signed >> 8) * 2.0**-23


def test_it_is_what_its_documentation_says() -> None:
    texts = [b"", b"a", "漢字 Übergröße".encode()]
    vectors = hash_vectors(texts, 1024)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[_element(text, j) for j in range(1024)] for text in texts]


def test_blocks_make_no_difference() -> None:
    texts = [str(number).encode() for number in range(500)]
    whole = hash_vectors(texts, 384)
    assert np.array_equal(whole, np.concatenate([hash_vectors([text], 384) for text in texts]))
    assert whole.min() >= -1 and whole.max() < 1


def test_texts_are_told_apart() -> None:
    vectors = hash_vectors([str(number).encode() for number in range(300)], 384)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - np.eye(300)
    assert np.abs(cosines).max() < 0.35


def test_no_texts_and_no_dimension() -> None:
    assert hash_vectors([], 8).shape == (0, 8)
    with pytest.raises(ValueError, match="dimension"):
        hash_vectors([b"a"], 0)


def _compute(loaded: backend.Backend, prepared: backend.Prepared) -> np.ndarray:
    return loaded.compute(prepared, lambda _: True).vectors


def test_a_picture_is_an_item_by_its_bytes() -> None:
    loaded = HashBackend(backend.Model("both", "hash", 16, takes_images=True))
    assert loaded.picture == PICTURE
    shown = np.arange(3 * PICTURE.nbytes, dtype=np.uint8).reshape(3, PICTURE.height, PICTURE.width, 3)
    expected = hash_vectors([picture.tobytes() for picture in shown], 16)
    assert np.array_equal(_compute(loaded, loaded.prepare_pictures(shown)), expected)
    # A batch whose first item has failed is a view that does not begin at the beginning.
    assert np.array_equal(_compute(loaded, loaded.prepare_pictures(shown[1:])), expected[1:])


def test_a_text_and_a_picture_of_the_same_bytes_are_the_same_item() -> None:
    loaded = HashBackend(backend.Model("both", "hash", 16, takes_images=True))
    shown = np.full((1, PICTURE.height, PICTURE.width, 3), ord("a"), dtype=np.uint8)
    text = _compute(loaded, loaded.prepare_texts(["a" * PICTURE.nbytes]))
    assert np.array_equal(_compute(loaded, loaded.prepare_pictures(shown)), text)


def test_it_looks_at_images_and_makes_unit_vectors_where_the_registry_says_so() -> None:
    loaded = HashBackend(backend.Model("texts", "hash", 16, normalized=True))
    assert loaded.picture is None
    assert loaded.description.normalized
    vectors = _compute(loaded, loaded.prepare_texts(["a", "b"]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    raw = hash_vectors([b"a", b"b"], 16)
    assert np.array_equal(vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True))

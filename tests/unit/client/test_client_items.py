"""Images as items: what may be one, what is read when, and what an error names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podium.common.v1 import item_pb2
from podium_client import ImageLike, InvalidInput, TextLike, queries
from podium_client.items import IMAGES, MAX_INLINE_BYTES, TEXTS
from podium_client.parts import JobSpec, cut, request_id, whole

URL = "https://example.org/a.jpg"
SPEC = JobSpec("clip", item_pb2.EmbeddingOptions())


def refused(image: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        list(cut([URL, b"data", image], kind=IMAGES))
    assert caught.value.violations[0].index == 2
    return caught.value


def test_urls_bytes_and_files_become_items(tmp_path: Path) -> None:
    file = tmp_path / "b.png"
    file.write_bytes(b"content")
    images: list[ImageLike] = [URL, "s3://bucket/key", "HTTP://example.org/", b"raw", bytearray(b"array"), file]
    (part,) = cut(images, [f"k{n}" for n in range(6)], kind=IMAGES)
    assert isinstance(part.items, item_pb2.ImageItems)
    assert [item.key for item in part.items.items] == [f"k{n}" for n in range(6)]
    found = [item.url or item.data for item in part.items.items]
    assert found == [URL, "s3://bucket/key", "HTTP://example.org/", b"raw", b"array", b"content"]
    assert part.kind == "images"
    assert whole(images, part.keys, IMAGES) == part.items


@pytest.mark.parametrize(
    "text", ["cat.jpg", "/tmp/cat.jpg", "file:///tmp/cat.jpg", "ftp://host/cat.jpg", "", "http:/x"]
)
def test_a_str_is_a_url_and_never_a_local_path(text: str) -> None:
    error = refused(text)
    assert error.violations[0].field == "images.items[2].url"
    assert error.message == (
        f"images.items[2].url: '{text}' is no http, https or s3 URL; give a local file as pathlib.Path"
    )


def test_a_long_or_odd_str_is_one_short_line() -> None:
    assert len(refused("x" * 10_000).message) < 250
    assert "a\\nb\\udcff" in refused("a\nb\udcff").message
    assert refused("http://host/\udcff").violations[0].field == "images.items[2].url"


def test_files_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.jpg" for n in range(4)]
    for path in paths:
        path.write_bytes(b"x" * 100)
    parts = cut(paths, kind=IMAGES, max_bytes=250)
    assert next(parts).item_count == 2
    paths[3].write_bytes(b"y" * 10)
    (last,) = parts
    assert isinstance(last.items, item_pb2.ImageItems)
    assert [item.data for item in last.items.items] == [b"x" * 100, b"y" * 10]


def test_an_image_larger_than_a_job_is_a_job_of_its_own() -> None:
    parts = list(cut([b"a" * 10, b"b" * 100, b"c"], kind=IMAGES, max_bytes=50))
    assert [part.item_count for part in parts] == [1, 1, 1]
    assert [part.first_item for part in parts] == [0, 1, 2]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    empty, fifo, huge = tmp_path / "empty.jpg", tmp_path / "fifo.jpg", tmp_path / "huge.jpg"
    empty.touch()
    os.mkfifo(fifo)
    with huge.open("wb") as file:
        file.truncate(MAX_INLINE_BYTES + 1)
    for image, complaint in (
        (tmp_path / "none.jpg", f"{tmp_path}/none.jpg: No such file or directory"),
        (tmp_path, f"{tmp_path}: is no regular file"),
        (fifo, f"{fifo}: is no regular file"),
        (empty, f"{empty}: is empty"),
        (huge, f"{huge}: is 33,554,433 bytes; no workload takes an inline image of more than 33,554,432"),
        (Path("a\0b"), "a\\x00b: "),
        (b"", "is empty"),
        (bytes(MAX_INLINE_BYTES + 1), "is 33,554,433 bytes"),
    ):
        error = refused(image)
        assert error.violations[0].field == "images.items[2].data"
        assert error.violations[0].description.startswith(complaint)
    assert refused(3).message == (
        "images.items[2].image: an http, https or s3 URL (str), bytes or a pathlib.Path is needed, not int"
    )


def test_a_job_is_named_by_what_the_files_hold(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jpg", tmp_path / "2.jpg"
    first.write_bytes(b"same")
    second.write_bytes(b"same")

    def name(*images: ImageLike) -> object:
        return request_id(SPEC, next(cut(images, kind=IMAGES)))

    assert name(first) == name(second) == name(b"same")
    assert name(first, second) != name(first)
    before = name(first)
    first.write_bytes(b"other")
    assert name(first) != before


def test_a_text_and_a_url_of_the_same_letters_are_two_jobs() -> None:
    texts, urls = next(cut([URL], kind=TEXTS)), next(cut([URL], kind=IMAGES))
    assert texts.items.SerializeToString() == urls.items.SerializeToString()
    assert request_id(SPEC, texts) != request_id(SPEC, urls)


def test_token_ids_are_texts_too() -> None:
    ids: list[TextLike] = [[1, 2, 3], (7,), np.array([4, 5]), "a text"]
    (part,) = cut(ids, [f"k{n}" for n in range(4)], kind=TEXTS)
    assert isinstance(part.items, item_pb2.TextItems)
    assert [list(item.token_ids.ids) for item in part.items.items] == [[1, 2, 3], [7], [4, 5], []]
    assert [item.text for item in part.items.items] == ["", "", "", "a text"]
    assert whole(ids, part.keys, TEXTS) == part.items
    others: list[TextLike] = [[1, 2], (7,), [4, 5], "a text"]
    other = next(cut(others, kind=TEXTS))
    assert request_id(SPEC, part) != request_id(SPEC, other)


@pytest.mark.parametrize("bad", [[], [1, "a"], [1.5], [-1], [2**32], np.array([1.5]), [[1]], b"ab", {1, 2}])
def test_what_is_neither_a_text_nor_token_ids_is_named(bad: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(cut(["a", bad], kind=TEXTS))
    assert caught.value.violations[0].index == 1


def test_a_call_takes_token_ids_as_a_job_does() -> None:
    ids: list[TextLike] = [[1, 2, 3], (7,), np.array([4, 5]), "a text"]
    request = queries.request_of(TEXTS, ids, "w", item_pb2.EmbeddingOptions(), ["a", "b", "c", "d"])
    assert request.texts == whole(ids, ["a", "b", "c", "d"], TEXTS)

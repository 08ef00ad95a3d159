"""Pictures in shared memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import pytest

from podium_worker.domain import problems
from podium_worker.executor import album

NBYTES = 1 << 16


@pytest.fixture
def written() -> Iterator[tuple[album.Album, np.ndarray]]:
    """An album, and what is in it."""
    content = np.random.default_rng(3).integers(0, 256, NBYTES, dtype=np.uint8)
    with tempfile.TemporaryFile() as file:
        file.write(content.tobytes())
        file.flush()
        yield album.Album(file.fileno(), NBYTES), content


def shelf(*failed: int, offset: int = 300, height: int = 4, width: int = 5) -> album.Shelf:
    failures = [problems.ItemFailure(index, problems.Reason.UNDECODABLE, "no image") for index in failed]
    return album.Shelf(offset, height, width, 0.0, failures)


def test_a_whole_batch_is_a_view_that_cannot_be_written(written: tuple[album.Album, np.ndarray]) -> None:
    pages, content = written
    seen = pages.pictures(shelf(), 3)
    assert np.array_equal(seen, content[300 : 300 + 180].reshape(3, 4, 5, 3))
    assert not seen.flags.owndata
    assert not seen.flags.writeable


def test_places_of_failed_items_are_left_out(written: tuple[album.Album, np.ndarray]) -> None:
    pages, content = written
    places = content[300 : 300 + 240].reshape(4, 4, 5, 3)
    assert np.array_equal(pages.pictures(shelf(0, 2), 4), places[[1, 3]])


@pytest.mark.parametrize(("offset", "count"), [(NBYTES, 1), (NBYTES - 59, 1), (0, NBYTES // 60 + 1)])
def test_nothing_is_read_beyond_the_memory(written: tuple[album.Album, np.ndarray], offset: int, count: int) -> None:
    pages, _ = written
    with pytest.raises(ValueError, match=r"offset|buffer"):
        pages.pictures(shelf(offset=offset), count)

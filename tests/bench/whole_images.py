"""(g) CLIP ViT-B/32 on photographs through the whole system, against the bare loop that has its tensors ready."""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import podium_client
from tests.bench import children, photos, report, rounds, seeded_clip
from tests.support import image_server

ALLOWED_HOST = "127.0.0.1"
"""Workers must be told that they may fetch from there (PODIUM_FETCH_ALLOW)."""
# One run of the bare loop should take about this long: what a run costs at its begin and its end should not count much.
_RUN_S = 10.0
_LEAST_BATCHES = 4
GOAL = report.at_least(0.9)


@dataclass(frozen=True, slots=True)
class Album:
    """The same photographs in three ways: as bytes, as files of a folder, and by URL."""

    files: list[bytes]
    folder: Path
    urls: list[str]


@contextlib.asynccontextmanager
async def album(files: Sequence[bytes], folder: Path) -> AsyncIterator[Album]:
    """Writes the files and serves them on loopback."""
    folder.mkdir()
    async with image_server.ImageServer() as server:
        urls = []
        for number, data in enumerate(files):
            # Names sort as the items do.
            name = f"{number:06}.jpg"
            (folder / name).write_bytes(data)
            urls.append(server.serve(f"/{name}", data))
        yield Album(list(files), folder, urls)


def fitting(rate: float, batch: int, most: int) -> int:
    """How many images make a run of about _RUN_S at `rate` images/s: whole batches, at most `most` images."""
    return min(most, max(_LEAST_BATCHES, round(rate * _RUN_S / batch)) * batch)


def least_cosine(ours: npt.NDArray[np.float32], path: Path) -> float:
    """Of all items, between our vectors and those of a .npy file; all are normalised."""
    pairs = np.einsum("ij,ij->i", ours.astype(np.float64), np.load(path).astype(np.float64))
    return float(pairs.min())


class _Sides:
    """Images/s of both sides."""

    def __init__(self, client: podium_client.AsyncClient, bare: children.Child, images: Album, out: Path) -> None:
        self._client = client
        self._bare = bare
        self._images = images
        self.out = out
        self.vectors: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)

    async def inline(self) -> float:
        return await self._embed(self._images.files)

    async def url(self) -> float:
        return await self._embed(self._images.urls)

    async def bare(self) -> float:
        said = await self._bare.ask(folder=str(self._images.folder), out=str(self.out))
        return len(self._images.files) / float(said["seconds"])

    async def _embed(self, images: Sequence[podium_client.ImageLike]) -> float:
        started = time.perf_counter()
        found = await self._client.embed_images(images, workload=seeded_clip.NAME, run=str(uuid.uuid4()))
        seconds = time.perf_counter() - started
        self.vectors = np.asarray(found.vectors, np.float32)
        return len(images) / seconds


async def measure(
    client: podium_client.AsyncClient, clip: seeded_clip.Clip, count: int, *, images: int, quick: bool
) -> list[report.Line]:
    """Lines for at most `images` photographs, inline and by URL, `count` rounds each."""
    threads = report.cores()
    arguments = ["--folder", str(clip.folder), "--threads", str(threads), *(["--quick"] if quick else [])]
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        folder = Path(name)
        async with children.started("tests.bench.bare_clip", *arguments) as bare:
            known = await bare.answer()
            batch = int(known["batch"])
            images = fitting(known["rates"][str(batch)], clip.batch_items, images)
            async with album(photos.files(images, photos.WEB), folder / "photos") as shown:
                sides = _Sides(client, bare, shown, folder / "bare.npy")
                runs = {"inline": sides.inline, "url": sides.url, "bare": sides.bare}
                figures = await rounds.alternate(runs, count)
                cosine = least_cosine(sides.vectors, sides.out)
    kilobytes = sum(map(len, shown.files)) / images / 1e3
    return [
        report.line(
            f"clip_{way}",
            figures[way],
            figures["bare"],
            what=f"{clip.what}, photographs of 500 x 375 pixels, {words}, whole system, one worker",
            against=f"open_clip with its tensors ready, {batch} at a time",
            unit="images/s",
            precision="float32 on both sides",
            counts=f"{images:,} JPEG files of {kilobytes:.0f} KB, {threads} threads each",
            goals=(GOAL,),
            extra={"least cosine to the other's vectors": cosine},
        )
        for way, words in (("inline", "inline"), ("url", "by URL from this machine"))
    ]

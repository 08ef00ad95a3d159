"""Images through the whole system: every format, from a bad server, in order, against plain open_clip in PyTorch."""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

import podium_client
from podium_worker.domain import problems
from tests.support import image_server, pictures, stack

BROKEN_SHARE = 0.05
SHORTEST_EDGE = 32
MIN_COSINE = 0.999
MOST_ALIKE = 0.001
"""Of all pairs of different images."""
TILES = 8
STEP_S = 150.0
QUICK_TO_MAKE = frozenset(kind for kind in pictures.KINDS if kind.startswith(("jpeg", "bmp")))
DEEP = frozenset(kind for kind in pictures.KINDS if kind.startswith(("tiff_16_", "tiff_32", "tiff_float", "png_16_")))
REGISTRY = """
workloads:
  small-clip:
    description: A small CLIP with seeded weights.
    modality: text and image
    dimension: 64
    limits: {{max_text_bytes: 64KiB, max_image_bytes: 40MiB, max_image_pixels: 20000000}}
    batch: {{max_items: 64, max_bytes: 8MiB}}
    model:
      backend: open_clip
      name: tests/small-clip
      revision: seeded
      local_path: {folder}
      pooling: none
      normalized: true
"""


@dataclass(frozen=True, slots=True)
class Made:
    """An image of the test, and what has to come of it."""

    url: str
    data: bytes
    reason: str = ""
    """Of its error; empty for a vector."""
    pixels: npt.NDArray[np.uint8] | None = None
    """What it was made of, where Pillow alone would clip its deep samples, whose high byte is the green channel."""


def _size(kind: str, dice: random.Random, longest_edge: int) -> tuple[int, int]:
    """Most are small, some are as large as they come: uniform in the logarithm. Of what is slow to make, only the one
    of `_largest` is."""
    most = longest_edge if kind in QUICK_TO_MAKE else 900
    longest = int(SHORTEST_EDGE * (most / SHORTEST_EDGE) ** dice.random())
    shortest = max(SHORTEST_EDGE, int(longest * dice.uniform(0.4, 1.0)))
    return (longest, shortest) if dice.random() < 0.5 else (shortest, longest)


def _largest(number: int, longest_edge: int) -> tuple[int, int]:
    """One of each kind: of the longest edge, and narrow, or compressing them would take minutes."""
    shortest = longest_edge // (2 if number == 0 else 8)
    return (longest_edge, shortest) if number % 2 else (shortest, longest_edge)


def _cut_out(tile: npt.NDArray[np.uint8], size: tuple[int, int], dice: random.Random) -> npt.NDArray[np.uint8]:
    """Of a plane that is covered with the tile, from anywhere."""
    width, height = size
    rows = (dice.randrange(len(tile)) + np.arange(height)) % len(tile)
    columns = (dice.randrange(len(tile)) + np.arange(width)) % len(tile)
    return tile[np.ix_(rows, columns)]


def _good(server: image_server.ImageServer, dice: random.Random, files: int, longest: int) -> list[Made]:
    made = []
    tiles = [pictures.pixels(longest // 4, longest // 4, seed=seed) for seed in range(TILES)]
    for number in range(files):
        kind = pictures.KINDS[number % len(pictures.KINDS)]
        size = _largest(number, longest) if number < len(pictures.KINDS) else _size(kind, dice, longest)
        rgb = _cut_out(tiles[number % TILES], size, dice)
        data = pictures.encode(kind, rgb)
        path = f"/{number}.{kind}"
        if number % 20 == 7:
            url = server.flapping(path, data, failures=1)
        elif number % 20 == 11:
            server.serve(f"{path}#there", data)
            server.in_turn(f"{path}-there", f"{path}#there")
            url = server.redirect(path, f"{path}-there", status=(301, 302, 303, 307, 308)[number % 5])
        else:
            # Text, whatever the server says it is: what counts is the content.
            content_type = "text/plain" if number % 20 == 3 else "image/jpeg"
            url = server.serve(path, data, delay_s=dice.uniform(0, 0.05), content_type=content_type)
        made.append(Made(url, data, pixels=rgb if kind in DEEP else None))
    return made


def _bad(server: image_server.ImageServer) -> list[Made]:
    made = [
        Made(server.serve(f"/bad-{kind}.jpg", data), data, reason.value)
        for kind, reason in pictures.BROKEN.items()
        if (data := pictures.broken(kind))
    ]
    failed = problems.Reason.FETCH_FAILED.value
    made += [
        Made(server.url("/nowhere.jpg"), b"", failed),
        Made(server.serve("/empty.jpg", b""), b"", failed),
        Made(server.serve("/gone.jpg", b"", status=410), b"", failed),
        Made(server.serve("/broken.jpg", b"", status=500), b"", failed),
        Made(server.redirect("/loop.jpg", "/loop.jpg"), b"", failed),
        Made(server.raw("/rude.jpg", [b"no http at all\r\n\r\n"]), b"", failed),
        Made(server.serve("/liar.jpg", b"x", length=60 << 20), b"", problems.Reason.TOO_LARGE.value),
        Made(server.endless("/endless.jpg"), b"", problems.Reason.TOO_LARGE.value),
        Made(server.redirect("/inside.jpg", "http://169.254.169.254/latest/meta-data"), b"", "URL_NOT_ALLOWED"),
        Made(server.redirect("/file.jpg", "file:///etc/passwd"), b"", "URL_NOT_ALLOWED"),
        Made("http://127.0.0.2/private.jpg", b"", "URL_NOT_ALLOWED"),
    ]
    return made


def _order(good: Sequence[Made], bad: Sequence[Made], count: int, dice: random.Random) -> list[Made]:
    """So many items, 5% of them broken, each good file at least once, in any order."""
    broken = int(count * BROKEN_SHARE)
    items = [bad[number % len(bad)] for number in range(broken)]
    items += [good[number % len(good)] for number in range(count - broken)]
    dice.shuffle(items)
    return items


def _rgb(made: Made) -> Image.Image:
    """What the reference leaves to its caller: EXIF, and samples of more than eight bits."""
    if made.pixels is not None:
        return Image.fromarray(made.pixels[..., 1]).convert("RGB")
    return ImageOps.exif_transpose(Image.open(io.BytesIO(made.data))).convert("RGB")


def _reference(folder: Path, files: Sequence[Made]) -> npt.NDArray[np.float32]:
    """Plain open_clip: its own transform and its own forward pass, one image at a time."""
    import torch

    from podium_worker.adapters.torch import torchvision_ops

    torchvision_ops.declare_missing()
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    rows = []
    with torch.inference_mode():
        for made in files:
            tensor = preprocess(_rgb(made)).unsqueeze(0)
            rows.append(model.encode_image(tensor, normalize=True)[0].numpy())
    return np.stack(rows)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    scaled: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


@pytest.mark.slow
# Of Pillow, in the reference; the palette's transparency is dropped either way.
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.timeout(400)
async def test_images_of_every_sort_come_back_in_order(tmp_path: Path) -> None:
    # tests/faults/test_two_thousand_images.py is the same with 2,000.
    await check(tmp_path, items=760, files=110, longest_edge=2_000)


async def check(tmp_path: Path, *, items: int, files: int, longest_edge: int) -> None:
    """Makes files, serves them badly, has them embedded, and compares."""
    from tests.support import seeded_models

    dice = random.Random(4)
    folder = tmp_path / "small-clip"
    await asyncio.to_thread(seeded_models.save_clip, folder)
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY.format(folder=folder))
    async with image_server.ImageServer() as server:
        good, bad = await asyncio.to_thread(lambda: (_good(server, dice, files, longest_edge), _bad(server)))
        asked = _order(good, bad, items, dice)
        async with (
            stack.running(tmp_path, registry=str(registry), fetch_allow=f"127.0.0.1:{server.port}") as running,
            podium_client.AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        ):
            async with asyncio.timeout(STEP_S):
                result = await client.embed_images(
                    [item.url for item in asked],
                    workload="small-clip",
                    keys=[str(number) for number in range(len(asked))],
                    on_error="return",
                    items_per_job=700,
                )
    told = {error.index: error for error in result.errors}
    wrong = {
        (asked[index].url.rsplit("/", 1)[1], asked[index].reason, told[index].reason if index in told else "a vector")
        for index in range(len(asked))
        if (told[index].reason if index in told else "") != asked[index].reason
    }
    assert not wrong
    assert [error.key for error in result.errors] == [str(error.index) for error in result.errors]
    assert len(told) == len(asked) * BROKEN_SHARE
    assert {"UNDECODABLE", "TOO_LARGE", "FETCH_FAILED", "URL_NOT_ALLOWED"} == {e.reason for e in result.errors}
    expected = await asyncio.to_thread(_reference, folder, good)
    # With random weights all vectors have much in common. Without that, the vector of another image would not do, a few
    # of two small flat ones aside, which is what makes the agreement worth something; ours have to agree so, too.
    common = expected.mean(axis=0)
    alike = _unit(expected - common) @ _unit(expected - common).T - 2 * np.eye(len(expected), dtype=np.float32)
    assert (alike >= MIN_COSINE).mean() < MOST_ALIKE
    by_url = {made.url: expected[number] for number, made in enumerate(good)}
    fine = [index for index in range(len(asked)) if index not in told]
    assert Counter(asked[index].url for index in fine).keys() == by_url.keys()
    ours, theirs = result.vectors[fine], np.stack([by_url[asked[index].url] for index in fine])
    for without in (np.zeros_like(common), common):
        cosines = np.einsum("ij,ij->i", _unit(ours - without), _unit(theirs - without))
        assert cosines.min() >= MIN_COSINE, asked[fine[int(cosines.argmin())]].url

"""`podium submit` over images, and the options for encoded vectors, against a fake gateway."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from podium.common.v1 import job_pb2
from podium_cli import exits, images
from podium_scheduler.adapters import registry_entries
from tests.support import fake_gateway
from tests.support.command import Run
from tests.support.fake_gateway import FakeGateway

URL = "https://example.org/a.jpg"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of images with names as they come; what each holds is its path in the folder."""
    folder = tmp_path / "album"
    names = ["b.JPG", "a.png", "z/inner.webp", "z/a b.tiff", "with\nnewline.gif", "ünïcode-日本.bmp", "-rf.jpeg"]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (folder / "notes.txt").write_text("no image")
    (folder / "._b.JPG").write_bytes(b"left by a file system")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "c.jpg").write_bytes(b"hidden")
    return folder


IN_ORDER = ["-rf.jpeg", "a.png", "b.JPG", "with\nnewline.gif", "ünïcode-日本.bmp", "z/a b.tiff", "z/inner.webp"]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_a_folder_is_embedded_in_the_order_of_its_names(
    fake: FakeGateway, podium: Run, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ended = await podium("submit", album, "-w", "fake-clip", "-o", out, "--items-per-job", 3)
    assert ended.code == exits.OK, ended.err
    assert ended.err == f"{album}: 2 files that are no images by their names were left out\n"
    rows = rows_of(out)
    assert [row["key"] for row in rows] == IN_ORDER
    np.testing.assert_array_equal(
        np.array([row["vector"] for row in rows], np.float32),
        fake_gateway.vectors([name.encode() for name in IN_ORDER]),
    )
    assert len(fake.jobs) == 3


async def test_names_that_are_no_utf8_or_too_long_for_a_key_are_taken(
    fake: FakeGateway, podium: Run, tmp_path: Path
) -> None:
    deep = "d" * 200 + "/" + "é" * 90 + ".png"
    folder = tmp_path / "odd"
    (folder / deep).parent.mkdir(parents=True)
    (folder / deep).write_bytes(b"deep")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"latin")
    out = tmp_path / "out.jsonl"
    ended = await podium("submit", folder, "-w", "fake-image", "-o", out)
    assert ended.code == exits.OK, ended.err
    first, second = (row["key"] for row in rows_of(out))
    assert first == "\\xff.jpg"
    assert second.endswith("é" * 90 + ".png")
    assert len(second.encode()) <= images.MAX_KEY_BYTES
    assert second != images.key_of("e" + deep[1:])


async def test_lists_hold_urls_and_paths_from_their_own_folder(
    fake: FakeGateway, podium: Run, album: Path, tmp_path: Path
) -> None:
    absolute = str(album / "b.JPG")
    contents: list[fake_gateway.Content] = [URL, b"a.png", b"b.JPG"]
    lines = write(tmp_path / "in.txt", f"{URL}\nalbum/a.png\n{absolute}\n")
    records = [{"url": URL}, {"path": "album/a.png"}, {"url": None, "path": absolute}]
    jsonl = write(tmp_path / "in.jsonl", "".join(json.dumps(row) + "\n" for row in records))
    table = write(tmp_path / "in.csv", f"path,url,n\n,{URL},1\nalbum/a.png,,2\n{absolute},,3\n")
    named = write(tmp_path / "lists" / "in.csv", f"picture,n\n{URL},1\n../album/a.png,2\n{absolute},3\n")
    out = tmp_path / "out.npy"
    for source, options in (
        (lines, ("-w", "fake-image")),
        (lines, ("-w", "fake-clip", "--images")),
        (jsonl, ("-w", "fake-image")),
        (table, ("-w", "fake-image", "--key-field", "n")),
        (named, ("-w", "fake-image", "--image-field", "picture")),
        (named, ("-w", "fake-image", "--column", "picture")),
    ):
        ended = await podium("submit", source, *options, "-o", out)
        assert ended.code == exits.OK, ended.err
        np.testing.assert_array_equal(np.load(out), fake_gateway.vectors(contents))


async def test_a_workload_of_both_kinds_takes_texts_unless_told(fake: FakeGateway, podium: Run, tmp_path: Path) -> None:
    lines = write(tmp_path / "in.txt", f"{URL}\n")
    ids = [
        (await podium("submit", lines, "-w", workload, "--detach", "--json", *options)).json["jobs"][0]["job_id"]
        for workload, options in (("fake-clip", ()), ("fake-clip", ("--images",)), ("fake-image", ()))
    ]
    assert [fake.jobs[one].message.modality for one in ids] == [
        fake_gateway.TEXT,
        fake_gateway.IMAGE,
        fake_gateway.IMAGE,
    ]
    refused = await podium("submit", lines, "-w", "fake-image", "--texts", "--detach")
    assert (refused.code, refused.err) == (
        exits.BAD_INPUT,
        "error: texts: workload 'fake-image' does not take texts\n",
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (f"{URL}\nftp://host/b.jpg\n", "in.txt:2: ftp://host/b.jpg is no http, https or s3 URL"),
        (f"{URL}\n\n", "in.txt:2: the image is empty; --skip-blank leaves such rows out"),
        (f"{URL}\nmissing.jpg\n", "missing.jpg: No such file or directory"),
        (f"{URL}\nempty.jpg\n", "empty.jpg: is empty"),
        (f"{URL}\n.\n", ": is no regular file"),
        (f"{URL}\nhttp://example.org/{'x' * 60}\n", "in.txt:2: images.items[1].url: 79 bytes, the workload's limit"),
        (f"{URL}\nlarge.jpg\n", "in.txt:2: images.items[1].data: 5,000 bytes, the workload's limit is 4096"),
    ],
)
async def test_bad_images_are_named_by_line_and_file(
    fake: FakeGateway, podium: Run, tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "large.jpg").write_bytes(b"x" * 5000)
    ended = await podium("submit", write(tmp_path / "in.txt", content), "-w", "fake-image", "-o", tmp_path / "out.npy")
    assert ended.code == exits.BAD_INPUT
    assert complaint in ended.err
    assert "in.txt:2: " in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"image": "a"}', "there is no field 'url' or 'path'; --image-field names another"),
        ('{"url": 3}', "field 'url' must be a string, not int"),
    ],
)
async def test_bad_rows_of_image_lists_are_named(
    fake: FakeGateway, podium: Run, tmp_path: Path, row: str, complaint: str
) -> None:
    source = write(tmp_path / "in.jsonl", row + "\n")
    ended = await podium("submit", source, "-w", "fake-image", "-o", tmp_path / "out.npy")
    assert (ended.code, complaint in ended.err) == (exits.BAD_INPUT, True), ended.err
    header = write(tmp_path / "in.csv", "a,b\n1,2\n")
    ended = await podium("submit", header, "-w", "fake-image", "-o", tmp_path / "out.npy")
    assert "in.csv: there is no column 'url' or 'path'; there are: a, b" in ended.err


async def test_a_file_of_a_folder_that_cannot_be_read_is_named(
    fake: FakeGateway, podium: Run, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npy"
    (album / "broken-link.jpg").symlink_to("nowhere")
    ended = await podium("submit", album, "-w", "fake-image", "-o", out)
    assert (ended.code, ended.err) == (
        exits.BAD_INPUT,
        f"error: images.items[3].data: {album}/broken-link.jpg: No such file or directory\n",
    )
    (album / "broken-link.jpg").unlink()
    (album / "c.jpg").write_bytes(b"x" * 5000)
    ended = await podium("submit", album, "-w", "fake-image", "-o", out, "--items-per-job", 2)
    assert (ended.code, ended.err) == (
        exits.BAD_INPUT,
        f"error: {album}/c.jpg: images.items[3].data: 5,000 bytes, the workload's limit is 4096\n",
    )
    (album / "c.jpg").write_bytes(b"")
    assert "c.jpg: is empty" in (await podium("submit", album, "-w", "fake-image", "-o", out)).err
    ended = await podium("submit", album, "-w", "fake-image", "-o", out, "--skip-blank")
    assert ended.code == exits.OK
    assert f"{album}: 1 empty files were left out" in ended.err
    assert len(np.load(out)) == len(IN_ORDER)


async def test_a_folder_that_may_not_be_read_is_named(
    fake: FakeGateway, podium: Run, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def guarded(path: Any = ".") -> Any:
        # Not by its mode: root may read everything.
        if os.fspath(path) == str(album / "z"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    ended = await podium("submit", album, "-w", "fake-image", "--detach")
    assert (ended.code, ended.err) == (exits.BAD_INPUT, f"error: {album}/z: Permission denied\n")


async def test_bad_usage_with_images(fake: FakeGateway, podium: Run, album: Path, tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    empty.mkdir()
    lines = write(tmp_path / "in.txt", f"{URL}\n")
    for arguments, complaint in (
        ((empty, "-w", "fake-image"), "nothing: holds no image files (.bmp, .gif, .jpeg,"),
        ((album, "-w", "fake-image", "--key-field", "id"), "is a folder; --format and the fields are for lists"),
        ((album, "-w", "fake", "--texts"), "is a folder"),
        ((lines, "-w", "fake-image", "--input-type", "query"), "--input-type: is for texts"),
        ((lines, "-w", "fake", "--dtype", "float8"), "--dtype float8: one of float32, float16, int8, binary is needed"),
        ((lines, "-w", "fake", "--dimensions", 5), "options.dimensions: 5 is none of 4, 8, 12"),
        ((album, "-w", "fake"), "images: workload 'fake' does not take images"),
    ):
        ended = await podium("submit", *arguments, "-o", tmp_path / "out.npy")
        assert (ended.code, complaint in ended.err) == (exits.BAD_INPUT, True), ended.err


async def test_encoded_vectors_are_written_and_told(
    fake: FakeGateway, podium: Run, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npy"
    ended = await podium("submit", album, "-w", "fake-image", "-o", out, "--dtype", "binary", "--dimensions", 8)
    assert ended.code == exits.OK, ended.err
    assert ended.out.startswith(f"{out}: 7 vectors of 8 binary by sha256@1, ")
    rows = fake_gateway.vectors([name.encode() for name in IN_ORDER], 8)
    np.testing.assert_array_equal(np.load(out), fake_gateway.encode(rows, "binary"))
    detached = await podium(
        "submit", album, "-w", "fake-image", "--detach", "--dtype", "int8", "--dimensions", 4, "--json"
    )
    job_id = detached.json["jobs"][0]["job_id"]
    assert "vectors   4 int8" in (await podium("job", job_id)).out
    ended = await podium("results", job_id, "-o", out, "--json")
    assert (ended.json["dtype"], ended.json["dimension"]) == ("int8", 4)
    assert np.load(out).dtype == np.int8
    told = [json.loads(line) for line in (await podium("consume", "-g", "g", "--limit", 1, "--json")).out.splitlines()]
    assert told[0]["dtype"] in ("binary", "int8")


async def test_failed_images_end_with_one_and_are_named_by_key(
    fake: FakeGateway, podium: Run, album: Path, tmp_path: Path
) -> None:
    (album / "m.png").write_bytes(b"FAIL")
    ended = await podium("submit", album, "-w", "fake-image", "-o", tmp_path / "out.npy")
    assert ended.code == exits.ITEMS_FAILED
    assert "the first: item 3 (m.png): UNDECODABLE: nothing to read" in ended.err
    assert rows_of(tmp_path / "out.npy.errors.jsonl")[0]["key"] == "m.png"


async def test_a_killed_run_over_a_folder_is_taken_up(fake: FakeGateway, tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "out.npy"
    folder.mkdir()
    names = [f"{n:03}.jpg" for n in range(43)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    arguments = ("submit", str(folder), "-w", "fake-image", "-o", str(out), "--items-per-job", "10", "--in-flight", "2")

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "podium_cli", *arguments, env=os.environ.copy(), stderr=asyncio.subprocess.PIPE
        )

    fake.hold = True
    killed = await start()
    async with asyncio.timeout(20):
        while len(fake.jobs) < 2:
            fake.accepted.clear()
            await fake.accepted.wait()
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
    assert not out.exists()
    fake.hold = False
    for job in fake.jobs.values():
        job.message.state = job_pb2.JOB_STATE_COMPLETED
        job.ready.set()
    again = await start()
    async with asyncio.timeout(20):
        _, errors = await again.communicate()
    assert again.returncode == exits.OK, errors
    assert fake.batches_computed == 9  # each once
    np.testing.assert_array_equal(np.load(out), fake_gateway.vectors([name.encode() for name in names]))


async def test_workloads_show_what_may_be_asked_for(fake: FakeGateway, podium: Run) -> None:
    shown = (await podium("workloads")).out
    assert "text/image" in shown
    assert "4, 8" in shown
    assert "float32, float16, int8, binary" in shown
    assert "64 B a text; 4 KiB an image" in shown
    (found,) = [one for one in (await podium("workloads", "--json")).json["workloads"] if one["name"] == "fake-image"]
    assert found["dtypes"] == ["float32", "float16", "int8", "binary"]
    assert (found["truncated_dimensions"], found["max_image_bytes"]) == ([4, 8], 4096)


async def test_a_recorded_image_canary_is_what_the_registry_reads(
    fake: FakeGateway, podium: Run, tmp_path: Path
) -> None:
    image = tmp_path / "canary.png"
    image.write_bytes(bytes(range(256)) * 3)
    printed = await podium("canary", "fake-image", "--image", image)
    assert printed.code == exits.OK, printed.err
    (found,) = yaml.safe_load(f"    canaries:\n{printed.out}")["canaries"]
    read = registry_entries.Canary.model_validate(found)
    assert (read.image, read.text) == (image.read_bytes(), None)
    assert read.vector == fake_gateway.vector(image.read_bytes()).tolist()


async def test_what_cannot_be_a_canary_is_refused(fake: FakeGateway, podium: Run, tmp_path: Path) -> None:
    image = tmp_path / "canary.png"
    for content, complaint in (
        (b"x" * 65_537, "is 65,537 bytes; a canary has at most 65,536"),
        (b"", "is empty"),
        (b"FAIL", "workload fake-image has no vector for this image: UNDECODABLE: nothing to read"),
    ):
        image.write_bytes(content)
        ended = await podium("canary", "fake-image", "--image", image)
        assert (ended.code, complaint in ended.err) == (exits.BAD_INPUT, True), ended.err
    for arguments in (("fake-image",), ("fake-image", "a text", "--image", image)):
        ended = await podium("canary", *arguments)
        assert (ended.code, ended.err) == (exits.BAD_INPUT, "error: give either a TEXT or --image FILE\n")
    assert "none.png: No such file" in (await podium("canary", "fake-image", "--image", tmp_path / "none.png")).err

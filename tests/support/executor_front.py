"""The front's side of one executor, for tests: real processes, real frames, pictures in real shared memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import wire

TEXT, IMAGE = workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE
STEP_S = 30.0
ARENA_BYTES = 1 << 20


def workload(name: str = "w", dimension: int = 8, **model: Any) -> workload_pb2.Workload:
    """Takes texts and images, all encodings, and rows of half of the dimension."""
    spec = workload_pb2.ModelSpec(**({"backend": "hash", "model_name": "podium/hash", "revision": "1"} | model))
    return workload_pb2.Workload(
        name=name,
        modalities=[TEXT, IMAGE],
        dimension=dimension,
        model=spec,
        dtypes=workload_pb2.Dtype.keys()[1:],
        truncated_dimensions=[dimension // 2],
    )


@dataclass(frozen=True, slots=True)
class Result:
    """A RESULT, read."""

    header: Mapping[str, Any]
    chunks: Sequence[result_pb2.ResultChunk]
    done: worker_pb2.BatchDone

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """Of all chunks; float32, shape (items that succeeded, dimension)."""
        rows = b"".join(chunk.vectors for chunk in self.chunks)
        return np.frombuffer(rows, "<f4").reshape(-1, self.chunks[0].dimension)

    @property
    def errors(self) -> list[tuple[int, str, str]]:
        """Item in the job, reason without its prefix, message."""
        return [
            (e.item_index, result_pb2.ItemErrorReason.Name(e.reason).removeprefix("ITEM_ERROR_REASON_"), e.message)
            for chunk in self.chunks
            for e in chunk.errors
        ]


@dataclass(slots=True)
class Front:
    """Speaks to one executor. Every wait has a deadline: TimeoutError."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    arena: int
    heard: list[wire.Frame] = field(default_factory=list)
    """All frames so far."""
    _unclaimed: list[wire.Frame] = field(default_factory=list)

    def say(self, kind: wire.Kind, header: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """One frame."""
        self.connection.sendall(wire.encode(kind, header, len(body)) + body)

    def hear(self, kind: wire.Kind, **header: Any) -> wire.Frame:
        """The first frame of this kind that says this and was not returned yet. EOFError at the end."""
        deadline, looked_at = time.monotonic() + STEP_S, 0
        while True:
            for place, frame in enumerate(self._unclaimed[looked_at:], looked_at):
                if frame.kind is kind and header.items() <= frame.header.items():
                    return self._unclaimed.pop(place)
            looked_at = len(self._unclaimed)
            # Frames that nobody waits for keep the socket busy, so its own timeout is not enough.
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {kind.name} with {header}")
            found = wire.read_blocking(self.connection)
            if found is None:
                raise EOFError
            self.heard.append(found)
            self._unclaimed.append(found)

    def forget(self) -> None:
        """Forgets all that was heard."""
        self.heard.clear()
        self._unclaimed.clear()

    def kinds(self, key: str) -> list[str]:
        """What was heard of a batch, in order."""
        return [frame.kind.name for frame in self.heard if frame.header.get("key") == key]

    def load(self, spec: workload_pb2.Workload, *, budget: int = 0) -> wire.Frame:
        """Has a model loaded; returns LOADED."""
        self.say(wire.Kind.LOAD, {"now": True, "budget": budget}, spec.SerializeToString())
        return self.hear(wire.Kind.LOADED, workload=spec.name)

    def texts(self, key: str, texts: Sequence[str], name: str = "w", **assign: Any) -> None:
        """Assigns texts. `assign`: fields of Assign, or `attempt`, or `alone`."""
        payload = item_pb2.TextItems(items=[item_pb2.TextItem(key=f"k-{text}", text=text) for text in texts])
        self._assign(key, TEXT, payload.SerializeToString(), {}, {"workload": name, "item_count": len(texts)} | assign)

    def images(
        self, key: str, pictures: npt.NDArray[np.uint8], name: str = "w",
        errors: Sequence[tuple[int, int, str]] = (), offset: int = 0, **assign: Any,
    ) -> None:  # fmt: skip
        """Puts pictures (a place for each item, failed ones included) into the arena and assigns them."""
        payload, header = self._shelve(pictures, errors, offset)
        fields = {"workload": name, "item_count": len(pictures)} | assign
        self._assign(key, IMAGE, payload, header, fields)

    def call(self, key: str, texts: Sequence[str], name: str = "w", left_s: float = STEP_S, **assign: Any) -> None:
        """Asks for texts interactively. The number at the end of `key` is the call's. `assign`: fields of Assign."""
        payload = item_pb2.TextItems(items=[item_pb2.TextItem(key=f"k-{text}", text=text) for text in texts])
        message = worker_pb2.Assign(workload=name, item_count=len(texts), modality=TEXT)
        message.payload = payload.SerializeToString()
        message.MergeFrom(worker_pb2.Assign(**assign))
        self._embed(key, message, {"left_s": left_s})

    def call_images(
        self, key: str, pictures: npt.NDArray[np.uint8], errors: Sequence[tuple[int, int, str]] = (), offset: int = 0
    ) -> None:
        """As `call`, with pictures as `images` has them."""
        payload, header = self._shelve(pictures, errors, offset)
        message = worker_pb2.Assign(workload="w", item_count=len(pictures), modality=IMAGE, payload=payload)
        self._embed(key, message, {"left_s": STEP_S} | header)

    def answer(self, key: str) -> worker_pb2.EmbedAnswer | None:
        """Waits for the end of a call; None when nothing was said of it."""
        frame = self.hear(wire.Kind.EMBEDDED, key=key)
        return worker_pb2.WorkerFrame.FromString(frame.body).embedded if frame.body else None

    def result(self, key: str) -> Result:
        """Waits for a batch's result."""
        frame = self.hear(wire.Kind.RESULT, key=key)
        frames, start = [], 0
        for size in frame.header["sizes"]:
            frames.append(worker_pb2.WorkerFrame.FromString(frame.body[start : start + size]))
            start += size
        assert start == len(frame.body)
        return Result(frame.header, [one.chunk.chunk for one in frames[:-1]], frames[-1].done)

    def _shelve(
        self, pictures: npt.NDArray[np.uint8], errors: Sequence[tuple[int, int, str]], offset: int
    ) -> tuple[bytes, dict[str, Any]]:
        """Payload and header of pictures, which are in the arena from then on."""
        os.pwrite(self.arena, pictures.tobytes(), offset)
        items = [item_pb2.ImageItem(key=f"k-{index}") for index in range(len(pictures))]
        place = {
            "offset": offset, "height": pictures.shape[1], "width": pictures.shape[2], "fetch_s": 1.5,
            "errors": [list(error) for error in errors],
        }  # fmt: skip
        return item_pb2.ImageItems(items=items).SerializeToString(), {"pictures": place}

    def _embed(self, key: str, message: worker_pb2.Assign, header: dict[str, Any]) -> None:
        message.payload_encoding = message.payload_encoding or item_pb2.PAYLOAD_ENCODING_IDENTITY
        said = {"key": key, "call_id": int(key.rpartition("-")[2])} | header
        self.say(wire.Kind.EMBED, said, message.SerializeToString())

    def _assign(
        self, key: str, modality: workload_pb2.Modality, payload: bytes, header: dict[str, Any], fields: dict[str, Any]
    ) -> None:
        lease = worker_pb2.Lease(batch_id=1, lease_token=b"t" * 16, attempt=fields.pop("attempt", 1))
        chunk_bytes = fields.pop("max_chunk_bytes", 1 << 20)
        alone = fields.pop("alone", False)
        assign = worker_pb2.Assign(
            lease=lease, job_id="job", first_item=100, modality=modality,
            payload_encoding=item_pb2.PAYLOAD_ENCODING_IDENTITY, **{"payload": payload} | fields,
        )  # fmt: skip
        said = {"key": key, "max_chunk_bytes": chunk_bytes} | header
        if alone:
            said["alone"] = True
        self.say(wire.Kind.ASSIGN, said, assign.SerializeToString())


@contextlib.contextmanager
def running(module: str = "podium_worker.executor", **environment: str) -> Iterator[Front]:
    """An executor process, READY; gone afterwards."""
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as arena:
        arena.truncate(ARENA_BYTES)
        command = [sys.executable, "-m", module, "--fd", str(theirs.fileno()), "--arena-fd", str(arena.fileno())]
        command += ["--index", "0", "--device", "cpu", "--threads", "1", "--max-payload-bytes", str(1 << 20)]
        command += ["--arena-bytes", str(ARENA_BYTES)]
        inherited = (theirs.fileno(), arena.fileno())
        surroundings = os.environ | {"PODIUM_PARENT_PID": str(os.getpid())} | environment
        with theirs:
            process = subprocess.Popen(command, pass_fds=inherited, env=surroundings)
        ours.settimeout(STEP_S)
        front = Front(process, ours, arena.fileno())
        try:
            front.hear(wire.Kind.READY)
            yield front
        finally:
            ours.close()
            try:
                process.wait(STEP_S)
            finally:
                process.kill()
                process.wait()

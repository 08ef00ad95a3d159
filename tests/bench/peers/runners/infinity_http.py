"""Infinity: its server with the torch engine, asked over HTTP by several connections at once, vectors as base64."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import answering
import httpx
import numpy as np

_WAIT_S = 300.0
_AT_ONCE = 4
_NAME = "minilm"


def main() -> None:
    """Starts the server, then answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = subprocess.Popen(_command(port), stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_WAIT_S) as client:
            _wait(client, server)
            with ThreadPoolExecutor(_AT_ONCE) as pool:

                def embed(texts: Sequence[str]) -> Any:
                    return np.concatenate(list(pool.map(lambda cut: _ask(client, cut), answering.cuts(texts))))

                embed(["warm"])
                answering.serve(["infinity-emb", "sentence-transformers", "torch", "numpy"], embed)
    finally:
        server.terminate()
        server.wait()


def _command(port: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("infinity_emb")), "v2", "--model-id", answering.model_folder(),
        "--served-model-name", _NAME, "--engine", "torch", "--device", "cpu", "--dtype", "float32",
        "--batch-size", str(answering.MODEL_BATCH), "--host", "127.0.0.1", "--port", str(port),
        "--no-bettertransformer", "--log-level", "error",
    ]  # fmt: skip


def _ask(client: httpx.Client, texts: Sequence[str]) -> Any:
    body = {"model": _NAME, "input": list(texts), "encoding_format": "base64"}
    reply = client.post("/embeddings", json=body)
    reply.raise_for_status()
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in reply.json()["data"]]
    return np.stack(rows)


def _wait(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            client.get("/health").raise_for_status()
            return
        except httpx.HTTPError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    os.environ |= {name: str(answering.THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    main()

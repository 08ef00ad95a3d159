"""`python -m podium_worker.decoder --fd N ...`: started by the front, serves it over the inherited socket.

One image at a time: DECODE in, the picture into the arena, DECODED out. It ends when the front closes the socket, also
by dying. Starting is cheap (no logging, no protobuf), so that a decoder that dies of an image is soon replaced.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from typing import Any

from podium_worker.adapters import arena, wire
from podium_worker.decoder import faults, limits, transform
from podium_worker.domain import pictures, problems


def main() -> None:
    """Runs until the front closes the socket."""
    options = _options()
    connection = socket.socket(fileno=options.fd)
    memory = arena.open_arena(options.arena_fd, options.arena_bytes)
    injected = faults.from_environment(os.environ)
    limits.bind(options.max_memory)
    max_pixels = limits.pixels(options.max_memory)
    try:
        connection.sendall(wire.encode(wire.Kind.READY))
        while (frame := wire.read_blocking(connection)) is not None:
            limits.alarm(options.alarm_s)
            answer = _answer(frame, memory, max_pixels, injected)
            limits.alarm(0)
            del frame
            connection.sendall(answer)
    except (BrokenPipeError, ConnectionResetError):
        # The front has gone before it had the answer.
        return


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="podium_worker.decoder")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the front")
    parser.add_argument("--arena-fd", type=int, required=True, help="inherited memory for the pictures")
    parser.add_argument("--arena-bytes", type=int, required=True)
    parser.add_argument("--max-memory", type=int, required=True, help="bytes that decoding may take")
    parser.add_argument("--alarm-s", type=float, required=True, help="ends by itself when an image takes longer")
    return parser.parse_args()


def _answer(frame: wire.Frame, memory: arena.Memory, max_pixels: int, injected: faults.Faults) -> bytes:
    if frame.kind is not wire.Kind.DECODE:
        raise wire.BrokenFrame(f"a decoder is not told {frame.kind.name}")
    started = time.perf_counter()
    header: dict[str, Any] = {}
    try:
        injected.strike(frame.body)
        picture = pictures.Picture(**frame.header["picture"])
        pixels = transform.decode(frame.body, picture, min(frame.header["max_pixels"], max_pixels))
        memory.view(frame.header["offset"], pixels.shape)[:] = pixels
    except problems.ItemProblem as problem:
        header = {"reason": problem.reason.value, "message": problem.message}
    return wire.encode(wire.Kind.DECODED, {"seconds": time.perf_counter() - started, **header})


if __name__ == "__main__":
    main()

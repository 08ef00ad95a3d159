"""`python -m podium_worker.executor --fd N ...`: started by the front, serves it over the inherited socket."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from typing import cast

from podium_runtime import heap, lifecycle, logs
from podium_worker.adapters import faults, hash_backend
from podium_worker.app import backend
from podium_worker.domain import riding, shares
from podium_worker.executor import album, pipeline

# What a micro-batch takes on a CPU, so that the next one finds it.
_KEPT_BYTES = 256 * 1024 * 1024


def main() -> None:
    """Runs until the front closes the socket."""
    heap.keep_freed(_KEPT_BYTES)
    lifecycle.collect_rarely()
    options = _options()
    # It has nothing to put in order, and one that is stopped would never hear a gentler signal.
    lifecycle.die_with_parent(signal.SIGKILL)
    logs.configure(options.log_level, cast(logs.LogFormat, options.log_format), f"executor-{options.index}")
    injected = faults.from_environment(os.environ)
    pipeline.Pipeline(
        socket.socket(fileno=options.fd),
        Loader(options.device, options.threads, injected),
        max_payload_bytes=options.max_payload_bytes,
        shared=album.Album(options.arena_fd, options.arena_bytes) if options.arena_bytes else None,
        injected=injected,
        share=shares.Share(options.call_share),
        ride=riding.Limits(options.call_slice_s),
    ).run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="podium_worker.executor")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the front")
    parser.add_argument("--index", type=int, required=True, help="index of the device")
    parser.add_argument("--device", required=True, help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, required=True, help="threads of one computation on the CPU")
    parser.add_argument("--max-payload-bytes", type=int, required=True)
    parser.add_argument("--call-share", type=float, default=0.5, help="of the device, for interactive calls")
    parser.add_argument("--call-slice-s", type=float, default=0.075, help="of a micro-batch while calls come")
    parser.add_argument("--arena-fd", type=int, default=-1, help="inherited memory of the decoded pictures")
    parser.add_argument("--arena-bytes", type=int, default=0, help="its size; 0: no images come here")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="json")
    return parser.parse_args()


class Loader:
    """The backends of this worker, on one device."""

    def __init__(self, device: str, threads: int, injected: faults.Faults) -> None:
        self._device = device
        self._threads = threads
        self._faults = injected

    def load(self, model: backend.Model) -> backend.Backend:
        """Raises backend.ModelUnavailable."""
        if model.backend == "hash":
            return hash_backend.HashBackend(model, self._faults)
        if model.backend in ("sentence_transformers", "open_clip", "timm"):
            # Here and not above: an executor that only hashes never pays for torch.
            from podium_worker.adapters.torch import setup

            return setup.load(model, self._device, self._threads)
        raise backend.ModelUnavailable(f"This worker has no backend {model.backend!r}.")

    def release(self) -> int:
        """Gives back memory that no model uses; returns the bytes of the device that the process keeps all the same."""
        if "torch" not in sys.modules:
            return 0
        from podium_worker.adapters.torch import setup

        return setup.release()


if __name__ == "__main__":
    # Threads that wait for the others of a computation sleep. By default they spin for milliseconds, on cores that
    # other processes have work for, and whoever was displaced there is who all of them wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # The tokenizer's own threads serve one call at a time here, and nothing forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()

"""`python -m podium_worker.executor --fd N ...`: started by the front, serves it over the inherited socket."""

from __future__ import annotations

import argparse
import os
import socket
from typing import cast

from podium_runtime import lifecycle, logs
from podium_worker.adapters import faults, hash_backend
from podium_worker.app import backend
from podium_worker.executor import pipeline


def main() -> None:
    """Runs until the front closes the socket."""
    options = _options()
    lifecycle.die_with_parent()
    logs.configure(options.log_level, cast(logs.LogFormat, options.log_format), f"executor-{options.index}")
    connection = socket.socket(fileno=options.fd)
    injected = faults.from_environment(os.environ)
    pipeline.Pipeline(
        connection,
        lambda model: _load(model, options.device, options.threads, injected),
        max_payload_bytes=options.max_payload_bytes,
        spoil=injected.spoiled,
    ).run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="podium_worker.executor")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the front")
    parser.add_argument("--index", type=int, required=True, help="index of the device")
    parser.add_argument("--device", required=True, help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, required=True, help="threads of one computation on the CPU")
    parser.add_argument("--max-payload-bytes", type=int, required=True)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="json")
    return parser.parse_args()


def _load(model: backend.Model, device: str, threads: int, injected: faults.Faults) -> backend.Backend:
    """Raises backend.ModelUnavailable."""
    if model.backend == "hash":
        return hash_backend.HashBackend(model, injected)
    if model.backend == "sentence_transformers":
        # Here and not above: an executor that only hashes never pays for torch.
        from podium_worker.adapters.torch import setup

        return setup.load(model, device, threads)
    raise backend.ModelUnavailable(f"This worker has no backend {model.backend!r}.")


if __name__ == "__main__":
    # The tokenizer's own threads serve one call at a time here, and nothing forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()

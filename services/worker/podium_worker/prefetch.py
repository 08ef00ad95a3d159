"""`python -m podium_worker prefetch [WORKLOAD ...] < registry.json`: the models of a registry, before they are needed.

For image builds, and for machines that will have no network. The registry comes as `python -m podium_scheduler
registry` prints it, for a worker's installation has no code that reads the file itself. A model counts as fetched when
it was loaded from this machine alone, on the CPU, and computed its canaries there.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format

from podium.common.v1 import workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_worker.adapters import model_files, registry
from podium_worker.app import backend
from podium_worker.executor import canary

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_EXTRAS = {"sentence_transformers": "torch", "open_clip": "images", "timm": "images"}


class BadInput(Exception):
    """What was asked for cannot be. The message is one line for people."""


def main(arguments: Sequence[str]) -> int:
    """Fetches and verifies; one line for each workload. Returns the exit code, 0 only if all of them work."""
    parser = argparse.ArgumentParser("podium_worker prefetch", description="Fetches the models of a registry (stdin).")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="only these; default: all of the registry")
    parser.add_argument("--offline-check", action="store_true", help="download nothing, verify what is here")
    options = parser.parse_args(arguments)
    # Before the hub's library is imported, which reads these once.
    if options.offline_check:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        chosen = choose(_read(), options.workloads)
        failures = [workload.name for workload in chosen if not _fetched(workload)]
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("error: interrupted; what was downloaded stays, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return FAILED if failures else OK


def choose(workloads: Sequence[workload_pb2.Workload], names: Sequence[str]) -> list[workload_pb2.Workload]:
    """Those with these names, in the registry's order; all when none is named. Raises BadInput."""
    known = [workload.name for workload in workloads]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadInput(f"the registry has no workload {unknown[0]!r}; it has: {', '.join(known)}")
    return [workload for workload in workloads if not names or workload.name in names]


def _read() -> Sequence[workload_pb2.Workload]:
    hint = "pipe it in: python -m podium_scheduler registry | python -m podium_worker prefetch"
    if sys.stdin.isatty():
        raise BadInput(f"the registry is read from stdin; {hint}")
    try:
        # What a newer scheduler says beyond this is no reason to fetch nothing.
        listing = json_format.Parse(
            sys.stdin.buffer.read(), scheduler_pb2.ListWorkloadsResponse(), ignore_unknown_fields=True
        )
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BadInput(f"stdin holds no registry ({' '.join(str(error).split())[:200]}); {hint}") from None
    return listing.workloads


def _fetched(workload: workload_pb2.Workload) -> bool:
    """Says in one line how it went."""
    if workload.model.backend == "hash":
        print(f"{workload.name}: hash, nothing to fetch", flush=True)
        return True
    started, before = time.monotonic(), _cache_bytes()
    try:
        fetch(registry.model(workload))
    except backend.ModelUnavailable as error:
        problem = str(error)
    except (canary.Unsound, canary.NotAsRecorded) as error:
        problem = f"Workload {workload.name!r}: its model is here but is not to be trusted: {error}"
    except ImportError as error:
        extra = _EXTRAS.get(workload.model.backend, "torch")
        problem = (
            f"Workload {workload.name!r}: {error.name or error} is not installed here; pip install "
            f"'podium-worker[{extra}]'"
        )
    except Exception as error:
        problem = f"Workload {workload.name!r}: its model cannot be loaded: {type(error).__name__}: {error}"
    else:
        seconds, grown = time.monotonic() - started, _cache_bytes() - before
        fetched = f"{grown / 1e6:,.1f} MB downloaded, " if grown > 0 else ""
        print(f"{workload.name}: {_origin(workload)}, {fetched}verified in {seconds:.1f} s", flush=True)
        return True
    print(f"error: {' '.join(problem.split())}", file=sys.stderr, flush=True)
    return False


def fetch(model: backend.Model) -> None:
    """Downloads what is missing, and proves that the model works from this machine alone.

    Raises backend.ModelUnavailable, canary.Unsound, canary.NotAsRecorded and ImportError.
    """
    if model.source_kind in ("local_path", "python_package"):
        # The better message, before a library makes its own.
        model_files.locate(model)
    # Here and not above: whoever has only hash workloads never pays for torch.
    from podium_worker.adapters.torch import hub, prefetch

    loaded = prefetch.fetch(model)
    try:
        with hub.offline():
            canary.examine(model, loaded)
    finally:
        loaded.close()
    # The next model may need the memory, and modules refer to one another in circles.
    del loaded
    gc.collect()


def _origin(workload: workload_pb2.Workload) -> str:
    spec = workload.model
    match spec.WhichOneof("source"):
        case "hub_id":
            return f"{spec.hub_id} at {spec.revision[:12]}"
        case "python_package":
            return f"package {spec.python_package}"
        case "local_path":
            return spec.local_path
        case _:
            return " ".join(part for part in (spec.backend, spec.architecture, spec.pretrained) if part)


def _cache_bytes() -> int:
    """Size of the hub's cache; 0 where there is none."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    # The links from snapshots to blobs count once.
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())

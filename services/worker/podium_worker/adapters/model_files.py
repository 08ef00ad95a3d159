"""Finding a model's files. Whatever is missing is one sentence that names what to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podium_worker.app import backend

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Location:
    """A folder on this machine, or a hub repository and its revision (from the hub's cache, or downloaded)."""

    name: str
    revision: str | None = None


def locate(model: backend.Model) -> Location:
    """Where to load `model` from. Raises backend.ModelUnavailable."""
    if model.source_kind == "local_path":
        return _folder(Path(model.source), f"the registry's local_path of workload {model.workload!r}")
    if model.source_kind == "python_package":
        return _in_package(model)
    if model.source_kind == "hub_id":
        return Location(model.source, model.revision or None)
    raise backend.ModelUnavailable(
        f"Workload {model.workload!r} names no source of model files; "
        "set local_path, python_package or hub_id in the registry."
    )


def checkpoint(model: backend.Model, folder: Path, preferred: Sequence[str]) -> Path:
    """The file of weights in `folder`: the one that `pretrained` names, one of `preferred`, or the only one.

    Raises backend.ModelUnavailable.
    """
    if model.pretrained and (folder / model.pretrained).is_file():
        return folder / model.pretrained
    for name in preferred:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} files of weights" if found else "no file of weights"
    raise backend.ModelUnavailable(
        f"The folder {str(folder)!r} of workload {model.workload!r} holds {what} ({', '.join(_WEIGHTS)}); "
        "keep one there, or name it as `pretrained` in the registry."
    )


def _folder(path: Path, what: str) -> Location:
    if not path.is_dir():
        raise backend.ModelUnavailable(f"There is no folder {str(path)!r}, {what}; put the model's files there.")
    return Location(str(path))


def _in_package(model: backend.Model) -> Location:
    """The package is found, not imported: its folder is all that is wanted, not its code."""
    package, _, folder = model.source.partition(":")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    roots = list(spec.submodule_search_locations or ()) if spec else []
    if not roots:
        raise backend.ModelUnavailable(
            f"The Python package {package!r} with the files of workload {model.workload!r} is not installed here; "
            f"install it: pip install {package.replace('_', '-')}"
        )
    return _folder(Path(roots[0]) / folder, f"named as {model.source!r} by workload {model.workload!r}")

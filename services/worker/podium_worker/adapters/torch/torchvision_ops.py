"""Lets transformers be imported when torchvision is installed but its compiled operators cannot be loaded.

sentence-transformers imports transformers, which imports torchvision wherever that is installed (open_clip brings it).
A torchvision built for CUDA beside a CPU build of torch cannot load its shared library; it only warns about that, and
then fails with "operator torchvision::nms does not exist" while it registers shape functions for the operators nms and
qnms. Text models use neither. Declaring the two signatures beforehand is enough for the import to succeed; calling them
would still raise. Where the library does load, its own declarations are there first and nothing is changed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from typing import Any

import torch

# Parts of torch have no annotations.
_library_api: Any = torch.library
_ops: Any = torch.ops
_SIGNATURES = ("nms", "qnms")
# The registration lasts as long as this object.
_library: Any = None


def declare_missing() -> None:
    """Declares nms and qnms unless torchvision is absent or brings them itself."""
    global _library
    if _library is not None or importlib.util.find_spec("torchvision") is None or _compiled_operators_load():
        return
    _library = _library_api.Library("torchvision", "FRAGMENT")
    for name in _SIGNATURES:
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _compiled_operators_load() -> bool:
    """Loads torchvision's shared library by itself, without the Python package around it."""
    spec = importlib.util.find_spec("torchvision")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    finder = importlib.machinery.PathFinder()
    extension = finder.find_spec("_C", roots)
    if extension is None or extension.origin is None:
        return False
    try:
        _ops.load_library(extension.origin)
    except OSError:
        return False
    return True

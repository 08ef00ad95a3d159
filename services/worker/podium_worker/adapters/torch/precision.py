"""Arithmetic of a model on its device."""

from __future__ import annotations

import torch

from podium_worker.app import backend

_DTYPES = {
    "": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# From these compute capabilities on, tensor cores take them: Ampere, Volta.
_BFLOAT16_SINCE = (8, 0)
_FLOAT16_SINCE = (7, 0)


def dtype(model: backend.Model, device: torch.device) -> torch.dtype:
    """What its weights become. Raises backend.ModelUnavailable for a name that is not known."""
    if model.precision == "auto":
        return _fastest(device)
    if model.precision not in _DTYPES:
        raise backend.ModelUnavailable(
            f"Workload {model.workload!r} asks for precision {model.precision!r}; "
            "use float32, bfloat16, float16 or auto in the registry."
        )
    return _DTYPES[model.precision]


def name(of: torch.dtype) -> str:
    """As the registry spells it."""
    return str(of).removeprefix("torch.")


def _fastest(device: torch.device) -> torch.dtype:
    """bfloat16 before float16, as nothing overflows in it; neither is faster on a CPU without matrix units for it."""
    if device.type != "cuda":
        return torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16_SINCE:
        return torch.bfloat16
    return torch.float16 if capability >= _FLOAT16_SINCE else torch.float32

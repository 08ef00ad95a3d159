"""Memory of the device: what weights take, how exhaustion looks, and how all of it is given back."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import torch

from podium_runtime import heap

# Parts of torch have no annotations.
_cuda: Any = torch.cuda
# As they begin in messages of plain RuntimeErrors.
_EXHAUSTED = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # Of what CUDA itself takes beside torch's allocator: pinned memory, kernels that are loaded when first used.
    "CUDA error: out of memory",
)


def weights_bytes(modules: Iterable[Any]) -> int:
    """Bytes of all parameters and buffers; what is shared counts once."""
    tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def is_exhaustion(error: RuntimeError) -> bool:
    """Whether a smaller micro-batch could have gone well."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _EXHAUSTED)


def release() -> int:
    """Gives back what no model uses; the bytes of the device that the process keeps nevertheless, its context apart."""
    gc.collect()
    heap.give_back()
    if _cuda.is_initialized():
        _cuda.synchronize()
        _cuda.empty_cache()
        return int(_cuda.memory_reserved() - _cuda.memory_allocated())
    return 0

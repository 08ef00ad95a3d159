"""The budget of a model's micro-batches, found on its device right after the load.

The registry's own number comes first, then what memory that ran out has taught, then what an earlier process on the
device arrived at if nothing has left the device since. Else, on CUDA, it is measured: time and peak memory of forward
passes of doubling size. On a CPU the sizes that fill its caches are known: 2,048 tokens, and 16 images (ViT-B/32 on two
cores: 8 to 16 images are within 10% of the best, 1 takes twice as long per image, 64 are slower again). A doubling
search would tell no more, at 100 ms and more an image; so one image is timed, and slow models get fewer, since the
front hears, and takes back what is not wanted, between two micro-batches only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from podium_worker.adapters.torch import memory
from podium_worker.domain import budgets

TOKENS_ON_CPU = 2_048
IMAGES_ON_CPU = 16
# Well below the time in which an executor has to move, and far above what a busy machine makes of a usual model.
_MICROBATCH_S = 10.0
# The quickest of so many passes counts, as far as they take no longer: whatever else runs here only adds to them.
_PASSES = 4
_PASSES_S = 1.0
# Half of what is free when the model has been loaded: another model, and pieces too small to use, want the rest.
_SHARE = 0.5
_MOST_TOKENS = 262_144
_MOST_IMAGES = 1_024

Rehearse = Callable[[int], None]
"""Runs a micro-batch of so many items, and waits for it."""


def tokens(device: torch.device, width: int, rehearse: Rehearse) -> int:
    """Tokens of one micro-batch, padding included. `rehearse` takes texts of `width` tokens: the worst of its kind."""
    if device.type != "cuda":
        return TOKENS_ON_CPU
    return search(_bounds(device, 1, max(1, _MOST_TOKENS // width)), device, rehearse) * width


def images(device: torch.device, rehearse: Rehearse) -> int:
    """Images of one micro-batch."""
    if device.type == "cuda":
        return search(_bounds(device, 4, _MOST_IMAGES), device, rehearse)
    return budgets.within(_quickest(rehearse), _MICROBATCH_S, IMAGES_ON_CPU)


def search(bounds: budgets.Bounds, device: torch.device, rehearse: Rehearse) -> int:
    """Measures until the budget is known."""
    samples: list[budgets.Sample] = []
    while (size := budgets.next_size(bounds, samples)) is not None:
        samples.append(_measure(device, rehearse, size))
    memory.release()
    return budgets.found(bounds, samples)


def _bounds(device: torch.device, first: int, most: int) -> budgets.Bounds:
    memory.release()
    free, _ = torch.cuda.mem_get_info(device)
    return budgets.Bounds(first=first, most=most, memory_bytes=int(free * _SHARE))


def _quickest(rehearse: Rehearse) -> float:
    """Seconds of one image."""
    started = before = time.perf_counter()
    quickest = float("inf")
    for _ in range(_PASSES):
        rehearse(1)
        now = time.perf_counter()
        quickest, before = min(quickest, now - before), now
        if now - started > _PASSES_S:
            break
    return quickest


def _measure(device: torch.device, rehearse: Rehearse, size: int) -> budgets.Sample:
    """The second of two passes: in the first one kernels are chosen and memory is mapped."""
    on_cuda = device.type == "cuda"
    try:
        rehearse(size)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if on_cuda else 0
        started = time.perf_counter()
        rehearse(size)
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(device) if on_cuda else 0
    except RuntimeError as error:
        if not memory.is_exhaustion(error):
            raise
        return budgets.Sample(size, 0.0, fits=False)
    return budgets.Sample(size, seconds, peak - before)

"""The way of micro-batches to a device and of their rows back.

Promises: rows come back in input order; `progress` is called when the rows of a micro-batch have arrived, in the order
in which they were begun; who rides along in one is asked before it is cut; on CUDA one micro-batch is begun ahead, so
that the device never waits for this thread, inputs go up from pinned memory on a stream of their own while the one
before is computed, and rows come down without anybody waiting. Failure: where memory runs out, riders are the first to
go; then the micro-batch is halved, and so is the budget, for good; an item that does not fit alone is named. Runs on
one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters.torch import memory
from podium_worker.app import backend
from podium_worker.domain import microbatches

# Parts of torch have no annotations.
_cuda: Any = torch.cuda

Inputs = Mapping[str, torch.Tensor]
Stage = Callable[[microbatches.Microbatch, backend.Prepared | None], Inputs]
"""Inputs of a micro-batch in host memory, those of its riders behind its own."""
Forward = Callable[[Inputs], torch.Tensor]
"""From inputs on the device to rows there: float32, shape (items, dimension)."""
Progress = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A micro-batch on the device. `rows` are there once `arrived`, which is None where nothing is asynchronous."""

    cut: microbatches.Microbatch
    rows: torch.Tensor
    arrived: Any


class _Arrivals:
    """The rows of a batch, as far as they have arrived."""

    def __init__(self, item_count: int, dimension: int, progress: Progress, company: backend.Company) -> None:
        self.vectors: npt.NDArray[np.float32] = np.empty((item_count, dimension), dtype=np.float32)
        self.starved: set[int] = set()
        self._progress = progress
        self._company = company
        self._done = 0

    def land(self, begun: _Begun) -> None:
        """Waits for a micro-batch. Raises backend.Abandoned."""
        if begun.arrived is not None:
            begun.arrived.synchronize()
        rows: npt.NDArray[np.float32] = begun.rows.numpy()
        own = len(begun.cut.indices)
        self.vectors[list(begun.cut.indices)] = rows[:own]
        self._company.landed(begun.cut.padded_tokens, own, rows[own:])
        self._count(own)

    def starve(self, indices: Sequence[int]) -> None:
        """There is no memory for these. Raises backend.Abandoned."""
        self.starved.update(indices)
        self._count(len(indices))

    def _count(self, items: int) -> None:
        self._done += items
        if not self._progress(self._done):
            raise backend.Abandoned


class Lane:
    """The way to one device for one tower of a model."""

    def __init__(self, model: backend.Model, device: torch.device, budget: int, *, ahead: int | None = None) -> None:
        self.budget = budget
        """Tokens or images of one micro-batch; falls when memory runs out."""
        self._model = model
        self._device = device
        self._uploads: Any = _cuda.Stream(device) if device.type == "cuda" else None
        # On a CPU nothing runs while this thread does something else.
        self._ahead = ahead if ahead is not None else (1 if self._uploads is not None else 0)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that can be copied to the device without waiting."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self._uploads is not None)

    @torch.inference_mode()
    def compute(
        self,
        lengths: Sequence[int],
        stage: Stage,
        forward: Forward,
        progress: Progress,
        company: backend.Company = backend.ALONE,
    ) -> backend.Computed:
        """Rows of all items. `lengths`: what each counts against the budget; raises backend.Abandoned."""
        arrivals = _Arrivals(len(lengths), self._model.dimension, progress, company)
        remaining = microbatches.Remaining(lengths)
        flying: list[_Begun] = []
        tried: set[int] = set()
        while remaining:
            aboard = company.board(remaining.width, len(remaining), self.budget)
            cut = remaining.take(aboard.most, _sizes(aboard.riders))
            exhausted = False
            try:
                flying.append(self._begin(cut, aboard.riders, stage, forward))
            except RuntimeError as error:
                if not memory.is_exhaustion(error):
                    raise
                exhausted = True
            # Outside of the handler: the error's traceback holds what took the memory.
            if exhausted:
                company.left()
                self._land(flying, arrivals, leave=0)
                self._empty_cache()
                if cut.riders or self._shrinks(cut, tried):
                    remaining.put_back(cut)
                else:
                    arrivals.starve(cut.indices)
            self._land(flying, arrivals, leave=self._ahead)
        self._land(flying, arrivals, leave=0)
        return backend.Computed(vectors=arrivals.vectors, out_of_memory=frozenset(arrivals.starved))

    @torch.inference_mode()
    def rehearse(self, inputs: Inputs, forward: Forward) -> None:
        """Computes something for the sake of its time and its memory alone; waits until it is done."""
        self._come_down(forward(self._go_up(inputs)))
        if self._uploads is not None:
            torch.cuda.synchronize(self._device)

    @staticmethod
    def _land(flying: list[_Begun], arrivals: _Arrivals, *, leave: int) -> None:
        while len(flying) > leave:
            arrivals.land(flying.pop(0))

    def _begin(
        self, cut: microbatches.Microbatch, riders: backend.Prepared | None, stage: Stage, forward: Forward
    ) -> _Begun:
        rows = forward(self._go_up(stage(cut, riders)))
        if rows.shape[1] != self._model.dimension:
            raise backend.ModelUnavailable(
                f"The model of workload {self._model.workload!r} makes {rows.shape[1]} elements; "
                f"its registry entry says {self._model.dimension}."
            )
        return _Begun(cut, *self._come_down(rows))

    def _go_up(self, inputs: Inputs) -> Inputs:
        if self._uploads is None:
            return inputs
        # The caching host allocator keeps pinned memory from being used again before the copy out of it is done.
        pinned = {name: tensor if tensor.is_pinned() else tensor.pin_memory() for name, tensor in inputs.items()}
        with torch.cuda.stream(self._uploads):
            there = {name: tensor.to(self._device, non_blocking=True) for name, tensor in pinned.items()}
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._uploads)
        for tensor in there.values():
            tensor.record_stream(computing)
        return there

    def _come_down(self, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if self._uploads is None:
            return rows, None
        here = self.empty(rows.shape, rows.dtype)
        here.copy_(rows, non_blocking=True)
        arrived = _cuda.Event()
        arrived.record(torch.cuda.current_stream(self._device))
        return here, arrived

    def _shrinks(self, cut: microbatches.Microbatch, tried: set[int]) -> bool:
        """Whether what did not fit is worth another try: with half of the budget, which the batches to come have, too.

        A single item once more, for the one before it may have been on the device still.
        """
        if len(cut.indices) == 1:
            again = tried.isdisjoint(cut.indices)
            tried.update(cut.indices)
            return again
        # A call computed while this was boarded may have found less memory.
        self.budget = min(self.budget, max(1, cut.padded_tokens // 2))
        return True

    def _empty_cache(self) -> None:
        """What is free but in pieces may be whole afterwards."""
        if self._uploads is not None:
            torch.cuda.empty_cache()


def _sizes(riders: backend.Prepared | None) -> Sequence[int]:
    if riders is None:
        return ()
    return riders.sizes or [1] * riders.item_count

"""The interactive calls that come to the device while a batch is computed: in the pauses between its micro-batches, or
as rows of the next one.

Promises: the front hears of a call before it is on the device; one that rides along is answered from its rows as soon
as they have landed; one whose company was no good (an error, rows that no client may see, no memory) is computed by
itself, so that neither it nor the batch suffers for the other; whoever was still aboard when the batch left waits for
the next turn. What riders take is their share of the micro-batch, by what the device saw of them, and no moment is
counted twice. Used by the compute thread alone. Clock: monotonic, this process's own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from podium_worker.adapters import results
from podium_worker.app import backend
from podium_worker.domain import pace, riding
from podium_worker.executor import models

if TYPE_CHECKING:
    from podium_worker.executor import calls, turns


@dataclass(frozen=True, slots=True)
class _Begun:
    """A micro-batch from its boarding to its landing."""

    at: float
    riders: calls.Turn | None


class Company:
    """Of one batch, while it is on the device."""

    def __init__(
        self,
        served: calls.Calls,
        waiting: turns.Turns[Any, calls.Call],
        kind: calls.Kind,
        loaded: models.Loaded,
        limits: riding.Limits,
    ) -> None:
        """`kind`: of the calls that may ride along."""
        self._calls = served
        self._turns = waiting
        self._kind = kind
        self._loaded = loaded
        self._limits = limits
        self._pace: pace.Pace = served.pace(kind)
        self._begun: deque[_Begun] = deque()
        self._free_at = 0.0
        """When the device was last done with something of which this was told."""
        self._disturbed_at = 0.0
        """When calls were last computed by themselves."""
        self._counted_at = 0.0
        """Until when the time that calls took is counted."""
        self.shared = False
        """Whether riders were on the device with the batch when it left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shared = self.aboard
        while self._begun:
            # Of a batch that was cancelled nothing is wrong with them.
            self._send_away(self._begun.popleft().riders, alone=not isinstance(error, backend.Abandoned))

    @property
    def aboard(self) -> bool:
        """Whether riders are on the device with the batch."""
        return any(begun.riders is not None for begun in self._begun)

    def board(self, width: int, rows: int, budget: int) -> backend.Aboard:
        """As backend.Company."""
        riders: calls.Turn | None = None
        while waiting := self._turns.between():
            began = time.monotonic()
            together = self._calls.select(waiting)
            if not together:
                continue
            if riders is not None and together[0].kind == self._kind:
                # They came since.
                self._turns.give_back(together)
                break
            riders = self._riders(together, riding.Next(width, rows, self._most(budget))) or riders
            self._counted_at = time.monotonic()
            self._turns.took(began, self._counted_at, ahead=True)
        self._begun.append(_Begun(time.monotonic(), riders))
        return backend.Aboard(self._most(budget), riders.prepared if riders is not None else None)

    def left(self) -> None:
        """As backend.Company."""
        self._send_away(self._begun.pop().riders, alone=True)

    def landed(self, size: int, own: int, rows: npt.NDArray[np.float32]) -> None:
        """As backend.Company."""
        begun, now = self._begun.popleft(), time.monotonic()
        since = max(begun.at, self._free_at, self._disturbed_at)
        if self._disturbed_at <= begun.at:
            # Else it waited for others on the device, and nobody knows for how long.
            self._pace.observe(size, now - since, now)
        if begun.riders is not None:
            # On CUDA the micro-batch behind it has been boarded since.
            spent = (now - max(since, self._counted_at)) * len(rows) / (own + len(rows))
            self._answer(begun.riders, rows, now - spent, spent)
            self._turns.took(now - spent, now, ahead=True)
        self._free_at = now

    # --- inside

    def _most(self, budget: int) -> int:
        return riding.most(self._pace, budget, time.monotonic() - self._calls.heard_at, self._limits)

    def _riders(self, together: Sequence[calls.Call], coming: riding.Next) -> calls.Turn | None:
        """Those of the calls, all of one kind, that ride along; the others are answered."""
        turn = self._calls.ready(together)
        if turn is None:
            return None
        if together[0].kind != self._kind or turn.loaded is not self._loaded or turn.prepared is None:
            self._alone(turn)
            return None
        chosen = riding.riders([turn.sizes(part) for part in turn.parts], coming, self._pace)
        if len(chosen) == len(turn.parts):
            return turn
        if not chosen:
            self._alone(turn)
            return None
        riders = [turn.parts[index].call for index in chosen]
        others = self._calls.ready([part.call for index, part in enumerate(turn.parts) if index not in chosen])
        if others is not None:
            self._alone(others)
        return self._calls.ready(riders)

    def _alone(self, turn: calls.Turn) -> None:
        self._calls.compute(turn)
        self._disturbed_at = time.monotonic()

    def _answer(self, riders: calls.Turn, rows: npt.NDArray[np.float32], began: float, seconds: float) -> None:
        computed = backend.Computed(rows)
        for part in riders.parts:
            try:
                examined = self._calls.examined(riders, part, computed)
            except results.BadVectors:
                examined = None
            if examined is None or examined.not_finite:
                # By itself it is found out whether the device is to blame.
                self._turns.give_back([replace(part.call, alone=True)])
            else:
                self._calls.send(riders, part, examined, began, seconds * (part.stop - part.start) / len(rows))

    def _send_away(self, riders: calls.Turn | None, *, alone: bool) -> None:
        if riders is not None:
            self._turns.give_back([replace(part.call, alone=alone) for part in riders.parts])

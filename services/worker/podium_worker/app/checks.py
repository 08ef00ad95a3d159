"""Checks of loaded models on the scheduler's wish: which canaries are still awaited, and which wish is fulfilled."""

from __future__ import annotations

from collections.abc import Iterable

from podium_worker.app import seats


class Checks:
    """The newest check that was asked for."""

    def __init__(self) -> None:
        self._wanted = 0
        self._awaited: set[tuple[int, str]] = set()

    def begin(self, number: int, devices: Iterable[seats.Seat]) -> list[tuple[seats.Seat, str]]:
        """The canaries to run for check `number`; none when it has begun already."""
        if number in (0, self._wanted):
            return []
        self._wanted = number
        to_run = [(seat, workload) for seat in devices if seat.serves for workload in seat.resident]
        self._awaited = {(seat.index, workload) for seat, workload in to_run}
        return to_run

    def awaits(self, device: int) -> bool:
        """Whether the device owes an answer."""
        return any(index == device for index, _ in self._awaited)

    def settled(self, device: int, workload: str) -> None:
        """A canary has passed, or its model is offered no more."""
        self._awaited.discard((device, workload))

    def drop(self, device: int) -> None:
        """The device's process has gone; the next one runs its canaries when it loads its models."""
        self._awaited = {(index, workload) for index, workload in self._awaited if index != device}

    def done(self, devices: Iterable[seats.Seat]) -> int:
        """The check that is fulfilled: no canary is awaited, and some device is in service. 0: none.

        A device whose canary fails is given no batches: it must not keep its sound siblings idle.
        """
        if self._awaited or all(seat.fault is not None for seat in devices):
            return 0
        return self._wanted

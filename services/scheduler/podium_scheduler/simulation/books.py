"""What the simulated clouds bill: the prices of what exists, over time, exactly."""

from __future__ import annotations

_DAY_S = 86_400.0


class Books:
    """Money as it is spent, whatever the ledger believes."""

    def __init__(self) -> None:
        self.total = 0.0
        self.days: dict[int, float] = {}
        """USD by day."""
        self.highest_rate = 0.0
        """USD per hour of all that ever existed together."""
        self._rate = 0.0
        self._count = 0

    def begin(self, usd_per_hour: float) -> None:
        """Something comes into existence."""
        self._count += 1
        self._rate += usd_per_hour
        self.highest_rate = max(self.highest_rate, self._rate)

    def end(self, usd_per_hour: float) -> None:
        """And is gone."""
        self._count -= 1
        # Sums of floats: what is left of nothing is nothing.
        self._rate = self._rate - usd_per_hour if self._count else 0.0

    def pass_time(self, before_s: float, after_s: float) -> None:
        """What exists is paid for."""
        while before_s < after_s:
            day = int(before_s // _DAY_S)
            step = min(after_s, (day + 1) * _DAY_S)
            usd = self._rate * (step - before_s) / 3600
            self.days[day] = self.days.get(day, 0.0) + usd
            self.total += usd
            before_s = step

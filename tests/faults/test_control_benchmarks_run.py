"""The benchmarks of the control plane run, and their figures are of the right kind. Never how good they are."""

from __future__ import annotations

import pytest

from tests.bench import idle, scale

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


async def test_an_idle_stack_is_measured() -> None:
    span = await idle.measure(2.0, settled_s=1.0)
    shares = span.core_shares()
    assert shares.keys() == {"scheduler", "gateway", "worker", "postgres", "redis"}
    assert all(0 <= share < 2 for share in shares.values()) and shares["scheduler"] > 0
    assert span.transactions_per_s > 1 and span.commands_per_s > 1


async def test_a_small_fleet_is_measured() -> None:
    found, rest = await scale.measure(workers=6, backlog=3_000, pace=30.0, seconds=3.0)
    assert [one.workers for one in found] == [1, 6, 1, 6]
    assert found[0].backlog < 2_999 <= found[2].backlog
    for one in found:
        assert one.batches_per_s > 0 and one.scheduler_ms > 0 and one.postgres_ms > 0
        assert 0 < one.turn_ms_p50 <= one.turn_ms_p99
    assert all(value == value for value in rest.values())


def test_unfairness_is_the_mean_distance_from_the_weighted_share() -> None:
    assert scale.unfairness({"a": (1, 10), "b": (3, 30)}) == 0
    assert scale.unfairness({"a": (1, 15), "b": (1, 5)}) == pytest.approx(0.5)
    assert scale.unfairness({}) == 0

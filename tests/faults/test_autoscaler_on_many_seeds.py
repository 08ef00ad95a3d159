"""What is claimed of the autoscaler holds whatever comes, fails and runs out: five traces, with ten seeds each."""

from __future__ import annotations

import pytest

from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.simulation import study, traces

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# Rounds three times as long as they are: it has to hold all the same, and is tested sooner.
POLICY = Policy(round_s=30.0, termination_lag_s=study.TERMINATION_LAG_S)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", traces.BUILT_IN)
def test_every_window_is_met_within_the_bound_and_below_the_simple_rules(name: str, seed: int) -> None:
    found = study.study(study.built_in(name, seed), POLICY, seed=seed)
    assert found.outcomes[study.PODIUM].missed == 0
    assert 1.0 <= found.ratio(study.PODIUM) <= 1.25
    assert found.is_cheapest

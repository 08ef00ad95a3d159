"""When a worker is quarantined, and when it is asked whether it is well again."""

from __future__ import annotations

from podium_scheduler.domain import quarantine

POLICY = quarantine.Policy(refusals=3, window_s=60.0, pause_s=30.0)


def conduct(*times: float) -> quarantine.Conduct:
    """After refusals at these times."""
    found = quarantine.Conduct()
    for time in times:
        found = found.refused(time, POLICY)
    return found


def test_a_single_refusal_is_noise_and_the_last_one_of_too_many_is_too_much() -> None:
    assert not quarantine.Conduct().too_much(POLICY)
    assert not conduct(0.0).too_much(POLICY)
    assert not conduct(0.0, 0.0).too_much(POLICY)
    assert conduct(0.0, 0.0, 0.0).too_much(POLICY)


def test_only_the_window_counts() -> None:
    assert conduct(0.0, 30.0, 59.9).too_much(POLICY)
    assert not conduct(0.0, 30.0, 60.0).too_much(POLICY)
    assert conduct(0.0, 30.0, 60.0, 89.0).too_much(POLICY)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """However long a session lasts, its conduct stays short."""
    assert conduct(*(61.0 * number for number in range(1_000))).refusals == (61.0 * 999,)


def test_a_policy_of_one_refusal_is_at_once_too_much() -> None:
    assert conduct(5.0).too_much(quarantine.Policy(refusals=1))


def test_conduct_is_a_value() -> None:
    before = conduct(1.0)
    before.refused(2.0, POLICY)
    assert before == conduct(1.0)


def test_it_is_asked_when_the_pause_is_over_and_not_before() -> None:
    held = quarantine.Quarantine("3 of its results were refused", until=100.0 + POLICY.pause_s, check=7)
    assert not held.probes(100.0)
    assert not held.probes(129.9)
    assert held.probes(130.0)
    assert held.probes(1e6)

"""When pods that could not load a model are enough to rent no more for it."""

from __future__ import annotations

from podium_scheduler.domain.autoscaling.trials import Findings, Trial, findings

NOW, HOUR_S = 1_000_000.0, 3_600.0
BAD = "bad file"


def failed(began_s: float, ended_s: float | None = 0.0, *, key: str = "a", fit: bool = True) -> Trial:
    """Seconds ago."""
    return Trial(key, NOW - began_s, None if ended_s is None else NOW - ended_s, BAD, fit)


def found(*newest_first: Trial, waits_s: float | None = HOUR_S, leads_s: float = 10 * HOUR_S) -> Findings:
    return findings(newest_first, None if waits_s is None else NOW - waits_s, NOW - leads_s, NOW)


def test_three_tries_are_enough_and_the_newest_words_are_told() -> None:
    assert found() == Findings()
    two = (failed(300, key="b"), failed(900))
    assert found(*two) == Findings(frozenset({"a", "b"}))
    assert found(*two, failed(1500)).hopeless == "3 tries with pods, and none could load it: bad file"


def test_what_was_intended_together_is_one_try() -> None:
    assert not found(*[failed(300)] * 5, failed(900)).hopeless


def test_a_pod_that_loaded_it_ends_the_count() -> None:
    good = Trial("a", NOW - 1200, NOW - 600, "")
    assert not found(failed(300), failed(900), good, failed(1500), failed(2000)).hopeless


def test_a_try_counts_for_the_work_that_was_there_when_it_began_and_an_hour_for_other_work() -> None:
    tries = [failed(9_000, 8_000), failed(12_000, 11_000), failed(15_000, 14_000)]
    assert found(*tries, waits_s=20_000.0).hopeless
    assert not found(*tries, waits_s=60.0).hopeless
    assert not found(*tries, waits_s=None).failed_on
    lately = [failed(300), failed(900), failed(1500)]
    assert found(*lately, waits_s=60.0).hopeless and found(*lately, waits_s=None).hopeless


def test_what_ended_before_this_leader_says_nothing_of_new_work() -> None:
    lately = [failed(300, 200), failed(900, 800), failed(1500, 1400)]
    assert not found(*lately, waits_s=60.0, leads_s=100.0).hopeless
    assert found(*lately, waits_s=HOUR_S, leads_s=100.0).hopeless


def test_pods_that_are_there_count_however_old_they_are() -> None:
    old = [failed(100 * HOUR_S, None), failed(101 * HOUR_S, None), failed(102 * HOUR_S, None)]
    assert found(*old, waits_s=60.0, leads_s=10.0).hopeless


def test_machines_that_have_not_what_it_needs_are_tried_many_times() -> None:
    unfit = [failed(100.0 * n, fit=False) for n in range(1, 10)]
    assert not found(*unfit).hopeless
    assert found(*unfit, failed(2_000, fit=False)).hopeless.startswith("10 tries")
    assert not found(*unfit[:4], failed(2_000), failed(2_500)).hopeless

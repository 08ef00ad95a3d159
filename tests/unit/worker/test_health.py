"""What a GPU's readings say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from podium_worker.domain import health
from podium_worker.domain.health import Health, Trouble

LIMITS = health.Limits()
GOOD = health.Reading(0, "GPU-a", temperature_c=50, ecc_errors=0)
LOST = replace(GOOD, trouble=Trouble.LOST, detail="GPU is lost")


class Judge:
    """A device under judgement, read every two seconds."""

    def __init__(self) -> None:
        self.state = health.State()
        self.now = 1000.0
        self.verdict = health.Verdict()

    def read(self, *readings: health.Reading) -> Health:
        for reading in readings:
            self.now += 2.0
            self.state, self.verdict = health.judge(self.state, reading, self.now, LIMITS)
        return self.verdict.health

    def seconds_until_healthy(self, reading: health.Reading = GOOD, within_s: float = 10_000.0) -> float:
        start = self.now
        while self.read(reading) is not Health.HEALTHY:
            assert self.now - start < within_s
        return self.now - start


@pytest.fixture
def judge() -> Judge:
    made = Judge()
    made.read(GOOD)
    return made


def test_a_good_device_is_healthy(judge: Judge) -> None:
    assert judge.read(GOOD, GOOD) is Health.HEALTHY
    assert judge.verdict == health.Verdict()


def test_what_the_driver_does_not_tell_is_not_held_against_it(judge: Judge) -> None:
    assert judge.read(health.Reading(0, "GPU-a")) is Health.HEALTHY


@pytest.mark.parametrize("trouble", [Trouble.LOST, Trouble.RESET_REQUIRED])
def test_a_gpu_that_is_gone_is_faulted_at_once(judge: Judge, trouble: Trouble) -> None:
    assert judge.read(replace(GOOD, trouble=trouble, detail="as it says.")) is Health.FAULTED
    assert judge.verdict.reason == f"{trouble.value} (as it says)."


def test_it_returns_after_good_readings_in_a_row(judge: Judge) -> None:
    judge.read(LOST)
    assert judge.read(*[GOOD] * (LIMITS.good_readings - 1), LOST) is Health.FAULTED
    assert judge.read(*[GOOD] * (LIMITS.good_readings - 1)) is Health.FAULTED
    assert judge.read(GOOD) is Health.HEALTHY
    assert judge.verdict.reason == ""


@pytest.mark.parametrize("trouble", [Trouble.SILENT, Trouble.UNREADABLE])
def test_silence_has_to_last(judge: Judge, trouble: Trouble) -> None:
    silent = replace(GOOD, trouble=trouble)
    few = [silent] * (LIMITS.bad_readings - 1)
    assert judge.read(*few, GOOD, *few) is Health.HEALTHY
    assert judge.read(silent) is Health.FAULTED


def test_silence_is_no_good_reading(judge: Judge) -> None:
    judge.read(LOST)
    silent = replace(GOOD, trouble=Trouble.SILENT)
    assert judge.read(*[GOOD] * (LIMITS.good_readings - 1), silent, GOOD) is Health.FAULTED


@pytest.mark.parametrize("xid", sorted(health.FATAL_XIDS))
def test_a_fatal_xid_faults(judge: Judge, xid: int) -> None:
    assert judge.read(replace(GOOD, xids=(xid,))) is Health.FAULTED
    assert f"XID {xid}: {health.FATAL_XIDS[xid]}" in judge.verdict.reason


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 68, 92, 94, 109, 154])
def test_an_xid_of_an_application_does_not(judge: Judge, xid: int) -> None:
    assert judge.read(replace(GOOD, xids=(xid,))) is Health.HEALTHY
    assert judge.verdict.xids == (xid,)


def test_the_reason_is_the_first_fatal_xid_and_outlasts_its_reading(judge: Judge) -> None:
    judge.read(replace(GOOD, xids=(13, 79, 48)), GOOD)
    assert "XID 79" in judge.verdict.reason


def test_an_xid_counts_when_the_reading_itself_failed(judge: Judge) -> None:
    silent = replace(GOOD, trouble=Trouble.SILENT, xids=(79,))
    assert judge.read(silent) is Health.FAULTED


def test_xids_are_remembered_once_each_newest_last(judge: Judge) -> None:
    judge.read(replace(GOOD, xids=(79, *[45] * 50)), replace(GOOD, xids=(13,)))
    assert judge.verdict.xids == (79, 45, 13)
    judge.read(replace(GOOD, xids=(79, *range(1, 9))))
    assert judge.verdict.xids == tuple(range(1, 9))


def test_memory_errors_fault_when_they_grow(judge: Judge) -> None:
    assert judge.read(replace(GOOD, ecc_errors=2)) is Health.FAULTED
    assert judge.verdict.reason == "Its uncorrected memory errors grew from 0 to 2."


def test_memory_errors_from_before_the_worker_are_not_news() -> None:
    judge = Judge()
    old = replace(GOOD, ecc_errors=7)
    assert judge.read(old, old) is Health.HEALTHY
    # A driver that was loaded anew counts from 0, and from there.
    assert judge.read(replace(GOOD, ecc_errors=0)) is Health.HEALTHY
    assert judge.read(replace(GOOD, ecc_errors=1)) is Health.FAULTED


def test_memory_errors_that_are_not_told_for_a_while_are_still_compared(judge: Judge) -> None:
    assert judge.read(replace(GOOD, ecc_errors=None), replace(GOOD, ecc_errors=1)) is Health.FAULTED


def test_after_an_event_it_rests_as_long_as_the_count_stands_still(judge: Judge) -> None:
    grown = replace(GOOD, ecc_errors=1)
    judge.read(grown)
    assert judge.seconds_until_healthy(grown) == LIMITS.rest_s


def test_one_incident_of_many_messages_is_one_rest(judge: Judge) -> None:
    judge.read(*[replace(GOOD, xids=(119,))] * 20)
    assert judge.seconds_until_healthy() == LIMITS.rest_s


def rests(judge: Judge, incidents: int) -> Sequence[float]:
    found = []
    for _ in range(incidents):
        judge.read(replace(GOOD, xids=(48,)))
        found.append(judge.seconds_until_healthy())
    return found


def test_each_incident_after_its_return_rests_it_twice_as_long(judge: Judge) -> None:
    assert rests(judge, 8) == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_day_without_incidents_is_forgiven(judge: Judge) -> None:
    rests(judge, 3)
    judge.now += LIMITS.forgiven_after_s
    assert rests(judge, 1) == [60]


def test_a_device_that_is_gone_does_not_come_back_with_the_end_of_its_rest(judge: Judge) -> None:
    judge.read(replace(LOST, xids=(79,)))
    assert judge.read(*[LOST] * 100) is Health.FAULTED
    assert judge.seconds_until_healthy() == 2.0 * LIMITS.good_readings


def test_heat_with_hysteresis(judge: Judge) -> None:
    def at(degrees: int) -> health.Reading:
        return replace(GOOD, temperature_c=degrees)

    assert judge.read(at(89)) is Health.HEALTHY
    assert judge.read(at(90)) is Health.COOLING
    assert judge.verdict.reason == "It is 90 degrees Celsius hot; it has to cool down to 80."
    assert judge.read(at(93), *[at(81)] * 20) is Health.COOLING
    assert judge.verdict.reason.startswith("It is 90"), "no news with every degree"
    assert judge.read(at(80), at(80), at(81), at(80), at(80)) is Health.COOLING
    assert judge.read(at(80)) is Health.HEALTHY


@pytest.mark.parametrize(("slowdown_c", "hot_c"), [(83, 83), (None, 90), (0, 90), (255, 90), (97, 97)])
def test_its_own_slowdown_temperature_goes_first(judge: Judge, slowdown_c: int | None, hot_c: int) -> None:
    assert judge.read(replace(GOOD, slowdown_c=slowdown_c, temperature_c=hot_c - 1)) is Health.HEALTHY
    assert judge.read(replace(GOOD, slowdown_c=slowdown_c, temperature_c=hot_c)) is Health.COOLING


def test_hardware_that_slows_down_is_hot_whatever_it_measures(judge: Judge) -> None:
    slowed = replace(GOOD, thermal_slowdown=True)
    assert judge.read(slowed) is Health.COOLING
    assert judge.read(*[GOOD] * LIMITS.cool_readings) is Health.HEALTHY
    assert judge.read(replace(slowed, temperature_c=None)) is Health.COOLING
    assert judge.verdict.reason == "Its hardware slows down for heat."


def test_a_fault_ends_in_cooling_when_it_is_hot(judge: Judge) -> None:
    hot = replace(GOOD, temperature_c=95)
    judge.read(LOST)
    assert judge.read(*[hot] * LIMITS.good_readings) is Health.COOLING


def test_silence_does_not_end_cooling(judge: Judge) -> None:
    judge.read(replace(GOOD, temperature_c=95))
    silent = replace(GOOD, trouble=Trouble.SILENT)
    assert judge.read(GOOD, GOOD, silent, GOOD, GOOD) is Health.COOLING

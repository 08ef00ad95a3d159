"""What a gateway remembers of the jobs that it has admitted."""

from __future__ import annotations

from podium.common.v1 import job_pb2
from podium_gateway.app import admitted
from podium_runtime import clock


def test_a_job_is_found_by_its_own_app_and_for_a_while() -> None:
    time = clock.FakeClock()
    remembered = admitted.AdmittedJobs(time)
    job = job_pb2.Job(job_id="1")
    remembered.note("a", job)
    assert remembered.find("a", "1") == job
    assert remembered.find("b", "1") is None
    assert remembered.find("a", "2") is None
    time.advance(admitted.TTL_S)
    assert remembered.find("a", "1") is None


def test_the_oldest_are_forgotten_first() -> None:
    remembered = admitted.AdmittedJobs(clock.FakeClock())
    for number in range(admitted.CAPACITY + 1):
        remembered.note("a", job_pb2.Job(job_id=str(number)))
    assert remembered.find("a", "0") is None
    assert remembered.find("a", "1") is not None

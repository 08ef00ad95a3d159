"""What a job says about its results."""

from __future__ import annotations

import pytest

from podium.common.v1 import job_pb2
from podium_client.jobs import job_from_proto


@pytest.mark.parametrize(
    ("told", "readable"),
    [
        (job_pb2.Job(), True),
        (job_pb2.Job(results_released=True), False),
        (job_pb2.Job(results_expired=True), False),
        (job_pb2.Job(progress=job_pb2.JobProgress(items_released=1)), False),
        (job_pb2.Job(state=job_pb2.JOB_STATE_CANCELLED), False),
    ],
)
def test_a_job_whose_results_are_gone_is_not_read_from_its_start(told: job_pb2.Job, readable: bool) -> None:
    if not told.state:
        told.state = job_pb2.JOB_STATE_COMPLETED
    assert job_from_proto(told).readable_from_start is readable

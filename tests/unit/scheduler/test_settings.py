"""Settings that contradict each other are refused at start."""

from __future__ import annotations

from datetime import timedelta

import pytest

from podium_scheduler.settings import SchedulerSettings


def settings(result_retention_s: float, job_retention_s: float) -> SchedulerSettings:
    return SchedulerSettings(
        postgres_url="postgresql://nowhere/x",
        redis_url="redis://nowhere",
        insecure=True,
        result_retention_s=result_retention_s,
        job_retention_s=job_retention_s,
    )


def test_records_of_jobs_are_kept_at_least_as_long_as_their_results() -> None:
    with pytest.raises(ValueError, match="PODIUM_JOB_RETENTION_S must be at least PODIUM_RESULT_RETENTION_S"):
        settings(result_retention_s=100.0, job_retention_s=99.0)
    assert settings(result_retention_s=100.0, job_retention_s=100.0).retention == timedelta(seconds=100)

"""Use case: accept a job. It is accepted when its ledger transaction has committed, and not before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from podium.common.v1 import item_pb2, workload_pb2
from podium_runtime import errors, ids
from podium_scheduler.app import ports, pressure, records, scopes, straight, wakers


class Admission:
    """Admits jobs and knows the apps."""

    def __init__(
        self,
        jobs: ports.JobLedger,
        workloads: Mapping[str, workload_pb2.Workload],
        gauge: pressure.PressureGauge,
        wake: wakers.Wakers,
        make: ids.Ids,
        direct: straight.Straight,
    ) -> None:
        self._jobs = jobs
        self._workloads = workloads
        self._gauge = gauge
        self._wakers = wake
        self._ids = make
        self._straight = direct

    async def authenticate(self, token_sha256: bytes) -> str:
        """The app of a token's hash. Raises errors.Unauthenticated."""
        app_id = await self._jobs.app_of_token(token_sha256)
        if app_id is None:
            raise errors.Unauthenticated("this token is unknown or was revoked", reason="UNKNOWN_TOKEN")
        return app_id

    async def admit(self, new: records.NewJob) -> tuple[records.Job, bool]:
        """Writes the job; returns it, and whether it was there already.

        Raises errors.InvalidArgument, AlreadyExists, ResourceExhausted or Unavailable; then nothing was accepted.
        """
        if new.workload not in self._workloads:
            raise errors.InvalidArgument([errors.Violation("workload", f"there is no workload {new.workload!r}")])
        _check_cut(new)
        if new.deduplicate:
            options = item_pb2.EmbeddingOptions.FromString(new.options)
            scope = scopes.scope(new.app_id, self._workloads[new.workload], new.modality, options)
            new = replace(new, scope=scope)
        job, existed, all_begun = await self._admitted(new)
        if existed and job.payload_digest != new.payload_digest:
            raise errors.AlreadyExists(
                f"request_id {new.request_id} was used for another payload",
                reason="REQUEST_ID_REUSED",
                metadata={"job_id": str(job.job_id)},
            )
        if not existed and not all_begun:
            await self._wakers.feed()
        return job, existed

    async def _admitted(self, new: records.NewJob) -> tuple[records.Job, bool, bool]:
        """The job; whether it was there already; whether workers have all of it."""
        try:
            self._gauge.refuse_when_full()
            if not new.deduplicate:
                begun = await self._straight.admit(self._ids.uuid4(), new)
                if begun is not None:
                    job, batches = begun
                    return job, False, batches == len(new.batches)
                written = await self._jobs.admit_at_once(self._ids.uuid4(), new)
                if written is not None:
                    return written, False, False
            await self._check_quota(new)
        except errors.ResourceExhausted:
            # A job that is there already costs no room; its client may have come back to read and so to make some.
            known = await self._jobs.job_of_request(new.app_id, new.request_id)
            if known is None:
                raise
            return known, True, False
        return *(await self._jobs.admit(self._ids.uuid4(), new)), False

    async def _check_quota(self, new: records.NewJob) -> None:
        app = await self._jobs.app(new.app_id)
        if app is None:
            raise errors.Unauthenticated(f"there is no app {new.app_id!r}", reason="UNKNOWN_APP")
        if not app.max_waiting_items:
            return
        waiting = await self._jobs.waiting_items(new.app_id)
        if waiting + new.item_count > app.max_waiting_items:
            raise errors.ResourceExhausted(
                f"{waiting} items of this app wait; with {new.item_count} more they would be over its limit of "
                f"{app.max_waiting_items}",
                reason="APP_QUOTA",
                retry_after_s=5.0,
            )


def _check_cut(new: records.NewJob) -> None:
    expected = 0
    for number, batch in enumerate(new.batches):
        if batch.first_item != expected or batch.item_count < 1:
            raise errors.InvalidArgument(
                [errors.Violation(f"batches[{number}].first_item", f"must be {expected}, without gap or overlap")]
            )
        expected += batch.item_count
    if not new.batches:
        raise errors.InvalidArgument([errors.Violation("batches", "must not be empty")])


def token_hash(token: str) -> bytes:
    """What the ledger keeps of a token. Tokens are random, so a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode()).digest()

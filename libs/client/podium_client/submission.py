"""Placing a part: submit it, or find the job that an earlier run submitted for it.

The request id is derived from the content, so the first SubmitBatch answers with the earlier job if there
is one. Can its results no longer be read (released, cancelled, expired), the part is submitted again under
an id derived from that job and a generation number. Re-runs carry two labels, so the newest is found by one
ListJobs, however many there were.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from podium.common.v1 import item_pb2
from podium.gateway.v1 import gateway_pb2
from podium_client.errors import InvalidInput, Violation
from podium_client.items import Items
from podium_client.jobs import Job
from podium_client.parts import JobSpec, Part, request_id, rerun_request_id
from podium_client.retry import Patience
from podium_client.rpc import Gateway

RERUN_OF_LABEL = "podium/rerun-of"
GENERATION_LABEL = "podium/generation"

_ITEM_PATH = re.compile(r"^((?:texts|images|tasks)\.items)\[(\d+)\](.*)$")


def at_input_index(error: InvalidInput, first_item: int) -> InvalidInput:
    """The same error, with item indexes counted in the caller's whole input instead of the job."""
    moved = []
    for violation in error.violations:
        found = _ITEM_PATH.match(violation.field)
        if found is None:
            moved.append(violation)
            continue
        index = int(found[2]) + first_item
        moved.append(Violation(f"{found[1]}[{index}]{found[3]}", violation.description, index))
    if not moved:
        return error
    more = f" (and {len(moved) - 1:,} more)" if len(moved) > 1 else ""
    return InvalidInput(
        f"{moved[0].field}: {moved[0].description}{more}",
        moved,
        code=error.code,
        reason=error.reason,
        metadata=error.metadata,
    )


def put_items(message: gateway_pb2.SubmitBatchRequest, items: Items) -> None:
    """Give the request its items; a copy of them."""
    if isinstance(items, item_pb2.TextItems):
        message.texts.CopyFrom(items)
    else:
        message.images.CopyFrom(items)


async def _submit(
    gateway: Gateway,
    spec: JobSpec,
    part: Part,
    request: uuid.UUID,
    patience: Patience,
    labels: Mapping[str, str],
) -> Job:
    message = gateway_pb2.SubmitBatchRequest(
        request_id=str(request),
        workload=spec.workload,
        labels={**(spec.labels or {}), **labels},
        options=spec.options,
        deduplicate=spec.deduplicate,
    )
    put_items(message, part.items)
    if spec.priority is not None:
        message.priority = spec.priority
    if spec.budget_usd is not None:
        message.budget_usd = spec.budget_usd
    try:
        job, _ = await gateway.submit(message, patience)
    except InvalidInput as error:
        raise at_input_index(error, part.first_item) from error
    return job


async def place(gateway: Gateway, spec: JobSpec, part: Part, patience: Patience) -> Job:
    """A job for the part whose results can be read from the start."""
    first_id = request_id(spec, part)
    first = await _submit(gateway, spec, part, first_id, patience, {})
    if first.readable_from_start:
        return first
    generation = 1
    reruns = gateway.list_jobs(labels={RERUN_OF_LABEL: first.job_id}, page_size=1, patience=patience)
    newest = await anext(reruns, None)
    if newest is not None:
        if newest.readable_from_start:
            return newest
        generation = int(newest.labels[GENERATION_LABEL]) + 1
    labels = {RERUN_OF_LABEL: first.job_id, GENERATION_LABEL: str(generation)}
    again = rerun_request_id(first_id, first.job_id, generation)
    return await _submit(gateway, spec, part, again, patience, labels)

"""Use case: what of a leased batch its worker need not compute. For jobs with a dedupe_scope only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import errors, logs
from podium_scheduler.app import attempt_plans, ports, records, result_checks, worker_sessions
from podium_scheduler.domain import deduplication

log = logs.get_logger(__name__)
_READS = 4
"""At a time: others want connections too."""


class Deduplication:
    """Makes the plans."""

    def __init__(
        self,
        items: ports.KnownItemsLedger,
        workloads: Mapping[str, workload_pb2.Workload],
        registry: worker_sessions.SessionRegistry,
    ) -> None:
        self._items = items
        self._workloads = workloads
        self._registry = registry
        self._turns = asyncio.Semaphore(_READS)

    async def plan(self, batch: records.Leased) -> attempt_plans.Plan | None:
        """How a batch is computed; None for one whose items nobody is to recognise."""
        if batch.dedupe_scope is None or batch.identities is None:
            return None
        identities = scheduler_pb2.ItemIdentities.FromString(batch.identities)
        hashes = deduplication.split(identities.hashes, batch.payload_offset, batch.item_count)
        if batch.attempt >= deduplication.PLAIN_FROM_ATTEMPT:
            return attempt_plans.Plan(batch.dedupe_scope, hashes, range(batch.item_count), 0)
        known = await self._known(batch.batch_id, batch.dedupe_scope, hashes)
        return _plan(batch, hashes, known, self._usable(batch, known))

    async def _known(self, batch_id: int, scope: bytes, hashes: Sequence[bytes]) -> records.Known:
        try:
            async with self._turns:
                return await self._items.known(batch_id, scope, list(dict.fromkeys(hashes)))
        except errors.Unavailable:
            # The lease is written, and the worker waits. It only costs the computation.
            log.warning("known_items_not_read", batch_id=batch_id)
            return records.Known({}, frozenset())

    def _usable(self, batch: records.Leased, known: records.Known) -> dict[bytes, records.KnownVector]:
        """Vectors that may stand beside those that this worker makes: all of the same make, and of this one."""
        precision = self._precision(batch)
        asked = result_checks.asked_by(
            item_pb2.EmbeddingOptions.FromString(batch.options), self._workloads.get(batch.workload)
        )
        made_by = deduplication.most_common(
            v.made_by
            for v in known.vectors.values()
            if result_pb2.Provenance.FromString(v.made_by).precision == precision
        )
        return {h: v for h, v in known.vectors.items() if v.made_by == made_by and len(v.vector.row) == asked.row_bytes}

    def _precision(self, batch: records.Leased) -> str | None:
        """The arithmetic that this worker uses; None where it cannot be told yet."""
        workload, session = self._workloads.get(batch.workload), self._registry.get(batch.session_id)
        if workload is None or session is None:
            return None
        if workload.model.precision != "auto":
            return workload.model.precision or "float32"
        loaded = {m.precision for d in session.status.devices for m in d.models if m.workload == batch.workload}
        return loaded.pop() if len(loaded) == 1 else None


def _plan(
    batch: records.Leased, hashes: Sequence[bytes], known: records.Known, usable: Mapping[bytes, records.KnownVector]
) -> attempt_plans.Plan:
    rows = {item_hash: row for row, item_hash in enumerate(usable)}
    sources = deduplication.sources(hashes, rows, known.awaited)
    computed = deduplication.computed(sources)
    earlier = sum(v.owner == batch.batch_id for v in usable.values())
    scope = batch.dedupe_scope or b""
    message = None
    if len(computed) < batch.item_count:
        message = worker_pb2.KnownItems(
            sources=deduplication.packed(sources),
            vectors=b"".join(v.vector.row for v in usable.values()),
            truncations=truncations(batch.first_item, hashes, {h: v.vector for h, v in usable.items()}),
        )
        if usable:
            made_by = next(iter(usable.values())).made_by
            message.provenance.CopyFrom(result_pb2.Provenance.FromString(made_by))
    return attempt_plans.Plan(scope, hashes, sources, batch.item_count - len(computed) - earlier, message)


def truncations(
    first_item: int, hashes: Sequence[bytes], vectors: Mapping[bytes, records.Vector]
) -> list[result_pb2.Truncation]:
    """Of items with these hashes, the first of which is item `first_item` of the job, those that were truncated."""
    return [
        result_pb2.Truncation(
            item_index=first_item + at, token_count=vectors[h].token_count, max_tokens=vectors[h].max_tokens
        )
        for at, h in enumerate(hashes)
        if h in vectors and vectors[h].token_count
    ]

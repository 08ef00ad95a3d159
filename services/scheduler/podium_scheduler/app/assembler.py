"""The assembler: batches whose items are all known are completed without a worker. Runs on the leader only.

A parked batch waits for others, or for nothing because all of it is known. When the last it waits for has ended, its
result is put together here, under the same rules as any other: first into Redis, each batch once, then the guarded
write. Of what is not all there (its owner was cancelled, an item failed, a vector was forgotten) one of those that wait
takes the missing items over, and is let go and fed like everything else; the others wait for that one. So is what finds
no room in Redis. A crash anywhere leaves a parked batch, which is looked at again, or fed when its patience ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
from prometheus_client import Counter

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_runtime import logs
from podium_scheduler.app import completer, deduplication, loops, ports, records, result_checks, wakers
from podium_scheduler.domain import deduplication as rules
from podium_scheduler.domain import room

log = logs.get_logger(__name__)

ASSEMBLED = Counter("podium_assembled_batches_total", "Batches completed without a worker.", ["workload"])
_INTERVAL_S = 0.2
_IDLE_S = 0.5
_STEP = 16
_TIDY = 1_000


@dataclass(frozen=True, slots=True)
class _Result:
    """A batch's result as Redis gets it, and what the ledger is told of it."""

    chunks: Sequence[bytes]
    completion: records.Completion


@dataclass(frozen=True, slots=True)
class _Missing:
    """Why a batch cannot be put together: items that are not known, or, without any, something else."""

    hashes: Sequence[bytes] = ()


class Assembler(loops.PatientLoop):
    """Completes what is known, lets go what is not."""

    name = "assembler"

    def __init__(
        self,
        items: ports.KnownItemsLedger,
        results: ports.ResultBuffer,
        buffer: ports.WorkBuffer,
        holdings: ports.HoldingsLedger,
        wakeups: ports.Wakeups,
        wake: wakers.Wakers,
        workloads: Mapping[str, workload_pb2.Workload],
        sizes: Mapping[str, room.Sizes],
        max_chunk_bytes: int,
    ) -> None:
        super().__init__()
        self._items = items
        self._results = results
        self._buffer = buffer
        self._holdings = holdings
        self._wakeups = wakeups
        self._wakers = wake
        self._workloads = workloads
        self._sizes = sizes
        self._max_chunk_bytes = max_chunk_bytes

    async def round(self) -> float:
        """The next batches that wait for nobody, and those whose patience has ended."""
        if not await self._items.anybody_waits():
            return _IDLE_S
        overdue = await self._items.overdue(_TIDY)
        if overdue:
            await self._let_go(overdue)
        ready = await self._items.ready(_STEP)
        if not ready:
            return _INTERVAL_S
        left = room.Room(await self._buffer.memory(), room.total(await self._holdings.in_flight(), self._sizes))
        found = [(batch, await self._assembled(batch) if self._fits(left, batch) else _Missing()) for batch in ready]
        await self._complete([(batch, one) for batch, one in found if isinstance(one, _Result)])
        await self._go_on([(batch, one.hashes) for batch, one in found if isinstance(one, _Missing)])
        return 0.0

    async def _go_on(self, batches: Sequence[tuple[records.ParkedBatch, Sequence[bytes]]]) -> None:
        """What becomes of batches that lack items: one after the other, so that each sees what those before it have
        taken over."""
        computing = [batch.batch_id for batch, hashes in batches if not hashes]
        if computing:
            await self._items.let_go(computing)
        computing += [b.batch_id for b, hashes in batches if hashes and await self._items.wait_again(b, hashes)]
        if computing:
            await self._wakers.feed()

    def _fits(self, left: room.Room, batch: records.ParkedBatch) -> bool:
        """Whether its result has room without the reserve, which is the feeder's to give."""
        if batch.workload not in self._sizes:
            return False
        size = self._sizes[batch.workload].item * batch.item_count
        fit, reserve = left.batches(size)
        if reserve or fit == 0:
            return False
        left.take(size)
        return True

    async def _let_go(self, batch_ids: Sequence[int]) -> None:
        await self._items.let_go(batch_ids)
        await self._wakers.feed()

    async def _assembled(self, batch: records.ParkedBatch) -> _Result | _Missing:
        """The result of a batch, if all of it is known and of one make."""
        identities = scheduler_pb2.ItemIdentities.FromString(batch.identities)
        hashes = rules.split(identities.hashes, batch.payload_offset, batch.item_count)
        known = await self._items.known(batch.batch_id, batch.dedupe_scope, list(dict.fromkeys(hashes)))
        missing = [item_hash for item_hash in dict.fromkeys(hashes) if item_hash not in known.vectors]
        if missing:
            return _Missing(missing)
        made_by = {v.made_by for v in known.vectors.values()}
        provenance = result_pb2.Provenance.FromString(made_by.pop())
        asked = result_checks.asked_by(
            item_pb2.EmbeddingOptions.FromString(batch.options), self._workloads.get(batch.workload)
        )
        sizes = {len(v.vector.row) for v in known.vectors.values()}
        if made_by or sizes != {asked.row_bytes} or not self._is_current(batch.workload, provenance):
            return _Missing()
        keys = identities.keys[batch.payload_offset : batch.payload_offset + batch.item_count]
        return self._result(batch, hashes, keys if any(keys) else (), known, provenance)

    def _is_current(self, workload: str, made_by: result_pb2.Provenance) -> bool:
        model = self._workloads[workload].model
        return (made_by.model_name, made_by.revision) == (model.model_name, model.revision)

    def _result(
        self,
        batch: records.ParkedBatch,
        hashes: Sequence[bytes],
        keys: Sequence[str],
        known: records.Known,
        made_by: result_pb2.Provenance,
    ) -> _Result:
        vectors = {item_hash: v.vector for item_hash, v in known.vectors.items()}
        step = max(1, self._max_chunk_bytes // len(vectors[hashes[0]].row))
        chunks: list[bytes] = []
        truncated = 0
        for at in range(0, batch.item_count, step):
            piece = hashes[at : at + step]
            rows = b"".join([vectors[item_hash].row for item_hash in piece])
            cuts = deduplication.truncations(batch.first_item + at, piece, vectors)
            truncated += len(cuts)
            chunk = result_pb2.ResultChunk(
                job_id=str(batch.job_id),
                first_item=batch.first_item + at,
                item_count=len(piece),
                vectors=rows,
                count=len(piece),
                dimension=made_by.dimension,
                dtype=made_by.dtype,
                crc32c=google_crc32c.value(rows),
                truncations=cuts,
                keys=keys[at : at + step],
                provenance=made_by,
                batch_first_item=batch.first_item,
                chunk_index=len(chunks),
                last_in_batch=at + step >= batch.item_count,
                attempt=max(1, batch.attempt),
            )
            chunks.append(chunk.SerializeToString())
        own = sum(v.owner == batch.batch_id for v in known.vectors.values())
        completion = records.Completion(
            batch.batch_id, b"", batch.job_id, batch.first_item, batch.item_count, 0, truncated, batch.item_count - own
        )
        return _Result(chunks, completion)

    async def _complete(self, results: Sequence[tuple[records.ParkedBatch, _Result]]) -> None:
        if not results:
            return
        await self._results.admit_results([(b.job_id, b.first_item, b.item_count, r.chunks) for b, r in results])
        done = await self._items.assemble([result.completion for _, result in results])
        for batch, _ in results:
            if batch.batch_id in done:
                ASSEMBLED.labels(batch.workload).inc()
                completer.ITEMS.labels(batch.workload, "succeeded").inc(batch.item_count)
        await self._wakeups.job_changed([(job_id, "progress") for job_id in {batch.job_id for batch, _ in results}])

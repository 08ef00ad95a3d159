"""One batch on its way through the executor: as it came, as it is prepared, as it is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import known, payloads, results, wire
from podium_worker.app import backend
from podium_worker.domain import encodings, problems
from podium_worker.executor import album, models

_FAILED = {number: reason for reason, number in results.REASONS.items()}


@dataclass(frozen=True, slots=True)
class Received:
    """As the front has assigned it."""

    key: str
    assign: worker_pb2.Assign
    max_chunk_bytes: int
    at: float
    """When it came, monotonic."""
    shelf: album.Shelf | None = None
    """Of a batch of images."""
    alone: bool = False
    """The front wants it to be computed without company."""

    @property
    def suspect(self) -> bool:
        """An earlier attempt failed, or it is the second half of a batch whose executor died, or it may have been why
        one died."""
        return self.alone or self.assign.lease.attempt > 1 or self.assign.payload_offset > 0

    @property
    def workload(self) -> str:
        """Its name."""
        return self.assign.workload


@dataclass(frozen=True, slots=True)
class Ready:
    """Ready for the device; `prepared` is None when no item of it has come so far."""

    received: Received
    loaded: models.Loaded
    keys: Sequence[str]
    encoding: encodings.Encoding
    prepared: backend.Prepared | None
    prepare_s: float
    plan: known.Plan | None = None
    """Of a batch that is not computed as a whole: what follows counts the items that are."""

    @property
    def item_count(self) -> int:
        """Items that are computed."""
        return self.received.assign.item_count if self.plan is None else len(self.plan.computed)

    @property
    def failures(self) -> Sequence[problems.ItemFailure]:
        """Of items that do not come to the device."""
        return self.received.shelf.failures if self.received.shelf else ()

    def outcome(self, computed: backend.Computed | None) -> results.Outcome:
        """What the device has made of it; None: it was not asked."""
        if computed is None:
            nothing = np.empty((0, self.loaded.model.dimension), dtype=np.float32)
            return results.Outcome(nothing, self.keys, failures=self.failures)
        truncations, unread = (self.prepared.truncations, self.prepared.failures) if self.prepared else ((), ())
        return results.Outcome(computed.vectors, self.keys, truncations, computed.out_of_memory, self.failures, unread)


@dataclass(frozen=True, slots=True)
class Finished:
    """Computed and examined; holds on to no model."""

    received: Received
    examined: results.Examined
    batch: results.Batch
    items: int
    """Those that no progress has told."""
    prepare_s: float
    idle_s: float


def received(frame: wire.Frame, at: float) -> Received:
    """From an ASSIGN or an EMBED."""
    header = frame.header
    assign = worker_pb2.Assign.FromString(frame.body)
    return Received(
        header["key"],
        assign,
        header.get("max_chunk_bytes", 0),
        at,
        _shelf(header.get("pictures")),
        header.get("alone", False),
    )


def _shelf(place: dict[str, Any] | None) -> album.Shelf | None:
    if place is None:
        return None
    failures = tuple(problems.ItemFailure(index, _FAILED[reason], text) for index, reason, text in place["errors"])
    return album.Shelf(place["offset"], place["height"], place["width"], place["fetch_s"], failures)


class Preparer:
    """Makes what came ready for the device. Used by the thread that prepares, and for calls by the one that
    computes."""

    def __init__(self, shared: album.Album | None, max_payload_bytes: int) -> None:
        self._album = shared
        self._max_payload_bytes = max_payload_bytes

    def prepare(self, batch: Received, loaded: models.Loaded) -> Ready:
        """Raises payloads.BadPayload, and whatever the backend does."""
        started = time.monotonic()
        encoding = payloads.options(batch.assign.options, loaded.workload)
        plan = known.plan(batch.assign)
        if batch.assign.modality == workload_pb2.MODALITY_IMAGE:
            keys, rows = self.pictures(batch, loaded, plan)
            prepared = None if rows is None else loaded.backend.prepare_pictures(rows)
        else:
            texts = self.texts(batch, loaded)
            asked = texts.texts if plan is None else [texts.texts[item] for item in plan.computed]
            keys, prepared = texts.keys, loaded.backend.prepare_texts(asked) if asked else None
        return Ready(batch, loaded, keys, encoding, prepared, time.monotonic() - started, plan)

    def texts(self, batch: Received, loaded: models.Loaded) -> payloads.Texts:
        """The texts of a batch or call. Raises payloads.BadPayload."""
        if not loaded.model.takes_texts:
            raise payloads.BadPayload(f"Workload {loaded.model.workload!r} takes no texts.")
        return payloads.texts(batch.assign, loaded.workload, self._max_payload_bytes)

    def pictures(
        self, batch: Received, loaded: models.Loaded, plan: known.Plan | None = None
    ) -> tuple[Sequence[str], npt.NDArray[np.uint8] | None]:
        """Keys of all images of a batch or call, and the pictures of those that have not failed, if there is one.

        Raises payloads.BadPayload, and ValueError for pictures that are not there.
        """
        shelf, wanted = batch.shelf, loaded.backend.picture
        if wanted is None:
            raise payloads.BadPayload(f"Workload {loaded.model.workload!r} takes no images.")
        if shelf is None or self._album is None:
            raise ValueError("a batch of images came without pictures")
        if (shelf.height, shelf.width) != (wanted.height, wanted.width):
            # The registry has changed between the intake and now.
            raise ValueError(f"pictures of {shelf.height} x {shelf.width} came to a model of another size")
        keys = payloads.keys_of_images(batch.assign, self._max_payload_bytes)
        count = batch.assign.item_count if plan is None else len(plan.computed)
        if len(shelf.failures) == count:
            return keys, None
        return keys, self._album.pictures(shelf, count)


def finished(
    ready: Ready, examined: results.Examined, timing: results.Timing, *, items: int, idle_s: float
) -> Finished:
    """What is left to be packed."""
    prepared = ready.prepared
    batch = results.Batch(
        assign=ready.received.assign,
        made_by=ready.loaded.provenance,
        encoding=ready.encoding,
        timing=timing,
        keys=ready.keys,
        truncations=prepared.truncations if prepared else (),
        token_count=prepared.token_count if prepared else 0,
        plan=ready.plan,
    )
    return Finished(ready.received, examined, batch, items, ready.prepare_s, idle_s)

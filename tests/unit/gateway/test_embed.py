"""Embed at the gateway: what is refused, who is asked, what is kept. No wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import callers, embed, embed_routes, workloads
from podium_gateway.domain import vector_cache
from podium_runtime import clock, errors

MODEL = workload_pb2.ModelSpec(model_name="m", revision="1")
TEXTS = workload_pb2.Workload(
    name="texts",
    model=MODEL,
    modalities=[workload_pb2.MODALITY_TEXT],
    dimension=2,
    limits=workload_pb2.WorkloadLimits(max_text_bytes=20),
)
IMAGES = workload_pb2.Workload(
    name="images",
    model=MODEL,
    modalities=[workload_pb2.MODALITY_IMAGE],
    dimension=2,
    limits=workload_pb2.WorkloadLimits(max_image_bytes=20),
)
DEADLINE_S = 10.0


@dataclass
class Scheduler:
    """The registry, and a replica that answers with each content's length; `refusal` is raised instead."""

    refusal: errors.PodiumError | None = None
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[scheduler_pb2.EmbedRequest] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    listed: tuple[workload_pb2.Workload, ...] = (TEXTS, IMAGES)
    revision: str = MODEL.revision
    """Of the model that its workers have, whatever is listed."""
    precision: str = "float32"

    async def list_workloads(self) -> tuple[workload_pb2.Workload, ...]:
        return self.listed

    async def embed(self, request: scheduler_pb2.EmbedRequest, timeout_s: float) -> scheduler_pb2.EmbedResponse:
        self.asked.append(request)
        self.timeouts.append(timeout_s)
        self.entered.set()
        if self.refusal is not None:
            raise self.refusal
        if self.gate is not None:
            await self.gate.wait()
        answer = _answer(request)
        answer.chunk.provenance.revision, answer.chunk.provenance.precision = self.revision, self.precision
        return answer

    def texts(self) -> list[list[str]]:
        """Of each call."""
        return [[item.text for item in item_pb2.TextItems.FromString(one.payload).items] for one in self.asked]

    def list_revision(self, revision: str) -> None:
        """The registry names it from now on."""
        changed = workload_pb2.Workload()
        changed.CopyFrom(TEXTS)
        changed.model.revision = revision
        self.listed = (changed, IMAGES)


def _answer(request: scheduler_pb2.EmbedRequest) -> scheduler_pb2.EmbedResponse:
    """Texts that begin with '!' fail, those that begin with '~' are truncated."""
    if request.modality == workload_pb2.MODALITY_IMAGE:
        contents = [i.url or i.data.decode() for i in item_pb2.ImageItems.FromString(request.payload).items]
    else:
        contents = [
            t.text or "".join(map(str, t.token_ids.ids)) for t in item_pb2.TextItems.FromString(request.payload).items
        ]
    good = [c for c in contents if not c.startswith("!")]
    rows = np.array([[len(c), 1] for c in good], dtype="<f4").reshape(-1, 2)
    chunk = result_pb2.ResultChunk(
        item_count=len(contents),
        count=len(good),
        vectors=rows.tobytes(),
        dimension=2,
        dtype=workload_pb2.DTYPE_FLOAT32,
        provenance=result_pb2.Provenance(model_name="m", dimension=2, dtype=workload_pb2.DTYPE_FLOAT32),
        keys=["the worker's"] * len(contents),
    )
    for index, text in enumerate(contents):
        if text.startswith("!"):
            chunk.errors.add(item_index=index, reason=result_pb2.ITEM_ERROR_REASON_EMPTY_INPUT)
        if text.startswith("~"):
            chunk.truncations.add(item_index=index, token_count=9, max_tokens=5)
    answer = scheduler_pb2.EmbedResponse(chunk=chunk, token_counts=[len(c) for c in contents])
    answer.compute_time.FromSeconds(1)
    return answer


@dataclass
class Meter:
    ended: list[tuple[str, str]] = field(default_factory=list)
    in_flight: int = 0
    hits: int = 0

    def embed_began(self) -> None:
        self.in_flight += 1

    def embed_ended(self, workload: str, outcome: str, seconds: float) -> None:
        self.in_flight -= 1
        self.ended.append((workload, outcome))

    def embed_cached(self, hits: int, misses: int) -> None:
        self.hits += hits


class Rig:
    def __init__(self, *replicas: Scheduler, calls: int = 2, cache_bytes: int = 0, most_bytes: int = 1 << 20) -> None:
        self.replicas = replicas or (Scheduler(),)
        self.meter = Meter()
        self.registry = workloads.Registry(self.replicas[0], clock.FakeClock())  # type: ignore[arg-type]
        self.routes = embed_routes.Routes(self.replicas)
        self.embed = embed.Embed(
            self.routes,
            self.registry,
            self.meter,
            vector_cache.VectorCache(cache_bytes),
            calls_per_app=calls,
            most_bytes=most_bytes,
            default_s=7.0,
        )

    async def __call__(
        self, *texts: str, app: str = "app", remaining_s: float | None = None, key: str = ""
    ) -> gateway_pb2.EmbedResponse:
        items = [item_pb2.TextItem(text=text, key=f"{key}-{i}" if key else "") for i, text in enumerate(texts)]
        request = gateway_pb2.EmbedRequest(workload="texts", texts=item_pb2.TextItems(items=items))
        return await self.embed(callers.Caller(app, lambda: remaining_s), request)


def _rows(answer: gateway_pb2.EmbedResponse) -> list[list[float]]:
    rows: list[list[float]] = np.frombuffer(answer.chunk.vectors, "<f4").reshape(-1, 2).tolist()
    return rows


def _no_worker(retry_after_s: float) -> errors.Unavailable:
    return errors.Unavailable("none", reason="NO_WARM_WORKER", retry_after_s=retry_after_s)


async def test_an_answer_covers_all_items_in_order_with_the_callers_keys() -> None:
    rig = Rig()
    answer = await rig("a", "bbb", key="mine")
    assert _rows(answer) == [[1, 1], [3, 1]]
    assert list(answer.chunk.keys) == ["mine-0", "mine-1"]
    assert answer.token_count == 4
    assert answer.compute_time.seconds == 1
    assert rig.meter.ended == [("texts", "OK")]
    assert rig.meter.in_flight == 0


async def test_the_deadline_is_the_calls_own_or_the_default() -> None:
    rig = Rig()
    await rig("a")
    await rig("a", remaining_s=2.0)
    assert rig.replicas[0].timeouts == pytest.approx([7.0, 2.0], abs=0.1)


BAD: dict[str, tuple[gateway_pb2.EmbedRequest, str]] = {
    "no workload": (
        gateway_pb2.EmbedRequest(texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a")])),
        "workload",
    ),
    "unknown workload": (
        gateway_pb2.EmbedRequest(workload="none", texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a")])),
        "workload",
    ),
    "no items": (gateway_pb2.EmbedRequest(workload="texts"), "items"),
    "empty": (gateway_pb2.EmbedRequest(workload="texts", texts=item_pb2.TextItems()), "items"),
    "too many": (
        gateway_pb2.EmbedRequest(workload="texts", texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a")] * 65)),
        "texts.items",
    ),
    "empty text": (
        gateway_pb2.EmbedRequest(
            workload="texts", texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a"), item_pb2.TextItem()])
        ),
        "texts.items[1].text",
    ),
    "too long": (
        gateway_pb2.EmbedRequest(workload="texts", texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a" * 21)])),
        "texts.items[0].text",
    ),
    "same key": (
        gateway_pb2.EmbedRequest(
            workload="texts", texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a", key="k")] * 2)
        ),
        "texts.items[1].key",
    ),
    "wrong kind": (
        gateway_pb2.EmbedRequest(workload="texts", images=item_pb2.ImageItems(items=[item_pb2.ImageItem(data=b"a")])),
        "images",
    ),
    "bad url": (
        gateway_pb2.EmbedRequest(workload="images", images=item_pb2.ImageItems(items=[item_pb2.ImageItem(url="ftp:")])),
        "images.items[0].url",
    ),
    "large": (
        gateway_pb2.EmbedRequest(
            workload="images", images=item_pb2.ImageItems(items=[item_pb2.ImageItem(data=bytes(17 << 20))])
        ),
        "images.items",
    ),
    "options": (
        gateway_pb2.EmbedRequest(
            workload="texts",
            options=item_pb2.EmbeddingOptions(dimensions=1),
            texts=item_pb2.TextItems(items=[item_pb2.TextItem(text="a")]),
        ),
        "options.dimensions",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_call_names_its_field(name: str) -> None:
    request, path = BAD[name]
    rig = Rig()
    with pytest.raises(errors.InvalidArgument) as caught:
        await rig.embed(callers.Caller("app"), request)
    assert [v.field for v in caught.value.violations] == [path]
    assert not rig.replicas[0].asked
    assert rig.meter.in_flight == 0


async def test_each_app_has_its_own_limit() -> None:
    scheduler = Scheduler(gate=asyncio.Event())
    rig = Rig(scheduler, calls=1)
    async with asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(rig("a"))
        await scheduler.entered.wait()
        with pytest.raises(errors.ResourceExhausted) as caught:
            await rig("b")
        assert caught.value.reason == "APP_EMBED_LIMIT"
        assert caught.value.retry_after_s > 0
        other = asyncio.create_task(rig("c", app="other"))
        assert scheduler.gate is not None
        scheduler.gate.set()
        await asyncio.gather(first, other)
    scheduler.gate = None
    await rig("d")
    assert ("texts", "APP_EMBED_LIMIT") in rig.meter.ended


async def test_all_apps_together_have_so_many_bytes() -> None:
    scheduler = Scheduler(gate=asyncio.Event())
    rig = Rig(scheduler, most_bytes=60)
    async with asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(rig("a" * 20))
        await scheduler.entered.wait()
        second = asyncio.create_task(rig("b" * 20, app="second"))
        await asyncio.sleep(0)
        with pytest.raises(errors.ResourceExhausted) as caught:
            await rig("c" * 20, app="third")
        assert caught.value.reason == "GATEWAY_BUSY"
        assert caught.value.retry_after_s > 0
        # There is some left for a small one.
        small = asyncio.create_task(rig("d", app="third"))
        assert scheduler.gate is not None
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.create_task(rig("c" * 20, app="third"))
        await asyncio.sleep(0)
        scheduler.gate.set()
        await asyncio.gather(first, small, third)
    assert ("texts", "GATEWAY_BUSY") in rig.meter.ended


async def test_a_call_alone_is_taken_whatever_its_size() -> None:
    rig = Rig(most_bytes=1)
    await rig("a" * 20)
    await rig("a" * 20)


async def test_a_cancelled_call_gives_its_place_back() -> None:
    scheduler = Scheduler(gate=asyncio.Event())
    rig = Rig(scheduler, calls=1)
    call = asyncio.create_task(rig("a"))
    async with asyncio.timeout(DEADLINE_S):
        await scheduler.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    scheduler.gate = None
    await rig("b")
    assert rig.meter.ended == [("texts", "CANCELLED"), ("texts", "OK")]


async def test_the_other_replicas_are_asked_and_the_one_that_had_it_is_remembered() -> None:
    cold, warm = Scheduler(refusal=_no_worker(20)), Scheduler()
    rig = Rig(cold, warm)
    for _ in range(5):
        await rig("a")
    assert len(cold.asked) == 1
    assert len(warm.asked) == 5


async def test_a_replica_that_lost_its_worker_is_forgotten() -> None:
    first, second = Scheduler(), Scheduler(refusal=_no_worker(20))
    rig = Rig(first, second)
    await rig("a")
    first.refusal, second.refusal = _no_worker(20), None
    await rig("a")
    await rig("a")
    assert (len(first.asked), len(second.asked)) == (2, 2)


async def test_when_no_replica_has_a_worker_the_shortest_cold_start_counts() -> None:
    away = errors.Unavailable("away", reason="SCHEDULER_UNAVAILABLE", retry_after_s=1)
    rig = Rig(Scheduler(refusal=_no_worker(20)), Scheduler(refusal=away), Scheduler(refusal=_no_worker(8)))
    with pytest.raises(errors.Unavailable) as caught:
        await rig("a")
    assert (caught.value.reason, caught.value.retry_after_s) == ("NO_WARM_WORKER", 8)


@pytest.mark.parametrize(
    "refusal",
    [
        errors.Unavailable("crashed twice", reason="WORKER_LOST"),
        errors.ResourceExhausted("all are busy", reason="WORKERS_BUSY"),
        errors.DeadlineExceeded("late"),
    ],
    ids=["lost", "busy", "late"],
)
async def test_a_call_that_has_been_to_workers_is_not_tried_at_another_replica(refusal: errors.PodiumError) -> None:
    other = Scheduler()
    rig = Rig(Scheduler(refusal=refusal), other)
    with pytest.raises(type(refusal)):
        await rig("a")
    assert not other.asked


async def test_the_cache_is_off_unless_it_has_room() -> None:
    rig = Rig()
    await rig("a")
    await rig("a")
    assert len(rig.replicas[0].asked) == 2


async def test_what_is_cached_is_not_asked_for_again() -> None:
    rig = Rig(cache_bytes=1 << 20)
    scheduler = rig.replicas[0]
    await rig("a", "!bad", "~cut")
    answer = await rig("bb", "~cut", "a", "!bad")
    # Item failures are not kept.
    assert [t.text for t in item_pb2.TextItems.FromString(scheduler.asked[1].payload).items] == ["bb", "!bad"]
    assert _rows(answer) == [[2, 1], [4, 1], [1, 1]]
    assert [(e.item_index, e.reason) for e in answer.chunk.errors] == [(3, result_pb2.ITEM_ERROR_REASON_EMPTY_INPUT)]
    assert [(t.item_index, t.token_count, t.max_tokens) for t in answer.chunk.truncations] == [(1, 9, 5)]
    assert (answer.chunk.item_count, answer.chunk.count, answer.chunk.dimension) == (4, 3, 2)
    assert answer.token_count == 2 + 4 + 1 + 4
    assert rig.meter.hits == 2


async def test_a_call_all_of_which_is_cached_asks_nobody() -> None:
    rig = Rig(cache_bytes=1 << 20)
    await rig("a", "b")
    answer = await rig("b", "a")
    assert len(rig.replicas[0].asked) == 1
    assert _rows(answer) == [[1, 1], [1, 1]]
    assert not answer.HasField("compute_time")


async def test_an_app_never_sees_what_another_has_cached() -> None:
    rig = Rig(cache_bytes=1 << 20)
    await rig("a")
    await rig("a", app="other")
    assert len(rig.replicas[0].asked) == 2


async def test_another_revision_is_another_vector() -> None:
    rig = Rig(cache_bytes=1 << 20)
    scheduler = rig.replicas[0]
    await rig("a")
    scheduler.list_revision("2")
    await rig.registry.refresh()
    await rig("a")
    assert len(scheduler.asked) == 2


async def test_only_what_the_revision_of_the_registry_has_made_is_kept() -> None:
    """A rolling restart: the registry is the new replica's, and the old one answers."""
    rig = Rig(cache_bytes=1 << 20)
    scheduler = rig.replicas[0]
    scheduler.list_revision("2")
    answers = [await rig("a") for _ in range(2)]
    assert [answer.chunk.provenance.revision for answer in answers] == ["1", "1"]
    scheduler.revision = "2"
    answers = [await rig("a") for _ in range(2)]
    assert [answer.chunk.provenance.revision for answer in answers] == ["2", "2"]
    assert scheduler.texts() == [["a"], ["a"], ["a"]]


async def test_what_was_asked_for_before_the_registry_changed_is_not_kept_as_the_old() -> None:
    scheduler, gate = Scheduler(), asyncio.Event()
    rig = Rig(scheduler, cache_bytes=1 << 20)
    scheduler.gate, scheduler.revision = gate, "2"
    async with asyncio.timeout(DEADLINE_S):
        asked = asyncio.create_task(rig("a"))
        await scheduler.entered.wait()
        scheduler.list_revision("2")
        await rig.registry.refresh()
        gate.set()
        assert (await asked).chunk.provenance.revision == "2"
    scheduler.list_revision("1")
    await rig.registry.refresh()
    scheduler.revision = "1"
    assert (await rig("a")).chunk.provenance.revision == "1"


async def test_rows_of_two_revisions_are_never_in_one_answer() -> None:
    rig = Rig(cache_bytes=1 << 20)
    scheduler = rig.replicas[0]
    await rig("a")
    scheduler.revision = "0"
    answer = await rig("a", "bb", key="mine")
    assert _rows(answer) == [[1, 1], [2, 1]]
    assert (answer.chunk.provenance.revision, list(answer.chunk.keys)) == ("0", ["mine-0", "mine-1"])
    scheduler.revision = "1"
    answer = await rig("a", "bb")
    assert (answer.chunk.provenance.revision, _rows(answer)) == ("1", [[1, 1], [2, 1]])
    assert scheduler.texts() == [["a"], ["bb"], ["a", "bb"], ["bb"]]


async def test_rows_that_were_found_are_of_one_make_too() -> None:
    """Where the precision is "auto", workers of one revision differ."""
    rig = Rig(cache_bytes=1 << 20)
    scheduler = rig.replicas[0]
    await rig("a")
    scheduler.precision = "bfloat16"
    await rig("bb")
    for asked in (3, 3):
        answer = await rig("a", "bb")
        assert (answer.chunk.provenance.precision, _rows(answer)) == ("bfloat16", [[1, 1], [2, 1]])
        assert len(scheduler.asked) == asked


async def test_token_ids_are_cached_apart_from_texts() -> None:
    accepting = workload_pb2.Workload()
    accepting.CopyFrom(TEXTS)
    accepting.accepts_token_ids = True
    rig = Rig(Scheduler(listed=(accepting, IMAGES)), cache_bytes=1 << 20)
    ids = item_pb2.TextItem(token_ids=item_pb2.TokenIds(ids=[1, 2]))
    text = item_pb2.TextItem(text=ids.token_ids.SerializeToString().decode())
    for items, rows in (([ids], [[2, 1]]), ([text], [[4, 1]]), ([text, ids], [[4, 1], [2, 1]])):
        request = gateway_pb2.EmbedRequest(workload="texts", texts=item_pb2.TextItems(items=items))
        assert _rows(await rig.embed(callers.Caller("app"), request)) == rows
    assert [asked.item_count for asked in rig.replicas[0].asked] == [1, 1]
    assert rig.meter.hits == 2


async def test_an_image_that_is_somewhere_else_is_not_cached() -> None:
    rig = Rig(cache_bytes=1 << 20)
    items = [item_pb2.ImageItem(url="http://a/b.png"), item_pb2.ImageItem(data=b"file")]
    request = gateway_pb2.EmbedRequest(workload="images", images=item_pb2.ImageItems(items=items))
    await rig.embed(callers.Caller("app"), request)
    await rig.embed(callers.Caller("app"), request)
    assert rig.replicas[0].asked[1].item_count == 1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=60), st.integers(0, 8000))
def test_the_cache_keeps_its_bound_and_the_recent(puts: list[tuple[int, int]], max_bytes: int) -> None:
    cache = vector_cache.VectorCache(max_bytes)
    for number, size in puts:
        entry = vector_cache.Entry(bytes(size), b"", 0)
        cache.keep(bytes([number]), entry)
        assert cache.nbytes <= max_bytes
        assert (cache.find(bytes([number])) is entry) == (entry.nbytes <= max_bytes)
    held = [cache.find(bytes([n])) for n in range(21)]
    assert cache.nbytes == sum(entry.nbytes for entry in held if entry is not None)

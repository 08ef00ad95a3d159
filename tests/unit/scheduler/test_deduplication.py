"""Who computes what, who waits for whom, and within what items are the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from podium.common.v1 import item_pb2, workload_pb2
from podium_scheduler.app import scopes
from podium_scheduler.domain import deduplication
from podium_scheduler.domain.deduplication import LEFT_OUT, UNIQUE, Claim, Wait


def hashes(text: str) -> list[bytes]:
    """One for each letter; a dot is not to be taken for another."""
    return [UNIQUE if letter == "." else letter.encode() * 16 for letter in text]


def waits(batches: dict[int, str], others: dict[str, Claim] | None = None) -> list[Wait]:
    cut = [(batch_id, hashes(text)) for batch_id, text in batches.items()]
    claims = {hashes(letter)[0]: claim for letter, claim in (others or {}).items()}
    return deduplication.waits(cut, deduplication.first_owners(cut), claims)


def test_a_batch_waits_for_the_first_that_has_its_item() -> None:
    assert waits({1: "abca", 2: "bcd", 3: "aabb", 4: "dab"}) == [
        Wait(2, (1,), parked=False), Wait(3, (1,), parked=True), Wait(4, (1, 2), parked=True),
    ]  # fmt: skip


def test_what_is_known_is_not_waited_for() -> None:
    known, busy, late = Claim(90, known=True), Claim(91, False, awaitable=True), Claim(92, False, awaitable=False)
    assert waits({1: "aa"}, {"a": known}) == [Wait(1, (), parked=True)]
    assert waits({1: "ab"}, {"a": known, "b": busy}) == [Wait(1, (91,), parked=True)]
    assert waits({1: "abc"}, {"a": known, "b": busy}) == [Wait(1, (91,), parked=False)]
    # One whose turn comes later is not waited for, nor one that nobody makes good.
    assert waits({1: "ab"}, {"a": known, "b": late}) == []


def test_a_batch_with_an_item_that_nobody_remembers_waits_for_nobody() -> None:
    assert waits({1: "ab", 2: "a."}) == []


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_for_one_that_computes_nothing(seed: int) -> None:
    dice = random.Random(seed)
    batches = {n: "".join(dice.choices("abcdefghijkl", k=dice.randint(1, 8))) for n in range(1, 12)}
    found = {wait.batch_id: wait for wait in waits(batches)}
    computing = set(batches) - {wait.batch_id for wait in found.values() if wait.parked}
    for wait in found.values():
        assert wait.owners and set(wait.owners) <= computing and max(wait.owners) < wait.batch_id
    # Each item is computed by one batch, and by one only.
    owners = deduplication.first_owners([(n, hashes(text)) for n, text in batches.items()])
    assert set(owners.values()) == computing


def sources(text: str, known: str = "", awaited: str = "") -> list[int]:
    rows = {item_hash: row for row, item_hash in enumerate(hashes(known))}
    return deduplication.sources(hashes(text), rows, frozenset(hashes(awaited)))


def test_sources_name_a_row_a_twin_or_nothing() -> None:
    assert sources("abacbd", known="db", awaited="c") == [0, -2, 0, LEFT_OUT, -2, -1]
    assert sources("..a.") == [0, 1, 2, 3]
    assert sources("aba", known="ab") == [-1, -2, -1]


def test_an_attempt_that_would_compute_nothing_leaves_nothing_out() -> None:
    assert sources("aab", awaited="ab") == [0, 0, 2]
    assert sources("kab", known="k", awaited="ab") == [-1, 1, 2]


def test_sources_travel_as_little_endian_int32() -> None:
    assert deduplication.packed([1, -1, LEFT_OUT]) == b"\x01\0\0\0\xff\xff\xff\xff\0\0\0\x80"


def test_half_of_a_batch_has_its_own_hashes() -> None:
    whole = b"".join(hashes("abcde"))
    assert deduplication.split(whole, 2, 2) == hashes("cd")


def workload(**model: str) -> workload_pb2.Workload:
    spec = workload_pb2.ModelSpec(backend="hash", model_name="toy", revision="1", pooling=workload_pb2.POOLING_MEAN)
    for field, value in model.items():
        setattr(spec, field, value)
    prefixes = workload_pb2.TextPrefixes(query="q: ", passage="p: ", default_input_type=workload_pb2.INPUT_TYPE_PASSAGE)
    return workload_pb2.Workload(name="toy", dimension=8, model=spec, prefixes=prefixes)


def scope(
    app: str = "app",
    of: workload_pb2.Workload | None = None,
    modality: int = workload_pb2.MODALITY_TEXT,
    options: item_pb2.EmbeddingOptions | None = None,
) -> bytes:
    return scopes.scope(app, of or workload(), modality, options or item_pb2.EmbeddingOptions())


def test_whatever_changes_a_vector_is_another_scope() -> None:
    other_prefix = workload()
    other_prefix.prefixes.query = "query: "
    renamed = workload()
    renamed.name = "other"
    different: Sequence[bytes] = [
        scope(),
        scope(app="another"),
        scope(of=workload(revision="2")),
        scope(of=workload(precision="bfloat16")),
        scope(of=renamed),
        scope(of=other_prefix),
        scope(modality=workload_pb2.MODALITY_IMAGE),
        scope(options=item_pb2.EmbeddingOptions(dimensions=4)),
        scope(options=item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_INT8)),
        scope(options=item_pb2.EmbeddingOptions(input_type=workload_pb2.INPUT_TYPE_QUERY)),
    ]
    assert len(set(different)) == len(different)
    assert {len(one) for one in different} == {32}


def test_what_changes_no_vector_is_the_same_scope() -> None:
    tuned = workload()
    tuned.model.token_budget = 512
    tuned.model.canaries.add(text="known", elements=[1.0])
    tuned.batch.max_items = 7
    said = item_pb2.EmbeddingOptions(
        dimensions=8, dtype=workload_pb2.DTYPE_FLOAT32, input_type=workload_pb2.INPUT_TYPE_PASSAGE
    )
    assert scope() == scope(of=tuned) == scope(options=said)

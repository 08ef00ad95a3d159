"""Cutting inputs into jobs and naming the jobs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import item_pb2
from podium_client import InvalidInput
from podium_client.items import TEXTS
from podium_client.parts import JobSpec, Part, cut, request_id, rerun_request_id

SPEC = JobSpec("minilm", item_pb2.EmbeddingOptions())


def texts_of(part: Part) -> list[str]:
    assert isinstance(part.items, item_pb2.TextItems)
    return [item.text for item in part.items.items]


@given(st.lists(st.text(max_size=20), max_size=60), st.integers(1, 10), st.integers(1, 40))
def test_parts_are_the_input_in_order_within_bounds(texts: list[str], items: int, size: int) -> None:
    parts = list(cut(texts, kind=TEXTS, max_items=items, max_bytes=size))
    assert [text for part in parts for text in texts_of(part)] == texts
    assert [part.ordinal for part in parts] == list(range(len(parts)))
    expected = 0
    for part in parts:
        assert part.first_item == expected
        expected += part.item_count
        assert 1 <= part.item_count <= items
        assert part.item_count == 1 or sum(len(text.encode()) for text in texts_of(part)) <= size


def test_it_reads_one_text_ahead_and_no_more() -> None:
    read = []

    def texts() -> Iterator[str]:
        for n in range(100):
            read.append(n)
            yield str(n)

    parts = cut(texts(), kind=TEXTS, max_items=10)
    next(parts)
    assert read == list(range(11))


def test_keys_go_with_their_texts_and_must_be_as_many() -> None:
    (part,) = cut(["a", "b"], ["x", "y"], kind=TEXTS)
    assert part.keys == ("x", "y")
    assert [item.key for item in part.items.items] == ["x", "y"]
    for keys in (["x"], ["x", "y", "z"]):
        with pytest.raises(ValueError, match="one for each item"):
            list(cut(["a", "b"], keys, kind=TEXTS))


@pytest.mark.parametrize("bad", [None, 3, b"bytes", "lone \ud800 surrogate"])
def test_a_text_that_is_none_is_named(bad: object) -> None:
    with pytest.raises(InvalidInput, match=r"texts\.items\[2\]\.text: ") as caught:
        list(cut(["a", "b", cast(str, bad)], kind=TEXTS))
    assert caught.value.violations[0].index == 2


@pytest.mark.parametrize("items", [0, 50_001])
def test_bounds_are_checked(items: int) -> None:
    with pytest.raises(ValueError, match="items per job"):
        list(cut(["a"], kind=TEXTS, max_items=items))


def part_of(*texts: str) -> Part:
    return next(cut(texts, kind=TEXTS))


def test_request_ids_are_the_same_for_the_same_input_only() -> None:
    first = request_id(SPEC, part_of("a", "b"))
    assert first == request_id(SPEC, part_of("a", "b"))
    others = {
        request_id(SPEC, part_of("a", "c")),
        request_id(SPEC, part_of("ab")),
        request_id(SPEC, replace(part_of("a", "b"), ordinal=1)),
        request_id(replace(SPEC, workload="e5"), part_of("a", "b")),
        request_id(replace(SPEC, run="second"), part_of("a", "b")),
        request_id(replace(SPEC, priority=1), part_of("a", "b")),
        request_id(replace(SPEC, deduplicate=True), part_of("a", "b")),
        request_id(replace(SPEC, labels={"a": "b"}), part_of("a", "b")),
        request_id(replace(SPEC, budget_usd=2.0), part_of("a", "b")),
        request_id(replace(SPEC, options=item_pb2.EmbeddingOptions(dimensions=64)), part_of("a", "b")),
        rerun_request_id(first, "job", 1),
        rerun_request_id(first, "job", 2),
    }
    assert len(others) == 12
    assert first not in others


def test_request_ids_never_change_between_versions() -> None:
    """A new version that names jobs otherwise would compute every interrupted run again."""
    assert request_id(SPEC, part_of("a", "b")) == uuid.UUID("d69a0912-da7e-5cfd-8c4f-2268ac38436e")

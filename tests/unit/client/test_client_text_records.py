"""Texts in one go are the texts one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import item_pb2
from podium_client import InvalidInput
from podium_client.items import TEXTS
from podium_client.parts import Part, cut, whole
from podium_client.text_records import text_items


class Tagged(str):
    """Goes item by item."""

    __slots__ = ()


@given(st.lists(st.text(max_size=300), min_size=1, max_size=30))
def test_the_bytes_are_those_of_the_generated_class(texts: list[str]) -> None:
    made = text_items(texts)
    expected = item_pb2.TextItems(items=[item_pb2.TextItem(text=text) for text in texts])
    assert made == expected
    assert made.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert whole(texts, None, TEXTS) == expected


@given(st.lists(st.text(max_size=20), max_size=60), st.integers(1, 10), st.integers(1, 40))
def test_texts_are_cut_alike_whatever_holds_them(texts: list[str], items: int, size: int) -> None:
    def parts(inputs: Iterable[str]) -> list[Part]:
        return list(cut(inputs, kind=TEXTS, max_items=items, max_bytes=size))

    one_by_one = parts(map(Tagged, texts))
    assert parts(texts) == parts(tuple(texts)) == parts(iter(texts)) == one_by_one
    assert [part.first_item for part in one_by_one] == list(accumulate([0, *(p.item_count for p in one_by_one)]))[:-1]


@given(st.lists(st.text(max_size=9) | st.lists(st.integers(0, 9), min_size=1, max_size=5), max_size=40))
def test_token_ids_among_texts_are_cut_alike(mixed: list[str | list[int]]) -> None:
    def parts(inputs: Iterable[str | list[int]]) -> list[Part]:
        return list(cut(inputs, kind=TEXTS, max_items=7, max_bytes=30))

    one_by_one = parts(Tagged(item) if isinstance(item, str) else item for item in mixed)
    assert parts(mixed) == parts(iter(mixed)) == one_by_one


@pytest.mark.parametrize("bad", [None, "\ud800"])
@given(before=st.integers(0, 20))
def test_of_an_iterator_the_first_that_is_no_text_is_named_and_nothing_behind_it_is_read(
    bad: str | None, before: int
) -> None:
    texts: Iterator[Any] = iter([*map(str, range(before)), bad, "behind"])
    parts = []
    with pytest.raises(InvalidInput) as caught:
        for part in cut(texts, kind=TEXTS, max_items=5):
            parts.append(part)
    assert caught.value.violations[0].index == before
    assert sum(part.item_count for part in parts) == max(0, before - 1) // 5 * 5
    assert next(texts) == "behind"


def test_what_comes_before_an_input_breaks_is_cut() -> None:
    def texts() -> Iterator[str]:
        yield from map(str, range(12))
        raise OSError("the disk is gone")

    parts = []
    with pytest.raises(OSError, match="gone"):
        for part in cut(texts(), kind=TEXTS, max_items=5):
            parts.append(part)
    assert [part.item_count for part in parts] == [5, 5]


@pytest.mark.parametrize("texts", [[], ["a", 1], ["a", None], ["\ud800"]])
def test_what_is_no_list_of_texts_is_left_to_others(texts: list[object]) -> None:
    assert text_items(texts) is None


def test_a_subclass_of_str_is_left_to_others() -> None:
    assert text_items([Tagged("a")]) is None
    (part,) = cut([Tagged("a")], kind=TEXTS)
    assert part.items == item_pb2.TextItems(items=[item_pb2.TextItem(text="a")])


def test_bytes_are_counted_in_utf8() -> None:
    assert text_items(["é" * 5], 10) is not None
    assert text_items(["é" * 5], 9) is None

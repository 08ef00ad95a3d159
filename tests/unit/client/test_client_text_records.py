"""Texts in one go are the texts one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import item_pb2
from podium_client.items import TEXTS
from podium_client.parts import Part, cut, whole
from podium_client.text_records import text_items


@given(st.lists(st.text(max_size=300), min_size=1, max_size=30))
def test_the_bytes_are_those_of_the_generated_class(texts: list[str]) -> None:
    made = text_items(texts)
    expected = item_pb2.TextItems(items=[item_pb2.TextItem(text=text) for text in texts])
    assert made == expected
    assert made.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert whole(texts, None, TEXTS) == expected


@given(st.lists(st.text(max_size=20), max_size=60), st.integers(1, 10), st.integers(1, 40))
def test_a_list_is_cut_as_an_iterator_is(texts: list[str], items: int, size: int) -> None:
    def parts(inputs: object) -> list[Part]:
        return list(cut(inputs, kind=TEXTS, max_items=items, max_bytes=size))  # type: ignore[arg-type]

    assert parts(texts) == parts(tuple(texts)) == parts(iter(texts))


@pytest.mark.parametrize("texts", [[], ["a", 1], ["a", None], ["\ud800"]])
def test_what_is_no_list_of_texts_is_left_to_others(texts: list[object]) -> None:
    assert text_items(texts) is None


def test_a_subclass_of_str_is_left_to_others() -> None:
    class Tagged(str):
        __slots__ = ()

    assert text_items([Tagged("a")]) is None
    (part,) = cut([Tagged("a")], kind=TEXTS)
    assert part.items == item_pb2.TextItems(items=[item_pb2.TextItem(text="a")])


def test_bytes_are_counted_in_utf8() -> None:
    assert text_items(["é" * 5], 10) is not None
    assert text_items(["é" * 5], 9) is None

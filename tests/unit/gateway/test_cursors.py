"""Cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_gateway.domain import cursors

JOB = "4b7f6f0e-26cf-4c0c-8f3e-111111111111"
items = st.integers(0, 50_000)


@given(items, items)
def test_a_cursor_comes_back_as_it_was(one: int, other: int) -> None:
    place = cursors.Place(min(one, other), max(one, other))
    codec = cursors.CursorCodec(JOB)
    assert codec.decode(codec.encode(place).decode(), 50_000) == place


@given(st.integers(0, 27), st.sampled_from("ABCDwxyz0189-_"))
def test_a_changed_character_is_noticed(at: int, character: str) -> None:
    codec = cursors.CursorCodec(JOB)
    text = codec.encode(cursors.Place(256, 300)).decode()
    changed = text[:at] + character + text[at + 1 :]
    if changed != text:
        with pytest.raises(cursors.BadCursor):
            codec.decode(changed, 50_000)


@given(st.text(max_size=40))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    with pytest.raises(cursors.BadCursor):
        cursors.CursorCodec(JOB).decode(text, 50_000)


def test_another_jobs_cursor_is_refused() -> None:
    text = cursors.CursorCodec("another").encode(cursors.Place(0, 0)).decode()
    with pytest.raises(cursors.BadCursor, match="another job"):
        cursors.CursorCodec(JOB).decode(text, 10)


@pytest.mark.parametrize("place", [cursors.Place(0, 11), cursors.Place(11, 11), cursors.Place(5, 4)])
def test_a_place_outside_of_the_job_is_refused(place: cursors.Place) -> None:
    codec = cursors.CursorCodec(JOB)
    with pytest.raises(cursors.BadCursor, match="outside"):
        codec.decode(codec.encode(place).decode(), 10)

"""What a consumer holds: bounded in number and bytes, settled by batches, told from other streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import result_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import frames
from podium_gateway.domain import deliveries


def window(size: int = 10, max_bytes: int = 1_000) -> deliveries.Window:
    return deliveries.Window(size, max_bytes)


def test_a_batch_is_settled_by_the_last_of_its_acknowledgements_in_any_order() -> None:
    out = window()
    for chunk in range(3):
        out.sent(7, chunk, 10, last=chunk == 2)
    assert [out.acknowledge(7, chunk) for chunk in (2, 0)] == [True, True]
    assert (out.settled, out.deliveries) == (set(), {7})
    assert out.acknowledge(7, 1)
    assert (out.settled, out.deliveries) == ({7}, set())


def test_what_is_acknowledged_before_the_last_chunk_is_out_does_not_settle_the_batch() -> None:
    out = window()
    out.sent(7, 0, 10, last=False)
    assert out.acknowledge(7, 0)
    assert out.settled == set()
    out.sent(7, 1, 10, last=True)
    assert out.acknowledge(7, 1)
    assert out.settled == {7}


def test_an_acknowledgement_counts_once_and_a_stranger_s_never() -> None:
    out = window()
    out.sent(7, 0, 10, last=True)
    assert [out.acknowledge(*named) for named in ((8, 0), (7, 1), (7, 0), (7, 0))] == [False, False, True, False]


def test_the_window_is_full_by_number_or_by_bytes() -> None:
    out = window(size=2, max_bytes=100)
    full = []
    for delivery, size in ((1, 10), (2, 10)):
        out.sent(delivery, 0, size, last=True)
        full.append(out.full)
    out.acknowledge(1, 0)
    full.append(out.full)
    out.acknowledge(2, 0)
    out.sent(3, 0, 99, last=True)
    full.append(out.full)
    out.acknowledge(3, 0)
    out.sent(4, 0, 100, last=True)
    full.append(out.full)
    assert full == [False, True, False, False, True]


def test_a_forgotten_delivery_makes_room_and_is_never_settled() -> None:
    out = window(size=1)
    out.sent(1, 0, 10, last=False)
    out.forget(1)
    out.forget(2)
    assert not out.full
    assert not out.acknowledge(1, 0)
    assert (out.settled, out.deliveries) == (set(), set())


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=20, unique_by=lambda one: one[0]), st.randoms()
)
def test_everything_acknowledged_leaves_nothing(batches: list[tuple[int, int]], dice: object) -> None:
    out = window(size=1, max_bytes=1)
    sent = [(delivery, chunk, count) for delivery, count in batches for chunk in range(count)]
    for delivery, chunk, count in sent:
        out.sent(delivery, chunk, 3, last=chunk == count - 1)
    assert out.full == bool(sent)
    getattr(dice, "shuffle")(sent)  # noqa: B009
    assert all(out.acknowledge(delivery, chunk) for delivery, chunk, _ in sent)
    assert not out.full
    assert out.settled == {delivery for delivery, _ in batches}


def test_ids_name_a_chunk_of_one_stream() -> None:
    mine, other = deliveries.DeliveryIds("0123abcd"), deliveries.DeliveryIds("ffffffff")
    assert mine.decode(mine.encode(9_223_372_036_854_775_807, 12)) == (9_223_372_036_854_775_807, 12)
    assert mine.decode(other.encode(1, 0)) is None


@pytest.mark.parametrize(
    "text", ["", "1", "1-2", "x-0-0123abcd", "1-0-0123abcd ", "1-0-0123ABCD", "9" * 20 + "-0-0123abcd"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(deliveries.BadDeliveryId):
        deliveries.DeliveryIds("0123abcd").decode(text)


@given(st.binary(max_size=300), st.integers(0, 200))
def test_a_delivered_chunk_equals_a_normal_message(vectors: bytes, count: int) -> None:
    chunk = result_pb2.ResultChunk(job_id="j", first_item=3, item_count=count, vectors=vectors, keys=["k"])
    made = frames.delivery_message(b"1-0-0123abcd", chunk.SerializeToString())
    normal = gateway_pb2.ConsumeResultsResponse(delivery_id="1-0-0123abcd", chunk=chunk)
    assert made == normal.SerializeToString()

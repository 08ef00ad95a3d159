"""Patience: what is tried again, with which pauses, and when it ends. The clock stands still but for the pauses."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

import podium_client
from podium_client.retry import Patience, RetryPolicy, call


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def policy(time: FakeTime) -> RetryPolicy:
    return RetryPolicy(
        connect_for_s=1.0, retry_for_s=10.0, first_pause_s=0.1, longest_pause_s=2.0,
        sleep=time.sleep, now=time.now, dice=lambda: 0.5,
    )  # fmt: skip


def failure(code: grpc.StatusCode, text: str = "", retry_after_s: int | None = None) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata()
    if retry_after_s is not None:
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=retry_after_s)))
        status = status_pb2.Status(code=code_pb2.UNAVAILABLE, details=[packed])
        trailers.add("grpc-status-details-bin", status.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=text)


class Attempts:
    def __init__(self, *errors: grpc.aio.AioRpcError) -> None:
        self.errors = list(errors)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_pauses_grow_to_a_limit_and_retry_info_is_their_lower_bound() -> None:
    time = FakeTime()
    away = failure(grpc.StatusCode.UNAVAILABLE, retry_after_s=0)
    late = failure(grpc.StatusCode.UNAVAILABLE, retry_after_s=3)
    patience = Patience(policy(time), contacted=True)
    assert await call(patience, Attempts(away, away, late, away, away, away)) == "done"
    assert time.pauses == pytest.approx([0.1, 0.2, 3.0, 0.8, 1.6, 2.0])


async def test_patience_before_the_first_contact_is_short() -> None:
    time = FakeTime()
    with pytest.raises(podium_client.Unavailable):
        await call(Patience(policy(time)), Attempts(*[failure(grpc.StatusCode.UNAVAILABLE)] * 99))
    assert time.now_s <= 1.0


async def test_an_error_with_details_is_a_contact() -> None:
    time = FakeTime()
    with pytest.raises(podium_client.Unavailable):
        await call(Patience(policy(time)), Attempts(*[failure(grpc.StatusCode.UNAVAILABLE, retry_after_s=1)] * 99))
    assert 5.0 < time.now_s <= 10.0


async def test_progress_renews_patience() -> None:
    time = FakeTime()
    patience = Patience(policy(time), contacted=True)
    for _ in range(5):
        await call(patience, Attempts(*[failure(grpc.StatusCode.UNAVAILABLE, retry_after_s=3)] * 3))
    assert time.now_s >= 45.0


async def test_a_stream_that_had_nothing_to_say_for_hours_is_no_hours_without_the_service() -> None:
    time = FakeTime()
    patience = Patience(policy(time))
    for _ in range(3):
        time.now_s += 3_600.0
        for _ in range(3):
            await patience.wait(failure(grpc.StatusCode.UNAVAILABLE))
    assert time.pauses == pytest.approx([0.1, 0.2, 0.4] * 3)


async def test_connections_into_nowhere_use_patience_up() -> None:
    time = FakeTime()
    patience = Patience(policy(time), contacted=True)
    with pytest.raises(podium_client.Unavailable):
        for _ in range(9):
            time.now_s += 20.0
            await patience.wait(failure(grpc.StatusCode.UNAVAILABLE))
    assert time.pauses == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"), podium_client.InvalidInput),
        (failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more"), podium_client.Overloaded),
        (failure(grpc.StatusCode.INTERNAL, "bug"), podium_client.ServiceError),
        (failure(grpc.StatusCode.INVALID_ARGUMENT, "bad"), podium_client.InvalidInput),
    ],
)
async def test_what_will_not_get_better_is_not_tried_again(
    error: grpc.aio.AioRpcError, kind: type[podium_client.PodiumError]
) -> None:
    time = FakeTime()
    with pytest.raises(kind):
        await call(Patience(policy(time)), Attempts(error))
    assert not time.pauses


@pytest.mark.parametrize("details", ["Received RST_STREAM with error code 2", "Internal error from Core"])
async def test_a_stream_cut_in_transit_is_tried_again(details: str) -> None:
    time = FakeTime()
    cut = failure(grpc.StatusCode.INTERNAL, details)
    assert await call(Patience(policy(time)), Attempts(cut)) == "done"


async def test_what_a_server_cancels_when_it_ends_is_tried_again() -> None:
    assert await call(Patience(policy(FakeTime())), Attempts(failure(grpc.StatusCode.CANCELLED))) == "done"

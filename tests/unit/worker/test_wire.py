"""Frames between the front and an executor: how the executor learns that the front has gone."""

from __future__ import annotations

import socket

import pytest

from podium_worker.adapters import wire


@pytest.mark.parametrize("unread", [b"", b"a result that nobody took"], ids=["everything read", "something unread"])
@pytest.mark.parametrize("sent", [0, 3, 9], ids=["between frames", "in a prefix", "in a header"])
def test_a_front_that_is_gone_is_an_end_and_no_error(sent: int, unread: bytes) -> None:
    front, executor = socket.socketpair()
    frame = wire.encode(wire.Kind.CANCEL, {"key": "a key that is long enough"})
    front.sendall(frame[:sent])
    executor.sendall(unread)
    front.close()
    with executor:
        assert wire.read_blocking(executor) is None

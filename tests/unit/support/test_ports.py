"""Test processes side by side never get the same port."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.support.ports import Ports

FEW = range(14_000, 14_060, 20)


def test_a_range_has_one_holder_until_it_is_given_back() -> None:
    held = [Ports(FEW) for _ in FEW]
    try:
        assert sorted(p.range.start - 1 for p in held) == list(FEW)
        with pytest.raises(OSError, match="every range"):
            Ports(FEW)
        held[1].close()
        again = Ports(FEW)
        assert again.range == held[1].range
        again.close()
    finally:
        for ports in held:
            ports.close()


def test_a_port_comes_again_only_after_all_others_and_never_while_somebody_has_it() -> None:
    ports = Ports(FEW)
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", ports.range[3]))
            taken.listen()
            given = [ports.free() for _ in range(2 * (len(ports.range) - 1))]
        free = [port for port in ports.range if port != ports.range[3]]
        assert given == [*free, *free]
    finally:
        ports.close()


def test_processes_have_ranges_of_their_own_and_leave_them_when_they_die() -> None:
    script = f"from tests.support.ports import Ports; p = Ports({FEW!r}); print(p.range.start, flush=True); input()"
    others = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in FEW
    ]
    try:
        firsts = {other.stdout.readline() for other in others if other.stdout is not None}
        assert len(firsts) == len(FEW)
        others[0].kill()
        others[0].wait()
        mine = Ports(FEW)
        mine.close()
    finally:
        for other in others:
            other.kill()
            other.communicate()

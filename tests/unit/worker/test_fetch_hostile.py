"""Servers and URLs that are out to harm: nothing private is reached, no bound is passed, each failure has its type."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator

import aiohttp.abc
import pytest

from podium_worker.adapters import fetch
from podium_worker.adapters.fetch import resolver
from podium_worker.domain import addresses, problems
from podium_worker.domain.problems import Reason
from tests.support.fake_names import FakeNames
from tests.support.fetch_rig import MIB, QUICK, Rig, rig
from tests.support.image_server import ImageServer

# The whole of 127/8 is loopback: one address of it plays the internet, another what must not be reached.
OPEN, VICTIM = "127.0.0.2", "127.0.0.1"
RULES = addresses.parse_rules([OPEN])
FRESH = fetch.FetchLimits(pause_s=0.001, dns_ttl_s=0)


@pytest.fixture
async def victim() -> AsyncIterator[ImageServer]:
    """Answers everything, and must never be asked."""
    async with ImageServer(VICTIM) as server:
        server.serve("/a", b"secret")
        yield server
        assert server.connections == 0


async def not_allowed(r: Rig, url: str) -> problems.ItemProblem:
    problem = await r.problem(url)
    assert problem.reason is Reason.URL_NOT_ALLOWED
    assert r.outcomes["retried"] == 0
    return problem


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST.", "2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "127.1"),
        *("0177.0.0.01", "127.0.1", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *("[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "①②⑦.⓪.⓪.①", "127。0。0。1"),
        *("u@127.0.0.1", "a.example@127.0.0.1", "a.example#@127.0.0.1", "a.example%00@127.0.0.1", "127.0.0.1."),
    ],
)
async def test_spellings_of_loopback(host: str, victim: ImageServer) -> None:
    names = FakeNames(localhost=["127.0.0.1", "::1"], a_example=[VICTIM])
    async with rig(names=names, rules=RULES) as r:
        await not_allowed(r, victim.url("/a", host))


@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.1", "192.168.1.1", "[fd00:ec2::254]", "[fe80::1]"])
async def test_no_socket_is_even_made_for_a_private_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(rules=RULES) as r:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", lambda *args: pytest.fail("a socket"))
            problem = await not_allowed(r, f"http://{address}/latest/meta-data")
        assert "leads to an address that is not allowed" in problem.message


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "data", "dict", "ldap", "jar", "unix"])
async def test_other_schemes(scheme: str) -> None:
    async with rig(rules=RULES) as r:
        await not_allowed(r, f"{scheme}:///etc/passwd")
        problem = await not_allowed(r, r.server.redirect("/a", f"{scheme}:///etc/passwd"))
        assert "passwd" not in problem.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_private_address(status: int, victim: ImageServer) -> None:
    names = FakeNames(inside_example=[VICTIM])
    async with rig(names=names, rules=RULES, host=OPEN) as r:
        for to in (victim.url("/a"), victim.url("/a", "inside.example"), victim.url("/a").removeprefix("http:")):
            problem = await not_allowed(r, r.server.redirect("/b", to, status))
            assert problem.message.startswith(f"{r.server.url('/b')} redirects to a URL that ")
            assert VICTIM not in problem.message and "inside" not in problem.message
        # Two hops away.
        r.server.redirect("/c", "/b")
        await not_allowed(r, r.server.url("/c"))


async def test_a_name_of_a_private_address(victim: ImageServer) -> None:
    names = FakeNames(inside_example=[VICTIM], mapped_example=[f"::ffff:{VICTIM}"], link_example=["fe80::1%lo"])
    async with rig(names=names, rules=RULES) as r:
        for name in ("inside.example", "mapped.example", "link.example"):
            problem = await not_allowed(r, victim.url("/a", name))
            assert VICTIM not in problem.message


async def test_of_good_and_bad_addresses_only_the_good_are_used() -> None:
    names = FakeNames(mixed_example=[VICTIM, "::1", OPEN, "10.0.0.1"])
    async with (
        rig(names=names, rules=RULES, host=OPEN, limits=FRESH) as r,
        ImageServer(VICTIM, r.server.port) as victim,
    ):
        r.server.serve("/a", b"good", headers={"Connection": "close"})
        for _ in range(5):
            assert await r.fetch(r.server.url("/a", "mixed.example")) == b"good"
        assert victim.connections == 0


async def test_a_name_that_changes_its_mind() -> None:
    """DNS rebinding, with one answer for each look-up: a second look at the name would find the victim."""
    names = FakeNames()
    async with (
        rig(names=names, rules=RULES, host=OPEN, limits=FRESH) as r,
        ImageServer(VICTIM, r.server.port) as victim,
    ):
        victim.serve("/a", b"secret")
        r.server.serve("/a", b"good", headers={"Connection": "close"})
        url = r.server.url("/a", "rebinds.example")
        for _ in range(3):
            names.set("rebinds.example", [OPEN], [VICTIM])
            # The address that was judged is the one that is connected to.
            assert await r.fetch(url) == b"good"
            await not_allowed(r, url)
        assert victim.connections == 0


async def test_a_name_that_changes_its_mind_between_redirects_and_attempts() -> None:
    names = FakeNames()
    async with (
        rig(names=names, rules=RULES, host=OPEN, limits=FRESH) as r,
        ImageServer(VICTIM, r.server.port) as victim,
    ):
        victim.serve("/a", b"secret")
        close = {"Connection": "close"}
        names.set("rebinds.example", [OPEN], [VICTIM])
        r.server.serve("/hop", b"", status=302, headers={"Location": "/a", **close})
        await not_allowed(r, r.server.url("/hop", "rebinds.example"))
        names.set("rebinds.example", [OPEN], [VICTIM])
        r.server.serve("/busy", b"", status=503, headers=close)
        problem = await r.problem(r.server.url("/busy", "rebinds.example"))
        assert problem.reason is Reason.URL_NOT_ALLOWED
        assert (r.server.requests["/hop"], r.server.requests["/busy"], victim.connections) == (1, 1, 0)


@pytest.mark.parametrize("found", [[VICTIM], [VICTIM, "::1", "127.0.0.3"]])
async def test_the_last_look_is_at_the_socket(
    found: list[str], victim: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the resolver lets through, several addresses that race included."""

    async def credulous(_: object, host: str, port: int = 0, **__: object) -> list[aiohttp.abc.ResolveResult]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [
            aiohttp.abc.ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address, family in zip(found, families, strict=True)
        ]

    monkeypatch.setattr(resolver.JudgingResolver, "resolve", credulous)
    async with rig(rules=RULES, limits=FRESH) as r:
        await not_allowed(r, victim.url("/a", "a.example"))


async def test_a_listed_host_opens_nothing_to_others(victim: ImageServer) -> None:
    names = FakeNames(images_internal=[OPEN], evil_example=[OPEN])
    async with rig(names=names, rules=addresses.parse_rules(["images.internal"]), host=OPEN) as r:
        r.server.serve("/a", b"good")
        assert await r.fetch(r.server.url("/a", "images.internal")) == b"good"
        # Nor over the connection that is open to that very address.
        for host in ("evil.example", OPEN):
            await not_allowed(r, r.server.url("/a", host))
        names.set("images.internal", ["169.254.169.254"])
    async with rig(names=names, rules=addresses.parse_rules(["images.internal"])) as r:
        await not_allowed(r, "http://images.internal/latest/meta-data")


async def test_redirects_in_a_circle_and_too_many() -> None:
    async with rig() as r:
        r.server.redirect("/a", "/b")
        problem = await r.problem(r.server.redirect("/b", "/a"))
        assert problem.reason is Reason.FETCH_FAILED
        assert problem.message.endswith("/b redirects more than 5 times.")
        assert r.server.requests.total() == 6
        for n in range(6):
            r.server.redirect(f"/{n}", f"/{n + 1}")
        r.server.serve("/6", b"x")
        await r.problem(r.server.url("/0"))
        assert await r.fetch(r.server.url("/1")) == b"x"


async def test_redirects_that_make_no_sense() -> None:
    async with rig() as r:
        for location in ("http://127.0.0.1:99999/", "http://[", "http://.:1/", "\\\\127.0.0.1\\a", "//x y/"):
            r.server.raw("/a", [f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()])
            await not_allowed(r, r.server.url("/a"))


async def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    async with rig() as r:
        problem = await r.problem(r.server.endless("/a", length=MIB + 1))
        assert (problem.reason, r.server.requests["/a"]) == (Reason.TOO_LARGE, 1)
        assert problem.message.endswith("/a has more than 1,048,576 bytes.")
        assert await r.fetch(r.server.serve("/b", b"x" * MIB)) == b"x" * MIB


async def test_endless_bodies_end_at_the_limit_and_within_the_memory() -> None:
    async with rig(fetch.FetchLimits(memory_bytes=2 * MIB)) as r:
        url = r.server.endless("/a")
        await r.problem(url)
        tracemalloc.start()
        try:
            found = await asyncio.gather(*(r.problem(url) for _ in range(32)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert {problem.reason for problem in found} == {Reason.TOO_LARGE}
        # Bodies, and what aiohttp and this test's own server buffer for eight connections; 32 bodies would be 32 MiB.
        assert peak < 12 * MIB


@pytest.mark.parametrize("length", [None, 10_000])
async def test_slow_bodies_end_with_the_items_time(length: int | None) -> None:
    async with rig(fetch.FetchLimits(read_s=5.0, total_s=0.5)) as r:
        problem = await r.problem(r.server.endless("/a", piece=b"x", gap_s=0.01, length=length))
        assert (problem.reason, r.server.requests["/a"]) == (Reason.FETCH_FAILED, 1)
        assert problem.message.endswith("/a took longer than 0.5 s.")


async def test_bodies_that_stop_end_with_the_patience_for_one_read() -> None:
    async with rig(fetch.FetchLimits(read_s=0.1, attempts=1)) as r:
        problem = await r.problem(r.server.endless("/a", piece=b"x", gap_s=60.0))
        assert problem.message.endswith("/a sent nothing for 0.1 s.")


async def test_headers_that_dribble_in() -> None:
    async with rig(fetch.FetchLimits(connect_s=0.4, read_s=0.1, attempts=1)) as r:
        lines = [b"HTTP/1.1 200 OK\r\n", *(b"X-%d: y\r\n" % n for n in range(1000))]
        problem = await r.problem(r.server.raw("/a", lines, gap_s=0.02))
        assert problem.reason is Reason.FETCH_FAILED


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"",
    ],
    ids=range(12),
)
async def test_answers_that_are_no_http(answer: bytes) -> None:
    async with rig(fetch.FetchLimits(connect_s=1.0, read_s=1.0, pause_s=0.001)) as r:
        problem = await r.problem(r.server.raw("/a", [answer]))
        assert problem.reason is Reason.FETCH_FAILED
        assert "\r" not in problem.message and "\n" not in problem.message


async def test_lengths_that_lie() -> None:
    async with rig(QUICK) as r:
        # Less than it says: cut short. More: what is beyond does not count, nor as the answer to the next request.
        problem = await r.problem(r.server.serve("/less", b"x" * 10, length=20))
        assert problem.message.endswith("/less broke off in the middle of its answer.")
        spliced = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
        more = r.server.serve("/more", b"0123456789" + spliced, length=10)
        good = r.server.serve("/good", b"good")
        for _ in range(3):
            assert await r.fetch(more) == b"0123456789"
            assert await r.fetch(good) == b"good"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"])
async def test_what_is_compressed_is_refused_unread(encoding: str) -> None:
    async with rig() as r:
        bomb = gzip.compress(b"\0" * (64 * MIB))
        problem = await r.problem(r.server.serve("/a", bomb, headers={"Content-Encoding": encoding}))
        assert problem.reason is Reason.FETCH_FAILED
        assert "compressed" in problem.message
        assert await r.fetch(r.server.serve("/b", b"x", headers={"Content-Encoding": "identity"})) == b"x"


async def test_messages_hold_nothing_of_the_servers() -> None:
    async with rig() as r:
        r.server.raw("/a", [b"HTTP/1.1 404 <script>\x1b[31m\r\nContent-Length: 0\r\n\r\n"])
        problem = await r.problem(r.server.url("/a"))
        assert problem.message == f"{r.server.url('/a')} answered 404 Not Found."


async def test_the_resolver_passes_on_only_what_may_be_connected_to() -> None:
    names = FakeNames(
        mixed_example=[VICTIM, "::1", OPEN, "10.0.0.1"], bad_example=[VICTIM, "10.0.0.1"], none_example=[]
    )
    judge = resolver.JudgingResolver(names, RULES)
    assert [found["host"] for found in await judge.resolve("mixed.example", 80)] == [OPEN]
    with pytest.raises(resolver.NoAllowedAddress):
        await judge.resolve("bad.example", 80)
    with pytest.raises(OSError):
        await judge.resolve("none.example", 80)


async def test_many_addresses_of_one_name_are_not_all_tried() -> None:
    names = FakeNames(many_example=[f"127.1.{n // 250}.{n % 250 + 1}" for n in range(2000)])
    judge = resolver.JudgingResolver(names, addresses.parse_rules(["127.0.0.0/8"]))
    assert len(await judge.resolve("many.example", 80)) == 8

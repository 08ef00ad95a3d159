"""Fetching from servers that are slow, broken or busy, but not hostile."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable

import pytest
import trustme

from podium_runtime import clock
from podium_worker.adapters import fetch
from podium_worker.adapters.fetch import resolver
from podium_worker.domain import addresses, problems
from tests.support.fake_names import FakeNames
from tests.support.fetch_rig import DEADLINE_S, MIB, QUICK, rig
from tests.support.image_server import ImageServer
from tests.support.ports import free_port


class Paused(clock.FakeClock):
    """Says how long somebody pauses."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        self.pauses.put_nowait(seconds)
        await super().sleep(seconds)

    async def next_pause_s(self) -> float:
        """Of the next one who sleeps."""
        return await asyncio.wait_for(self.pauses.get(), DEADLINE_S)


async def test_a_body_comes_as_it_is() -> None:
    async with rig() as r:
        body = bytes(range(256)) * 1000
        assert await r.fetch(r.server.serve("/a.jpg", body)) == body
        assert await r.fetch(r.server.serve("/page.jpg", b"<html>", content_type="text/html")) == b"<html>"
        assert r.outcomes == {"fetched": 2}


async def test_what_a_request_says() -> None:
    # By name: aiohttp's jar takes no cookies from addresses.
    async with rig(names=FakeNames(a_example=["127.0.0.1"])) as r:
        r.server.serve("/%C3%A4%20b", b"x", headers={"Set-Cookie": "a=b; Path=/"})
        for _ in range(2):
            await r.fetch(r.server.url("/ä b?q=%41&r=a+b", "a.example"))
        last = r.server.seen[-1]
        assert (last.method, last.path) == ("GET", "/%C3%A4%20b?q=%41&r=a+b")
        assert last.headers["accept-encoding"] == "identity"
        assert last.headers["user-agent"].startswith("podium-worker/")
        assert last.headers["host"] == f"a.example:{r.server.port}"
        assert not {"cookie", "authorization", "referer"} & set(last.headers)


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as r, ImageServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url("/"))
        assert await r.fetch(r.server.serve("/a", b"x")) == b"x"
        assert proxy.connections == 0


async def test_connections_are_kept_for_few_servers() -> None:
    names = FakeNames(**{f"h{n}_example": ["127.0.0.1"] for n in range(20)})
    async with rig(names=names) as r:
        r.server.serve("/a", b"x")
        for _ in range(3):
            for n in range(20):
                await r.fetch(r.server.url("/a", f"h{n}.example"))
        # Sixteen were kept, four were made anew each time.
        assert r.server.connections == 16 + 3 * 4


async def test_an_error_is_told_in_one_sentence_without_the_query() -> None:
    async with rig() as r:
        problem = await r.problem(r.server.url("/gone.jpg?token=secret"))
        assert problem.reason is problems.Reason.FETCH_FAILED
        assert problem.message == f"{r.server.url('/gone.jpg')} answered 404 Not Found."
        assert r.outcomes == {"fetch_failed": 1}


async def test_an_empty_body_is_no_image() -> None:
    async with rig() as r:
        for path, status in (("/a", 200), ("/b", 204)):
            problem = await r.problem(r.server.serve(path, b"", status=status))
            assert problem.reason is problems.Reason.FETCH_FAILED
            assert r.server.requests[path] == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with rig() as r:
        assert await r.fetch(r.server.flapping("/a", b"good", failures=2, status=status)) == b"good"
        assert r.server.requests["/a"] == 3
        assert r.outcomes == {"retried": 2, "fetched": 1}


async def test_attempts_are_bounded() -> None:
    async with rig() as r:
        problem = await r.problem(r.server.flapping("/a", b"good", failures=3))
        assert problem.message.endswith("answered 503 Service Unavailable.")
        assert r.server.requests["/a"] == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 501, 304, 300, 206, 599])
async def test_what_stays_is_not_tried_again(status: int) -> None:
    async with rig() as r:
        problem = await r.problem(r.server.serve("/a", b"", status=status))
        assert f"answered {status}" in problem.message
        assert r.server.requests["/a"] == 1


async def test_retry_after_is_honoured_up_to_a_bound() -> None:
    time = Paused()
    async with rig(fetch.FetchLimits(pause_s=1.0, max_pause_s=10.0), time=time) as r:
        r.server.serve("/busy", b"", status=503, headers={"Retry-After": "7"})
        r.server.serve("/free", b"good")
        fetching = asyncio.create_task(r.fetch(r.server.in_turn("/a", "/busy", "/free")))
        # And half of the second that is jitter.
        assert await time.next_pause_s() == 7.5
        assert r.fetcher.idle, "no turn is held meanwhile"
        time.advance(7.5)
        assert await fetching == b"good"
        await r.problem(r.server.serve("/long", b"", status=429, headers={"Retry-After": "11"}))
        assert r.server.requests["/long"] == 1


async def test_no_pause_beyond_the_items_own_time() -> None:
    async with rig(fetch.FetchLimits(total_s=5.0, max_pause_s=60.0)) as r:
        problem = await r.problem(r.server.serve("/a", b"", status=503, headers={"Retry-After": "30"}))
        assert problem.message.endswith("answered 503 Service Unavailable.")


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    async with rig() as r:
        problem = await r.problem(f"http://127.0.0.1:{free_port()}/a.jpg")
        assert problem.message.endswith("/a.jpg could not be connected to.")
        assert r.outcomes == {"retried": 2, "fetch_failed": 1}


async def test_a_host_that_is_not_known_is_not_tried_again() -> None:
    names = FakeNames()
    async with rig(names=names) as r:
        problem = await r.problem("https://nowhere.example/a.jpg")
        assert problem.message == "https://nowhere.example/a.jpg has a host that cannot be found."
        assert names.lookups == {"nowhere.example": 1}


async def test_a_look_up_that_hangs_is_given_up() -> None:
    class Hanging(FakeNames):
        async def __call__(self, host: str) -> list[str]:
            self.lookups[host] += 1
            await asyncio.Event().wait()
            return []

    names = Hanging()
    async with rig(fetch.FetchLimits(connect_s=0.1, pause_s=0.001, dns_ttl_s=0), names=names) as r:
        problem = await r.problem("https://slow.example/a.jpg")
        assert problem.message.endswith("could not be connected to within 0.1 s.")
        assert names.lookups == {"slow.example": 3}


async def test_a_connection_that_breaks_off_is_tried_again() -> None:
    async with rig() as r:
        r.server.raw("/cut", [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"])
        r.server.serve("/whole", b"good")
        assert await r.fetch(r.server.in_turn("/a", "/cut", "/whole")) == b"good"
        problem = await r.problem(r.server.url("/cut"))
        assert problem.message.endswith("broke off in the middle of its answer.")


async def test_a_server_that_keeps_silent_is_given_up() -> None:
    limits = fetch.FetchLimits(connect_s=0.4, read_s=0.1, pause_s=0.001, attempts=2)
    async with rig(limits) as r:
        problem = await r.problem(r.server.silent("/a"))
        assert (problem.reason, r.server.requests["/a"]) == (problems.Reason.FETCH_FAILED, 2)
        assert problem.message.endswith("sent nothing for 0.1 s.")


async def test_redirects_are_followed() -> None:
    async with rig() as r:
        r.server.serve("/end", b"good")
        for status in (301, 302, 303, 307, 308):
            assert await r.fetch(r.server.redirect("/a", "end", status)) == b"good"
        for n in range(5):
            r.server.redirect(f"/{n}", f"/{n + 1}" if n < 4 else "/end")
        assert await r.fetch(r.server.url("/0")) == b"good"


async def test_a_redirect_that_leads_to_an_error_tells_no_more_than_that() -> None:
    async with rig() as r:
        problem = await r.problem(r.server.redirect("/a", "/hidden/name"))
        assert problem.message == f"{r.server.url('/a')} redirects to a URL that answered 404 Not Found."
        problem = await r.problem(r.server.serve("/b", b"", status=302))
        assert problem.message.endswith("/b answered 302 Found without saying where to.")


async def test_so_many_at_a_time_and_no_more() -> None:
    async with rig(fetch.FetchLimits(concurrency=5, per_host=3)) as r:
        go_on = asyncio.Event()
        url = r.server.held("/a", b"x", go_on)
        fetches = [asyncio.create_task(r.fetch(url)) for _ in range(12)]
        await r.server.until(lambda: r.server.requests["/a"] == 3)
        go_on.set()
        await asyncio.gather(*fetches)
        assert r.server.most_at_once == 3


async def test_a_slow_host_holds_no_other_up() -> None:
    async with rig(fetch.FetchLimits(concurrency=3, per_host=2)) as r, ImageServer() as other:
        go_on = asyncio.Event()
        slow = r.server.held("/slow", b"x", go_on)
        fetches = [asyncio.create_task(r.fetch(slow)) for _ in range(10)]
        await r.server.until(lambda: r.server.requests["/slow"] == 2)
        for _ in range(5):
            assert await r.fetch(other.serve("/fast", b"y")) == b"y"
        go_on.set()
        assert await asyncio.gather(*fetches) == [b"x"] * 10


async def test_bodies_that_trickle_hold_no_other_host_up() -> None:
    async with rig(fetch.FetchLimits(memory_bytes=8 * MIB)) as r, ImageServer() as second, ImageServer() as other:
        # All that these two may send would be twice the memory.
        unsaid = r.server.endless("/a", piece=b"x", gap_s=0.02)
        said = second.endless("/a", piece=b"x", gap_s=0.02, length=MIB)
        fetches = [asyncio.create_task(r.fetch(url)) for url in [unsaid, said] * 8]
        await r.server.until(lambda: r.server.requests["/a"] == 8)
        await second.until(lambda: second.requests["/a"] == 8)
        whole = b"y" * MIB
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (MIB, whole)
        for url in (other.serve("/b", whole), other.raw("/c", [chunked])):
            for _ in range(3):
                assert await r.fetch(url) == whole
        assert not any(one.done() for one in fetches)
        for one in fetches:
            one.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)


async def test_all_hosts_together_get_so_many() -> None:
    names = FakeNames(**{f"h{n}_example": ["127.0.0.1"] for n in range(8)})
    async with rig(fetch.FetchLimits(concurrency=4, per_host=2), names=names) as r:
        go_on = asyncio.Event()
        r.server.held("/a", b"x", go_on)
        fetches = [asyncio.create_task(r.fetch(r.server.url("/a", f"h{n}.example"))) for n in range(8)]
        await r.server.until(lambda: r.server.requests["/a"] == 4)
        go_on.set()
        await asyncio.gather(*fetches)
        assert r.server.most_at_once == 4


async def test_waiting_for_a_turn_is_not_on_the_items_clock() -> None:
    async with rig(fetch.FetchLimits(concurrency=1, total_s=1.0)) as r:
        url = r.server.serve("/a", b"x", delay_s=0.15)
        # More than all of them have time for, one after the other.
        assert await asyncio.gather(*(r.fetch(url) for _ in range(8))) == [b"x"] * 8


async def test_waiting_for_memory_is_not_on_the_items_clock() -> None:
    async with rig(fetch.FetchLimits(memory_bytes=1000, total_s=1.0)) as r:
        url = r.server.serve("/a", b"x" * 600)
        async with r.fetcher.body(url, 1000):
            waiting = asyncio.create_task(r.fetch(url))
            await r.server.until(lambda: r.server.requests["/a"] == 2)
            await asyncio.wait([waiting], timeout=1.2)
            assert not waiting.done()
        assert len(await waiting) == 600


async def test_memory_is_lent_until_the_caller_is_done() -> None:
    async with rig(fetch.FetchLimits(memory_bytes=1000)) as r:
        url = r.server.serve("/a", b"x" * 600)
        second_began = asyncio.Event()

        async def second() -> None:
            async with r.fetcher.body(url, 1000):
                second_began.set()

        async with r.fetcher.body(url, 1000) as data:
            assert len(data) == 600
            waiting = asyncio.create_task(second())
            await r.server.until(lambda: r.server.requests["/a"] == 2)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not second_began.is_set()
        await asyncio.wait_for(waiting, DEADLINE_S)


async def test_of_an_unknown_length_what_is_not_needed_is_given_back() -> None:
    async with rig(fetch.FetchLimits(memory_bytes=1000)) as r:
        chunked = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
        url = r.server.raw("/a", chunked)
        async with r.fetcher.body(url, 1000) as data, r.fetcher.body(r.server.serve("/b", b"x" * 997), 1000) as other:
            assert (data, len(other)) == (b"abc", 997)


async def test_no_body_is_larger_than_the_memory() -> None:
    async with rig(fetch.FetchLimits(memory_bytes=1000)) as r:
        problem = await r.problem(r.server.serve("/a", b"x" * 1001), MIB)
        assert problem.reason is problems.Reason.TOO_LARGE
        assert problem.message.endswith("has more than 1,000 bytes.")


@pytest.mark.parametrize("stage", ["answer", "body", "turn", "memory", "pause", "held"])
async def test_cancellation_frees_everything(stage: str) -> None:
    """The rig asserts it at its end."""
    time = Paused()
    async with rig(fetch.FetchLimits(concurrency=2, per_host=1, memory_bytes=1000), time=time) as r:
        held = asyncio.Event()
        done = asyncio.Event()

        async def holding(url: str) -> None:
            async with r.fetcher.body(url, 1000):
                held.set()
                await done.wait()

        urls: dict[str, Callable[[], str]] = {
            "answer": lambda: r.server.silent("/a"),
            "body": lambda: r.server.endless("/a", piece=b"x", gap_s=0.05, length=900),
            "turn": lambda: r.server.silent("/a"),
            "memory": lambda: r.server.serve("/a", b"x" * 900),
            "pause": lambda: r.server.serve("/a", b"", status=503),
            "held": lambda: r.server.serve("/a", b"x" * 900),
        }
        url = urls[stage]()
        tasks = [asyncio.create_task(holding(url)) for _ in range(2 if stage in ("turn", "memory") else 1)]
        await r.server.until(lambda: r.server.requests["/a"] >= (2 if stage == "memory" else 1))
        if stage == "pause":
            await time.next_pause_s()
        if stage in ("held", "memory"):
            await asyncio.wait_for(held.wait(), DEADLINE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tls(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a fresh certificate for `name`, and of a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_tls_is_verified_by_the_name_and_never_twice() -> None:
    server_tls, trust = _tls("good.example")
    names = FakeNames(good_example=["127.0.0.1"], other_example=["127.0.0.1"])
    async with rig(names=names, tls=server_tls, trust=trust) as r:
        r.server.serve("/a", b"good")
        assert await r.fetch(r.server.url("/a", "good.example")) == b"good"
        problem = await r.problem(r.server.url("/a", "other.example"))
        assert problem.message.endswith("has a TLS certificate that cannot be verified.")
        problem = await r.problem(r.server.url("/a", "good.example").replace("https", "http"))
        assert problem.reason is problems.Reason.FETCH_FAILED
        assert "retried" not in r.outcomes or r.outcomes["retried"] <= 2
    async with rig(names=names, tls=server_tls) as r:
        problem = await r.problem(r.server.url("/a", "good.example"))
        assert problem.message.endswith("has a TLS certificate that cannot be verified.")
        assert not r.server.requests and r.outcomes == {"fetch_failed": 1}


async def test_tls_is_not_given_up() -> None:
    server_tls, trust = _tls("good.example")
    names = FakeNames(good_example=["127.0.0.1"])
    async with rig(names=names, tls=server_tls, trust=trust) as r, ImageServer() as plain:
        r.server.redirect("/a", plain.serve("/a", b"x"))
        problem = await r.problem(r.server.url("/a", "good.example"))
        assert problem.reason is problems.Reason.URL_NOT_ALLOWED
        assert problem.message.endswith("/a redirects to a URL that gives up TLS.")
        assert plain.connections == 0


async def test_the_systems_own_look_up_works_in_threads() -> None:
    fetcher = fetch.Fetcher(QUICK, addresses.parse_rules(["localhost"]))
    async with ImageServer() as server:
        try:
            server.serve("/a", b"x")
            assert await fetcher.fetch(server.url("/a", "localhost"), 10) == b"x"
        finally:
            await fetcher.close()


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="per_host"):
        fetch.FetchLimits(per_host=0)
    with pytest.raises(ValueError, match="max_redirects"):
        fetch.FetchLimits(max_redirects=-1)


async def test_a_bug_fails_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as r:
        url = r.server.serve("/a?", b"x")

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug of somebody's")

        with monkeypatch.context() as patch:
            patch.setattr("aiohttp.ClientSession.get", broken)
            problem = await r.problem(url)
        assert problem.message == f"{url[:-1]} could not be fetched."
        assert r.outcomes == {"fetch_failed": 1}


async def test_look_ups_that_hang_take_so_many_threads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    asked: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def hangs(host: str) -> list[str]:
        loop.call_soon_threadsafe(asked.put_nowait, host)
        go_on.wait(DEADLINE_S)
        if host == "2":
            raise ValueError("no OSError")
        return [host]

    monkeypatch.setattr(resolver, "_getaddrinfo", hangs)
    lookup = resolver.SystemLookup(threads=2)
    waiting = [asyncio.create_task(lookup(f"{n}")) for n in range(4)]
    for host in ("0", "1"):
        assert await asyncio.wait_for(asked.get(), DEADLINE_S) == host
    # Who gives up leaves its thread to end by itself: until then nobody else gets one.
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert asked.empty()
    go_on.set()
    assert await asyncio.wait_for(waiting[1], DEADLINE_S) == ["1"]
    with pytest.raises(OSError, match="no OSError"):
        await asyncio.wait_for(waiting[2], DEADLINE_S)
    assert await asyncio.wait_for(waiting[3], DEADLINE_S) == ["3"]

"""URLs are read strictly, once."""

from __future__ import annotations

import pytest
import yarl

from podium_worker.domain import urls


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a.example", urls.Target("http", "a.example", 80, "/")),
        ("HTTPS://A.Example./x.jpg", urls.Target("https", "a.example", 443, "/x.jpg")),
        ("https://a.example:8443/x?y=z&u=/?#frag", urls.Target("https", "a.example", 8443, "/x", "y=z&u=/?")),
        ("http://a.example:/x", urls.Target("http", "a.example", 80, "/x")),
        ("http://a.example?x=1", urls.Target("http", "a.example", 80, "/", "x=1")),
        ("http://8.8.8.8/", urls.Target("http", "8.8.8.8", 80, "/")),
        ("http://[2606:4700::0:1111]:81/", urls.Target("http", "2606:4700::1111", 81, "/")),
        ("http://[::FFFF:127.0.0.1]/", urls.Target("http", "::ffff:7f00:1", 80, "/")),
        (
            "http://a.example/ä b%20c%zz.jpg?ü",
            urls.Target("http", "a.example", 80, "/%C3%A4%20b%20c%25zz.jpg", "%C3%BC"),
        ),
        ("http://a_b.example/@x:y", urls.Target("http", "a_b.example", 80, "/@x:y")),
        ("http://a.example/../etc//x", urls.Target("http", "a.example", 80, "/../etc//x")),
    ],
)
def test_parts(url: str, target: urls.Target) -> None:
    assert urls.parse(url) == target


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "is not a URL"),
        ("a.example/x.jpg", "is not a URL"),
        ("/x.jpg", "is not a URL"),
        ("http:/a.example", "names no host"),
        ("http:a.example", "names no host"),
        ("http:///x.jpg", "names no host"),
        ("http://:80/", "names no host"),
        ("file:///etc/passwd", "is not a URL"),
        ("ftp://a.example/x", "is not a URL"),
        ("gopher://127.0.0.1:6379/_INFO", "is not a URL"),
        ("data:image/png;base64,AAAA", "is not a URL"),
        ("javascript://a.example", "is not a URL"),
        ("http://user@a.example/", "user name"),
        ("http://user:pw@a.example/", "user name"),
        ("http://a.example@127.0.0.1/", "user name"),
        ("http://127.0.0.1\\@a.example/", "backslash"),
        ("http://a.example\\.evil.example/", "backslash"),
        ("http://a.example/\r\nHost: b", "control"),
        ("http://a.exa\tmple/", "control"),
        ("http://a.example/\ud800", "control"),
        (" http://a.example/", "is not a URL"),
        ("http://a.example:99999/", "port"),
        ("http://a.example:0/", "port"),
        ("http://a.example:80:80/", "host or port"),
        ("http://a.example:x/", "host or port"),
        ("http://[::1/", "host or port"),
        ("http://[::1]x/", "host or port"),
        ("http://[fe80::1%25eth0]/", "IPv6"),
        ("http://[127.0.0.1]/", "IPv6"),
        ("http://2130706433/", "IPv4"),
        ("http://0x7f000001/", "IPv4"),
        ("http://0x7f.0.0.1/", "IPv4"),
        ("http://017700000001/", "IPv4"),
        ("http://0177.0.0.1/", "IPv4"),
        ("http://127.1/", "IPv4"),
        ("http://127.0.0.1./", "IPv4"),
        ("http://①②⑦.0.0.1/", "ASCII"),
        ("http://bücher.example/", "ASCII"),
        ("http://a.example%2f@b.example/", "user name"),
        ("http://a%2eexample/", "host name"),
        ("http://a b.example/", "host name"),
        ("http://a..example/", "host name"),
        ("http://" + "a" * 64 + ".example/", "host name"),
        ("http://a.example/" + "a" * 8192, "longer"),
        ("s3://bucket", "names no object"),
        ("s3://bucket/", "names no object"),
        ("s3:///key", "bucket"),
        ("s3://Bucket/key", "bucket"),
        ("s3://b/key", "bucket"),
        ("s3://user@bucket/key", "bucket"),
        ("s3://127.0.0.1/key", "bucket"),
        ("s3://bucket/../other/key", ". or .."),
        ("s3://bucket/a/./b", ". or .."),
        ("s3://bucket/" + "ä" * 513, "1,024 bytes"),
    ],
)
def test_what_is_refused(url: str, why: str) -> None:
    with pytest.raises(urls.NotAllowed, match=why):
        urls.parse(url)


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/y.jpg", "https://a.example/y.jpg"),
        ("y.jpg?q", "https://a.example/d/y.jpg?q"),
        ("../y.jpg", "https://a.example/y.jpg"),
        ("//b.example/y", "https://b.example/y"),
        ("https://b.example:444/ä", "https://b.example:444/%C3%A4"),
        ("?q=1", "https://a.example/d/x.jpg?q=1"),
    ],
)
def test_redirects(location: str, leads_to: str) -> None:
    assert urls.redirected(urls.Target("https", "a.example", 443, "/d/x.jpg"), location).text == leads_to


@pytest.mark.parametrize(
    "location",
    [
        *("http://a.example/", "ftp://a.example/", "file:///etc/passwd", "data:image/png,x", "s3://bucket/key"),
        *(
            "//user@b.example/",
            "https://0x7f.1/",
            "https://[::1",
            "//b.example\\@c.example/",
            "https://b.example/\r\nX: y",
        ),
    ],
)
def test_redirects_that_are_refused(location: str) -> None:
    with pytest.raises(urls.NotAllowed):
        urls.redirected(urls.Target("https", "a.example", 443, "/x.jpg"), location)


def test_plain_http_may_redirect_to_either() -> None:
    source = urls.Target("http", "a.example", 80, "/x.jpg")
    assert urls.redirected(source, "https://b.example/").scheme == "https"
    assert urls.redirected(source, "http://b.example/").scheme == "http"


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/../%2e%2e/a//b%2Fc?x=%41&y=a+b;c",
        "https://[2606:4700::1111]:444/a",
        "http://a.example/?",
        "http://a/+%2B",
    ],
)
def test_what_is_requested_is_what_was_read(url: str) -> None:
    target = urls.parse(url)
    assert isinstance(target, urls.Target)
    built = yarl.URL(target.text, encoded=True)
    assert (built.raw_host, built.port, built.raw_path, built.raw_query_string) == (
        *(target.host, target.port, target.path, target.query),
    )
    assert urls.parse(target.text) == target


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x.jpg?X-Amz-Signature=secret#f", "https://a.example/x.jpg"),
        ("https://user:secret@a.example/@x", "https://a.example/@x"),
        ("user:secret@a.example", "a.example"),
        ("s3://bucket/a key\n", "s3://bucket/a?key?"),
        ("https://a.example/‮gpj", "https://a.example/?gpj"),
        ("https://a.example/" + "a" * 9000, "https://a.example/" + "a" * 99 + "..."),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert urls.shown(url) == shown

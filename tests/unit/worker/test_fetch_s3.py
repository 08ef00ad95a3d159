"""Objects in S3."""

from __future__ import annotations

import builtins
import urllib.parse
from typing import Any

import pytest

from podium_worker.adapters import fetch
from podium_worker.adapters.fetch import s3
from podium_worker.domain import addresses, urls
from podium_worker.domain.problems import Reason
from tests.support.fake_names import FakeNames
from tests.support.fetch_rig import rig
from tests.support.image_server import ImageServer

KEY = "AKIDEXAMPLE"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Static ones, and none of the machine's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("url", "access", "request_url"),
    [
        ("s3://bucket/a/b.jpg", s3.S3Access(), "https://bucket.s3.amazonaws.com/a/b.jpg"),
        ("s3://bucket/a", s3.S3Access("eu-west-1"), "https://bucket.s3.eu-west-1.amazonaws.com/a"),
        ("s3://bucket/a", s3.S3Access("cn-north-1"), "https://bucket.s3.cn-north-1.amazonaws.com.cn/a"),
        ("s3://my.bucket/a", s3.S3Access("eu-west-1"), "https://s3.eu-west-1.amazonaws.com/my.bucket/a"),
        ("S3://bucket/a", s3.S3Access(endpoint="http://minio:9000"), "http://minio:9000/bucket/a"),
        ("s3://bucket/a", s3.S3Access(endpoint="https://[fd12::1]:9000/"), "https://[fd12::1]:9000/bucket/a"),
        ("s3://bucket/ä +?#%41&=:", s3.S3Access(), "https://bucket.s3.amazonaws.com/%C3%A4%20%2B%3F%23%2541%26%3D%3A"),
    ],
)
def test_what_is_requested_of_a_public_bucket(url: str, access: s3.S3Access, request_url: str) -> None:
    item = urls.parse(url)
    assert isinstance(item, urls.S3Object)
    target = s3.anonymous(item, access)
    assert target.text == request_url
    assert urls.parse(target.text) == target


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("minio:9000", "is not a URL"),
        ("http://minio:9000/path", "is not http.s.://host:port alone"),
        ("http://user@minio:9000", "user name"),
        ("s3://minio/x", "is not http.s.://host:port alone"),
    ],
)
def test_endpoints_that_make_no_sense(endpoint: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        s3.S3Access(endpoint=endpoint)


def test_regions_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="region"):
        s3.S3Access(region="evil.example/")


@pytest.mark.parametrize(
    ("access", "bucket", "place"),
    [
        (s3.S3Access("eu-west-1"), "bucket", "https://bucket.s3.eu-west-1.amazonaws.com/a%20%C3%A4/b.jpg"),
        (s3.S3Access("eu-west-1"), "my.bucket", "https://s3.eu-west-1.amazonaws.com/my.bucket/a%20%C3%A4/b.jpg"),
        (s3.S3Access(endpoint="http://minio:9000"), "bucket", "http://minio:9000/bucket/a%20%C3%A4/b.jpg"),
    ],
)
@pytest.mark.usefixtures("credentials")
def test_signing(access: s3.S3Access, bucket: str, place: str) -> None:
    pytest.importorskip("botocore")
    signed = s3.BotocoreSigner(access).sign(urls.S3Object(bucket, "a ä/b.jpg"))
    at, _, query = signed.partition("?")
    fields = dict(urllib.parse.parse_qsl(query))
    assert at == place
    assert fields["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert fields["X-Amz-Credential"].startswith(f"{KEY}/")
    assert fields["X-Amz-Credential"].endswith(f"/{access.region or 'us-east-1'}/s3/aws4_request")
    assert fields["X-Amz-SignedHeaders"] == "host"
    # To the letter: the signature is over it.
    target = urls.parse(signed)
    assert isinstance(target, urls.Target) and target.text == signed


@pytest.mark.usefixtures("credentials")
async def test_only_listed_buckets_are_read_with_the_workers_credentials() -> None:
    pytest.importorskip("botocore")
    async with ImageServer() as minio:
        access = fetch.S3Access(endpoint=minio.url(""), signed_buckets=("private",))
        # Nothing is allowed, and yet the operator's own endpoint is.
        async with rig(rules=addresses.Rules(), s3_access=access) as r:
            minio.serve("/private/a.jpg", b"mine")
            minio.serve("/public/a.jpg", b"everybody's")
            assert await r.fetch("s3://private/a.jpg") == b"mine"
            assert await r.fetch("s3://public/a.jpg") == b"everybody's"
            signed, plain = minio.seen
            assert f"X-Amz-Credential={KEY}" in signed.path and "X-Amz-Signature=" in signed.path
            assert plain.path == "/public/a.jpg" and "authorization" not in plain.headers
            assert signed.headers["host"] == f"127.0.0.1:{minio.port}"
            problem = await r.problem("s3://private/gone.jpg")
            assert problem.message == "s3://private/gone.jpg answered 404 Not Found."


async def test_the_endpoint_is_open_to_s3_urls_alone() -> None:
    names = FakeNames(minio_internal=["127.0.0.1"])
    async with ImageServer() as minio:
        access = fetch.S3Access(endpoint=minio.url("", "minio.internal"))
        async with rig(rules=addresses.Rules(), s3_access=access, names=names) as r:
            minio.serve("/bucket/a", b"x")
            minio.redirect("/bucket/b", "/admin")
            minio.serve("/admin", b"secret")
            assert await r.fetch("s3://bucket/a") == b"x"
            # Over the open connection neither.
            for url in (
                minio.url("/admin", "minio.internal"),
                minio.url("/bucket/a", "minio.internal"),
                "s3://bucket/b",
            ):
                problem = await r.problem(url)
                assert problem.reason is Reason.URL_NOT_ALLOWED
            assert minio.requests == {"/bucket/a": 1, "/bucket/b": 1}
            assert problem.message == "s3://bucket/b redirects to a URL that leads to an address that is not allowed."


async def test_s3_objects_outside_are_judged_like_any_url() -> None:
    names = FakeNames()
    names.set("bucket.s3.amazonaws.com", ["127.0.0.1"])
    async with rig(rules=addresses.Rules(), names=names) as r:
        problem = await r.problem("s3://bucket/a")
        assert problem.reason is Reason.URL_NOT_ALLOWED
        problem = await r.problem("s3://bucket/../a")
        assert problem.message == "s3://bucket/../a has a key with . or .. between its slashes."


async def test_without_botocore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.startswith("botocore"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    async with rig(s3_access=fetch.S3Access(signed_buckets=("private",))) as r:
        problem = await r.problem("s3://private/a.jpg")
        assert problem.reason is Reason.FETCH_FAILED
        assert "pip install 'podium-worker[s3]'" in problem.message
        assert r.outcomes == {"fetch_failed": 1}


@pytest.mark.usefixtures("credentials")
async def test_without_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botocore")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with rig(s3_access=fetch.S3Access(signed_buckets=("private",))) as r:
        problem = await r.problem("s3://private/a.jpg")
        assert problem.message == "s3://private/a.jpg needs credentials that this worker does not have."

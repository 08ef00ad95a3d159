"""Objects in S3, or in what speaks its protocol, as requests.

Buckets are read as anybody may read them. Only those that the operator names are read with the worker's own
credentials: whoever may submit a job would otherwise read every bucket that the worker has access to.
"""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from podium_worker.adapters.fetch import failures
from podium_worker.domain import addresses, urls

_REGION = re.compile(r"[a-z0-9-]*")
_SIGNATURE_S = 3600
"""How long a signature is good for. It never leaves the worker and the server; a turn may be long in coming."""


@dataclass(frozen=True, slots=True)
class S3Access:
    """How buckets are reached."""

    region: str = ""
    """Empty: what S3 makes of a bucket's name, or the region that signing finds in the environment."""
    endpoint: str = ""
    """`http(s)://host:port` of another server than Amazon's. It may be inside: the operator names it. Paths begin with
    the bucket there."""
    signed_buckets: tuple[str, ...] = ()
    """Read with the worker's own credentials."""

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise ValueError(f"{self.region!r} is no region")
        if self.endpoint:
            _endpoint(self.endpoint)

    @property
    def rules(self) -> addresses.Rules:
        """What requests to the endpoint need."""
        if not self.endpoint:
            return addresses.Rules()
        return addresses.parse_rules([_endpoint(self.endpoint).authority])


def _endpoint(text: str) -> urls.Target:
    try:
        target = urls.parse(text)
    except urls.NotAllowed as error:
        raise ValueError(f"{text!r} {error.why}") from None
    if isinstance(target, urls.S3Object) or target.path != "/" or target.query:
        raise ValueError(f"{text!r} is not http(s)://host:port alone")
    return target


class Signer(Protocol):
    """Makes URLs that carry the worker's right to read. May block; called in threads."""

    def sign(self, item: urls.S3Object) -> str:
        """A URL that is good for a while. Raises Failed."""


class S3:
    """Turns objects into requests."""

    def __init__(self, access: S3Access, signer: Signer | None = None) -> None:
        self._access = access
        self._signer = signer or BotocoreSigner(access)

    async def target(self, item: urls.S3Object) -> urls.Target:
        """What to request. Raises Failed."""
        if item.bucket not in self._access.signed_buckets:
            return anonymous(item, self._access)
        try:
            signed = urls.parse(await asyncio.to_thread(self._signer.sign, item))
        except urls.NotAllowed as refusal:
            # Too long, for all that can be: a token and a key.
            raise failures.Failed(f"has a signed form that {refusal.why}") from None
        assert isinstance(signed, urls.Target), "a signer makes http(s) URLs"
        return signed


def anonymous(item: urls.S3Object, access: S3Access) -> urls.Target:
    """The object as anybody would request it."""
    path = urllib.parse.quote(item.key, safe="/~-._")
    if access.endpoint:
        at = _endpoint(access.endpoint)
        return urls.Target(at.scheme, at.host, at.port, f"/{item.bucket}/{path}")
    region = f".{access.region}" if access.region else ""
    host = f"s3{region}.amazonaws.com" + (".cn" if access.region.startswith("cn-") else "")
    if "." in item.bucket:
        # No certificate is for two labels below Amazon's name.
        return urls.Target("https", host, 443, f"/{item.bucket}/{path}")
    return urls.Target("https", f"{item.bucket}.{host}", 443, f"/{path}")


class BotocoreSigner:
    """With the credentials that Amazon's own tools would find: environment, files, the machine's role."""

    def __init__(self, access: S3Access) -> None:
        self._access = access
        # botocore's clients may be shared by threads, but not made by several at once.
        self._making = threading.Lock()
        self._clients: dict[str, Any] = {}

    def sign(self, item: urls.S3Object) -> str:
        """Signature version 4 in the query. No network, unless the credentials themselves need it."""
        try:
            import botocore.exceptions
        except ModuleNotFoundError:
            raise failures.Failed(
                "needs the worker's credentials, and botocore is not there (pip install 'podium-worker[s3]')"
            ) from None
        style = "path" if self._access.endpoint or "." in item.bucket else "virtual"
        wanted: Mapping[str, str] = {"Bucket": item.bucket, "Key": item.key}
        try:
            client = self._client(style)
            return str(client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=_SIGNATURE_S))
        except botocore.exceptions.BotoCoreError as error:
            raise failures.Failed("needs credentials that this worker does not have") from error

    def _client(self, style: str) -> Any:
        import botocore.config
        import botocore.session

        with self._making:
            if style not in self._clients:
                session = botocore.session.get_session()
                self._clients[style] = session.create_client(
                    "s3",
                    region_name=self._access.region or session.get_config_variable("region") or "us-east-1",
                    endpoint_url=self._access.endpoint or None,
                    config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": style}),
                )
            return self._clients[style]

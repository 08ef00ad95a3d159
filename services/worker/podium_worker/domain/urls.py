"""URLs of images: taken apart once, strictly, so that what is judged is what is requested.

Two readers that understand one URL differently are how a check is walked around. There is one reader here; what it
cannot read for certain it refuses, and everything after it uses the parts, not the text.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from podium_worker.domain import addresses

MAX_LENGTH = 8192
"""Characters of a URL."""
_SHOWN_LENGTH = 120
_PORTS = {"http": 80, "https": 443}
# RFC 3986, appendix B, for URLs that have an authority.
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{0,5}))?")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = "/%:@!$&'()*+,;=-._~"
_QUERY_SAFE = _PATH_SAFE + "?"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class NotAllowed(Exception):
    """A URL that is not fetched. `why` goes on after its subject: "has no host"."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Target:
    """What is requested of whom. `host` is a name in lower case or an address, without brackets; `path` begins with a
    slash; `path` and `query` are percent-encoded ASCII."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def authority(self) -> str:
        """Names the server: host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def text(self) -> str:
        """The whole URL."""
        host = self.authority if self.port != _PORTS[self.scheme] else self.authority.rpartition(":")[0]
        return f"{self.scheme}://{host}{self.path}" + (f"?{self.query}" if self.query else "")


@dataclass(frozen=True, slots=True)
class S3Object:
    """What an s3 URL names. The key is as its owner wrote it, not percent-encoded."""

    bucket: str
    key: str


def parse(url: str) -> Target | S3Object:
    """Takes `url` apart. Raises NotAllowed."""
    if len(url) > MAX_LENGTH:
        raise NotAllowed(f"is longer than {MAX_LENGTH:,} characters")
    if _FORBIDDEN.search(url):
        raise NotAllowed("holds a control character or a backslash")
    if url[:5].lower() == "s3://":
        return _parse_s3(url[5:])
    parts = _PARTS.match(url)
    scheme = (parts["scheme"] if parts else url.partition(":")[0]).lower()
    if scheme not in _PORTS:
        raise NotAllowed("is not a URL of http, https or s3")
    if parts is None:
        raise NotAllowed("names no host")
    host, port = _parse_authority(parts["authority"])
    return Target(
        scheme=scheme,
        host=host,
        port=_PORTS[scheme] if port is None else port,
        path=_quoted(parts["path"], _PATH_SAFE) or "/",
        query=_quoted(parts["query"] or "", _QUERY_SAFE),
    )


def redirected(source: Target, location: str) -> Target:
    """Where a redirect from `source` leads, which only http and https may do. Raises NotAllowed."""
    if _FORBIDDEN.search(location):
        raise NotAllowed("holds a control character or a backslash")
    try:
        found = parse(urllib.parse.urljoin(source.text, location.strip()))
    except ValueError:
        raise NotAllowed("is malformed") from None
    if isinstance(found, S3Object):
        raise NotAllowed("is not a URL of http or https")
    if source.scheme == "https" and found.scheme == "http":
        # The client asked for a server that proves who it is; anybody on the way could answer for this one.
        raise NotAllowed("gives up TLS")
    return found


def shown(url: str) -> str:
    """`url` for a message: no query, user or fragment (they may hold secrets), one line of bounded length, ASCII."""
    text = re.split(r"[?#]", url[: MAX_LENGTH + 1], maxsplit=1)[0]
    scheme, separator, rest = text.partition("://")
    if separator:
        authority, slash, path = rest.partition("/")
        text = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    else:
        text = text.rpartition("@")[2]
    text = "".join(c if "!" <= c <= "~" else "?" for c in text)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."


def _parse_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise NotAllowed("holds a user name or password")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise NotAllowed("has a malformed host or port")
    port = int(parts["port"]) if parts["port"] else None
    if port is not None and not 0 < port < 65536:
        raise NotAllowed("has a port that is none")
    return _parse_host(parts["host"]), port


def _parse_host(text: str) -> str:
    if not text:
        raise NotAllowed("names no host")
    if not text.isascii():
        # Two editions of IDNA read some names differently; whoever has the name knows its xn-- form.
        raise NotAllowed("has a host name that is not ASCII; write its xn-- form")
    if text.startswith("["):
        address = addresses.literal(text[1:-1])
        if address is None or address.version != 6:
            raise NotAllowed("has a malformed IPv6 address")
        return str(address)
    if addresses.looks_numeric(text):
        # 127.1, 0x7f000001, 2130706433, 0177.0.0.1: an address to some readers, a name or another address to others.
        address = addresses.literal(text)
        if address is None or address.version != 4:
            raise NotAllowed("has a malformed IPv4 address")
        return str(address)
    name = addresses.host_name(text)
    if name is None:
        raise NotAllowed("has a malformed host name")
    return name


def _parse_s3(rest: str) -> S3Object:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or addresses.looks_numeric(bucket):
        raise NotAllowed("has a malformed bucket name")
    if not key:
        raise NotAllowed("names no object of its bucket")
    if len(key.encode()) > 1024:
        raise NotAllowed("has a key of more than 1,024 bytes")
    if any(segment in (".", "..") for segment in key.split("/")):
        # Servers in between may resolve them, into another bucket.
        raise NotAllowed("has a key with . or .. between its slashes")
    return S3Object(bucket, key)


def _quoted(text: str, safe: str) -> str:
    """Percent-encodes what a URL may not hold as it is, and leaves what is encoded already."""
    return urllib.parse.quote(_STRAY_PERCENT.sub("%25", text), safe=safe)

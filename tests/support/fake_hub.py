"""A model hub that speaks just enough of Hugging Face's: one commit of each repository, served from a folder.

It stands at a loopback address (HF_ENDPOINT), knows the listing of a repository and its files by HEAD, GET and ranges,
and says what it does not have with the error codes by which the client's library tells one absence from another.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support import ports


class Hub:
    """What is on the hub, and what was asked of it."""

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.requests: list[str] = []
        """Method and path of each, in order."""
        self.bytes_sent = 0
        self.endpoint = ""

    @cached_property
    def commits(self) -> dict[str, str]:
        """A repository's one commit: 40 hexadecimal digits, as the client demands."""
        return {name: hashlib.sha1(name.encode()).hexdigest() for name in self.repositories}

    def files(self, repository: str) -> list[str]:
        """Paths in it."""
        root = self.repositories[repository]
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """A hub with these repositories (name to folder), until the block ends."""
    hub = Hub(repositories)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", ports.free_port()), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """The test looks at Hub.requests."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repository, rest = "/".join(parts[2:4]), parts[4:]
            if not self._known(repository, rest[1] if len(rest) > 1 else "main"):
                return
            listing = self._tree(repository, rest[2:]) if rest[:1] == ["tree"] else self._listing(repository)
            self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"}, with_body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body)
        else:
            self._refuse("EntryNotFound", "no such thing")

    def _known(self, repository: str, revision: str) -> bool:
        if repository not in self.hub.repositories:
            self._refuse("RepoNotFound", "Repository not found")
            return False
        if revision not in ("main", self.hub.commits[repository]):
            self._refuse("RevisionNotFound", "Invalid rev id")
            return False
        return True

    def _listing(self, repository: str) -> dict[str, object]:
        siblings = [{"rfilename": name} for name in self.hub.files(repository)]
        return {"id": repository, "modelId": repository, "sha": self.hub.commits[repository], "siblings": siblings}

    def _tree(self, repository: str, folder: list[str]) -> list[dict[str, object]]:
        root, prefix = self.hub.repositories[repository], "/".join(folder)
        names = [name for name in self.hub.files(repository) if name.startswith(prefix)]
        return [{"type": "file", "path": n, "size": (root / n).stat().st_size, "oid": _etag(root / n)} for n in names]

    def _file(self, repository: str, revision: str, name: str, with_body: bool) -> None:
        if not self._known(repository, revision):
            return
        commit = {"X-Repo-Commit": self.hub.commits[repository]}
        if name not in self.hub.files(repository):
            self._refuse("EntryNotFound", "Entry not found", commit)
            return
        file = self.hub.repositories[repository] / name
        body = file.read_bytes()
        headers = {**commit, "ETag": f'"{_etag(file)}"', "Accept-Ranges": "bytes"}
        begin = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            self._send(206, body[int(begin) :], headers, with_body)
        else:
            self._send(200, body, headers, with_body)

    def _refuse(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(404, b"", {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message}, False)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
            self.hub.bytes_sent += len(body)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()

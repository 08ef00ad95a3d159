"""A random password that persists beside the data it protects."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def load_or_create(path: Path) -> str:
    """Reads the secret in `path`, or makes one: 43 URL-safe characters, readable by the owner only."""
    with contextlib.suppress(FileNotFoundError):
        if value := path.read_text().strip():
            return value
    value = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(f"{value}\n")
        file.flush()
        os.fsync(fd)
    draft.replace(path)
    return value

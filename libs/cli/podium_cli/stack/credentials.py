"""The stack's tokens, made once and kept in the data directory, and the file that tells clients about them."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from podium_client.config import CONNECTION_FILE
from podium_embedded import load_or_create_secret


@dataclass(frozen=True, slots=True)
class Credentials:
    """Bearer tokens: of the first app, of the gateway towards the scheduler, of workers, of operators."""

    app: str
    internal: str
    join: str
    operator: str

    @classmethod
    def load_or_create(cls, data_dir: Path) -> Credentials:
        """Reads the tokens from `data_dir`/secrets, making those that are missing."""
        folder = data_dir / "secrets"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        app, internal, join, operator = (
            load_or_create_secret(folder / name) for name in ("app", "internal", "join", "operator")
        )
        return cls(app, internal, join, operator)


def write_connection_file(data_dir: Path, gateway: str, scheduler: str, credentials: Credentials) -> Path:
    """Tells the SDK and the command on this machine where to connect; readable by the owner only."""
    path = data_dir / CONNECTION_FILE
    content = {
        "address": gateway,
        "token": credentials.app,
        "operator_address": scheduler,
        "operator_token": credentials.operator,
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
    draft.replace(path)
    return path


def remove_connection_file(data_dir: Path) -> None:
    """Nothing listens any more."""
    with contextlib.suppress(FileNotFoundError):
        (data_dir / CONNECTION_FILE).unlink()

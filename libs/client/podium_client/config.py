"""Where the gateway is and with which token to call it.

Looked up in this order: arguments, the environment (PODIUM_ADDRESS, PODIUM_TOKEN, PODIUM_TLS_CA), the
connection file that `podium up` writes into its data directory. A token is never taken from the file for an
address that came from elsewhere: it would be shown to a stranger.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podium_client.errors import ConfigurationError

CONNECTION_FILE = "connection.json"


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards the gateway. Empty fields: the system's certificate authorities, no client certificate."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A resolved gateway: address ("host:port", several separated by commas), bearer token, TLS; and its
    origin."""

    address: str
    token: str | None
    tls: Tls | None
    origin: str


def data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The data directory of `podium up`: PODIUM_DATA_DIR, else the platform's place for user data."""
    env = os.environ if environ is None else environ
    if env.get("PODIUM_DATA_DIR"):
        return Path(env["PODIUM_DATA_DIR"]).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or home / "AppData" / "Local") / "podium" / "podium"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "podium"
    return Path(env.get("XDG_DATA_HOME") or home / ".local" / "share") / "podium"


def read_connection_file(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The connection file of `podium up`; empty when there is none. ConfigurationError when it is not
    readable."""
    path = data_dir(environ) / CONNECTION_FILE
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as a connection file: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigurationError(f"{path}: not a JSON object")
    return {str(key): str(value) for key, value in loaded.items() if value is not None}


def resolve_endpoint(
    address: str | None = None,
    token: str | None = None,
    tls: Tls | bool | None = None,
    *,
    prefix: str = "",
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """Find the endpoint. `prefix` "operator_" looks for operator_address and PODIUM_OPERATOR_ADDRESS instead.

    ConfigurationError when no address is given anywhere.
    """
    env = os.environ if environ is None else environ
    resolved_tls = Tls() if tls is True else (tls or None)
    if resolved_tls is None and tls is None and env.get("PODIUM_TLS_CA"):
        resolved_tls = Tls(ca_file=env["PODIUM_TLS_CA"])
    variable = f"PODIUM_{prefix.upper()}ADDRESS"
    token = token or env.get(f"PODIUM_{prefix.upper()}TOKEN") or None
    given = address or env.get(variable)
    if given:
        return Endpoint(given, token, resolved_tls, "argument" if address else variable)
    path = data_dir(env) / CONNECTION_FILE
    known = read_connection_file(env)
    if f"{prefix}address" not in known:
        raise ConfigurationError(
            f"no address: start `podium up`, or set {variable} (looked for {prefix}address in {path})"
        )
    return Endpoint(known[f"{prefix}address"], token or known.get(f"{prefix}token"), resolved_tls, str(path))

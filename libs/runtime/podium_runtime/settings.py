"""What every service's settings share. One frozen object, built once in `main` from the environment."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Self, TypeVar

import pydantic
from pydantic_settings import BaseSettings, SettingsConfigDict

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. A server needs cert and key; ca makes it ask for client certificates. A client needs only ca."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None


class ServiceSettings(BaseSettings):
    """Settings of any service. Environment variables are the field names in capitals after PODIUM_."""

    model_config = SettingsConfigDict(env_prefix="PODIUM_", frozen=True, extra="ignore")

    insecure: bool = False
    """Serve without any token. Only on loopback."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    metrics_listen: str = "127.0.0.1:0"
    """Address of the Prometheus endpoint; port 0 takes a free one."""
    ready_file: Path | None = None
    """Where to write the bound addresses, as JSON, once ready."""
    shutdown_grace_s: float = pydantic.Field(default=10.0, ge=0)
    """How long calls in flight may take to end after SIGTERM, in seconds."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files, or None for plaintext."""
        if self.tls_cert is None and self.tls_ca is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    @pydantic.model_validator(mode="after")
    def _tls_pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self


def is_loopback(listen: str) -> bool:
    """Whether `host:port` or `unix:path` can only be reached from this machine."""
    if listen.startswith("unix:"):
        return True
    host = listen.rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(kind: type[SettingsT]) -> SettingsT:
    """Builds the settings, or ends the process with one line for each bad variable."""
    try:
        return kind()
    except pydantic.ValidationError as error:
        _exit_with(error)


def _exit_with(error: pydantic.ValidationError) -> NoReturn:
    for problem in error.errors():
        name = "PODIUM_" + "_".join(str(part) for part in problem["loc"]).upper()
        print(f"error: {name.rstrip('_')}: {problem['msg']}", file=sys.stderr)
    raise SystemExit(2)

"""What every service's settings share. One frozen object, built once in `main` from the environment.

A private key that comes by the environment is in no log, no error and no repr.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, Self, TypeVar

import pydantic
from pydantic_settings import BaseSettings, SettingsConfigDict

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
_PEM = re.compile(r".*-----BEGIN [^\n]+-----\r?\n.+\n-----END [^\n]+-----.*", re.DOTALL)
"""People write remarks before and between the parts, which is allowed."""


Pem = Path | bytes
"""A PEM file, or what would be in one."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A server needs cert and key; ca makes it ask for client certificates. A client needs only ca."""

    cert: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    ca: Pem | None = None


def read_pem(pem: Pem) -> bytes:
    """What is in it. Raises OSError."""
    return pem.read_bytes() if isinstance(pem, Path) else pem


def pem_text(text: str) -> str:
    """The text, of which no part is in the error. Raises ValueError when it is no PEM."""
    if not _PEM.fullmatch(text):
        raise ValueError("is no PEM: lines from -----BEGIN to -----END")
    return text


class ServiceSettings(BaseSettings):
    """Settings of any service. Environment variables are the field names in capitals after PODIUM_."""

    # Errors do not repeat what was given: it may be a secret.
    model_config = SettingsConfigDict(env_prefix="PODIUM_", frozen=True, extra="ignore", hide_input_in_errors=True)

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
    tls_cert_pem: str | None = None
    """In place of the file, what would be in it: rented machines have no files of ours. The other two likewise."""
    tls_key_pem: pydantic.SecretStr | None = None
    tls_ca_pem: str | None = None

    @property
    def tls(self) -> Tls | None:
        """What TLS needs, or None for plaintext."""
        key = self.tls_key_pem.get_secret_value() if self.tls_key_pem is not None else None
        found = Tls(_pem(self.tls_cert, self.tls_cert_pem), _pem(self.tls_key, key), _pem(self.tls_ca, self.tls_ca_pem))
        return None if found == Tls() else found

    @pydantic.field_validator("tls_cert_pem", "tls_key_pem", "tls_ca_pem")
    @classmethod
    def _is_pem(cls, value: str | pydantic.SecretStr | None) -> str | pydantic.SecretStr | None:
        if value is not None:
            pem_text(value.get_secret_value() if isinstance(value, pydantic.SecretStr) else value)
        return value

    @pydantic.model_validator(mode="after")
    def _tls_parts(self) -> Self:
        for name in ("tls_cert", "tls_key", "tls_ca"):
            if getattr(self, name) is not None and getattr(self, f"{name}_pem") is not None:
                variable = f"PODIUM_{name.upper()}"
                raise ValueError(f"{variable} and {variable}_PEM say the same: set one of them")
        found = self.tls
        if found is not None and (found.cert is None) != (found.key is None):
            raise ValueError("PODIUM_TLS_CERT and PODIUM_TLS_KEY go together, or the same with _PEM")
        return self


def _pem(file: Path | None, text: str | None) -> Pem | None:
    return text.encode() if text is not None else file


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

"""Finding the gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podium_client import ConfigurationError, Tls, resolve_endpoint


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    written = {
        "address": "127.0.0.1:1", "token": "file-token", "operator_address": "127.0.0.1:2", "operator_token": "op",
    }  # fmt: skip
    (tmp_path / "connection.json").write_text(json.dumps(written))
    return {"PODIUM_DATA_DIR": str(tmp_path)}


def test_the_connection_file_is_the_last_resort(environ: dict[str, str]) -> None:
    found = resolve_endpoint(environ=environ)
    assert (found.address, found.token) == ("127.0.0.1:1", "file-token")
    operator = resolve_endpoint(prefix="operator_", environ=environ)
    assert (operator.address, operator.token) == ("127.0.0.1:2", "op")


def test_the_token_of_the_file_is_not_shown_to_another_address(environ: dict[str, str]) -> None:
    assert resolve_endpoint("elsewhere:1", environ=environ).token is None
    assert resolve_endpoint(environ={**environ, "PODIUM_ADDRESS": "elsewhere:1"}).token is None


def test_arguments_win_over_the_environment(environ: dict[str, str]) -> None:
    env = {**environ, "PODIUM_ADDRESS": "env:1", "PODIUM_TOKEN": "env-token", "PODIUM_TLS_CA": "/ca.pem"}
    found = resolve_endpoint(environ=env)
    assert (found.address, found.token, found.tls) == ("env:1", "env-token", Tls(ca_file="/ca.pem"))
    assert resolve_endpoint("argument:1", "mine", False, environ=env).tls is None
    assert resolve_endpoint("argument:1", "mine", environ=env).token == "mine"


def test_no_address_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="podium up"):
        resolve_endpoint(environ={"PODIUM_DATA_DIR": str(tmp_path)})


def test_a_broken_connection_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"connection\.json"):
        resolve_endpoint(environ={"PODIUM_DATA_DIR": str(tmp_path)})

"""TLS by files, and by what would be in them: a rented machine has no files of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from podium_runtime import settings

KEY = trustme.CA().private_key_pem.bytes().decode()
CERT = trustme.CA().cert_pem.bytes().decode()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CERT", "KEY", "CA"):
        monkeypatch.delenv(f"PODIUM_TLS_{name}", raising=False)
        monkeypatch.delenv(f"PODIUM_TLS_{name}_PEM", raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> settings.ServiceSettings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PODIUM_TLS_{name}", value)
    return settings.load(settings.ServiceSettings)


def test_pem_comes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = given(monkeypatch, CA_PEM=CERT, CERT_PEM=f"a remark\n{CERT}{CERT}", KEY_PEM=KEY)
    assert found.tls == settings.Tls(f"a remark\n{CERT}{CERT}".encode(), KEY.encode(), CERT.encode())
    assert settings.read_pem(KEY.encode()) == KEY.encode()


def test_files_and_pem_may_be_mixed_and_without_any_there_is_no_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert settings.ServiceSettings().tls is None
    file = tmp_path / "cert.pem"
    file.write_text(CERT)
    found = given(monkeypatch, CERT=str(file), KEY_PEM=KEY).tls
    assert found == settings.Tls(cert=file, key=KEY.encode())
    assert settings.read_pem(file) == CERT.encode()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CA": "ca.pem", "CA_PEM": CERT}, "PODIUM_TLS_CA and PODIUM_TLS_CA_PEM say the same: set one of them"),
        ({"CERT_PEM": CERT}, "PODIUM_TLS_CERT and PODIUM_TLS_KEY go together"),
        ({"KEY_PEM": KEY}, "PODIUM_TLS_CERT and PODIUM_TLS_KEY go together"),
        ({"CERT_PEM": CERT, "KEY_PEM": KEY.replace("\n", " ")}, "PODIUM_TLS_KEY_PEM: Value error, is no PEM"),
        ({"CA_PEM": ""}, "PODIUM_TLS_CA_PEM: Value error, is no PEM"),
    ],
)
def test_what_cannot_be_is_one_line_without_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], words: str
) -> None:
    with pytest.raises(SystemExit):
        given(monkeypatch, **variables)
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert KEY.splitlines()[1] not in said


def test_a_private_key_is_in_no_repr_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = KEY.splitlines()[1]
    found = given(monkeypatch, CERT_PEM=CERT, KEY_PEM=KEY)
    assert secret not in repr(found) and secret not in repr(found.tls)
    monkeypatch.setenv("PODIUM_TLS_KEY_PEM", KEY.replace("\n", " "))
    with pytest.raises(ValueError, match="PEM") as caught:
        settings.ServiceSettings()
    assert secret not in str(caught.value)

"""The prefetch command, as far as it needs no model."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import pytest
from google.protobuf import json_format

from podium.common.v1 import workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_worker import prefetch


def entry(name: str, backend: str = "hash", local_path: str | None = None) -> workload_pb2.Workload:
    spec = workload_pb2.ModelSpec(backend=backend, local_path=local_path)
    return workload_pb2.Workload(name=name, dimension=8, modalities=[workload_pb2.MODALITY_TEXT], model=spec)


class Stdin:
    """The end of a pipe."""

    def __init__(self, data: bytes, *, tty: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


class Runner:
    """Runs the command in this process: exit code, and what it printed on stdout and stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM"):
            # So that what the command sets does not outlast the test.
            monkeypatch.setenv(name, "1")

    def __call__(self, stdin: Stdin | Sequence[workload_pb2.Workload], *arguments: str) -> tuple[int, str, str]:
        if not isinstance(stdin, Stdin):
            listing = scheduler_pb2.ListWorkloadsResponse(workloads=stdin)
            stdin = Stdin(json_format.MessageToJson(listing, preserving_proto_field_name=True).encode())
        self._monkeypatch.setattr(sys, "stdin", stdin)
        code = prefetch.main(arguments)
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


def test_what_has_no_files_needs_nothing(run: Runner) -> None:
    assert run([entry("one"), entry("two")]) == (0, "one: hash, nothing to fetch\ntwo: hash, nothing to fetch\n", "")


def test_only_what_is_named(run: Runner) -> None:
    assert run([entry("one"), entry("two")], "two") == (0, "two: hash, nothing to fetch\n", "")


def test_a_name_that_the_registry_has_not(run: Runner) -> None:
    code, out, err = run([entry("one"), entry("two")], "two", "three")
    assert (code, out) == (2, "")
    assert err == "error: the registry has no workload 'three'; it has: one, two\n"


@pytest.mark.parametrize("data", [b"", b"workloads:\n  minilm:\n", b"\xff", b'{"workloads": 3}'])
def test_what_is_no_registry(run: Runner, data: bytes) -> None:
    code, _, err = run(Stdin(data))
    assert code == 2
    assert err.startswith("error: stdin holds no registry (")
    assert err.endswith("python -m podium_scheduler registry | python -m podium_worker prefetch\n")


def test_a_terminal_is_not_waited_for(run: Runner) -> None:
    code, _, err = run(Stdin(b"", tty=True))
    assert (code, "read from stdin" in err) == (2, True)


def test_fields_of_a_newer_scheduler_are_passed_over(run: Runner) -> None:
    newer = b'{"workloads": [{"name": "one", "model": {"backend": "hash", "novelty": 1}}], "more": true}'
    assert run(Stdin(newer))[0] == 0


def test_one_that_fails_is_told_and_the_others_go_on(run: Runner) -> None:
    missing = entry("lost", "sentence_transformers", local_path="/nowhere/at/all")
    code, out, err = run([missing, entry("two")])
    assert (code, out) == (1, "two: hash, nothing to fetch\n")
    assert err.startswith("error: There is no folder '/nowhere/at/all', the registry's local_path of workload 'lost'")


def test_an_offline_check_is_offline(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    run([entry("one")], "--offline-check")
    assert os.environ["HF_HUB_OFFLINE"] == "1"

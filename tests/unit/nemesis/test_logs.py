"""What the nemesis finds in the logs of the processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.nemesis import logs


def write(directory: Path, *lines: str) -> Path:
    log = directory / "scheduler-1.log"
    log.write_text("\n".join(lines) + "\n")
    return log


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"event": "rpc_crashed", "level": "error", "exception": "Traceback ...\nKeyError: 7"}),
        json.dumps({"event": "Task exception was never retrieved", "level": "error"}),
        "Traceback (most recent call last):",
        "RuntimeWarning: coroutine 'release' was never awaited",
    ],
)
def test_what_nobody_handled_is_found(tmp_path: Path, line: str) -> None:
    log = write(tmp_path, json.dumps({"event": "started"}), line)
    assert len(logs.unexpected(log)) == 1


def test_handled_trouble_is_not(tmp_path: Path) -> None:
    log = write(tmp_path, json.dumps({"event": "completion_waits", "level": "warning"}), "E0000 a word of gRPC's own")
    assert logs.unexpected(log) == []


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("Task exception was never retrieved\nfuture: <Task _terminate_graceful_close() done, TimeoutError()>", True),
        ("Task exception was never retrieved\nfuture: <Task _terminate_graceful_close() done, KeyError()>", False),
        ("Task exception was never retrieved\nfuture: <Task settle() done, TimeoutError()>", False),
    ],
)
def test_only_what_has_a_reason_is_allowed(tmp_path: Path, line: str, allowed: bool) -> None:
    log = write(tmp_path, json.dumps({"event": line, "level": "error", "exception": "Traceback ..."}))
    assert (logs.unexpected(log) == []) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "ERROR:  deadlock detected",
        'ERROR:  new row for relation "jobs" violates check constraint "ck_jobs_items"',
        'ERROR:  duplicate key value violates unique constraint "uq_jobs"',
        "PANIC:  could not locate a valid checkpoint record",
    ],
)
def test_what_postgres_must_not_say_is_found(tmp_path: Path, line: str) -> None:
    assert len(logs.unexpected_of_postgres(write(tmp_path, "LOG:  database system is ready", line))) == 1


def test_events_are_counted_and_their_fields_summed(tmp_path: Path) -> None:
    lines = [json.dumps({"event": "leases_recovered", "batches": n}) for n in (2, 3)]
    log = write(tmp_path, *lines, json.dumps({"event": "leadership_taken", "term": 9}), "not JSON", '"a string"')
    counted = logs.count([log], {"leases_recovered": "batches", "leadership_taken": None})
    assert counted == {"leases_recovered": 5, "leadership_taken": 1}

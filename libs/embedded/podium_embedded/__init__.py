"""Private Postgres and Redis servers for one-machine Podium: children with their data in one directory.

What it promises: a server belongs to one `EmbeddedPostgres` or `EmbeddedRedis` object at a time (a locked
file says so), listens only on loopback on a free port behind a random password, ends with the process that
started it, however that ends, and finds its data again at the next start.
"""

from podium_embedded.errors import EmbeddedError
from podium_embedded.lock import DataDirLock, DirectoryInUse
from podium_embedded.postgres import EmbeddedPostgres
from podium_embedded.process import ServerProcess
from podium_embedded.redis import EmbeddedRedis
from podium_embedded.secret import load_or_create as load_or_create_secret

__all__ = [
    "DataDirLock",
    "DirectoryInUse",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "ServerProcess",
    "load_or_create_secret",
]

"""As whom a server runs. Root's Postgres must run as somebody else, and reach its files nevertheless."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from podium_embedded.errors import EmbeddedError

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8
# Nobody is everywhere; the others are better when somebody made them.
CANDIDATES = ("podium", "postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and group to switch to (-1: stay) and a capability to keep (-1: none)."""

    uid: int = -1
    gid: int = -1
    capability: int = -1

    def give(self, path: Path) -> None:
        """Hands a file or directory that we made to this identity."""
        if self.uid >= 0:
            os.chown(path, self.uid, self.gid)


def unprivileged(data: Path, must_reach: list[Path]) -> Identity:
    """Ourselves, unless we are root: then the owner of `data` when it exists, else a system user.

    must_reach: paths that the identity has to be able to walk to and read.
    """
    if os.geteuid() != 0:
        return Identity()
    user = _user_of(data)
    if all(_walkable(path) for path in must_reach):
        return Identity(user.pw_uid, user.pw_gid)
    return Identity(user.pw_uid, user.pw_gid, _reading_capability(user.pw_name, must_reach))


def _user_of(data: Path) -> pwd.struct_passwd:
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in CANDIDATES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(f"Postgres does not run as root, and none of the users {', '.join(CANDIDATES)} exists")


def _walkable(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def _reading_capability(user: str, paths: list[Path]) -> int:
    permitted = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            permitted = int(line.split()[1], 16)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if permitted >> capability & 1 and permitted >> CAP_SETPCAP & 1:
            return capability
    raise EmbeddedError(f"user {user}, as whom Postgres runs, cannot reach {' and '.join(map(str, paths))}")

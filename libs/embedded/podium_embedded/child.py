"""Becomes another program, after arranging that it ends with its parent and runs as the right user.

Run as a script, with the standard library only:
    python -I -S child.py SIGNAL PARENT UID GID CAPABILITY PROGRAM ...
UID, GID and CAPABILITY are -1 when unused. It replaces itself by exec, so the parent's child is the program.

Order matters. Changing the user clears the parent-death signal, so that comes after; and the parent may die
before the signal is set, so its pid is compared afterwards.

CAPABILITY: Postgres refuses to run as root, and the user it runs as instead may be unable to walk to its
binaries or its data (a clone in a private folder). Rather than opening those folders to everybody, the
program is left one ambient capability to read past them.
"""

import ctypes
import os
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    signal_number, parent, uid, gid, capability = (int(argument) for argument in arguments[:5])
    program = arguments[5:]
    linux = sys.platform.startswith("linux")
    libc = ctypes.CDLL(None, use_errno=True)
    if uid >= 0:
        if capability >= 0:
            # Without this bit the change of user would drop the capability, and access(2), by which initdb looks
            # for its own files, would ignore it.
            _call(libc.prctl, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        if capability >= 0:
            _keep(libc, capability)
    if linux:
        _call(libc.prctl, PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    os.umask(0o077)
    os.execv(program[0], program)


def _keep(libc: ctypes.CDLL, capability: int) -> None:
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    low = 1 << capability if capability < 32 else 0
    high = 1 << (capability - 32) if capability >= 32 else 0
    # Effective, permitted, inheritable: first the low 32 bits of the three, then the high.
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    _call(libc.capset, ctypes.byref(header), ctypes.byref(data))
    _call(libc.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Becomes a local pod's program, once the pod's record is written.

Run as a script, with the standard library only:
    python -I -S local_launch.py RECORD DEADLINE FACTS PROGRAM ...
FACTS is a JSON object that goes into the record, with this process's pid, start time and boot.

Promises: a program never runs without its record, whoever is killed when; of all launches of one name one at most runs
its program, ever. The record is linked into place whole, under a name that has to be free, and exec keeps the pid and
the start time that are in it. With PODIUM_PARENT_PID in its environment the program gets SIGTERM when that parent ends.
Clock: the kernel's monotonic one, which the scheduler shares. After DEADLINE it gives up: whoever finds no record then
can be sure that there will be none.
Failure: said on descriptor 3, in words; no words and the descriptor's end mean that the program runs.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

REPORT_FD = 3
NAME_TAKEN = "the name is taken"
PR_SET_PDEATHSIG = 1


def boot_id() -> str:
    """Of the running kernel: pids and start times mean nothing after it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def stat_fields(stat: str) -> list[str]:
    """The fields of a /proc/PID/stat from the third on (the state); a program's name may hold anything."""
    return stat.rpartition(")")[2].split()


def start_ticks(fields: list[str]) -> int:
    """When a process began, in clock ticks since boot, of its `stat_fields`."""
    return int(fields[19])


def main(arguments: list[str]) -> None:
    """Ends in the program, or with exit code 127."""
    os.set_inheritable(REPORT_FD, False)
    try:
        _become(Path(arguments[0]), float(arguments[1]), json.loads(arguments[2]), arguments[3:])
    except FileExistsError:
        os.write(REPORT_FD, NAME_TAKEN.encode())
    except OSError as error:
        os.write(REPORT_FD, f"{error.filename or arguments[3]}: {error.strerror}".encode())
    sys.exit(127)


def _become(record: Path, deadline: float, facts: dict[str, object], program: list[str]) -> None:
    os.setsid()
    _end_with_parent()
    facts |= {"pid": os.getpid(), "start_ticks": _own_start(), "boot_id": boot_id()}
    draft = record.with_name(f".{record.name}.{os.getpid()}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            json.dump(facts, file)
            file.flush()
            os.fsync(file.fileno())
        if time.monotonic() > deadline:
            raise TimeoutError(0, "too late")
        os.link(draft, record)
    finally:
        draft.unlink(missing_ok=True)
    # Python ignores it, and what is ignored stays so across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(program[0], program)
    except OSError:
        record.unlink()
        raise


def _own_start() -> int:
    return start_ticks(stat_fields(Path("/proc/self/stat").read_text("utf-8", "replace")))


def _end_with_parent() -> None:
    expected = os.environ.get("PODIUM_PARENT_PID")
    if expected is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have died before the request was in place.
    if os.getppid() != int(expected):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])

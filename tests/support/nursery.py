"""Service processes for tests, forked from one that has imported the service already.

Importing a service costs one to two seconds of a processor, and a test of the whole system starts three or more: most
of such a test would be imports. Each service has a nursery. What is forked runs the same `python -m podium_<name>` with
the environment and the output that it is given, in a process of its own that nobody else's state reaches: before the
fork the nursery has imported modules and done nothing else (no thread, no loop, no channel, no connection).

Promises: a child ends when the nursery does, and the nursery ends with the process that made it: it kills its children
first, those too that stand still. Exit statuses are as asyncio's: negative for a signal. Failure: when the nursery is
killed its children get SIGTERM, and count as killed. Not for whoever measures what a service takes to start or holds in
memory: `stack.servers(as_deployed=True)` executes Python.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path


class Child:
    """A forked process, as far as tests use what asyncio.subprocess.Process has."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: concurrent.futures.Future[int] = concurrent.futures.Future()

    @property
    def returncode(self) -> int | None:
        """The exit status, once it has ended."""
        return self._status.result() if self._status.done() else None

    async def wait(self) -> int:
        """Waits for its end."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def tell(_: object) -> None:
            # Of a test that has given up waiting nothing may be left but a closed loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(over.set)

        self._status.add_done_callback(tell)
        await over.wait()
        return self._status.result()

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self._status.done():
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def ended(self, status: int) -> None:
        """The nursery has seen its end."""
        self._status.set_result(status)


class Nursery:
    """The test's side: a process that forks, and a thread that hears of its children's ends."""

    def __init__(self, module: str) -> None:
        self._line, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PODIUM_")}
        # numpy's library would start a thread for each core when it is loaded.
        environment["OPENBLAS_NUM_THREADS"] = "1"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno()), module],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        self._children: dict[int, Child] = {}
        self._born: concurrent.futures.Future[Child] = concurrent.futures.Future()
        self._turn = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()

    def fork(self, environment: Mapping[str, str], log: Path) -> Child:
        """Runs `python -m <module>`; its output goes to `log`."""
        with self._turn:
            self._born = concurrent.futures.Future()
            wish = {"environment": dict(environment), "log": str(log), "folder": os.getcwd()}
            self._line.sendall(json.dumps(wish).encode() + b"\n")
            return self._born.result()

    def _listen(self) -> None:
        with self._line.makefile("rb") as told:
            for line in told:
                news = json.loads(line)
                if "status" in news:
                    self._children.pop(news["pid"]).ended(news["status"])
                else:
                    child = self._children[news["pid"]] = Child(news["pid"])
                    self._born.set_result(child)
        for child in self._children.values():
            child.ended(-signal.SIGKILL)
        if not self._born.done():
            self._born.set_exception(RuntimeError("the nursery has ended"))

    def close(self) -> None:
        """Ends it, and what it still has."""
        self._line.shutdown(socket.SHUT_WR)
        self._process.wait()
        self._listener.join()
        self._line.close()


def _serve(line: socket.socket) -> dict[str, object] | None:
    """Forks as it is told. Returns what to run in a child; None in the nursery itself, when its maker is gone."""
    waker, wakeful = socket.socketpair()
    wakeful.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeful.fileno(), warn_on_full_buffer=False)
    wishes = line.makefile("rb", buffering=0)
    children: set[int] = set()
    with selectors.DefaultSelector() as both:
        both.register(line, selectors.EVENT_READ)
        both.register(waker, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in both.select()}
            if waker in ready:
                waker.recv(4096)
                for pid, status in _ended():
                    children.discard(pid)
                    line.sendall(json.dumps({"pid": pid, "status": status}).encode() + b"\n")
            if line not in ready:
                continue
            if not (wish := wishes.readline()):
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return None
            if not (pid := os.fork()):
                break
            children.add(pid)
            line.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for held in (wishes, line, waker, wakeful):
        held.close()
    found: dict[str, object] = json.loads(wish)
    return found


def _ended() -> Iterator[tuple[int, int]]:
    """Children that have ended, with their exit statuses."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _main() -> None:
    line, module = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    # The whole group gets a Ctrl-C; the tests decide what becomes of the services.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    importlib.import_module(f"{module}.main")
    threads = threading.active_count() if sys.platform != "linux" else len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{module} starts threads when it is imported: it cannot be forked"
    # A collection would touch, and so copy, every page that the children share.
    gc.freeze()
    wish = _serve(line)
    if wish is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = wish["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    # The parent that it must not outlive is the nursery.
    os.environ.update(environment | {"PODIUM_PARENT_PID": str(os.getppid())})
    os.chdir(str(wish["folder"]))
    log = os.open(str(wish["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(fd, target)
    os.close(nothing)
    os.close(log)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


_mine: dict[str, Nursery] = {}
_turn = threading.Lock()


def fork(module: str, environment: Mapping[str, str], log: Path) -> Child:
    """Runs `python -m <module>` from this process's nursery of it; its output goes to `log`."""
    with _turn:
        if module not in _mine:
            _mine[module] = Nursery(module)
    return _mine[module].fork(environment, log)


def close() -> None:
    """Ends this process's nurseries."""
    while _mine:
        _mine.popitem()[1].close()


if __name__ == "__main__":
    _main()

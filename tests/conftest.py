"""For every test."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest

from tests.support import nursery, shared_postgres

# Its assertions are a test's own, and say as much when they fail.
pytest.register_assert_rewrite("tests.support.ledger_calls")

# Whoever runs the tests as a shell's background job ignores SIGINT, and every process that a test starts and interrupts
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests start hundreds of processes, and each would compile every module of ours again, as would the collection of the
# tests in each process of pytest-xdist, where the environment says that no byte code is to be written.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Before torch is loaded, as an executor has it: threads that spin while they wait for the others of a computation keep
# the processor from the tests beside them, and from those others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: searching it for garbage again and again, then and between the
    tests, took a seventh of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What all tests of this process share ends after the last of them."""
    shared_postgres.make_folder = lambda: tmp_path_factory.mktemp("shared-postgres")
    yield
    nursery.close()
    shared_postgres.close()
